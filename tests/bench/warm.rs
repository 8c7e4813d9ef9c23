//! Warm requests/s beside plain Envoy and beside an ext_proc that only echoes; what each costs, and the calls made.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{
    HOST, controlplane_calls,
    cpu::Used,
    figure::{How, Line, Reach},
    harness::cluster::Cluster,
    one_counter,
    plain::Plain,
};

const NAME: &str = "warm";
const ROUNDS: usize = 5;
const SECONDS: u32 = 3;
const OF_PLAIN: f64 = 0.42;

pub(crate) async fn run() -> Result<Vec<Line>> {
    let cluster = one_counter("[envoy]\nconcurrency = 1\n").await?;
    let outcome = measure(&cluster).await;
    cluster.stop().await;
    outcome
}

/// One side of the comparison.
#[derive(Default)]
struct Side {
    rates: Vec<f64>,
    /// Of Envoy, for each request, in microseconds.
    envoy: Vec<f64>,
    /// Of what it asks.
    asked: Vec<f64>,
}

impl Side {
    fn push(&mut self, load: Load, (envoy, asked): (f64, f64)) {
        self.rates.push(load.rate);
        self.envoy.push(envoy / load.requests);
        self.asked.push(asked / load.requests);
    }
}

async fn measure(cluster: &Cluster) -> Result<Vec<Line>> {
    cluster.client.get(HOST, "/").await.count();
    let endpoint = endpoint(cluster).await?;
    let plain = Plain::start(endpoint).await?;
    let echo = Plain::with_echo(endpoint).await?;
    let (mut alone, mut echoed, mut ours) = <(Side, Side, Side)>::default();
    let (mut sandbox, mut calls) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        for (side, envoy) in [(&mut alone, &plain), (&mut echoed, &echo)] {
            let before = envoy.used();
            let load = wrk(envoy.address).await?;
            let used = envoy.used();
            side.push(load, (used.0 - before.0, used.1 - before.1));
        }
        let (called, before) = (controlplane_calls(cluster).await?, Used::by(cluster));
        let load = wrk(cluster.http).await?;
        let used = Used::by(cluster).since(before);
        calls.push((controlplane_calls(cluster).await? - called) / load.requests);
        sandbox.push(used.sandboxes / load.requests);
        ours.push(load, (used.envoy, used.router));
        let last = |side: &Side| side.rates[round - 1];
        eprintln!(
            "{NAME} {round}/{ROUNDS}: plain {:.0}/s, echo {:.0}/s, Reveille {:.0}/s",
            last(&alone),
            last(&echoed),
            last(&ours)
        );
    }
    let beside = |what, unit, bare: &[f64], ours: &[f64]| {
        Line::beside(NAME, what, unit, (bare, ours), How::Ratio)
    };
    Ok(vec![
        beside(
            "32 connections, one Envoy thread, beside plain Envoy",
            "1/s",
            &alone.rates,
            &ours.rates,
        )
        .reach("warm_rate_of_plain", Reach::AtLeast(OF_PLAIN)),
        beside("… beside an ext_proc that only echoes", "1/s", &echoed.rates, &ours.rates),
        beside("CPU of a request in Envoy, beside plain Envoy", "µs", &alone.envoy, &ours.envoy),
        beside("… beside Envoy with the echo", "µs", &echoed.envoy, &ours.envoy),
        beside("CPU of a request in the router, beside the echo", "µs", &echoed.asked, &ours.asked),
        Line::alone(NAME, "CPU of a request in the actor's sandbox", "µs", sandbox),
        Line::alone(NAME, "calls to the control plane for each request", "", calls)
            .reach("control_plane_calls_per_warm_request", Reach::AtMost(0.0)),
    ])
}

/// Where the actor listens.
pub(crate) async fn endpoint(cluster: &Cluster) -> Result<SocketAddr> {
    let actor = cluster.actor("demo", "counter").await;
    Ok(actor["endpoint"].as_str().context("a running actor has an endpoint")?.parse()?)
}

struct Load {
    rate: f64,
    requests: f64,
}

/// 32 connections that each send a request as soon as they have an answer.
async fn wrk(front: SocketAddr) -> Result<Load> {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c32", &format!("-d{SECONDS}s"), "-H", &format!("Host: {HOST}")]);
    wrk.arg(format!("http://{front}/"));
    let output = tokio::task::spawn_blocking(move || wrk.output()).await?.context("wrk")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let bad = text.lines().find(|l| l.contains("Non-2xx") || l.contains("Socket errors"));
    ensure!(bad.is_none(), "{}", bad.unwrap_or_default());
    let number = |line: fn(&str) -> Option<&str>| {
        let found = text.lines().find_map(line);
        found.and_then(|n| n.trim().parse().ok()).with_context(|| format!("no number in {text}"))
    };
    Ok(Load {
        rate: number(|line| line.strip_prefix("Requests/sec:"))?,
        requests: number(|line| line.split_once(" requests in ").map(|(count, _)| count))?,
    })
}
