//! A hundred actors: frozen ones that are thawed one after the other, and all of them woken at once.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use reveille_api::{
    Stay,
    net::Address,
    proto::{ActivationRef, ActorKey, GetInventoryRequest, node_agent_client::NodeAgentClient},
};
use tokio::time::{Instant, timeout_at};
use tonic::{service::interceptor::InterceptedService, transport::Channel};

use crate::{
    control,
    figure::{How, Line, Reach, quantile},
    harness::{
        cluster::{Cluster, Options},
        eventually,
        manifest::Manifests,
    },
    wake,
};

const NAME: &str = "many";
const ACTORS: usize = 100;
/// A sandbox of gVisor takes 3 ms of processor time for each tick of its actor, and 35 ms each second for being there: a hundred
/// that run would take all there is, so who is asked no more is frozen soon.
const TEMPLATE: &str = "env: [{ name: TICK_MS, value: \"3600000\" }]\nidle: { freezeAfter: 1s }\n";
/// Of freezing and thawing each of them.
const ROUNDS: usize = 3;
/// At a time, when they are made ready: a sandbox that starts takes a core.
const AT_A_TIME: usize = 4;
const READY: Duration = Duration::from_secs(60);
/// Between a thaw and a freeze, and a freeze and a thaw: the kernel closes the sockets of the first meanwhile, which the other would
/// wait for.
const REST: Duration = Duration::from_millis(50);
/// A term that no router was ever given.
const LATER: u64 = 1 << 40;
/// A node that has begun more is not well.
const STAYS: u64 = 9;
const MEDIAN_MS: f64 = 2.0;
const P99_MS: f64 = 10.0;
const HERD_P99_MS: f64 = 5_000.0;
/// Of the p99 of another actor's requests.
const HERD_TIMES: f64 = 2.0;
/// Who has no good answer then counts as not answered.
const LIMIT: Duration = Duration::from_secs(30);
/// Of the actor that runs all the time, in the quiet.
const WARM: usize = 2_000;

pub(crate) async fn run() -> Result<Vec<Line>> {
    let manifests = (0..ACTORS)
        .fold(Manifests::new().counter("demo", "counter", TEMPLATE), |manifests, number| {
            manifests.actor("demo", &name(number), "counter")
        });
    let manifests = manifests.actor("demo", "warm", "counter");
    let mut options = Options::new(manifests);
    options.workers = ACTORS as u32 + 1;
    let cluster = Cluster::start(options).await;
    let outcome = measure(&cluster).await;
    cluster.stop().await;
    outcome
}

fn name(number: usize) -> String {
    format!("a{number}")
}

fn host(name: &str) -> String {
    format!("{name}.demo.actors.localhost")
}

fn key(number: usize) -> ActorKey {
    ActorKey { namespace: "demo".into(), name: name(number) }
}

async fn measure(cluster: &Cluster) -> Result<Vec<Line>> {
    make_ready(cluster, "warm").await;
    for first in (0..ACTORS).step_by(AT_A_TIME) {
        let some = first..ACTORS.min(first + AT_A_TIME);
        let some = some.map(|number| async move { make_ready(cluster, &name(number)).await });
        join_all(some).await;
        eprintln!("{NAME} {}/{ACTORS} are ready", first + AT_A_TIME);
    }
    let mut lines = freezer(cluster).await?;
    lines.extend(herd(cluster).await?);
    Ok(lines)
}

/// However often that takes: it is not what is measured.
async fn make_ready(cluster: &Cluster, name: &str) {
    let host = host(name);
    eventually("it answers", READY, || wake::answer(cluster.http, &host)).await;
}

/// Each is thawed by a request, beside a request to one that runs, and frozen again; the others are frozen meanwhile.
async fn freezer(cluster: &Cluster) -> Result<Vec<Line>> {
    let mut control = control(cluster);
    for number in 0..ACTORS {
        control.freeze_actor(key(number)).await?;
    }
    let (mut frozen, mut warm, mut thawed) = (Vec::new(), Vec::new(), Vec::new());
    let mut node = node(cluster).await?;
    let (mut freezes, mut thaws) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        for number in 0..ACTORS {
            warm.push(wake::answer(cluster.http, &host("warm")).await?);
            thawed.push(wake::answer(cluster.http, &host(&name(number))).await?);
            let begun = Instant::now();
            control.freeze_actor(key(number)).await?;
            frozen.push(begun.elapsed());
        }
        for number in 0..ACTORS {
            wake::answer(cluster.http, &host(&name(number))).await?;
            let epoch = control.get_actor(key(number)).await?.into_inner().epoch;
            let [freeze, thaw] = turn(&mut node, number, epoch).await?;
            freezes.push(freeze);
            thaws.push(thaw);
            control.freeze_actor(key(number)).await?;
        }
        eprintln!("{NAME} freezer {round}/{ROUNDS}");
    }
    for side in [&mut frozen, &mut warm, &mut thawed, &mut freezes, &mut thaws] {
        side.sort_unstable();
    }
    let mut lines = Vec::new();
    for (what, share, most) in [("p50", 0.5, MEDIAN_MS), ("p99", 0.99, P99_MS)] {
        let of = |side: &[_]| vec![quantile(side, share)];
        for (turn, name, took) in [("freeze", "freeze_ms", &freezes), ("thaw", "thaw_ms", &thaws)] {
            let what = format!("{turn} by the node, {what}");
            lines.push(Line::alone(NAME, what, "ms", of(took)).reach(name, Reach::AtMost(most)));
        }
        let whole = format!("freeze by the control plane, {what}");
        lines.push(Line::alone(NAME, whole, "ms", of(&frozen)));
        let whole = format!("request that thaws, {what}, beside one to an actor that runs");
        let sides = (&of(&warm)[..], &of(&thawed)[..]);
        lines.push(Line::beside(NAME, whole, "ms", sides, How::Difference));
    }
    Ok(lines)
}

type Node = NodeAgentClient<InterceptedService<Channel, Stay>>;

/// The node agent, as the control plane speaks to it: in the stay that is the newest.
async fn node(cluster: &Cluster) -> Result<Node> {
    let socket = cluster.data_dir().join("run/node.sock");
    for stay in 1..=STAYS {
        let channel = Address::Unix(socket.clone()).channel();
        let mut node = NodeAgentClient::with_interceptor(channel, Stay(stay));
        if node.get_inventory(GetInventoryRequest::default()).await.is_ok() {
            return Ok(node);
        }
    }
    bail!("the node takes no call")
}

/// Has the node freeze an actor that runs and thaw it again, and says how long it took for each.
async fn turn(node: &mut Node, number: usize, epoch: u64) -> Result<[Duration; 2]> {
    let of = |term| {
        let actor = Some(key(number));
        ActivationRef { actor, epoch, term, traceparent: String::new() }
    };
    tokio::time::sleep(REST).await;
    let begun = Instant::now();
    node.freeze(of(LATER)).await?;
    let frozen = begun.elapsed();
    tokio::time::sleep(REST).await;
    let begun = Instant::now();
    // Takes back none of the control plane's own.
    let thawed = node.resume(of(0)).await?.into_inner().resumed;
    ensure!(thawed, "{} was not thawed", name(number));
    Ok([frozen, begun.elapsed()])
}

/// All are suspended, then all are asked at once, while another one is asked again and again.
async fn herd(cluster: &Cluster) -> Result<Vec<Line>> {
    let mut control = control(cluster);
    for number in 0..ACTORS {
        control.suspend_actor(key(number)).await?;
    }
    let mut quiet = Vec::with_capacity(WARM);
    while quiet.len() < WARM {
        quiet.push(wake::answer(cluster.http, &host("warm")).await?);
    }
    let begun = Instant::now();
    let mut asked: FuturesUnordered<_> = (0..ACTORS)
        .map(|number| async move {
            wake::answer(cluster.http, &host(&name(number))).await?;
            anyhow::Ok(begun.elapsed())
        })
        .collect();
    let mut busy = Vec::new();
    let ask = async {
        loop {
            match wake::answer(cluster.http, &host("warm")).await {
                Ok(took) => busy.push(took),
                Err(error) => return error,
            }
        }
    };
    let wake = async {
        let mut woken = Vec::with_capacity(ACTORS);
        while let Ok(Some(answered)) = timeout_at(begun + LIMIT, asked.next()).await {
            match answered {
                Ok(took) => woken.push(took),
                Err(error) => eprintln!("{NAME} herd: {error:#}"),
            }
        }
        woken
    };
    let mut woken = tokio::select! {
        woken = wake => woken,
        error = ask => return Err(error).context("the one that runs"),
    };
    let answers = woken.len();
    woken.resize(ACTORS, LIMIT);
    for side in [&mut woken, &mut quiet, &mut busy] {
        side.sort_unstable();
    }
    eprintln!("{NAME} herd: the last after {:.0} ms", quantile(&woken, 1.0));
    let alone = |what: &str, share| {
        Line::alone(
            NAME,
            format!("{ACTORS} woken at once, {what}"),
            "ms",
            vec![quantile(&woken, share)],
        )
    };
    let warm = (&[quantile(&quiet, 0.99)][..], &[quantile(&busy, 0.99)][..]);
    Ok(vec![
        Line::alone(NAME, format!("{ACTORS} woken at once, answers"), "", vec![answers as f64])
            .reach("herd_answers", Reach::AtLeast(ACTORS as f64)),
        alone("half of them", 0.5),
        alone("p99", 0.99).reach("herd_p99_ms", Reach::AtMost(HERD_P99_MS)),
        Line::beside(
            NAME,
            "… p99 of a request to one that runs, meanwhile and before",
            "ms",
            warm,
            How::Ratio,
        )
        .reach("herd_warm_p99_times", Reach::AtMost(HERD_TIMES)),
    ])
}
