//! What `up` costs while nothing happens, with no actor and with many asleep; and what many actors cost to apply and list.

use std::{fs, time::Duration};

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::{
    cpu,
    figure::{Line, millis},
    harness::{cluster::Cluster, manifest::Manifests},
    start,
};

const NAME: &str = "quiet";
/// Actors that sleep while it is looked at, and then are applied and listed.
const ASLEEP: usize = 1_000;
const MANY: usize = 10_000;
/// Beginnings are noisy: a control plane waits 10 s for its routers to settle.
const SETTLE: Duration = Duration::from_secs(12);
const LOOK: Duration = Duration::from_secs(10);
const ROLES: [&str; 5] = ["controlplane", "node", "router", "envoy", "dns"];

pub(crate) async fn run() -> Result<Vec<Line>> {
    let cluster = start(Manifests::new().counter("demo", "counter", ""), "").await?;
    let outcome = measure(&cluster).await;
    cluster.stop().await;
    outcome
}

async fn measure(cluster: &Cluster) -> Result<Vec<Line>> {
    sleep(SETTLE).await;
    let mut lines = look(cluster, "no actor").await;
    apply(cluster, 0..ASLEEP).await?;
    sleep(Duration::from_secs(1)).await;
    lines.extend(look(cluster, "1,000 actors asleep").await);
    let took = apply(cluster, ASLEEP..ASLEEP + MANY).await?;
    lines.push(Line::alone(NAME, "reveille apply of 10,000 actors", "ms", vec![millis(took)]));
    for format in ["name", "json"] {
        let begun = Instant::now();
        cluster.ok(&["get", "actors", "-A", "-o", format]).await;
        let what = format!("reveille get actors -o {format}, of 11,000");
        lines.push(Line::alone(NAME, what, "ms", vec![millis(begun.elapsed())]));
    }
    Ok(lines)
}

/// CPU time and wake-ups of every part over a while.
async fn look(cluster: &Cluster, when: &str) -> Vec<Line> {
    eprintln!("{NAME}: {when}");
    let parts: Vec<_> = [("up", Some(cluster.up_pid()))]
        .into_iter()
        .chain(ROLES.map(|role| (role, cluster.pid_of(role))))
        .filter_map(|(role, pid)| Some((role, pid?)))
        .collect();
    let snapshot =
        || parts.iter().map(|(_, pid)| (cpu::of(*pid), wakeups(*pid))).collect::<Vec<_>>();
    let (before, begun) = (snapshot(), Instant::now());
    sleep(LOOK).await;
    let (after, seconds) = (snapshot(), begun.elapsed().as_secs_f64());
    let (mut all, mut lines) = ((0.0, 0.0), Vec::new());
    for ((role, _), (before, after)) in parts.iter().zip(before.iter().zip(&after)) {
        let (used, woke) = ((after.0 - before.0) / 1e3 / seconds, (after.1 - before.1) / seconds);
        all = (all.0 + used, all.1 + woke);
        eprintln!("{NAME}: {role}: {used:.2} ms/s of CPU, {woke:.0} wake-ups/s");
    }
    for (what, unit, value) in [("CPU", "ms/s", all.0), ("wake-ups", "1/s", all.1)] {
        lines.push(Line::alone(NAME, format!("{what} of all parts, {when}"), unit, vec![value]));
    }
    lines
}

/// How often its threads were woken so far.
fn wakeups(pid: i32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |status: String| -> f64 {
        let count = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
    };
    tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok()).map(of).sum()
}

async fn apply(cluster: &Cluster, numbers: std::ops::Range<usize>) -> Result<Duration> {
    let mut manifests = Manifests::new();
    for number in numbers {
        manifests = manifests.actor("demo", &format!("a{number}"), "counter");
    }
    let file = cluster.dir.path().join("many.yaml");
    fs::write(&file, manifests.text())?;
    let begun = Instant::now();
    cluster.ok(&["apply", "-f", &file.to_string_lossy()]).await;
    Ok(begun.elapsed())
}
