//! Decides whether a history is one that the design allows. Pure: no clock, no instance.
//!
//! | rule | how it is seen |
//! | --- | --- |
//! | no misdelivery | each answer names the actor that was asked, and its nonce; no actor remembers an id it was not asked for |
//! | restored, not restarted | one nonce for each actor, from the first answer to the last |
//! | no lost increment | each acknowledged id is in the actor's memory in the end, at the place the answer named |
//! | no doubled increment | no id is there twice; no two answers name one place |
//! | no going back | an increment that began after another was acknowledged has the greater count |
//! | nothing refused and done | an id that was refused before it could reach an actor is not in any memory |
//! | nothing leaked | after each recovery and in the end nothing is there that should not be ([`crate::leaks`]) |
//! | nothing unexplained | each other outcome is allowed by something that was killed or stopped at that time ([`crate::explain`]) |
//!
//! Only a loss that the product's own event log tells of, and that a kill explains, may take back increments: those
//! acknowledged between the last commit before the loss and the loss.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use crate::{
    explain::explanation,
    history::{Ack, At, History, Id, Op, Outcome},
    plan::Actor,
};

#[cfg(test)]
mod tests;

/// How long after its kill was over a loss may be noticed.
const NOTICED_LATE: At = 5_000_000;

/// Why a history is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Another actor's process answered, or counted.
    Misdelivered(String),
    /// Its memory is not the one it had.
    Restarted(String),
    /// Acknowledged, and forgotten.
    Lost(String),
    /// Counted twice.
    Doubled(String),
    /// The count fell, or stands elsewhere than was said.
    WentBack(String),
    /// Refused, and counted all the same.
    RefusedAndDone(String),
    /// Nothing allows this outcome.
    Unexplained(String),
    /// The product says that an actor was lost, and nobody killed it.
    LostWithoutCause(String),
    /// It is there, and nobody needs it.
    Leaked(String),
}

/// Why an actor's count may go back.
#[derive(Clone, Copy, Debug)]
struct Loss {
    /// The last commit before; what was acknowledged before it must not be forgotten.
    committed: At,
    begun: At,
    dead: At,
}

/// Everything that is wrong with it.
pub(crate) fn check(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let losses = losses(history, &mut violations);
    let none = Vec::new();
    let mut by_actor: BTreeMap<Actor, Vec<&Op>> = BTreeMap::new();
    for op in &history.ops {
        by_actor.entry(op.actor).or_default().push(op);
    }
    identities(history, &mut violations);
    outcomes(history, &mut violations);
    violations.extend(history.leaks.iter().cloned().map(Violation::Leaked));
    for (actor, ops) in by_actor {
        let losses = losses.get(&actor).unwrap_or(&none);
        memory(history, actor, &ops, losses, &mut violations);
        order(&ops, losses, &mut violations);
        places(&ops, losses, &mut violations);
    }
    violations
}

/// The losses that the event log tells of.
fn losses(history: &History, violations: &mut Vec<Violation>) -> HashMap<Actor, Vec<Loss>> {
    let mut losses: HashMap<Actor, Vec<Loss>> = HashMap::new();
    let mut committed: HashMap<Actor, At> = HashMap::new();
    for notice in history.notices.values() {
        match notice.kind.as_str() {
            "Suspended" | "SnapshotAdopted" => {
                committed.insert(notice.actor, notice.at);
            }
            "Lost" => {
                let cause = history.disturbances.iter().rev().find(|d| {
                    d.hit.contains(&notice.actor)
                        && d.begun <= notice.at + 999
                        && notice.at <= d.over + NOTICED_LATE
                });
                match cause {
                    Some(d) => losses.entry(notice.actor).or_default().push(Loss {
                        committed: committed.get(&notice.actor).copied().unwrap_or_default(),
                        begun: d.begun,
                        dead: d.done,
                    }),
                    None => violations.push(Violation::LostWithoutCause(format!("{notice:?}"))),
                }
            }
            _ => {}
        }
    }
    losses
}

/// Who answered, and from which memory.
fn identities(history: &History, violations: &mut Vec<Violation>) {
    let mut owner: HashMap<u64, Actor> = HashMap::new();
    let mut nonce: HashMap<Actor, u64> = HashMap::new();
    for (op, ack) in acked(&history.ops) {
        let owner = *owner.entry(ack.nonce).or_insert(ack.actor);
        let nonce = *nonce.entry(ack.actor).or_insert(ack.nonce);
        if ack.actor != op.actor || owner != ack.actor {
            violations.push(Violation::Misdelivered(format!("{op:?}")));
        } else if nonce != ack.nonce {
            violations.push(Violation::Restarted(format!("the nonce was {nonce:x}: {op:?}")));
        }
    }
}

/// What was not acknowledged must be explained.
fn outcomes(history: &History, violations: &mut Vec<Violation>) {
    for op in &history.ops {
        match &op.outcome {
            Outcome::Acked(_) => {}
            Outcome::Wrong(_) => violations.push(Violation::Misdelivered(format!("{op:?}"))),
            _ if explanation(op, &history.disturbances).is_some() => {}
            _ => violations.push(Violation::Unexplained(format!("{op:?}"))),
        }
    }
}

/// What the actor remembers in the end.
fn memory(
    history: &History,
    actor: Actor,
    ops: &[&Op],
    losses: &[Loss],
    violations: &mut Vec<Violation>,
) {
    let Some(ids) = history.ids.get(&actor) else {
        violations.push(Violation::Lost(format!("actor {actor} does not answer in the end")));
        return;
    };
    let asked: HashSet<Id> = ops.iter().map(|op| op.id).collect();
    let mut places: HashMap<Id, u64> = HashMap::new();
    for (id, place) in ids.iter().zip(1..) {
        // Where it was counted first is its place.
        let first = *places.entry(*id).or_insert(place);
        if first != place {
            let text = format!("actor {actor} counted {id} as {first} and as {place}");
            violations.push(Violation::Doubled(text));
        }
        if !asked.contains(id) {
            let text = format!("actor {actor} counted {id}, which was not for it");
            violations.push(Violation::Misdelivered(text));
        }
    }
    for op in ops {
        match (&op.outcome, places.get(&op.id)) {
            (Outcome::Acked(ack), Some(place)) if ack.count != *place => {
                violations.push(Violation::WentBack(format!("it is now at {place}: {op:?}")));
            }
            (Outcome::Acked(_), None) if !losses.iter().any(|loss| loss.may_forget(op)) => {
                violations.push(Violation::Lost(format!("{op:?}")));
            }
            (Outcome::Refused { reason, .. }, Some(place)) if never_reached(reason) => {
                let text = format!("it is at {place}: {op:?}");
                violations.push(Violation::RefusedAndDone(text));
            }
            _ => {}
        }
    }
}

/// With these reasons a request has not reached its actor.
fn never_reached(reason: &str) -> bool {
    !matches!(reason, "upstream_reset" | "upstream_timeout" | "internal")
}

impl Loss {
    fn may_forget(&self, op: &Op) -> bool {
        self.committed < op.completed && op.invoked <= self.dead
    }
}

/// An increment that began after another was acknowledged comes after it, in the same life.
fn order(ops: &[&Op], losses: &[Loss], violations: &mut Vec<Violation>) {
    let mut begun: Vec<_> = acked(ops.iter().copied()).collect();
    let mut ended = begun.clone();
    begun.sort_by_key(|(op, _)| op.invoked);
    ended.sort_by_key(|(op, _)| op.completed);
    let mut ended = ended.into_iter().peekable();
    // By the first life an increment can only have been in, the greatest count.
    let mut floors: Vec<Option<(&Op, u64)>> = vec![None; losses.len() + 1];
    for (op, ack) in begun {
        while let Some((before, before_ack)) = ended.next_if(|(o, _)| o.completed < op.invoked) {
            let life = losses.iter().filter(|loss| loss.dead < before.invoked).count();
            if floors[life].is_none_or(|(_, count)| count < before_ack.count) {
                floors[life] = Some((before, before_ack.count));
            }
        }
        // Those that are certainly of the life this one was in.
        let life = losses.iter().filter(|loss| loss.begun <= op.completed).count();
        let floor = floors[life..].iter().flatten().max_by_key(|(_, count)| *count);
        if let Some((before, _)) = floor.filter(|(_, count)| *count >= ack.count) {
            violations.push(Violation::WentBack(format!("{op:?} after {before:?}")));
        }
    }
}

/// Two increments have one place only if a loss lies between them.
fn places(ops: &[&Op], losses: &[Loss], violations: &mut Vec<Violation>) {
    let mut by_count: HashMap<u64, Vec<&Op>> = HashMap::new();
    for (op, ack) in acked(ops.iter().copied()) {
        by_count.entry(ack.count).or_default().push(op);
    }
    for same in by_count.into_values().filter(|same| same.len() > 1) {
        for (n, one) in same.iter().enumerate() {
            for other in &same[n + 1..] {
                let parted = losses.iter().any(|loss| {
                    let apart =
                        |a: &Op, b: &Op| a.invoked <= loss.dead && loss.begun <= b.completed;
                    apart(one, other) || apart(other, one)
                });
                if !parted {
                    violations.push(Violation::Doubled(format!("{one:?} and {other:?}")));
                }
            }
        }
    }
}

fn acked<'a>(ops: impl IntoIterator<Item = &'a Op>) -> impl Iterator<Item = (&'a Op, &'a Ack)> {
    ops.into_iter().filter_map(|op| match &op.outcome {
        Outcome::Acked(ack) => Some((op, ack)),
        _ => None,
    })
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, text) = match self {
            Self::Misdelivered(text) => ("misdelivered", text),
            Self::Restarted(text) => ("restarted", text),
            Self::Lost(text) => ("lost", text),
            Self::Doubled(text) => ("doubled", text),
            Self::WentBack(text) => ("went back", text),
            Self::RefusedAndDone(text) => ("refused, and counted", text),
            Self::Unexplained(text) => ("unexplained", text),
            Self::LostWithoutCause(text) => ("lost without a cause", text),
            Self::Leaked(text) => ("leaked", text),
        };
        write!(f, "  {what}: {text}")
    }
}
