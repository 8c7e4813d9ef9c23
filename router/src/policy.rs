//! What of an actor's template the router enforces, as far as it is known.
//!
//! The control plane says it as soon as it is asked for a wake, before the wake has ended, and once more with the
//! binding. It is remembered while the actor sleeps; until it is known, the defaults hold.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reveille_api::{ActorKey, proto};

use crate::bounded::Bounded;

/// Of how many actors the policy is remembered while they sleep.
const REMEMBERED: usize = 65_536;

/// Limits of one actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Requests that may wait for it here.
    pub(crate) max_parked: usize,
    /// Of those that waited, how many may be at it at a time after a wake; 0 = no limit.
    pub(crate) concurrency: u32,
    /// How long one may wait.
    pub(crate) park: Duration,
    /// How long one wake may take.
    pub(crate) wake: Duration,
    /// Browsers get a page at once instead of waiting.
    pub(crate) page: bool,
}

/// Policies that are known, and what holds for the others.
#[derive(Debug)]
pub(crate) struct Policies {
    known: Mutex<Bounded<ActorKey, Policy>>,
    /// No policy's park budget or share of the places is above this one's.
    default: Policy,
    /// Parking places that one actor may take, whatever its template says.
    share: usize,
}

impl Policies {
    pub(crate) fn new(default: Policy, share: usize) -> Self {
        let default = Policy { max_parked: default.max_parked.min(share), ..default };
        Self { known: Mutex::new(Bounded::new(REMEMBERED)), default, share }
    }

    /// The actor's, if it is known.
    pub(crate) fn known(&self, actor: &ActorKey) -> Option<Policy> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(actor).copied()
    }

    pub(crate) fn default(&self) -> Policy {
        self.default
    }

    /// Places that one actor may take, whatever its template says.
    pub(crate) fn share(&self) -> usize {
        self.share
    }

    /// Remembers what the control plane said, within this router's own limits.
    pub(crate) fn learn(&self, actor: ActorKey, told: &proto::ActorPolicy) -> Policy {
        let policy = Policy {
            max_parked: match told.max_parked {
                0 => self.default.max_parked,
                most => self.share.min(most as usize),
            },
            concurrency: told.concurrency,
            park: match told.park_ms {
                0 => self.default.park,
                ms => Duration::from_millis(ms).min(self.default.park),
            },
            wake: match told.wake_ms {
                0 => self.default.wake,
                ms => Duration::from_millis(ms),
            },
            page: told.page,
        };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(actor, policy);
        policy
    }
}
