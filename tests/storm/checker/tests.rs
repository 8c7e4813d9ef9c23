//! Histories that must be rejected, each beside one that is like it and allowed.

use super::{Violation as V, *};
use crate::{
    history::{Cause, Disturbance, Notice},
    plan::{Kind, Part},
};

/// Two actors, a few increments, one commit: nothing is wrong.
fn quiet() -> History {
    let mut history = History::default();
    for (id, actor, count) in [(1, 0, 1), (2, 1, 1), (3, 0, 2), (4, 0, 3), (5, 1, 2)] {
        history.ops.push(op(id, actor, id * 1000, acked(actor, count)));
    }
    history.ids = BTreeMap::from([(0, vec![1, 3, 4]), (1, vec![2, 5])]);
    history.note(0, 3_500, "Suspended");
    history
}

/// The same, but actor 0 is killed after its commit: its last increment is gone, and the event log says so.
fn after_a_kill() -> History {
    let mut history = quiet();
    history.kill(Part::Sandbox, 6_000, &[0]);
    history.note(0, 6_500, "Lost");
    history.ops.push(op(6, 0, 8_000, acked(0, 3)));
    history.ids.insert(0, vec![1, 3, 6]);
    history
}

fn op(id: Id, actor: Actor, invoked: At, outcome: Outcome) -> Op {
    Op { id, actor, kind: Kind::KeepAlive, invoked, completed: invoked + 400, outcome }
}

fn acked(actor: Actor, count: u64) -> Outcome {
    Outcome::Acked(Ack { actor, nonce: 0xa0 + u64::from(actor), count, wake: None })
}

fn refused(reason: &str) -> Outcome {
    Outcome::Refused { status: 503, reason: reason.into() }
}

impl History {
    fn note(&mut self, actor: Actor, at: At, kind: &str) {
        let number = self.notices.len() as u64;
        let notice = Notice { actor, at, kind: kind.into(), message: String::new() };
        self.notices.insert(number, notice);
    }

    fn kill(&mut self, part: Part, at: At, hit: &[Actor]) {
        let (begun, done, over) = (at, at + 100, at + 1_000);
        let cause = Cause::Killed(part);
        self.disturbances.push(Disturbance { cause, begun, done, over, hit: hit.to_vec() });
    }

    fn ack(&mut self, id: Id) -> &mut Ack {
        let op = self.ops.iter_mut().find(|op| op.id == id).unwrap();
        let Outcome::Acked(ack) = &mut op.outcome else { panic!("it was not acknowledged") };
        ack
    }
}

/// It is rejected, and every violation is of the kind expected.
fn rejected(history: &History, expected: fn(&V) -> bool) {
    let violations = check(history);
    assert!(!violations.is_empty(), "it was let pass");
    assert!(violations.iter().all(expected), "{violations:#?}");
}

#[test]
fn a_sound_history_is_allowed() {
    assert_eq!(check(&quiet()), []);
    assert_eq!(check(&after_a_kill()), []);
}

#[test]
fn a_doubled_increment_is_rejected() {
    let mut history = quiet();
    // One request was counted twice on its way.
    history.ids.insert(1, vec![2, 5, 5]);
    rejected(&history, |v| matches!(v, V::Doubled(_)));
    // Two answers name one place, and nothing was killed in between.
    let mut history = quiet();
    history.ack(4).count = 2;
    history.ops[3].invoked = history.ops[2].invoked;
    rejected(&history, |v| matches!(v, V::Doubled(_) | V::WentBack(_)));
}

#[test]
fn a_request_of_unknown_fate_may_count_once() {
    let mut history = quiet();
    history.kill(Part::Sandbox, 6_000, &[1]);
    history.ops.push(op(6, 1, 6_000, refused("upstream_reset")));
    assert_eq!(check(&history), []);
    history.ids.insert(1, vec![2, 5, 6]);
    assert_eq!(check(&history), []);
    history.ids.insert(1, vec![2, 5, 6, 6]);
    rejected(&history, |v| matches!(v, V::Doubled(_)));
}

#[test]
fn a_refused_request_must_not_count() {
    let mut history = quiet();
    history.kill(Part::Sandbox, 6_000, &[1]);
    history.ops.push(op(6, 1, 6_000, refused("upstream_connect_failed")));
    assert_eq!(check(&history), []);
    history.ids.insert(1, vec![2, 5, 6]);
    rejected(&history, |v| matches!(v, V::RefusedAndDone(_)));
}

#[test]
fn a_lost_increment_is_rejected() {
    let mut history = quiet();
    history.ids.insert(1, vec![2]);
    rejected(&history, |v| matches!(v, V::Lost(_)));
    // A kill does not excuse what had been committed.
    let mut history = after_a_kill();
    history.ids.insert(0, vec![1, 6]);
    history.ack(6).count = 2;
    rejected(&history, |v| matches!(v, V::Lost(_)));
    // Nor what another actor forgets.
    let mut history = after_a_kill();
    history.ids.insert(1, vec![2]);
    rejected(&history, |v| matches!(v, V::Lost(_)));
}

#[test]
fn a_loss_that_the_event_log_does_not_tell_of_is_rejected() {
    let mut history = after_a_kill();
    history.notices.retain(|_, notice| notice.kind != "Lost");
    rejected(&history, |v| matches!(v, V::Lost(_) | V::WentBack(_) | V::Doubled(_)));
}

#[test]
fn a_loss_that_no_kill_explains_is_rejected() {
    let mut history = quiet();
    history.note(1, 6_500, "Lost");
    rejected(&history, |v| matches!(v, V::LostWithoutCause(_)));
    let mut history = after_a_kill();
    history.disturbances[0].cause = Cause::Killed(Part::Router);
    history.disturbances[0].hit.clear();
    assert!(check(&history).iter().any(|v| matches!(v, V::LostWithoutCause(_))));
}

#[test]
fn a_misdelivered_increment_is_rejected() {
    let misdelivered = |v: &V| matches!(v, V::Misdelivered(_));
    // Another actor answers.
    let mut history = quiet();
    history.ack(3).actor = 1;
    history.ack(3).nonce = 0xa1;
    assert!(check(&history).iter().any(misdelivered));
    // It answers in the name of the one that was asked.
    let mut history = quiet();
    history.ack(5).nonce = 0xa0;
    assert!(check(&history).iter().any(misdelivered));
    // It counts what nobody asked of it.
    let mut history = quiet();
    history.ids.insert(1, vec![2, 5, 4]);
    rejected(&history, misdelivered);
    // The answer belongs to another request.
    let mut history = quiet();
    history.ops.push(op(6, 1, 7_000, Outcome::Wrong("id 5".into())));
    rejected(&history, misdelivered);
}

#[test]
fn a_restart_without_notice_is_rejected() {
    let mut history = quiet();
    history.ack(5).nonce = 0xbb;
    rejected(&history, |v| matches!(v, V::Restarted(_)));
}

#[test]
fn a_count_that_falls_is_rejected() {
    let mut history = quiet();
    history.ack(3).count = 3;
    history.ack(4).count = 2;
    history.ids.insert(0, vec![1, 4, 3]);
    rejected(&history, |v| matches!(v, V::WentBack(_)));
    // What overlaps may be counted in any order.
    history.ops[2].completed = history.ops[3].completed;
    assert_eq!(check(&history), []);
}

#[test]
fn an_answer_that_memory_contradicts_is_rejected() {
    let mut history = quiet();
    history.ack(5).count = 7;
    rejected(&history, |v| matches!(v, V::WentBack(_)));
}

#[test]
fn an_unexplained_refusal_is_rejected() {
    let unexplained = |v: &V| matches!(v, V::Unexplained(_));
    let mut history = quiet();
    history.ops.push(op(6, 1, 6_000, refused("control_plane_unavailable")));
    rejected(&history, unexplained);
    // By the right kill, at the right time, it is explained.
    let mut explained = history.clone();
    explained.kill(Part::ControlPlane, 6_200, &[]);
    assert_eq!(check(&explained), []);
    // Not by another one, nor by one that was over, nor for another reason.
    for (part, at) in [(Part::Node, 6_200), (Part::ControlPlane, 3_000)] {
        let mut not = history.clone();
        not.kill(part, at, &[]);
        rejected(&not, unexplained);
    }
    explained.ops[5].outcome = refused("internal");
    rejected(&explained, unexplained);
}

#[test]
fn a_dead_sandbox_explains_nothing_of_another_actor() {
    let mut history = quiet();
    history.kill(Part::Sandbox, 6_000, &[0]);
    history.ops.push(op(6, 1, 6_000, refused("upstream_reset")));
    rejected(&history, |v| matches!(v, V::Unexplained(_)));
}

#[test]
fn silence_is_rejected_whatever_was_killed() {
    for outcome in [Outcome::Hung, Outcome::Broken("reset".into())] {
        let mut history = quiet();
        history.kill(Part::ControlPlane, 6_000, &[]);
        history.ops.push(op(6, 1, 6_000, outcome));
        rejected(&history, |v| matches!(v, V::Unexplained(_)));
    }
}

#[test]
fn an_actor_that_does_not_answer_in_the_end_is_rejected() {
    let mut history = quiet();
    history.ids.remove(&1);
    rejected(&history, |v| matches!(v, V::Lost(_)));
}

#[test]
fn what_leaked_is_told() {
    let mut history = quiet();
    history.leaks.push("a process: runsc-sandbox".into());
    assert_eq!(check(&history), [V::Leaked("a process: runsc-sandbox".into())]);
}
