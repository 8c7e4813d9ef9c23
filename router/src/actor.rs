//! One actor on this router: a pure state machine, driven under its shard's lock by [`crate::table`].
//!
//! ```text
//!               park (starts the wake)            woken, above the fence
//!   ┌─ Unknown ─────────────────────────▶ Waking ──────────────────────────▶ Bound
//!   │     ▲  ▲                            │ ▲ ▲ │                            ▲  │
//!   │     │  └── failed, or fenced with ──┘ │ │ │ more wait than may go      │  │
//!   │     │      nobody waiting             │ │ └──────────▶ Releasing ──────┘  │
//!   │     │             woken, fenced: ─────┘ │              │    the last one  │
//!   │     │             ask again             └── revoke ────┘    was released  │
//!   │     └──────────────────────── revoke ─────────────────────────────────────┘
//!   └─▶ removed, once nothing is in flight
//! ```
//!
//! | state | means |
//! | --- | --- |
//! | `Unknown` | no binding and no wake; kept only while requests of an earlier activation are in flight |
//! | `Waking` | exactly one wake is under way; requests wait for it; revokes that arrive raise its *fence* |
//! | `Releasing` | bound, and requests that waited are let go in the order they came, so many at a time |
//! | `Bound` | requests go to the binding at once |
//!
//! The reply to a wake and a revoke travel on two streams. The fence is the highest version revoked since the wake began:
//! a reply at or below it is stale and is asked for again. Without a wake under way no fence is needed, because a wake
//! that begins after a revoke was received can only be answered with something newer.
//!
//! While `Releasing`, a new request is not held back: the actor is awake, and only those that waited come in waves. A
//! released request has a *turn*, counted at the activation; the turn ends with the request, and the next one goes. How
//! many turns there are is the template's word; without one there are few at first, so that a thousand requests go over
//! the connections of the first ones instead of a thousand new ones, and more of them (`widen`) where answers are slow, so that
//! nobody is held back by those. A revoke finds those that are left still waiting: they are not in flight, so they hold no drain up, and a new wake
//! begins for them.

use std::{collections::BTreeMap, sync::Arc};

use reveille_api::Epoch;

use tokio::sync::watch;

use crate::{
    activation::{Activation, Clock},
    binding::{Binding, Grant, Version},
    policy::Policy,
};

/// One actor; `W` is what waits.
#[derive(Debug)]
pub(crate) struct Actor<W> {
    state: State<W>,
    /// Activations given up with requests still in flight. Few actors have any: those that do not shall be small.
    older: Option<Box<Older>>,
}

#[derive(Debug, Default)]
struct Older(Vec<Arc<Activation>>);

#[derive(Debug)]
enum State<W> {
    Unknown,
    Waking(Box<Waking<W>>),
    Releasing(Box<Releasing<W>>),
    Bound(Arc<Binding>),
}

#[derive(Debug)]
struct Waking<W> {
    waiters: BTreeMap<WaiterId, W>,
    fence: Option<Version>,
    /// What is known of its template; those who wait watch it.
    policy: watch::Sender<Option<Policy>>,
}

#[derive(Debug)]
struct Releasing<W> {
    binding: Arc<Binding>,
    /// Never empty.
    waiters: BTreeMap<WaiterId, W>,
    /// Turns that may be taken at a time.
    at_a_time: u32,
    /// Turns that ended since there were so many.
    ended: u32,
    /// The template sets no limit.
    widens: bool,
}

/// Turns of the first wave where the template sets no limit. Of 16, 32, 64, 128 and all at once, a thousand requests to an actor just
/// restored were answered soonest with this, or as soon: a sandbox spends half as much on 64 connections as on 1,000.
const FIRST_WAVE: u32 = 32;

/// Unique on a router for ever, so that one who leaves late never takes another's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaiterId(pub(crate) u64);

/// What a request that had to wait caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parked {
    /// It is the first: a wake has to begin.
    First,
    /// It joined the wake under way.
    Joined,
}

/// Requests that may go on.
#[derive(Debug)]
pub(crate) struct Released<W> {
    pub(crate) binding: Arc<Binding>,
    /// Each is already counted as in flight, and has a turn.
    pub(crate) waiters: Vec<W>,
    /// Others wait for more turns than there are, and the template sets no limit.
    pub(crate) widens: bool,
}

/// How a wake's reply was taken.
#[derive(Debug)]
pub(crate) enum Woken<W> {
    /// Installed.
    Bound(Released<W>),
    /// Revoked before it arrived, and somebody waits: ask again.
    Stale,
    /// Revoked before it arrived, and nobody waits.
    Dropped,
}

/// What a revoke did.
#[derive(Debug)]
pub(crate) struct Revoked {
    /// The activation of that epoch, whose requests have to end before it is acknowledged.
    pub(crate) draining: Option<Arc<Activation>>,
    /// A binding was given up.
    pub(crate) unbound: bool,
    /// Requests still wait to be released: a wake has to begin for them.
    pub(crate) left_waiting: bool,
}

impl<W> Default for Actor<W> {
    fn default() -> Self {
        Self { state: State::Unknown, older: None }
    }
}

impl<W> Actor<W> {
    /// The binding requests may be sent to.
    pub(crate) fn binding(&self) -> Option<&Arc<Binding>> {
        match &self.state {
            State::Bound(binding) => Some(binding),
            State::Releasing(releasing) => Some(&releasing.binding),
            State::Unknown | State::Waking(_) => None,
        }
    }

    /// What a control plane that restarted has to be told: the binding, and activations given up that still have requests
    /// in flight. Whatever terms those had are revoked, so the lowest stands for them.
    pub(crate) fn held(&self) -> impl Iterator<Item = (Version, &Arc<Activation>)> {
        let bound = self.binding().map(|binding| (binding.version(), &binding.activation));
        let older = self.older().iter().filter(|activation| activation.in_flight() > 0);
        let older = older.map(|a| (Version { epoch: a.epoch(), term: 0 }, a));
        bound.into_iter().chain(older)
    }

    /// Requests that wait.
    pub(crate) fn parked(&self) -> usize {
        match &self.state {
            State::Waking(waking) => waking.waiters.len(),
            State::Releasing(releasing) => releasing.waiters.len(),
            State::Unknown | State::Bound(_) => 0,
        }
    }

    /// Lets a request wait, and watch what becomes known of the template. The caller has looked for a binding under the
    /// same lock.
    pub(crate) fn park(
        &mut self,
        id: WaiterId,
        waiter: W,
        known: Option<Policy>,
    ) -> (Parked, watch::Receiver<Option<Policy>>) {
        debug_assert!(self.binding().is_none(), "a request to a bound actor does not wait");
        if let State::Waking(waking) = &mut self.state {
            waking.waiters.insert(id, waiter);
            return (Parked::Joined, waking.policy.subscribe());
        }
        let (policy, told) = watch::channel(known);
        let waiters = BTreeMap::from([(id, waiter)]);
        self.state = State::Waking(Box::new(Waking { waiters, fence: None, policy }));
        (Parked::First, told)
    }

    /// The template's limits, told while requests wait: the newest ones beyond them.
    pub(crate) fn told(&mut self, policy: Policy) -> Vec<W> {
        let State::Waking(waking) = &mut self.state else { return Vec::new() };
        waking.policy.send_replace(Some(policy));
        let mut beyond = Vec::new();
        while waking.waiters.len() > policy.max_parked
            && let Some((_, newest)) = waking.waiters.pop_last()
        {
            beyond.push(newest);
        }
        beyond
    }

    /// A caller left. The wake goes on.
    pub(crate) fn leave(&mut self, id: WaiterId) -> Option<W> {
        match &mut self.state {
            State::Waking(waking) => waking.waiters.remove(&id),
            State::Releasing(releasing) => {
                let left = releasing.waiters.remove(&id);
                self.settle();
                left
            }
            State::Unknown | State::Bound(_) => None,
        }
    }

    /// The wake was answered with a binding. Of those who wait, `limit` go on at once; 0 = no limit.
    pub(crate) fn woken(&mut self, grant: Grant, limit: u32, clock: Clock) -> Woken<W> {
        let State::Waking(waking) = &mut self.state else { return Woken::Dropped };
        if waking.fence.is_some_and(|fence| grant.version <= fence) {
            if waking.waiters.is_empty() {
                self.state = State::Unknown;
                return Woken::Dropped;
            }
            return Woken::Stale;
        }
        let waiters = std::mem::take(&mut waking.waiters);
        let activation = self.activation(&grant, clock);
        let binding = Arc::new(Binding {
            activation,
            term: grant.version.term,
            endpoint: grant.endpoint,
            protocol: grant.protocol,
            woken_by: grant.woken_by,
        });
        let widens = limit == 0;
        let at_a_time = if widens { FIRST_WAVE } else { limit };
        let mut releasing = Releasing { binding, waiters, at_a_time, ended: 0, widens };
        let released = releasing.release();
        self.state = State::Releasing(Box::new(releasing));
        self.settle();
        Woken::Bound(released)
    }

    /// A turn at this activation is over: those whose turn it is now, if it is the one they wait for.
    pub(crate) fn turn_over(&mut self, activation: &Arc<Activation>) -> Option<Released<W>> {
        let State::Releasing(releasing) = &mut self.state else { return None };
        if !Arc::ptr_eq(&releasing.binding.activation, activation) {
            return None;
        }
        releasing.ended = releasing.ended.saturating_add(1);
        let released = releasing.release();
        self.settle();
        Some(released)
    }

    /// Twice as many turns for those who wait for one, where the template sets no limit and not even as many as there are
    /// ended since the last look.
    pub(crate) fn widen(&mut self, activation: &Arc<Activation>) -> Option<Released<W>> {
        let State::Releasing(releasing) = &mut self.state else { return None };
        if !releasing.widens || !Arc::ptr_eq(&releasing.binding.activation, activation) {
            return None;
        }
        if releasing.ended < releasing.at_a_time {
            releasing.at_a_time = releasing.at_a_time.saturating_mul(2);
        }
        releasing.ended = 0;
        let released = releasing.release();
        self.settle();
        Some(released)
    }

    /// With nobody left to be released it is bound like any other.
    fn settle(&mut self) {
        if let State::Releasing(releasing) = &self.state
            && releasing.waiters.is_empty()
        {
            self.state = State::Bound(Arc::clone(&releasing.binding));
        }
    }

    /// The wake ended without a binding: those who waited for it, but for those who `stay` for another one.
    pub(crate) fn failed(&mut self, stays: impl Fn(&W) -> bool) -> Vec<W> {
        let State::Waking(waking) = &mut self.state else { return Vec::new() };
        let told = waking.waiters.extract_if(.., |_, waiter| !stays(waiter));
        let told = told.map(|(_, waiter)| waiter).collect();
        if waking.waiters.is_empty() {
            self.state = State::Unknown;
        }
        told
    }

    /// Gives nothing up to `version` out any more.
    pub(crate) fn revoke(&mut self, version: Version) -> Revoked {
        let draining = self.activation_of(version.epoch).cloned();
        let (mut unbound, mut left_waiting) = (false, false);
        match &mut self.state {
            State::Unknown => {}
            State::Waking(waking) => waking.fence = waking.fence.max(Some(version)),
            State::Releasing(releasing) if releasing.binding.is_revoked_by(version) => {
                let activation = Arc::clone(&releasing.binding.activation);
                self.older.get_or_insert_default().0.push(activation);
                let waiters = std::mem::take(&mut releasing.waiters);
                // Nobody told by it: what is known of the template is known by now.
                let (policy, _) = watch::channel(None);
                self.state = State::Waking(Box::new(Waking { waiters, fence: None, policy }));
                (unbound, left_waiting) = (true, true);
            }
            State::Bound(binding) if binding.is_revoked_by(version) => {
                let activation = Arc::clone(&binding.activation);
                self.older.get_or_insert_default().0.push(activation);
                self.state = State::Unknown;
                unbound = true;
            }
            // A later term stays; of the same epoch, its requests are at the same process and count.
            State::Bound(_) | State::Releasing(_) => {}
        }
        self.forget_rested();
        Revoked { draining, unbound, left_waiting }
    }

    /// The activation of this epoch, bound or with requests in flight.
    pub(crate) fn activation_of(&self, epoch: Epoch) -> Option<&Arc<Activation>> {
        let bound = self.binding().map(|binding| &binding.activation);
        self.older().iter().chain(bound).find(|activation| activation.epoch() == epoch)
    }

    /// True when nothing would be lost by removing it.
    pub(crate) fn is_unused(&mut self) -> bool {
        self.forget_rested();
        matches!(self.state, State::Unknown) && self.older.is_none()
    }

    /// The activation of this epoch: a cancelled suspend gives out a new term of one we know.
    fn activation(&mut self, grant: &Grant, clock: Clock) -> Arc<Activation> {
        let lives = |a: &Arc<Activation>| a.epoch() == grant.version.epoch && !a.is_gone();
        let known = self.older().iter().position(lives);
        match (known, &mut self.older) {
            (Some(at), Some(older)) => older.0.swap_remove(at),
            _ => Activation::new(grant.actor.clone(), grant.version.epoch, clock),
        }
    }

    fn older(&self) -> &[Arc<Activation>] {
        self.older.as_ref().map_or(&[], |older| &older.0)
    }

    fn forget_rested(&mut self) {
        self.older.take_if(|older| {
            older.0.retain(|activation| activation.in_flight() > 0);
            older.0.is_empty()
        });
    }
}

impl<W> Releasing<W> {
    /// Lets as many go as there are turns, and counts them.
    fn release(&mut self) -> Released<W> {
        let activation = &self.binding.activation;
        let free = self.at_a_time.saturating_sub(activation.turns()) as usize;
        let mut waiters = Vec::with_capacity(free.min(self.waiters.len()));
        while waiters.len() < free
            && let Some((_, first)) = self.waiters.pop_first()
        {
            waiters.push(first);
        }
        let count = waiters.len() as u32;
        activation.begin(count);
        activation.begin_turns(count);
        let widens = self.widens && !self.waiters.is_empty();
        Released { binding: Arc::clone(&self.binding), waiters, widens }
    }
}

#[cfg(feature = "model")]
pub mod model;
#[cfg(test)]
mod tests;
