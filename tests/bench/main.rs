//! `make bench`: what Reveille adds, beside the bare parts, in one run.
//!
//! * a wake, from the request to its first byte, beside bare `runsc restore` to the first answer of the same snapshot;
//! * warm requests/s, beside plain Envoy with the same listener, no filter, and the same actor behind it.
//!
//! Runs are interleaved and medians are shown, so that a busy machine hits both sides. `--json FILE` writes the
//! figures for programs.

#![allow(clippy::expect_used)]

#[path = "../harness/harness.rs"]
mod harness;

mod bare;
mod warm;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use harness::{
    cluster::{Cluster, Options},
    machine_can_run_it,
    manifest::Manifests,
};
use serde::Serialize;
use tokio::time::Instant;

const HOST: &str = "counter.demo.actors.localhost";
const WAKES: usize = 21;
const LOADS: usize = 5;

/// One line of the result: ours beside the bare part.
#[derive(Debug, Serialize)]
struct Figure {
    what: &'static str,
    unit: &'static str,
    bare: f64,
    reveille: f64,
    /// What the line is about: a difference for times, a ratio for rates.
    verdict: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    if !machine_can_run_it("the benchmark") {
        std::process::exit(1);
    }
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let figures = measure(&cluster).await;
    cluster.stop().await;
    report(&figures?)
}

async fn measure(cluster: &Cluster) -> Result<Vec<Figure>> {
    Ok(vec![wakes(cluster).await?, rates(cluster).await?])
}

async fn wakes(cluster: &Cluster) -> Result<Figure> {
    cluster.client.get(HOST, "/").await.count();
    let mut bare = bare::Bare::new(cluster).await?;
    let (mut alone, mut ours) = (Vec::new(), Vec::new());
    for round in 0..WAKES {
        cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
        alone.push(bare.restore().await.context("a bare restore")?);
        let begun = Instant::now();
        cluster.client.get(HOST, "/").await.count();
        ours.push(begun.elapsed());
        eprintln!("wake {}/{WAKES}: bare {:?}, ours {:?}", round + 1, alone[round], ours[round]);
    }
    let (bare, reveille) = (millis(median(alone)), millis(median(ours)));
    let verdict = format!("{:+.1} ms", reveille - bare);
    Ok(Figure { what: "wake: request to first byte", unit: "ms", bare, reveille, verdict })
}

async fn rates(cluster: &Cluster) -> Result<Figure> {
    cluster.client.get(HOST, "/").await.count();
    let actor = cluster.actor("demo", "counter").await;
    let endpoint = actor["endpoint"].as_str().context("a running actor has an endpoint")?;
    let plain = warm::PlainEnvoy::start(endpoint.parse()?).await?;
    let (mut alone, mut ours) = (Vec::new(), Vec::new());
    for round in 0..LOADS {
        alone.push(warm::requests_per_second(plain.address, HOST).await?);
        ours.push(warm::requests_per_second(cluster.http, HOST).await?);
        eprintln!("load {}/{LOADS}: plain {:.0}, ours {:.0}", round + 1, alone[round], ours[round]);
    }
    let (bare, reveille) = (median_rate(alone), median_rate(ours));
    let verdict = format!("ratio {:.2}", reveille / bare);
    Ok(Figure { what: "warm requests, 32 connections", unit: "1/s", bare, reveille, verdict })
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}

fn median_rate(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn report(figures: &[Figure]) -> Result<()> {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["median", "bare", "Reveille", ""]);
    for figure in figures {
        let cell = |value: f64| format!("{value:.1} {}", figure.unit);
        table.add_row([
            figure.what.to_owned(),
            cell(figure.bare),
            cell(figure.reveille),
            figure.verdict.clone(),
        ]);
    }
    println!("{table}");
    let mut args = std::env::args().skip_while(|arg| arg != "--json").skip(1);
    if let Some(file) = args.next().map(PathBuf::from) {
        std::fs::write(&file, serde_json::to_vec_pretty(figures)?)
            .with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}
