//! One actor on this router: a pure state machine, driven under its shard's lock by [`crate::table`].
//!
//! ```text
//!               park (starts the wake)            woken, above the fence
//!   ┌─ Unknown ─────────────────────────▶ Waking ────────────────────────▶ Bound
//!   │     ▲  ▲                            │ ▲  │                            │
//!   │     │  └── failed, or fenced with ──┘ └──┘ woken, fenced:             │
//!   │     │      nobody waiting                  ask again                  │
//!   │     └──────────────────────── revoke ─────────────────────────────────┘
//!   └─▶ removed, once nothing is in flight
//! ```
//!
//! | state | means |
//! | --- | --- |
//! | `Unknown` | no binding and no wake; kept only while requests of an earlier activation are in flight |
//! | `Waking` | exactly one wake is under way; requests wait for it; revokes that arrive raise its *fence* |
//! | `Bound` | requests go to the binding at once |
//!
//! The reply to a wake and a revoke travel on two streams. The fence is the highest version revoked since the wake began:
//! a reply at or below it is stale and is asked for again. Without a wake under way no fence is needed, because a wake
//! that begins after a revoke was received can only be answered with something newer.

use std::{collections::BTreeMap, sync::Arc};

use reveille_api::Epoch;

use crate::{
    activation::{Activation, Clock},
    answer,
    binding::{Binding, Grant, Version},
};

/// One actor; `W` is what waits.
#[derive(Debug)]
pub(crate) struct Actor<W> {
    state: State<W>,
    /// Activations given up with requests still in flight.
    older: Vec<Arc<Activation>>,
}

#[derive(Debug)]
enum State<W> {
    Unknown,
    Waking(Box<Waking<W>>),
    Bound(Arc<Binding>),
}

#[derive(Debug)]
struct Waking<W> {
    waiters: BTreeMap<WaiterId, W>,
    fence: Option<Version>,
}

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

/// How a wake's reply was taken.
#[derive(Debug)]
pub(crate) enum Woken<W> {
    /// Installed. Each of `waiters` is already counted as in flight.
    Bound { binding: Arc<Binding>, waiters: Vec<W> },
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
}

impl<W> Default for Actor<W> {
    fn default() -> Self {
        Self { state: State::Unknown, older: Vec::new() }
    }
}

impl<W> Actor<W> {
    /// The binding requests may be sent to.
    pub(crate) fn binding(&self) -> Option<&Arc<Binding>> {
        match &self.state {
            State::Bound(binding) => Some(binding),
            _ => None,
        }
    }

    /// What a control plane that restarted has to be told: the binding, and activations given up that still have requests
    /// in flight. Whatever terms those had are revoked, so the lowest stands for them.
    pub(crate) fn held(&self) -> impl Iterator<Item = (Version, &Arc<Activation>)> {
        let bound = self.binding().map(|binding| (binding.version(), &binding.activation));
        let older = self.older.iter().filter(|activation| activation.in_flight() > 0);
        let older = older.map(|a| (Version { epoch: a.epoch(), term: 0 }, a));
        bound.into_iter().chain(older)
    }

    /// Requests that wait.
    pub(crate) fn parked(&self) -> usize {
        match &self.state {
            State::Waking(waking) => waking.waiters.len(),
            _ => 0,
        }
    }

    /// Lets a request wait. The caller has looked for a binding under the same lock.
    pub(crate) fn park(&mut self, id: WaiterId, waiter: W) -> Parked {
        debug_assert!(self.binding().is_none(), "a request to a bound actor does not wait");
        if let State::Waking(waking) = &mut self.state {
            waking.waiters.insert(id, waiter);
            return Parked::Joined;
        }
        let waiters = BTreeMap::from([(id, waiter)]);
        self.state = State::Waking(Box::new(Waking { waiters, fence: None }));
        Parked::First
    }

    /// A caller left. The wake goes on.
    pub(crate) fn leave(&mut self, id: WaiterId) -> Option<W> {
        match &mut self.state {
            State::Waking(waking) => waking.waiters.remove(&id),
            _ => None,
        }
    }

    /// The wake was answered with a binding.
    pub(crate) fn woken(&mut self, grant: Grant, clock: Clock) -> Woken<W> {
        let State::Waking(waking) = &mut self.state else { return Woken::Dropped };
        if waking.fence.is_some_and(|fence| grant.version <= fence) {
            if waking.waiters.is_empty() {
                self.state = State::Unknown;
                return Woken::Dropped;
            }
            return Woken::Stale;
        }
        let waiters: Vec<W> = std::mem::take(&mut waking.waiters).into_values().collect();
        let activation = self.activation(&grant, clock);
        activation.begin(waiters.len() as u32);
        let binding = Arc::new(Binding {
            activation,
            term: grant.version.term,
            endpoint: grant.endpoint,
            protocol: grant.protocol,
            woken_by: grant.woken_by,
            answer: answer::warm(grant.endpoint, grant.protocol),
        });
        self.state = State::Bound(Arc::clone(&binding));
        Woken::Bound { binding, waiters }
    }

    /// The wake ended without a binding: those who waited.
    pub(crate) fn failed(&mut self) -> Vec<W> {
        match std::mem::replace(&mut self.state, State::Unknown) {
            State::Waking(waking) => waking.waiters.into_values().collect(),
            other => {
                self.state = other;
                Vec::new()
            }
        }
    }

    /// Gives nothing up to `version` out any more.
    pub(crate) fn revoke(&mut self, version: Version) -> Revoked {
        let draining = self.activation_of(version.epoch).cloned();
        let mut unbound = false;
        match &mut self.state {
            State::Unknown => {}
            State::Waking(waking) => waking.fence = waking.fence.max(Some(version)),
            State::Bound(binding) if binding.is_revoked_by(version) => {
                self.older.push(Arc::clone(&binding.activation));
                self.state = State::Unknown;
                unbound = true;
            }
            // A later term stays; of the same epoch, its requests are at the same process and count.
            State::Bound(_) => {}
        }
        self.forget_rested();
        Revoked { draining, unbound }
    }

    /// The activation of this epoch, bound or with requests in flight.
    pub(crate) fn activation_of(&self, epoch: Epoch) -> Option<&Arc<Activation>> {
        let bound = self.binding().map(|binding| &binding.activation);
        self.older.iter().chain(bound).find(|activation| activation.epoch() == epoch)
    }

    /// True when nothing would be lost by removing it.
    pub(crate) fn is_unused(&mut self) -> bool {
        self.forget_rested();
        matches!(self.state, State::Unknown) && self.older.is_empty()
    }

    /// The activation of this epoch: a cancelled suspend gives out a new term of one we know.
    fn activation(&mut self, grant: &Grant, clock: Clock) -> Arc<Activation> {
        let known = self.older.iter().position(|a| a.epoch() == grant.version.epoch);
        match known {
            Some(at) => self.older.swap_remove(at),
            None => Activation::new(grant.actor.clone(), grant.version.epoch, clock),
        }
    }

    fn forget_rested(&mut self) {
        self.older.retain(|activation| activation.in_flight() > 0);
    }
}

#[cfg(feature = "model")]
pub mod model;
#[cfg(test)]
mod tests;
