//! 1,000 requests at once on one sleeping actor, each on a connection of its own, beside bare `runsc restore`.
//!
//! Each round has an actor of its own: after a burst, gVisor may take snapshots that do not restore.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::{
    bare::Bare,
    cpu::Used,
    envoy_counter,
    figure::{How, Line, Reach, millis, quantile},
    harness::cluster::Cluster,
    http, one_counter,
};

const NAME: &str = "crowd";
const ROUNDS: usize = 7;
const CALLERS: usize = 1_000;
/// Who has no answer then counts as not answered.
const LIMIT: Duration = Duration::from_secs(15);
/// Of the last answer, above the bare restore.
const ABOVE_RESTORE_MS: f64 = 300.0;

pub(crate) async fn run() -> Result<Vec<Line>> {
    let cluster = one_counter("").await?;
    let outcome = measure(&cluster).await;
    cluster.stop().await;
    outcome
}

async fn measure(cluster: &Cluster) -> Result<Vec<Line>> {
    let (mut alone, mut first, mut half, mut last) = <(Vec<_>, Vec<_>, Vec<_>, Vec<_>)>::default();
    let (mut restores, mut answered, mut connections) = (Vec::new(), Vec::new(), Vec::new());
    let mut used = Vec::new();
    for round in 1..=ROUNDS {
        let name = format!("crowd-{round}");
        let host = format!("{name}.demo.actors.localhost");
        let actor = [name.as_str(), "-n", "demo"];
        cluster.ok(&[&["create", "actor"], &actor[..], &["--template", "counter"]].concat()).await;
        cluster.client.get(&host, "/").await.count();
        let mut bare = Bare::new(cluster, "gvisor", &name).await?;
        cluster.ok(&[&["suspend", "actor"], &actor[..]].concat()).await;
        alone.push(millis(bare.restore().await.context("a bare restore")?));
        let (epoch, opened) = (epoch(cluster, &name).await, opened(cluster).await?);
        let before = Used::by(cluster);
        let took = at_once(cluster.http, &host).await?;
        used.push(Used::by(cluster).since(before));
        restores.push((self::epoch(cluster, &name).await - epoch) as f64);
        connections.push((self::opened(cluster).await? - opened) as f64);
        answered.push(took.len() as f64);
        first.push(took.first().copied().map_or(f64::NAN, millis));
        half.push(quantile(&took, 0.5));
        last.push(match took.len() {
            CALLERS => quantile(&took, 1.0),
            _ => millis(LIMIT),
        });
        cluster.ok(&[&["delete", "actor"], &actor[..]].concat()).await;
        eprintln!(
            "{NAME} {round}/{ROUNDS}: bare restore {:.0} ms; {} answers: first {:.0} ms, half {:.0} ms, last {:.0} ms over {} connections",
            alone[round - 1],
            took.len(),
            first[round - 1],
            half[round - 1],
            last[round - 1],
            connections[round - 1]
        );
    }
    let beside =
        |what, ours: &[f64]| Line::beside(NAME, what, "ms", (&alone, ours), How::Difference);
    let cpu = |what, of: fn(&Used) -> f64| {
        Line::alone(NAME, what, "ms", used.iter().map(|used| of(used) / 1e3).collect())
    };
    Ok(vec![
        beside("1,000 at once, asleep: last answer, beside a bare restore", &last)
            .reach("crowd_last_answer_above_restore_ms", Reach::AtMost(ABOVE_RESTORE_MS)),
        beside("… half of the answers", &half),
        beside("… first answer", &first),
        Line::alone(NAME, "… restores", "", restores).reach("crowd_restores", Reach::AtMost(1.0)),
        Line::alone(NAME, "… answers", "", answered)
            .reach("crowd_answers", Reach::AtLeast(CALLERS as f64)),
        Line::alone(NAME, "… connections Envoy opened to the actor", "", connections),
        cpu("… CPU in the actor's sandbox, with its restore", |used| used.sandboxes),
        cpu("… CPU in Envoy", |used| used.envoy),
        cpu("… CPU in the router", |used| used.router),
        cpu("… CPU in the benchmark's client", |used| used.bench),
    ])
}

/// How long each took that was answered, from before any of them connected; sorted.
async fn at_once(front: SocketAddr, host: &str) -> Result<Vec<Duration>> {
    let begun = Instant::now();
    let request = http::get(host, "/");
    let mut callers: FuturesUnordered<_> = (0..CALLERS)
        .map(|_| async {
            ask(front, &request).await?;
            anyhow::Ok(begun.elapsed())
        })
        .collect();
    let mut took = Vec::with_capacity(CALLERS);
    while let Ok(Some(answered)) = timeout_at(begun + LIMIT, callers.next()).await {
        took.push(answered?);
    }
    took.sort_unstable();
    Ok(took)
}

async fn ask(front: SocketAddr, request: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(front).await?;
    stream.write_all(request).await?;
    let mut answer = Vec::with_capacity(1024);
    while !http::is_served(&answer)? {
        ensure!(stream.read_buf(&mut answer).await? > 0, "closed without an answer");
    }
    Ok(())
}

async fn epoch(cluster: &Cluster, name: &str) -> u64 {
    cluster.actor("demo", name).await["epoch"].as_u64().unwrap_or_default()
}

/// Connections to actors that Envoy has opened so far.
async fn opened(cluster: &Cluster) -> Result<u64> {
    envoy_counter(cluster.admin, "cluster.actors-http1.upstream_cx_total").await
}
