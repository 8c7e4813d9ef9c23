//! One storm, from a fresh instance to a stopped one.

use std::{sync::Arc, time::Duration};

use reveille_api::proto;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    clients::{Shared, client},
    harness::{
        cluster::{Cluster, Options},
        eventually,
        manifest::Manifests,
    },
    history::{Cause, Disturbance, History, Id},
    leaks,
    nemesis::{self, PROBE, control, key},
    plan::{self, ACTORS, Actor, CLIENTS, Plan, WORKERS},
    say,
};

/// Without an acknowledged increment for so long, something is stuck.
const STALL: Duration = Duration::from_secs(150);
/// How long an actor may take to answer in the end.
const IN_THE_END: Duration = Duration::from_secs(60);

/// A debug build on a busy machine may take longer than the default budgets for a wake, which is no fault. What is stuck
/// exceeds these as well.
const PATIENT: [&str; 4] = ["--wake", "60s", "--park", "75s"];
const PATIENT_TEMPLATE: &str = "wake: { timeout: 60s, park: 75s }\n";

/// What happened, and the log of `up`. It ends earlier than the plan says once `within` has passed and the least has been done.
pub(crate) async fn run(plan: &Plan, within: Duration) -> (History, String) {
    let mut options = Options::new(manifests());
    options.workers = WORKERS;
    if cfg!(debug_assertions) {
        options.extra = PATIENT.map(str::to_owned).to_vec();
    }
    let mut cluster = Cluster::start(options).await;
    let data_dir = cluster.data_dir();
    for actor in 0..ACTORS {
        give_snapshot(&cluster, actor).await;
    }
    let mut leaks = leaks::until_none(|| leaks::at_rest(&cluster)).await;
    let before = leaks::usage(&cluster);

    let shared = Arc::new(Shared::new(cluster.http));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(shared.clone(), plan.clone(), number));
    }
    let mut others = JoinSet::new();
    let (ears, dir) = (shared.clone(), data_dir.clone());
    others.spawn(async move { nemesis::listen(&ears, &dir).await });

    let kills = nemesis::nemesis(&mut cluster, &shared, plan);
    let chores = nemesis::chores(&shared, &data_dir, plan);
    let end = async {
        kills.await;
        enough(&shared, plan.requests).await;
        shared.stop();
    };
    let late = async {
        sleep(within).await;
        while !shared.stopping() && !is_enough(&shared, plan) {
            sleep(Duration::from_millis(100)).await;
        }
        shared.stop();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = async { tokio::join!(end, chores) } => {}
        () = late => {}
        // What is stuck is told by what the actors answer in the end, or do not.
        () = stalled(&shared) => shared.stop(),
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client ends");
    }

    for actor in 0..ACTORS {
        match remembered(&cluster, actor).await {
            Ok(ids) => drop(shared.recorder.write().ids.insert(actor, ids)),
            Err(last) => say(&format!("actor {actor} does not answer: {last}")),
        }
    }
    nemesis::read_events(&shared, &data_dir, false).await.expect("the event log is read");
    others.shutdown().await;
    leaks.extend(all_asleep(&cluster).await);
    leaks.extend(leaks::until_none(|| leaks::at_rest(&cluster)).await);
    let grown = || async { leaks::grown(&before, &leaks::usage(&cluster)) };
    leaks.extend(leaks::until_none(grown).await);
    shared.recorder.write().leaks.extend(leaks);
    let after = leaks::usage(&cluster);
    shared.recorder.write().usage = (before, after);
    let history = shared.recorder.finish();
    if std::env::var_os("STORM_KEEP").is_some() {
        cluster.dir.disable_cleanup(true);
        say(&format!("the data stays in {}", cluster.data_dir().display()));
    }
    let log = cluster.log_text();
    cluster.stop().await;
    (history, log)
}

fn manifests() -> Manifests {
    let wake = if cfg!(debug_assertions) { PATIENT_TEMPLATE } else { "" };
    let mut manifests =
        Manifests::new().counter(PROBE.0, "counter", wake).actor(PROBE.0, PROBE.1, "counter");
    for namespace in ["gale", "squall"] {
        manifests = manifests
            // Some fall asleep by themselves, the others when their worker is wanted.
            .counter(namespace, "sleepy", &format!("idle: {{ suspendAfter: 1s }}\n{wake}"))
            .counter(namespace, "h2c", &format!("protocol: h2c\n{wake}"))
            .counter(namespace, "wakeful", wake);
    }
    for actor in 0..ACTORS {
        let (namespace, name) = plan::name(actor);
        let template = match actor % 4 {
            _ if plan::is_h2c(actor) => "h2c",
            0 | 1 => "sleepy",
            _ => "wakeful",
        };
        manifests = manifests.actor(namespace, &name, template);
    }
    manifests
}

/// So that no kill finds an actor without one: its state would be lost by design.
async fn give_snapshot(cluster: &Cluster, actor: Actor) {
    remembered(cluster, actor).await.expect("a new actor answers");
    eventually("it has a snapshot", IN_THE_END, || async {
        control(&cluster.data_dir()).suspend_actor(key(actor)).await.map_err(|e| e.to_string())
    })
    .await;
}

/// The ids it has counted, in order; wakes it. An error is what it answered last.
async fn remembered(cluster: &Cluster, actor: Actor) -> Result<Vec<Id>, String> {
    let end = Instant::now() + IN_THE_END;
    loop {
        let answer = cluster.client.get(&plan::host(actor), "/tally/ids").await;
        if answer.status == 200 {
            return Ok(answer.json());
        }
        if Instant::now() > end {
            return Err(format!("{answer:?}"));
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Puts everything to sleep; what stays awake.
async fn all_asleep(cluster: &Cluster) -> Vec<String> {
    let probe = proto::ActorKey { namespace: PROBE.0.into(), name: PROBE.1.into() };
    let keys: Vec<_> = (0..ACTORS).map(key).chain([probe]).collect();
    leaks::until_none(|| async {
        let mut awake = Vec::new();
        for key in &keys {
            let asleep = control(&cluster.data_dir()).suspend_actor(key.clone()).await;
            awake.extend(asleep.err().map(|status| format!("{} is awake: {status}", key.name)));
        }
        awake
    })
    .await
}

fn is_enough(shared: &Shared, plan: &Plan) -> bool {
    let killed = |d: &&Disturbance| matches!(d.cause, Cause::Killed(_));
    let kills = shared.recorder.write().disturbances.iter().filter(killed).count();
    shared.acked() >= plan.at_least && kills >= plan.first_round()
}

async fn enough(shared: &Shared, requests: u64) {
    while shared.acked() < requests && !shared.stopping() {
        sleep(Duration::from_millis(20)).await;
    }
}

/// Returns when nothing has moved for too long.
async fn stalled(shared: &Shared) {
    let (mut seen, mut since) = (shared.acked(), Instant::now());
    while since.elapsed() < STALL {
        sleep(Duration::from_secs(1)).await;
        if shared.acked() != seen {
            (seen, since) = (shared.acked(), Instant::now());
        }
    }
}
