//! Who kills, who suspends, and who takes down what the product says of it.

use std::{path::Path, time::Duration};

use futures::StreamExt;
use nix::sys::signal::Signal;
use rand::{RngExt, rngs::StdRng};
use reveille_api::{
    net::Address,
    proto::{self, control_client::ControlClient},
};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{
    clients::Shared,
    harness::{client::Client, cluster::Cluster, eventually, processes},
    history::{Cause, Disturbance, Notice},
    leaks,
    plan::{self, ACTORS, Actor, Part, Plan},
    say,
};

/// Acknowledged increments between the end of one disturbance and the next, at least.
const CALM: u64 = 1_000;
/// How long anything may take to be well again.
const RECOVERY: Duration = Duration::from_secs(90);
/// The actor that is suspended and woken to see whether that works.
pub(crate) const PROBE: (&str, &str) = ("calm", "probe");

/// The control plane's client API.
pub(crate) type Control = ControlClient<Channel>;

pub(crate) fn control(data_dir: &Path) -> Control {
    ControlClient::new(Address::Unix(data_dir.join("run/control.sock")).channel())
}

pub(crate) fn key(actor: Actor) -> proto::ActorKey {
    let (namespace, name) = plan::name(actor);
    proto::ActorKey { namespace: namespace.into(), name }
}

/// Kills what the plan says, one thing at a time, and waits until all is well again.
pub(crate) async fn nemesis(cluster: &mut Cluster, shared: &Shared, plan: &Plan) {
    let mut random = plan.random(2_000_000);
    let mut calm_from = 0;
    for kill in &plan.kills {
        let due = kill.after.max(calm_from);
        while shared.acked() < due {
            if shared.stopping() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let disturbance = strike(cluster, shared, kill.part, &mut random).await;
        let took = Duration::from_micros(disturbance.over - disturbance.begun);
        say(&format!("{:>8} killed {:?}, well after {took:.1?}", shared.acked(), kill.part));
        shared.recorder.write().disturbances.push(disturbance);
        calm_from = shared.acked() + CALM;
    }
}

async fn strike(
    cluster: &mut Cluster,
    shared: &Shared,
    part: Part,
    random: &mut StdRng,
) -> Disturbance {
    let role = match part {
        Part::Node => "node",
        Part::ControlPlane => "controlplane",
        Part::Router => "router",
        Part::Envoy => "envoy",
        Part::EnvoySupervisor => "envoy-supervisor",
        Part::Sandbox | Part::Up | Part::Everything => "",
    };
    let mut hit = Vec::new();
    let begun;
    match part {
        Part::Sandbox => {
            let all = eventually("a sandbox runs", RECOVERY, || async {
                let all = sandboxes(&cluster.data_dir());
                if all.is_empty() { Err("none") } else { Ok(all) }
            })
            .await;
            let (pid, actor) = all[random.random_range(0..all.len())];
            begun = shared.recorder.now();
            hit.push(actor);
            processes::signal(pid, Signal::SIGKILL);
            dead(pid).await;
        }
        Part::Everything => {
            begun = shared.recorder.now();
            hit.extend(0..ACTORS);
            cluster.kill_everything().await;
        }
        Part::Up => {
            begun = shared.recorder.now();
            cluster.kill_up().await;
        }
        _ => {
            let pid = cluster.pid_of(role).unwrap_or_else(|| panic!("{role} runs"));
            begun = shared.recorder.now();
            processes::signal(pid, Signal::SIGKILL);
            dead(pid).await;
        }
    }
    let done = shared.recorder.now();
    if matches!(part, Part::Up | Part::Everything) {
        cluster.up().await;
    }
    well(cluster).await;
    let leaks = leaks::until_none(|| async { leaks::whole(cluster) }).await;
    let leaks = leaks.into_iter().map(|leak| format!("after the kill of {part:?}: {leak}"));
    shared.recorder.write().leaks.extend(leaks);
    let over = shared.recorder.now();
    Disturbance { cause: Cause::Killed(part), begun, done, over, hit }
}

async fn dead(pid: i32) {
    eventually("it is dead", RECOVERY, || async {
        if processes::alive(pid) { Err(pid) } else { Ok(()) }
    })
    .await;
}

/// Every role runs, and a suspend, a wake and a request work.
async fn well(cluster: &Cluster) {
    eventually("everything runs again", RECOVERY, || async {
        for role in ["controlplane", "node", "router", "envoy-supervisor", "envoy", "dns"] {
            cluster.pid_of(role).ok_or(role)?;
        }
        Ok::<_, &str>(())
    })
    .await;
    let (namespace, name) = PROBE;
    let host = format!("{name}.{namespace}.actors.localhost");
    let answers = async || {
        let front = Client::new(cluster.http);
        let request = hyper::Request::get(front.uri("/")).header("host", &host);
        let answer = front.try_send(request, "").await?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    };
    eventually("a suspend and a wake work again", RECOVERY, || async {
        answers().await?;
        let key = proto::ActorKey { namespace: namespace.into(), name: name.into() };
        let mut control = control(&cluster.data_dir());
        control.suspend_actor(key).await.map_err(|e| e.to_string())?;
        answers().await
    })
    .await;
}

/// The sandboxes of this instance that run, and whose they are.
fn sandboxes(data_dir: &Path) -> Vec<(i32, Actor)> {
    let dir = data_dir.to_string_lossy().into_owned();
    let actor_of = |process: &processes::Process| {
        let program = process.command.first()?;
        let bundle = process.command.iter().find_map(|arg| arg.strip_prefix("--bundle="))?;
        if !program.contains("runsc-sandbox") || !bundle.contains(&dir) {
            return None;
        }
        let config = std::fs::read(Path::new(bundle).join("config.json")).ok()?;
        let config: serde_json::Value = serde_json::from_slice(&config).ok()?;
        plan::actor(config["hostname"].as_str()?)
    };
    let all = processes::all();
    all.iter().filter_map(|process| Some((process.pid, actor_of(process)?))).collect()
}

/// A user who puts actors to sleep, whatever they do, and now and then stops one and wakes it again.
pub(crate) async fn chores(shared: &Shared, data_dir: &Path, plan: &Plan) {
    for chore in plan.chores() {
        if shared.stopping() {
            return;
        }
        tokio::time::sleep(chore.pause).await;
        let mut control = control(data_dir);
        if chore.stop {
            stop_and_wake(shared, &mut control, chore.actor).await;
            continue;
        }
        let end = match control.suspend_actor(key(chore.actor)).await {
            Ok(_) => "asleep".to_owned(),
            // Without the name, which leads the message.
            Err(status) => {
                let message = status.message();
                let message = message.split_once("\": ").map_or(message, |(_, message)| message);
                format!("{:?}: {message}", status.code())
            }
        };
        *shared.recorder.write().suspends.entry(end).or_default() += 1;
    }
}

async fn stop_and_wake(shared: &Shared, control: &mut Control, actor: Actor) {
    let begun = shared.recorder.now();
    // Whether it was stopped or not: it is woken.
    let _ = control.stop_actor(key(actor)).await;
    let done = shared.recorder.now();
    let end = Instant::now() + RECOVERY;
    while let Err(status) = control.wake_actor(key(actor)).await {
        if Instant::now() > end {
            // Whether it answers in the end decides.
            say(&format!("actor {actor} is not woken by its user: {}", status.message()));
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let over = shared.recorder.now();
    let cause = Cause::Stopped(actor);
    let disturbance = Disturbance { cause, begun, done, over, hit: Vec::new() };
    shared.recorder.write().disturbances.push(disturbance);
}

/// Follows the event log, across restarts of the control plane, for ever.
pub(crate) async fn listen(shared: &Shared, data_dir: &Path) {
    loop {
        let _ = read_events(shared, data_dir, true).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the event log has.
pub(crate) async fn read_events(
    shared: &Shared,
    data_dir: &Path,
    follow: bool,
) -> Result<(), tonic::Status> {
    let request = proto::EventsRequest { actor: Some(proto::ActorKey::default()), follow };
    let mut events = control(data_dir).events(request).await?.into_inner();
    while let Some(event) = events.next().await {
        let event = event?;
        let Some(actor) = event.actor.as_ref().and_then(|key| plan::actor(&key.name)) else {
            continue;
        };
        let at = shared.recorder.at_unix_ms(event.unix_ms);
        let notice = Notice { actor, at, kind: event.kind, message: event.message };
        shared.recorder.write().notices.insert(event.sequence, notice);
    }
    Ok(())
}
