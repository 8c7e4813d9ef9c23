//! The totals of a storm, for a sceptic.

use std::{collections::BTreeMap, fmt::Write, fs, path::PathBuf, time::Duration};

use crate::{
    checker::Violation,
    explain::explanation,
    history::{History, Op, Outcome},
    plan::Plan,
};

pub(crate) fn render(plan: &Plan, history: &History) -> String {
    let ops = &history.ops;
    let acked = || ops.iter().filter(|op| matches!(op.outcome, Outcome::Acked(_)));
    let mut text = String::new();
    let took = history.took.as_secs_f64();
    let _ = writeln!(
        text,
        "seed {}, {} increments asked for, {} acknowledged, in {took:.0} s ({:.0}/s)",
        plan.seed,
        ops.len(),
        acked().count(),
        acked().count() as f64 / took,
    );
    let mut section = |title: &str, rows: BTreeMap<String, u64>| {
        let _ = writeln!(text, "  {title}");
        for (what, n) in rows {
            let _ = writeln!(text, "    {n:>8}  {what}");
        }
    };
    section("acknowledged, by kind of client", tally(acked().map(|op| format!("{:?}", op.kind))));
    section("all, by outcome", tally(ops.iter().map(outcome)));
    let failed = || ops.iter().filter(|op| !matches!(op.outcome, Outcome::Acked(_)));
    let explained = |op: &Op| match explanation(op, &history.disturbances) {
        Some(cause) => format!("{} ← {cause:?}", outcome(op)),
        None => format!("{} ← UNEXPLAINED", outcome(op)),
    };
    section("not acknowledged, and why", tally(failed().map(explained)));
    let wakes = acked().filter_map(|op| match &op.outcome {
        Outcome::Acked(ack) => ack.wake.clone(),
        _ => None,
    });
    section("answers that waited for a wake", tally(wakes));
    section("events of actors", tally(history.notices.values().map(|n| n.kind.clone())));
    section("suspends asked for", history.suspends.clone());
    let disturbances = history.disturbances.iter().map(|d| match d.cause {
        crate::history::Cause::Stopped(_) => "Stopped by its user".into(),
        cause => format!("{cause:?}"),
    });
    section("disturbances", tally(disturbances));
    let (before, after) = &history.usage;
    let _ =
        writeln!(text, "  descriptors and resident memory at rest, before the storm and after it");
    for (role, now) in after {
        let then = before.get(role).copied().unwrap_or_default();
        let _ = writeln!(
            text,
            "    {role:<16} {:>4} → {:>4}   {:>4} → {:>4} MiB",
            then.fds, now.fds, then.memory_mib, now.memory_mib
        );
    }
    let remembered: u64 = history.ids.values().map(|ids| ids.len() as u64).sum();
    let mut latencies: Vec<_> = acked().map(|op| op.completed - op.invoked).collect();
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = ((latencies.len() as f64 * share) as usize).min(latencies.len().max(1) - 1);
        Duration::from_micros(latencies.get(index).copied().unwrap_or_default())
    };
    let _ = writeln!(text, "  increments the actors remember in the end: {remembered}");
    let _ = write!(
        text,
        "  latency of what was acknowledged: p50 {:.1?}, p99 {:.1?}, worst {:.1?}",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    text
}

/// Everything that is known, in files, for whoever looks for the cause.
pub(crate) fn write_traces(
    plan: &Plan,
    history: &History,
    violations: &[Violation],
    log: &str,
) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("storm-{}", plan.seed));
    let write = |name: &str, lines: Vec<String>| {
        fs::write(dir.join(name), lines.join("\n") + "\n").expect("a trace is written");
    };
    fs::create_dir_all(&dir).expect("a directory for the traces");
    write("violations", violations.iter().map(ToString::to_string).collect());
    write("ops", history.ops.iter().map(|op| format!("{op:?}")).collect());
    write("disturbances", history.disturbances.iter().map(|d| format!("{d:?}")).collect());
    write("events", history.notices.iter().map(|(n, notice)| format!("{n} {notice:?}")).collect());
    write("ids", history.ids.iter().map(|(actor, ids)| format!("{actor} {ids:?}")).collect());
    write("up.log", vec![log.to_owned()]);
    dir
}

fn outcome(op: &Op) -> String {
    match &op.outcome {
        Outcome::Acked(_) => "200".into(),
        Outcome::Refused { status, reason } => format!("{status} {reason}"),
        Outcome::Broken(_) => "connection broken".into(),
        Outcome::Wrong(_) => "wrong answer".into(),
        Outcome::Hung => "no answer".into(),
    }
}

fn tally(items: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    let mut rows = BTreeMap::new();
    for item in items {
        *rows.entry(item).or_default() += 1;
    }
    rows
}
