//! kill -9 of one part after the other: for how long requests go wrong, to an actor that runs and to one that sleeps.
//!
//! A supervisor starts the part again at once; for `up` that is we. One client asks the running actor again and again, each
//! time by a new connection; another asks the sleeping one until it has answered, which is an ordinary wake when nothing was
//! killed.

use std::time::Duration;

use anyhow::{Result, bail};
use futures::future::join;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    figure::{Line, millis},
    harness::{
        client::Client,
        cluster::{Cluster, Options},
        manifest::Manifests,
        processes,
    },
};

const NAME: &str = "recovery";
const ROUNDS: usize = 5;
const RUNS: &str = "runs.demo.actors.localhost";
const SLEEPS: &str = "sleeps.demo.actors.localhost";
/// `nothing` is what the others are to be compared with.
const PARTS: [&str; 7] =
    ["nothing", "controlplane", "node", "router", "envoy", "envoy-supervisor", "up"];
const PAUSE: Duration = Duration::from_millis(5);
/// All is well again when the running actor has answered for so long.
const WELL: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn run() -> Result<Vec<Line>> {
    let manifests = Manifests::new()
        .counter("demo", "counter", "")
        .actor("demo", "runs", "counter")
        .actor("demo", "sleeps", "counter");
    let mut cluster = Cluster::start(Options::new(manifests)).await;
    let outcome = measure(&mut cluster).await;
    cluster.stop().await;
    outcome
}

async fn measure(cluster: &mut Cluster) -> Result<Vec<Line>> {
    cluster.client.get(SLEEPS, "/").await.count();
    let mut lines = Vec::new();
    for part in PARTS {
        let (mut running, mut sleeping) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            // So that no part is in its backoff.
            settled(cluster).await?;
            let begun = Instant::now();
            let outcome = match part {
                "up" => {
                    cluster.kill_up().await;
                    let front = cluster.http;
                    join(cluster.up(), both(front, begun)).await.1
                }
                "nothing" => both(cluster.http, begun).await,
                part => {
                    let pid = cluster.pid_of(part).unwrap_or_default();
                    processes::signal(pid, Signal::SIGKILL);
                    both(cluster.http, begun).await
                }
            };
            let (runs, sleeps) = (outcome.0?, outcome.1?);
            eprintln!("{NAME} {part} {round}/{ROUNDS}: runs {runs:.1?}, sleeps {sleeps:.1?}");
            running.push(millis(runs));
            sleeping.push(millis(sleeps));
        }
        let what = format!("kill -9 of {part}: last failure of a running actor");
        lines.push(Line::alone(NAME, what, "ms", running));
        let what = format!("kill -9 of {part}: first answer of a sleeping one");
        lines.push(Line::alone(NAME, what, "ms", sleeping));
    }
    Ok(lines)
}

type Times = (Result<Duration>, Result<Duration>);

async fn both(front: std::net::SocketAddr, begun: Instant) -> Times {
    join(last_failure(front, begun), first_answer(front, begun)).await
}

/// Since `begun`; nothing when there was none.
async fn last_failure(front: std::net::SocketAddr, begun: Instant) -> Result<Duration> {
    let (mut failed, mut well) = (Duration::ZERO, Instant::now());
    while well.elapsed() < WELL {
        if !answers(front, RUNS).await {
            (failed, well) = (begun.elapsed(), Instant::now());
        }
        if begun.elapsed() > LIMIT {
            bail!("the running actor does not answer again");
        }
        sleep(PAUSE).await;
    }
    Ok(failed)
}

async fn first_answer(front: std::net::SocketAddr, begun: Instant) -> Result<Duration> {
    while !answers(front, SLEEPS).await {
        if begun.elapsed() > LIMIT {
            bail!("the sleeping actor does not answer");
        }
        sleep(PAUSE).await;
    }
    Ok(begun.elapsed())
}

/// By a connection of its own.
async fn answers(front: std::net::SocketAddr, host: &str) -> bool {
    let client = Client::new(front);
    let request = client.request(host, "/");
    let answer = timeout(LIMIT, client.try_send(request, "")).await;
    matches!(answer, Ok(Ok(answer)) if answer.status == 200)
}

/// One runs, one sleeps, and every part has been up for a while.
async fn settled(cluster: &Cluster) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !answers(cluster.http, RUNS).await {
        if Instant::now() > end {
            bail!("the running actor does not answer");
        }
        sleep(PAUSE).await;
    }
    loop {
        let asleep = cluster.cli(&["suspend", "actor", "sleeps", "-n", "demo"]).await;
        if asleep.status.success() {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{}", String::from_utf8_lossy(&asleep.stderr));
        }
        sleep(Duration::from_millis(100)).await;
    }
}
