//! The protocol between routers, control plane and node as a model, and every state it can reach.
//!
//! ```text
//!  requests ─▶ 2 routers ══ reports, revokes (in order) ══ control plane ── calls, answers (in no order) ── node
//!                  │  ── wake, its answer (beside those) ──   │ store                                       │
//!                  └── requests that were told the endpoint, as late as they like ────────────────────── sandbox
//! ```
//!
//! | real code | described here |
//! | --- | --- |
//! | the life of an actor: `reveille_controlplane::lifecycle` | who holds which binding, errands, reconciling: `control.rs` |
//! | the actor of a router: `reveille_router::model` | its wake, its session, its revokes: `router.rs` |
//! | | the node's operations, adoption, endpoints, snapshots: `node.rs` |
//!
//! One actor, one node with one worker, two routers. Each message, write, step of the node and deadline is an [`Action`]
//! of its own, so every order of them is tried. [`Fault`]s cost: a size says how many there may be. Deadlines of those
//! who are dead pass for free, of those who are slow as a fault. Not modelled: activity reports (an idle decision may
//! come at any time at which no router has told of a request), deletion, several actors for a worker.
//!
//! A [`Mutant`] is the same world with one rule switched off; each has to be caught.

#![expect(clippy::expect_used, reason = "a checker that is wrong is to stop")]

mod control;
mod mutant;
mod node;
mod protocol;
mod rest;
mod router;
mod world;

use mutant::Mutant;
use protocol::{
    NO_LOST_REQUEST, NO_LOST_STATE, NO_MISDELIVERY, NOTHING_IS_STUCK, ONE_ACTIVATION, Protocol,
    WAKES_ARE_JOINED,
};
use stateright::{Checker, HasDiscoveries, Model};
use world::{Fault, Left};

const NONE: Left = Left { suspends: 0, idles: 0, leaves: 0, faults: 0 };

fn protocol(requests: usize, left: Left) -> Protocol {
    Protocol { requests, left, faults: &Fault::ALL, continues: true, mutant: None }
}

/// Every state; panics with the way to one that breaks a promise.
fn check(protocol: Protocol) {
    let size = format!("{} requests, {:?}", protocol.requests, protocol.left);
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    let (states, steps) = (checker.unique_state_count(), checker.state_count());
    println!("{size}: {states} states, {steps} steps, depth {}", checker.max_depth());
    if let Some((broken, path)) = checker.discoveries().into_iter().next() {
        let way: Vec<_> = path.into_actions().iter().map(|a| format!("  {a:?}")).collect();
        panic!("{broken}\n{}", way.join("\n"));
    }
}

#[test]
fn without_a_fault_every_request_is_answered() {
    check(protocol(3, Left { suspends: 1, ..NONE }));
    check(protocol(2, Left { suspends: 1, idles: 1, leaves: 1, ..NONE }));
}

#[test]
fn no_single_fault_breaks_a_promise() {
    check(protocol(1, Left { suspends: 1, idles: 1, leaves: 1, faults: 1 }));
    check(protocol(2, Left { suspends: 1, faults: 1, ..NONE }));
}

#[test]
fn every_state_can_still_come_to_rest() {
    let calm = protocol(2, Left { suspends: 1, leaves: 1, ..NONE });
    assert_eq!(rest::stuck(&calm), 0);
    assert_eq!(rest::stuck(&protocol(1, Left { suspends: 1, faults: 1, ..NONE })), 0);
    let same_terms = Protocol { mutant: Some(Mutant::TermsDoNotGrow), ..calm };
    assert!(rest::stuck(&same_terms) > 0, "terms are not needed");
}

#[test]
fn a_router_that_is_stopped_for_ever_holds_nobody_up() {
    let left = Left { suspends: 1, faults: 1, ..NONE };
    let faults = &[Fault::RouterStops];
    check(Protocol { faults, continues: false, ..protocol(2, left) });
}

/// Minutes, with optimizations: `make model`.
#[test]
#[ignore = "takes long: make model"]
fn larger_sizes() {
    check(protocol(3, Left { suspends: 2, idles: 1, ..NONE }));
    check(protocol(2, Left { suspends: 1, idles: 1, leaves: 1, faults: 1 }));
    check(protocol(1, Left { suspends: 1, faults: 2, ..NONE }));
}

#[test]
fn each_rule_is_needed() {
    use Fault::{ControlPlaneCrashes, NodeCutOff, RouterStops, TooSlow};
    let calm = Left { suspends: 1, ..NONE };
    let rough = Left { faults: 1, ..calm };
    let cases: &[(Mutant, &str, Left, &'static [Fault])] = &[
        (Mutant::NodeIgnoresEpochs, ONE_ACTIVATION, rough, &[TooSlow]),
        (Mutant::IntentIsNotStored, NO_LOST_REQUEST, rough, &[ControlPlaneCrashes]),
        (Mutant::EndpointsAreReused, NO_MISDELIVERY, rough, &[TooSlow]),
        (Mutant::EndpointOutlivesDrain, NO_MISDELIVERY, rough, &[TooSlow]),
        (Mutant::StaleRepliesAreInstalled, NO_LOST_REQUEST, calm, &[]),
        (Mutant::AcknowledgedBeforeTheEnd, NO_LOST_REQUEST, calm, &[]),
        (Mutant::DrainIsNotAwaited, NO_LOST_REQUEST, calm, &[]),
        (Mutant::HoldersAreNotNoted, NO_LOST_REQUEST, calm, &[]),
        (Mutant::RoutersAreNotAwaited, NO_LOST_REQUEST, rough, &[ControlPlaneCrashes]),
        (Mutant::EndpointOutlivesDrain, NO_LOST_STATE, rough, &[TooSlow]),
        (Mutant::WakesAreNotJoined, WAKES_ARE_JOINED, calm, &[]),
        (Mutant::NoDrainDeadline, NOTHING_IS_STUCK, rough, &[RouterStops]),
        (Mutant::CallsAreNotRepeated, NOTHING_IS_STUCK, rough, &[NodeCutOff]),
        (Mutant::StaysAreNotChecked, NOTHING_IS_STUCK, rough, &[NodeCutOff]),
    ];
    let mut missed = Vec::new();
    for (mutant, promise, left, faults) in cases.iter().copied() {
        let requests = if left == calm { 3 } else { 2 };
        let continues = mutant != Mutant::NoDrainDeadline;
        let mutated = Protocol { requests, left, faults, continues, mutant: Some(mutant) };
        let enough = HasDiscoveries::AnyOf([promise].into());
        let checker = mutated.checker().threads(2).finish_when(enough).spawn_bfs().join();
        let found: Vec<_> = checker.discoveries().into_keys().collect();
        println!("{mutant:?}: {} states, {found:?}", checker.unique_state_count());
        if !found.contains(&promise) {
            missed.push((mutant, promise, found));
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
