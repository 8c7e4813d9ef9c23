//! The binding table: every actor this router has to do with, and the requests that wait for one.
//!
//! Each operation takes the lock of one shard, does a transition of [`Actor`] and lets go; nothing awaits under it. A
//! request to a bound actor takes it shared. Actors nobody uses are removed, so that memory follows what is active.
//!
//! Lock order: shard, then parking or the list of active activations. Those two never take another.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use dashmap::DashMap;
use reveille_api::{ActorKey, Epoch, Reason, proto};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    activation::{Activation, Active, Clock, InFlight},
    actor::{Actor, Parked, WaiterId, Woken},
    binding::{Binding, Grant, Version},
    bounded::Bounded,
    metrics::Metrics,
    parking::{Limit, Parking, Place},
};

/// Many more than cores: an operation on one actor seldom meets one on another.
const SHARDS: usize = 256;
/// How long "there is no such actor" is believed.
const UNKNOWN_MS: u64 = 1_000;
/// How many such answers are remembered.
const UNKNOWN_MOST: usize = 4_096;
/// Of how many actors the policy is remembered while they sleep.
const POLICIES_MOST: usize = 65_536;

/// What of an actor's template the router enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Requests that may wait for it here.
    pub(crate) max_parked: usize,
    /// How long one may wait.
    pub(crate) park: Duration,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    actors: DashMap<ActorKey, Actor<Waiter>>,
    active: Active,
    parking: Arc<Parking>,
    /// Actors that do not exist, and until when that is believed.
    unknown: Mutex<Bounded<ActorKey, u64>>,
    policies: Mutex<Bounded<ActorKey, Policy>>,
    /// For actors whose policy is not known; no policy's park budget is above this one's.
    default_policy: Policy,
    next_waiter: AtomicU64,
    clock: Clock,
    metrics: Metrics,
}

/// A request that waits. Dropping it frees its place.
#[derive(Debug)]
struct Waiter {
    outcome: oneshot::Sender<Outcome>,
    _place: Place,
}

/// What a wait ends with.
pub(crate) type Outcome = Result<Arrival, Reason>;

/// A request that may go on to its actor.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) binding: Arc<Binding>,
    pub(crate) in_flight: InFlight,
}

/// A request that waited and may go on.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) served: Served,
    /// Of the wake it waited for.
    pub(crate) phases: proto::WakePhases,
}

/// What a request to an actor without a binding meets.
#[derive(Debug)]
pub(crate) enum Admission {
    /// The actor was bound in the meantime.
    Served(Served),
    Waits(Wait),
    Refused(Reason),
}

/// A place in an actor's queue.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(crate) id: WaiterId,
    pub(crate) outcome: oneshot::Receiver<Outcome>,
    pub(crate) deadline: Instant,
    /// Whether a wake has to begin.
    pub(crate) parked: Parked,
}

/// How a wake's reply was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Bound,
    /// Ask again.
    Stale,
    Dropped,
}

impl Table {
    pub(crate) fn new(
        parking: Arc<Parking>,
        default_policy: Policy,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        Self {
            actors: DashMap::with_shard_amount(SHARDS),
            active: Active::default(),
            parking,
            unknown: Mutex::new(Bounded::new(UNKNOWN_MOST)),
            policies: Mutex::new(Bounded::new(POLICIES_MOST)),
            default_policy,
            next_waiter: AtomicU64::new(0),
            clock,
            metrics,
        }
    }

    /// The warm path: `name.namespace` as it stands in the host, nothing allocated.
    pub(crate) fn serve(&self, prefix: &str) -> Option<Served> {
        let actor = self.actors.get(prefix)?;
        Some(self.begin(actor.binding()?))
    }

    /// Counts a request as begun. Under the shard's lock: a revoke comes before or after it as a whole.
    fn begin(&self, binding: &Arc<Binding>) -> Served {
        binding.activation.begin(1);
        self.active.note(&binding.activation);
        Served { binding: Arc::clone(binding), in_flight: self.adopt(&binding.activation) }
    }

    fn adopt(&self, activation: &Arc<Activation>) -> InFlight {
        InFlight::adopt(Arc::clone(activation), self.metrics.in_flight.clone())
    }

    /// The cold path: a request that found no binding.
    pub(crate) fn admit(&self, key: &ActorKey) -> Admission {
        if self.is_unknown(key) {
            return Admission::Refused(Reason::ActorNotFound);
        }
        let policy = self.policy(key);
        let place = self.parking.take(key.namespace());
        let mut actor = self.actors.entry(key.clone()).or_default();
        if let Some(binding) = actor.binding() {
            return Admission::Served(self.begin(binding));
        }
        let place = match place {
            Ok(_) if actor.parked() >= policy.max_parked => Err(Limit::Actor),
            other => other,
        };
        let place = match place {
            Ok(place) => place,
            Err(limit) => {
                drop(actor);
                self.remove_unused(key);
                self.metrics.parking_refused(limit);
                return Admission::Refused(match limit {
                    Limit::Actor => Reason::ActorParkingFull,
                    Limit::Router | Limit::Namespace => Reason::ParkingFull,
                });
            }
        };
        let id = WaiterId(self.next_waiter.fetch_add(1, Relaxed));
        let (sender, outcome) = oneshot::channel();
        let parked = actor.park(id, Waiter { outcome: sender, _place: place });
        Admission::Waits(Wait { id, outcome, deadline: Instant::now() + policy.park, parked })
    }

    /// A caller that waited is gone. Does nothing when its wait was over.
    pub(crate) fn leave(&self, key: &ActorKey, id: WaiterId) {
        let left = self.actors.get_mut(key).and_then(|mut actor| actor.leave(id));
        drop(left);
    }

    /// The control plane gave out a binding.
    pub(crate) fn woken(&self, grant: Grant, phases: &proto::WakePhases) -> Settled {
        let key = grant.actor.clone();
        let Some(mut actor) = self.actors.get_mut(&key) else { return Settled::Dropped };
        match actor.woken(grant, self.clock) {
            Woken::Bound { binding, waiters } => {
                if !waiters.is_empty() {
                    self.active.note(&binding.activation);
                }
                self.metrics.bindings.inc();
                drop(actor);
                for waiter in waiters {
                    let in_flight = self.adopt(&binding.activation);
                    let served = Served { binding: Arc::clone(&binding), in_flight };
                    // One who left in this moment drops it, and with it the count.
                    let _ = waiter.outcome.send(Ok(Arrival { served, phases: *phases }));
                }
                Settled::Bound
            }
            Woken::Stale => Settled::Stale,
            Woken::Dropped => {
                drop(actor);
                self.remove_unused(&key);
                Settled::Dropped
            }
        }
    }

    /// The wake ended without a binding.
    pub(crate) fn failed(&self, key: &ActorKey, reason: Reason) {
        if reason == Reason::ActorNotFound {
            let now = self.clock.now_ms();
            let mut unknown = lock(&self.unknown);
            unknown.expire(|until| *until <= now);
            unknown.insert(key.clone(), now + UNKNOWN_MS);
        }
        let waiters = self.actors.get_mut(key).map(|mut actor| actor.failed()).unwrap_or_default();
        for waiter in waiters {
            let _ = waiter.outcome.send(Err(reason));
        }
        self.remove_unused(key);
    }

    /// Takes a binding back. Returns the activation whose requests have to end before that is acknowledged.
    pub(crate) fn revoke(&self, key: &ActorKey, version: Version) -> Option<Arc<Activation>> {
        let revoked = self.actors.get_mut(key)?.revoke(version);
        if revoked.unbound {
            self.metrics.bindings.dec();
        }
        self.remove_unused(key);
        revoked.draining
    }

    /// An activation that is bound or has requests in flight.
    pub(crate) fn activation(&self, key: &ActorKey, epoch: Epoch) -> Option<Arc<Activation>> {
        self.actors.get(key)?.activation_of(epoch).cloned()
    }

    pub(crate) fn remove_unused(&self, key: &ActorKey) {
        self.actors.remove_if_mut(key, |_, actor| actor.is_unused());
    }

    pub(crate) fn set_policy(&self, key: ActorKey, policy: &proto::ActorPolicy) {
        let default = self.default_policy;
        let park = match policy.park_ms {
            0 => default.park,
            ms => Duration::from_millis(ms).min(default.park),
        };
        let max_parked = match policy.max_parked {
            0 => default.max_parked,
            most => most as usize,
        };
        lock(&self.policies).insert(key, Policy { max_parked, park });
    }

    /// Bindings held and requests in flight, as the control plane is told after a new session began.
    pub(crate) fn held(&self) -> Vec<proto::HeldBinding> {
        let mut all = Vec::new();
        for actor in &self.actors {
            all.extend(actor.held().map(|(version, activation)| held(version, activation)));
        }
        all
    }

    /// Some bindings.
    pub(crate) fn bindings(&self, most: usize) -> Vec<Arc<Binding>> {
        self.actors.iter().filter_map(|actor| actor.binding().cloned()).take(most).collect()
    }

    /// What was in use since the last call.
    pub(crate) fn activity(&self) -> Vec<proto::ActorActivity> {
        self.active.report()
    }

    pub(crate) fn parking(&self) -> &Parking {
        &self.parking
    }

    /// Actors in the table, in whatever state.
    pub(crate) fn len(&self) -> usize {
        self.actors.len()
    }

    fn is_unknown(&self, key: &ActorKey) -> bool {
        let now = self.clock.now_ms();
        lock(&self.unknown).get(key).is_some_and(|until| now < *until)
    }

    fn policy(&self, key: &ActorKey) -> Policy {
        lock(&self.policies).get(key).copied().unwrap_or(self.default_policy)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn held(version: Version, activation: &Activation) -> proto::HeldBinding {
    proto::HeldBinding {
        actor: Some(activation.actor().into()),
        epoch: version.epoch.0,
        term: version.term,
        in_flight: activation.in_flight(),
        idle_ms: activation.idle_ms(),
    }
}
