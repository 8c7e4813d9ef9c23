//! Sees everything at once, as nobody in the simulated world can, and says when a promise is broken.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A request's own number.
pub(crate) type Id = u64;
/// One activation: which node, which epoch.
type Activation = (String, u64);

/// Shared by all hosts; it is not on the network.
#[derive(Clone, Default)]
pub(crate) struct Oracle(Arc<Mutex<Seen>>);

#[derive(Default)]
pub(crate) struct Seen {
    /// What happened, in order.
    pub(crate) trace: Vec<String>,
    /// The promises that were broken.
    pub(crate) broken: Vec<String>,
    serving: BTreeMap<String, BTreeSet<Activation>>,
    making: BTreeMap<String, BTreeSet<Activation>>,
    /// State of each actor in its last committed snapshot.
    committed: BTreeMap<String, Vec<Id>>,
    done: BTreeSet<Id>,
    acknowledged: BTreeMap<Id, String>,
    /// Went down with a machine, after the last snapshot.
    excused: BTreeSet<Id>,
    /// How requests ended.
    pub(crate) ends: BTreeMap<String, usize>,
    pub(crate) wakes: usize,
    pub(crate) suspends: usize,
    /// Calls of an earlier stay, which a node refused.
    pub(crate) late: usize,
}

impl Oracle {
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    pub(crate) fn say(&mut self, what: impl Into<String>) {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        self.trace.push(format!("{:>9.3} s  {}", at.as_secs_f64(), what.into()));
    }

    fn broke(&mut self, what: String) {
        self.say(format!("BROKEN: {what}"));
        self.broken.push(what);
    }

    /// Of everything that happened, and how chance has gone on: two runs of a seed are the same run if it is.
    pub(crate) fn fingerprint(&self, chance: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.trace, chance).hash(&mut hasher);
        hasher.finish()
    }

    /// Invariant 5. Begins to make an activation.
    pub(crate) fn making(&mut self, actor: &str, node: &str, epoch: u64, from: Option<&[Id]>) {
        self.say(format!("{node}: {actor} is made, epoch {epoch}"));
        let making = self.making.entry(actor.to_owned()).or_default();
        making.insert((node.to_owned(), epoch));
        if making.len() > 1 {
            let what = format!("{actor} is woken twice at once: {making:?}");
            self.broke(what);
        }
        let last = self.committed.get(actor).map(Vec::as_slice);
        if from != last {
            let what = format!("{actor} is made from {from:?}, its last snapshot is {last:?}");
            self.broke(what);
        }
    }

    /// It was, or it was given up.
    pub(crate) fn made(&mut self, actor: &str, node: &str, epoch: u64) {
        self.making.entry(actor.to_owned()).or_default().remove(&(node.to_owned(), epoch));
    }

    /// Invariant 1. Requests are let in.
    pub(crate) fn serves(&mut self, actor: &str, node: &str, epoch: u64) {
        self.say(format!("{node}: {actor} serves, epoch {epoch}"));
        self.made(actor, node, epoch);
        let serving = self.serving.entry(actor.to_owned()).or_default();
        serving.insert((node.to_owned(), epoch));
        if serving.len() > 1 {
            let what = format!("two activations of {actor} serve: {serving:?}");
            self.broke(what);
        }
    }

    /// No more are.
    pub(crate) fn closed(&mut self, actor: &str, node: &str, epoch: u64, why: &str) {
        self.say(format!("{node}: {actor} serves no more, epoch {epoch}: {why}"));
        self.made(actor, node, epoch);
        self.serving.entry(actor.to_owned()).or_default().remove(&(node.to_owned(), epoch));
    }

    pub(crate) fn committed(&mut self, actor: &str, node: &str, epoch: u64, state: &[Id]) {
        self.say(format!("{node}: {actor} is committed, epoch {epoch}, {} done", state.len()));
        self.suspends += 1;
        self.committed.insert(actor.to_owned(), state.to_vec());
    }

    /// Whether it has a snapshot.
    pub(crate) fn has(&self, actor: &str) -> bool {
        self.committed.contains_key(actor)
    }

    /// An activation is gone with what it had not saved; `by` a fault, or by nobody's right.
    pub(crate) fn lost(&mut self, actor: &str, state: &[Id], by_fault: bool) {
        let saved = self.committed.get(actor).cloned().unwrap_or_default();
        let unsaved = state.iter().filter(|id| !saved.contains(id)).copied();
        if by_fault {
            self.excused.extend(unsaved);
            return;
        }
        let lost: Vec<_> = unsaved.filter(|id| self.acknowledged.contains_key(id)).collect();
        if !lost.is_empty() {
            self.broke(format!("{actor} was destroyed with {lost:?}, which were acknowledged"));
        }
    }

    /// Invariants 2 and 4. An actor does what it was asked.
    pub(crate) fn did(&mut self, actor: &str, asked: &str, id: Id, epoch: u64) {
        self.say(format!("{actor} does {id}, epoch {epoch}"));
        if actor != asked {
            self.broke(format!("{id} is for {asked} and came to {actor}"));
        }
        if !self.done.insert(id) {
            self.broke(format!("{id} was done twice"));
        }
    }

    /// A request has its answer, whatever it is.
    pub(crate) fn ended(&mut self, actor: &str, id: Id, end: &str) {
        self.say(format!("{id} of {actor} ended: {end}"));
        *self.ends.entry(end.to_owned()).or_default() += 1;
        if end == ANSWERED {
            if !self.done.contains(&id) {
                self.broke(format!("{id} was answered and never done"));
            }
            self.acknowledged.insert(id, actor.to_owned());
        }
    }

    /// Invariant 3.
    pub(crate) fn unanswered(&mut self, actor: &str, id: Id, why: &str) {
        self.broke(format!("{id} of {actor}: {why}"));
    }

    /// Invariant 4, at the end: what each actor has.
    pub(crate) fn finally(&mut self, actor: &str, state: &[Id]) {
        let of_actor = self.acknowledged.iter().filter(|(_, of)| *of == actor);
        let missing: Vec<_> = of_actor
            .map(|(id, _)| *id)
            .filter(|id| !state.contains(id) && !self.excused.contains(id))
            .collect();
        if !missing.is_empty() {
            self.broke(format!("{actor} has lost {missing:?}, which were acknowledged"));
        }
    }
}

/// The end that everybody hopes for.
pub(crate) const ANSWERED: &str = "answered";
