//! Real routers and a real control plane with fake nodes and Envoys, on a network and in a time that are simulated.
//!
//! ```text
//!  callers ─▶ 2 Envoys ══ ext_proc ══ 2 routers ══ sessions, wakes ══ control plane ══ sessions, calls ══ 2 agents
//!                 └───────────────────────── requests ─────────────────────────▶ 2 machines ◀── activations ──┘
//! ```
//!
//! | real | fake |
//! | --- | --- |
//! | `reveille-router` with its ext_proc server, `reveille-controlplane`, tonic and HTTP/2 under both | Envoy: `envoy.rs`; node: `node.rs`, `agent.rs`, but for its fence of stays; the network and the clock: turmoil |
//! | | the store: in memory, outlives the control plane, takes its time (`control.rs`) |
//!
//! What goes wrong is in `faults.rs`, what must hold in `oracle.rs`. A call to a node is sometimes made twice, the second time
//! late. Connections that lost a message are found by HTTP/2 pings only: the network sends nothing again.
//!
//! A seed begins everything that is left to chance (`chance.rs`), and the time is the world's also for those who ask the system
//! (`clock.rs`). So a seed is the same run each time, in a process of its own, which is this program with `SIMULATION_SEED`. A
//! failure names the seed:
//!
//! ```text
//! SIMULATION_SEED=7 cargo test -p reveille-simulation -- a_seed --exact --ignored --nocapture     (RUST_LOG=debug: what the parts say)
//! make simulation SEEDS=1000
//! ```

#![expect(clippy::expect_used, reason = "a simulation that is wrong is to stop")]

mod agent;
mod chance;
mod clock;
mod control;
mod envoy;
mod faults;
mod mutant;
mod net;
mod node;
mod oracle;
#[path = "../../node/src/stay.rs"]
mod stay;
mod world;

use std::{
    env,
    process::Command,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use faults::Fault;
use mutant::Mutant;
use world::{Plan, run};

/// Runs of the short form.
const SEEDS: u64 = 24;
/// A mutant is caught by one of so many.
const TRIES: u64 = 12;
/// Lines of the trace that a failure shows.
const SHOWN: usize = 80;

#[test]
#[ignore = "one run, by SIMULATION_SEED: the others start it"]
fn a_seed() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).without_time().try_init();
    let seed = number("SIMULATION_SEED").unwrap_or(1);
    let faultless = env::var("SIMULATION_FAULTS").is_ok_and(|faults| faults == "none");
    let mutant = env::var("SIMULATION_MUTANT").ok();
    let plan = Plan {
        seed,
        faults: if faultless { &[] } else { Fault::ALL },
        mutant: mutant.map(|name| Mutant::named(&name).expect("a mutant")),
    };
    let oracle = run(plan);
    let seen = oracle.seen();
    println!(
        "seed {seed}: {} wakes, {} suspends, {} late calls, {:?}, fingerprint {:016x}",
        seen.wakes,
        seen.suspends,
        seen.late,
        seen.ends,
        seen.fingerprint(chance::so_far())
    );
    if let Some(broken) = seen.broken.first() {
        let last = &seen.trace[seen.trace.len().saturating_sub(SHOWN)..];
        panic!("{}\n{broken}\n{plan:?}", last.join("\n"));
    }
}

#[test]
fn without_a_fault_every_request_is_answered() {
    for seed in 1..=3 {
        kept(seed, &[("SIMULATION_FAULTS", "none")]);
    }
}

#[test]
fn whatever_goes_wrong_no_promise_is_broken() {
    let (next, seeds) = (AtomicU64::new(1), number("SIMULATION_SEEDS").unwrap_or(SEEDS));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed > seeds {
                        return;
                    }
                    kept(seed, &[]);
                }
            });
        }
    });
}

#[test]
fn a_seed_is_the_same_run_twice() {
    for seed in 4..=7 {
        // The second time on a machine that is busy with others.
        let once = kept(seed, &[]);
        let again = thread::scope(|scope| {
            let runs = [(); 3].map(|()| scope.spawn(|| kept(seed, &[])));
            runs.map(|run| run.join().expect("a run"))
        });
        assert_eq!(again, [(); 3].map(|()| once.clone()));
    }
}

#[test]
fn a_node_that_ignores_epochs_is_caught() {
    caught(
        Mutant::NodeIgnoresEpochs,
        &["two activations", "woken twice", "its last snapshot is", "destroyed with"],
    );
}

#[test]
fn a_node_that_serves_after_the_commit_is_caught() {
    caught(
        Mutant::NodeServesAfterCommit,
        &["two activations", "done twice", "its last snapshot is"],
    );
}

#[test]
fn endpoints_that_are_used_again_are_caught() {
    caught(Mutant::EndpointsAreReused, &["and came to"]);
}

#[test]
fn an_in_flight_count_that_ends_early_is_caught() {
    caught(Mutant::StreamEndsEarly, &["reset"]);
}

/// This seed keeps every promise; what the run said.
fn kept(seed: u64, settings: &[(&str, &str)]) -> String {
    let (kept, said) = start(seed, settings);
    print!("{said}");
    assert!(kept, "SIMULATION_SEED={seed} {settings:?} breaks a promise");
    said
}

/// Some seed breaks a promise, in one of these words.
fn caught(mutant: Mutant, words: &[&str]) {
    let name = format!("{mutant:?}");
    // Nothing else goes wrong where an end that is not an answer is what shows it.
    let faults = if mutant == Mutant::StreamEndsEarly { "none" } else { "all" };
    let settings = [("SIMULATION_MUTANT", name.as_str()), ("SIMULATION_FAULTS", faults)];
    // One that is busy with itself for ever breaks no promise in these words.
    let broken = (1..=TRIES).find_map(|seed| {
        let (_, said) = start(seed, &settings);
        let broken = said.lines().find(|line| line.contains("BROKEN"))?;
        words.iter().any(|word| broken.contains(word)).then(|| broken.to_owned())
    });
    println!("{mutant:?}: {}", broken.expect("no seed catches it"));
}

/// One run, in a process of its own.
fn start(seed: u64, settings: &[(&str, &str)]) -> (bool, String) {
    let program = env::current_exe().expect("this program");
    let run = Command::new(program)
        .args(["a_seed", "--exact", "--ignored", "--nocapture"])
        .env("SIMULATION_SEED", seed.to_string())
        .env("RUST_BACKTRACE", "0")
        .envs(settings.iter().copied())
        .output()
        .expect("a run");
    let said = [run.stdout, run.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    let lines = said.iter().flat_map(|said| said.lines());
    let trace = |line: &&str| {
        !line.starts_with("test ") && !line.starts_with("running ") && !line.is_empty()
    };
    let said = lines.filter(trace).filter(|line| !line.contains("finished in"));
    (run.status.success(), said.map(|line| format!("{line}\n")).collect())
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}
