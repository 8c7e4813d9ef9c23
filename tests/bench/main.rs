//! `make bench`: the figures, each beside the bare part it is about.
//!
//! | figure | measures | beside |
//! | --- | --- | --- |
//! | `wake` | a request to a sleeping actor until its first byte; what of it no phase explains | bare `runsc restore` |
//! | `warm` | requests/s, CPU time of each part, calls to the control plane | plain Envoy; Envoy with an ext_proc that only echoes |
//! | `latency` | what is added at 1,000 requests/s, sent when the clock says so | the same |
//! | `crowd` | 1,000 requests at once on one sleeping actor | bare `runsc restore` |
//! | `wakes` | wakes/s of router and control plane with a node that does nothing | |
//! | `memory` | bytes of a parked request and of a binding | |
//! | `quiet` | CPU time of every part while nothing happens; applying and listing 10,000 actors | |
//! | `sizes` | suspend and wake with 10, 100 and 500 MB of memory, for both runtimes | bare `runsc` or `criu` with the same snapshot |
//! | `many` | freezing and thawing with 100 actors; waking 100 at once | requests to an actor that runs |
//! | `dns` | queries/s of the DNS server on one core, and their latency | Knot DNS and dnsmasq |
//! | `recovery` | how long requests go wrong after kill -9 of each part | the same without a kill |
//!
//! Rounds are interleaved and compared round by round: what else the machine does hits both sides. Nothing here fails
//! because something took long; the result says which reach was met. A figure that comes to no result keeps no other from
//! its own.

#![allow(clippy::expect_used)]

#[path = "../harness/harness.rs"]
mod harness;

mod bare;
mod cpu;
mod crowd;
mod dns;
mod echo;
mod figure;
mod http;
mod latency;
mod many;
mod memory;
mod node;
mod plain;
mod quiet;
mod recovery;
mod sizes;
mod wake;
mod wakes;
mod warm;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use harness::{
    client::Client,
    cluster::{Cluster, Options},
    machine_can_run_it,
    manifest::Manifests,
};
use reveille_api::{net::Address, proto::control_client::ControlClient};
use tonic::transport::Channel;

const HOST: &str = "counter.demo.actors.localhost";

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Figure {
    Wake,
    Warm,
    Latency,
    Crowd,
    Wakes,
    Memory,
    Quiet,
    Sizes,
    Many,
    Dns,
    Recovery,
}

/// Measures Reveille beside the bare parts
#[derive(Parser, Debug)]
struct Args {
    /// Which figures [default: all]
    figures: Vec<Figure>,
    /// Writes them for programs too; - is standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
    /// Serves the echo of [`plain`] there, and does nothing else
    #[arg(long, hide = true, value_name = "SOCKET")]
    echo: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(socket) = args.echo {
        return echo::serve(&socket).await;
    }
    if !machine_can_run_it("the benchmark") {
        std::process::exit(1);
    }
    let figures = match args.figures.as_slice() {
        [] => Figure::value_variants(),
        some => some,
    };
    let (mut lines, mut failed) = (Vec::new(), Vec::new());
    for figure in figures {
        let measured = match figure {
            Figure::Wake => wake::run().await,
            Figure::Warm => warm::run().await,
            Figure::Latency => latency::run().await,
            Figure::Crowd => crowd::run().await,
            Figure::Wakes => wakes::run().await,
            Figure::Memory => memory::run(),
            Figure::Quiet => quiet::run().await,
            Figure::Sizes => sizes::run().await,
            Figure::Many => many::run().await,
            Figure::Dns => dns::run().await,
            Figure::Recovery => recovery::run().await,
        };
        match measured {
            Ok(measured) => lines.extend(measured),
            Err(error) => failed.push(format!("{figure:?}: {error:#}")),
        }
    }
    match &args.json {
        Some(to) if to.as_os_str() == "-" => eprintln!("{}", figure::table(&lines)),
        _ => println!("{}", figure::table(&lines)),
    }
    if let Some(to) = &args.json {
        figure::write_json(&lines, &failed, to)?;
    }
    ensure!(failed.is_empty(), "no result: {}", failed.join("; "));
    Ok(())
}

/// A whole `up` with the demo's counter, and a config file with these lines.
async fn one_counter(config: &str) -> Result<Cluster> {
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    start(manifests, config).await
}

async fn start(manifests: Manifests, config: &str) -> Result<Cluster> {
    // Read while `up` starts.
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(&file, config)?;
    let extra = vec!["--config".into(), file.path().display().to_string()];
    Ok(Cluster::start(Options { extra, ..Options::new(manifests) }).await)
}

/// The control plane of an `up`.
fn control(cluster: &Cluster) -> ControlClient<Channel> {
    let socket = cluster.data_dir().join("run/control.sock");
    ControlClient::new(Address::Unix(socket).channel())
}

/// Calls that the control plane was asked for so far, by whomever.
async fn controlplane_calls(cluster: &Cluster) -> Result<f64> {
    let text = Client::new(cluster.status).get("controlplane", "/metrics").await.text();
    let series = text.lines().filter(|line| line.starts_with("reveille_controlplane_calls_total"));
    let values = series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.reduce(|a, b| a + b).context("the control plane counts no calls")
}

/// One of Envoy's counters.
async fn envoy_counter(admin: SocketAddr, name: &str) -> Result<u64> {
    let answer = Client::new(admin).get("admin", &format!("/stats?filter=^{name}$")).await.text();
    let value = answer.trim().strip_prefix(name).and_then(|rest| rest.strip_prefix(": "));
    value.and_then(|value| value.parse().ok()).with_context(|| format!("{name}: {answer:?}"))
}
