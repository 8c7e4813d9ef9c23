//! Real routers and a real control plane with fake nodes and Envoys on a simulated network, whose time is simulated too.
#![expect(clippy::expect_used, reason = "a simulation that is wrong is to stop")]

mod agent;
mod control;
mod envoy;
mod faults;
mod mutant;
mod net;
mod node;
mod oracle;
mod world;

use world::{Plan, run};

fn check(plan: Plan) {
    let oracle = run(plan);
    let seen = oracle.seen();
    println!(
        "{plan:?}: {} lines, {} wakes, {} suspends, {:?} {:x}",
        seen.trace.len(),
        seen.wakes,
        seen.suspends,
        seen.ends,
        seen.fingerprint()
    );
    if let Some(broken) = seen.broken.first() {
        let from = seen.trace.len().saturating_sub(60);
        panic!("{broken}\n{}\nSIMULATION_SEED={}", seen.trace[from..].join("\n"), plan.seed);
    }
}

#[test]
fn without_a_fault_every_request_is_answered() {
    check(Plan { seed: 1, faults: &[], mutant: None });
}

#[test]
fn with_every_fault() {
    let from = std::env::var("S").map_or(1, |s| s.parse().unwrap());
    for seed in from..from + 4 {
        check(Plan { seed, faults: faults::Fault::ALL, mutant: None });
    }
}
