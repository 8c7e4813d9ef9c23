//! The storm: many actors over few workers, every kind of client, and everything killed, while a checker watches.
//!
//! ```text
//!  plan (seed) ──▶ clients ── increments ──▶ Envoy ──▶ actors      history ──▶ checker ──▶ violations
//!             ├──▶ churn   ── suspend, stop, wake ──▶ control plane    ▲                └──▶ report
//!             └──▶ nemesis ── kill -9 ──▶ any process                  │
//!                     what was asked, answered, killed when ───────────┘ and what the actors themselves remember
//! ```
//!
//! An increment has an id, unique in the run; an answer names the actor, its nonce and the count. What is to be
//! proved is in [`checker`], which is pure and has tests of its own with histories that it must reject.
//!
//! `cargo test --test storm` runs the short form, `make storm` the long one with the release binary.
//! `STORM_SEED` replays a plan, `STORM_REQUESTS` is how many increments must be acknowledged. A plan fixes
//! who asks whom, how, and what is killed after how many acknowledged increments; how the machine interleaves them, nobody can.
//! When a run is rejected its traces stay in `target/tmp/storm-<seed>`; `STORM_KEEP=1` leaves the data directory too.

// A test may fail by a panic; clippy sees that only inside `#[test]` functions.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../harness/harness.rs"]
mod harness;

mod checker;
mod clients;
mod explain;
mod history;
mod leaks;
mod nemesis;
mod plan;
mod report;
mod run;

use std::{io::Write, time::Duration};

use plan::Plan;

/// Increments to be acknowledged in the short form…
const SHORT: u64 = 50_000;
/// … but on a machine that has not done them in this time, so many will do, and each kind of kill once: with a debug binary
/// most of it goes into wakes and recoveries.
const AT_LEAST: u64 = 10_000;
const WITHIN: Duration = Duration::from_secs(180);
/// And in the long one.
const LONG: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_misdelivered_or_unexplained_in_a_storm() {
    Box::pin(storm(SHORT, AT_LEAST, WITHIN)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the long form: make storm"]
async fn nor_in_a_long_one() {
    Box::pin(storm(LONG, LONG, Duration::MAX)).await;
}

async fn storm(requests: u64, at_least: u64, within: Duration) {
    if !harness::machine_can_run_it("storm") {
        return;
    }
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} must be a number, not {text}")))
    };
    let seed = number("STORM_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let plan = match number("STORM_REQUESTS") {
        Some(requests) => Plan::new(seed, requests, requests),
        None => Plan::new(seed, requests, at_least),
    };
    say(&format!("{} increments, STORM_SEED={seed}", plan.requests));
    let (history, log) = Box::pin(run::run(&plan, within)).await;
    say(&report::render(&plan, &history));
    let violations = checker::check(&history);
    if !violations.is_empty() {
        let traces = report::write_traces(&plan, &history, &violations, &log);
        let some: Vec<_> = violations.iter().take(10).map(ToString::to_string).collect();
        panic!(
            "STORM_SEED={seed}: {} violations, traces are in {}; the first:\n{}",
            violations.len(),
            traces.display(),
            some.join("\n")
        );
    }
}

/// To whoever waits for it: what is printed the usual way is held back until a test has failed.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "storm: {line}");
}
