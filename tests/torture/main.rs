//! The torture: everything of a node is killed (kill -9) in the middle of everything it does.
//!
//! ```text
//!  plan (seed) ─▶ round: prepare ─▶ every actor does something ─▶ recover ─▶ judge ─▶ wake, ask ─▶ sleep ─▶ leaks
//!                                      ╳ at a step, or at a moment
//!                             the agent, its programs, a sandbox, or all of them
//! ```
//!
//! A real `reveille node` with both runtimes and a store; the test plays the control plane, and is all that remembers. Each
//! actor is a counter, of a directory or of an image, whose nonce and count live in its memory only. What may be found after a kill is in [`judge`], which is pure
//! and has tests of its own; [`step`] has the points that can be seen from outside and that kills are aimed at. After each round every
//! actor is woken, must have the old state or the new, goes to sleep again, and then nothing may be left over.
//!
//! `cargo test --test torture` runs the short form, `make torture` the long one with the release binary. `TORTURE_SEED` replays a
//! plan, `TORTURE_ROUNDS` is its length. A plan fixes who does what, and what is killed when; how the machine
//! interleaves them, nobody can.

// A test may fail by a panic; clippy sees that only inside `#[test]` functions.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../harness/harness.rs"]
mod harness;

#[expect(dead_code, reason = "nobody asks for the digest here")]
#[path = "../../node/tests/node/oci.rs"]
mod oci;

mod actor;
mod agent;
mod judge;
mod plan;
mod run;
mod step;

use std::{io::Write, time::Duration};

use nix::sched::{CloneFlags, unshare};

use plan::Plan;

/// Rounds of the short form…
const SHORT: u32 = 24;
/// … but on a machine that has not done them in this time, so many will do.
const AT_LEAST: u32 = 6;
const WITHIN: Duration = Duration::from_secs(60);
/// And of the long one.
const LONG: u32 = 2_000;

#[test]
fn whatever_is_killed_an_actor_wakes_with_the_old_state_or_the_new_and_nothing_is_left_over() {
    apart(SHORT, AT_LEAST, WITHIN);
}

#[test]
#[ignore = "the long form: make torture"]
fn also_in_the_long_form() {
    apart(LONG, LONG, Duration::MAX);
}

/// In a network of its own, which forwards as that of a machine must that lets actors out.
fn apart(rounds: u32, at_least: u32, within: Duration) {
    if !harness::machine_can_run_it("torture") {
        return;
    }
    let there = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("it forwards");
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("ip runs").success(), "criu looks at loopback");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.expect("a runtime").block_on(Box::pin(torture(rounds, at_least, within)));
    });
    if let Err(panic) = there.join() {
        std::panic::resume_unwind(panic);
    }
}

async fn torture(rounds: u32, at_least: u32, within: Duration) {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u32>().unwrap_or_else(|_| panic!("{name} must be a number, not {text}")))
    };
    let seed = number("TORTURE_SEED").unwrap_or_else(rand::random);
    let (rounds, at_least) = number("TORTURE_ROUNDS").map_or((rounds, at_least), |n| (n, n));
    say(&format!("{rounds} rounds, TORTURE_SEED={seed}"));
    run::run(&Plan::new(seed), rounds, at_least, within).await;
}

/// To whoever waits for it: what is printed the usual way is held back until a test has failed.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "torture: {line}");
}
