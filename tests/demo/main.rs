//! `make demo`: the story in under a minute, played on a whole `reveille up` of its own, as a table.

#![allow(clippy::expect_used)]

#[path = "../harness/harness.rs"]
mod harness;

use std::time::Duration;

use anyhow::{Result, ensure};
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use harness::{
    client::Answer,
    cluster::{Cluster, Options},
    machine_can_run_it,
    manifest::Manifests,
};
use tokio::time::Instant;

const HOST: &str = "counter.demo.actors.localhost";

/// What is told of one step.
struct Row {
    what: &'static str,
    took: Duration,
    seen: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    if !machine_can_run_it("the demo") {
        std::process::exit(1);
    }
    eprintln!("starting reveille …");
    let manifests = Manifests::new()
        .counter("demo", "counter", "idle: { suspendAfter: 3s }\n")
        .actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let rows = play(&cluster).await;
    cluster.stop().await;
    let rows = rows?;

    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["step", "took", "what was seen"]);
    for row in rows {
        let took = format!("{:.1} ms", row.took.as_secs_f64() * 1e3);
        table.add_row([row.what.to_owned(), took, row.seen]);
    }
    println!("{table}");
    Ok(())
}

async fn play(cluster: &Cluster) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut step = |what, begun: Instant, seen: String| {
        let took = begun.elapsed();
        eprintln!("{what}: {:.1} ms", took.as_secs_f64() * 1e3);
        rows.push(Row { what, took, seen });
    };
    let say = |answer: &Answer| {
        let count = answer.count();
        format!("count {}, nonce {}", count.count, &count.nonce[..8])
    };

    let begun = Instant::now();
    let cold = cluster.client.get(HOST, "/").await;
    step("cold start", begun, say(&cold));

    let begun = Instant::now();
    let warm = cluster.client.get(HOST, "/").await;
    step("warm request", begun, say(&warm));

    let begun = Instant::now();
    cluster.reaches("demo", "counter", "Suspended").await;
    step("falls asleep by itself", begun, "idle time is 3 s".into());

    let begun = Instant::now();
    let woken = cluster.client.get(HOST, "/").await;
    step("wake by a request", begun, say(&woken));
    ensure!(woken.count().nonce == cold.count().nonce, "it was restarted, not restored");

    let begun = Instant::now();
    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    step("suspend by command", begun, "snapshot committed".into());

    let epoch = cluster.actor("demo", "counter").await["epoch"].as_u64().unwrap_or_default();
    let begun = Instant::now();
    let answers = cluster.client.get_many(HOST, "/", 1000).await;
    let elapsed = begun;
    let served = answers.iter().filter(|a| a.status == 200).count();
    let after = cluster.actor("demo", "counter").await["epoch"].as_u64().unwrap_or_default();
    let restores = after - epoch;
    step("1,000 at once, asleep", elapsed, format!("{served} answers, {restores} restore"));
    let other = answers.iter().find(|a| a.status != 200);
    ensure!(other.is_none(), "not every request was served: {other:?}");
    ensure!(restores == 1, "{restores} restores");
    Ok(rows)
}
