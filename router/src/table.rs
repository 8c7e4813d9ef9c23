//! The binding table: every actor this router has to do with, and the requests that wait for one.
//!
//! Each operation takes the lock of one shard, does a transition of [`Actor`] and lets go; nothing awaits under it. A
//! request to a bound actor takes it shared. Actors nobody uses are removed, so that memory follows what is active.
//!
//! Lock order: shard, then parking, policies or the list of active activations. Those never take another.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use dashmap::DashMap;
use reveille_api::{ActorKey, Epoch, Reason, proto};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    activation::{Activation, Active, Clock, InFlight},
    actor::{Actor, Parked, Released, Revoked, WaiterId, Woken},
    binding::{Binding, Grant, Version},
    bounded::Bounded,
    metrics::Metrics,
    parking::{Limit, Parking, Place},
    policy::{Policies, Policy},
    refusal::Refused,
};

/// Many more than cores: an operation on one actor seldom meets one on another.
const SHARDS: usize = 256;
/// How long "there is no such actor" is believed.
const UNKNOWN_MS: u64 = 1_000;
/// How long a browser is told why a wake failed, instead of that one is under way: longer than its page takes to load
/// itself again.
const FAILED_MS: u64 = 3_000;
/// How long an activation that could not be reached is in doubt, and how many are.
const DOUBT_MS: u64 = 60_000;
const DOUBTED_MOST: usize = 4_096;
/// How many wakes that failed are remembered.
const FAILED_MOST: usize = 4_096;

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    actors: DashMap<ActorKey, Actor<Waiter>>,
    active: Active,
    parking: Arc<Parking>,
    /// Wakes that failed lately.
    failed: Mutex<Bounded<ActorKey, Failed>>,
    /// Activations that could not be reached.
    doubted: Mutex<Bounded<ActorKey, Doubted>>,
    policies: Policies,
    next_waiter: AtomicU64,
    clock: Clock,
    metrics: Metrics,
}

/// A request that waits. Dropping it frees its place.
#[derive(Debug)]
struct Waiter {
    since: Instant,
    outcome: oneshot::Sender<Outcome>,
    _place: Place,
}

/// A wake that failed.
#[derive(Clone, Copy, Debug)]
struct Failed {
    refused: Refused,
    at_ms: u64,
}

/// An activation that could not be reached.
#[derive(Clone, Copy, Debug)]
struct Doubted {
    epoch: Epoch,
    at_ms: u64,
}

/// A request's turn among those that are let go so many at a time. Its drop is the next one's.
#[derive(Debug)]
pub(crate) struct Turn {
    table: Arc<Table>,
    activation: Arc<Activation>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.activation.end_turn();
        self.table.turn_over(&self.activation);
    }
}

/// What a wait ends with.
pub(crate) type Outcome = Result<Arrival, Refused>;

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
    Refused(Refused),
}

/// A place in an actor's queue.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(crate) id: WaiterId,
    pub(crate) outcome: oneshot::Receiver<Outcome>,
    /// What is known of the template by now.
    pub(crate) policy: watch::Receiver<Option<Policy>>,
    pub(crate) deadline: Instant,
    /// Whether a wake has to begin.
    pub(crate) parked: Parked,
}

/// Whom a caller left who did not want to wait any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Its wait was over already.
    Nobody,
    /// An actor that sleeps still.
    Asleep,
    /// One that is awake, with others before this caller.
    Awake,
}

/// How a wake's reply was taken.
#[derive(Clone, Debug)]
pub(crate) enum Settled {
    /// Those who waited go on. With an activation some wait for its turns, and shall have more of them before long.
    Bound(Option<Arc<Activation>>),
    /// Ask again.
    Stale,
    Dropped,
}

impl Table {
    pub(crate) fn new(
        parking: Arc<Parking>,
        policies: Policies,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        Self {
            actors: DashMap::with_shard_amount(SHARDS),
            active: Active::default(),
            parking,
            failed: Mutex::new(Bounded::new(FAILED_MOST)),
            doubted: Mutex::new(Bounded::new(DOUBTED_MOST)),
            policies,
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

    /// The cold path: a request that found no binding. With `page` it is a browser's, which may get a page.
    pub(crate) fn admit(&self, key: &ActorKey, page: bool) -> Admission {
        let known = self.policies.known(key);
        if let Some(refused) = self.refused(key, page && known.is_some_and(|policy| policy.page)) {
            return Admission::Refused(refused);
        }
        let policy = known.unwrap_or_else(|| self.policies.default());
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
                let reason = match limit {
                    Limit::Actor => Reason::ActorParkingFull,
                    Limit::Router | Limit::Namespace => Reason::ParkingFull,
                };
                return Admission::Refused(reason.into());
            }
        };
        let id = WaiterId(self.next_waiter.fetch_add(1, Relaxed));
        let (sender, outcome) = oneshot::channel();
        let since = Instant::now();
        let (parked, told) =
            actor.park(id, Waiter { since, outcome: sender, _place: place }, known);
        let deadline = since + policy.park;
        Admission::Waits(Wait { id, outcome, policy: told, deadline, parked })
    }

    /// A caller waits no longer.
    pub(crate) fn leave(&self, key: &ActorKey, id: WaiterId) -> Left {
        let Some(mut actor) = self.actors.get_mut(key) else { return Left::Nobody };
        let Some(waiter) = actor.leave(id) else { return Left::Nobody };
        let left = if actor.binding().is_some() { Left::Awake } else { Left::Asleep };
        drop(actor);
        drop(waiter);
        left
    }

    /// The control plane gave out a binding.
    pub(crate) fn woken(self: &Arc<Self>, mut grant: Grant, phases: &proto::WakePhases) -> Settled {
        let key = grant.actor.clone();
        let limit = self.policies.known(&key).map_or(0, |policy| policy.concurrency);
        let Some(mut actor) = self.actors.get_mut(&key) else { return Settled::Dropped };
        // One copy of its name is enough for all that is kept of it.
        grant.actor = actor.key().clone();
        match actor.woken(grant, limit, self.clock) {
            Woken::Bound(released) => {
                self.note(&released);
                self.metrics.bindings.inc();
                drop(actor);
                let wait = released.widens.then(|| Arc::clone(&released.binding.activation));
                self.let_go(released, phases);
                Settled::Bound(wait)
            }
            Woken::Stale => Settled::Stale,
            Woken::Dropped => {
                drop(actor);
                self.remove_unused(&key);
                Settled::Dropped
            }
        }
    }

    /// A turn at an activation is over.
    fn turn_over(self: &Arc<Self>, activation: &Arc<Activation>) {
        let Some(mut actor) = self.actors.get_mut(activation.actor()) else { return };
        let Some(released) = actor.turn_over(activation) else { return };
        self.note(&released);
        drop(actor);
        // Nothing of the wake is left to be told but that it was waited for.
        self.let_go(released, &proto::WakePhases::default());
    }

    /// More turns for those who wait for one. False when nobody does any more.
    pub(crate) fn widen(self: &Arc<Self>, activation: &Arc<Activation>) -> bool {
        let Some(mut actor) = self.actors.get_mut(activation.actor()) else { return false };
        let Some(released) = actor.widen(activation) else { return false };
        self.note(&released);
        drop(actor);
        let more = released.widens;
        self.let_go(released, &proto::WakePhases::default());
        more
    }

    /// Under the shard's lock.
    fn note(&self, released: &Released<Waiter>) {
        if !released.waiters.is_empty() {
            self.active.note(&released.binding.activation);
        }
    }

    /// Not under a lock: who left in this moment ends a turn, and so on.
    fn let_go(self: &Arc<Self>, released: Released<Waiter>, phases: &proto::WakePhases) {
        let Released { binding, waiters, widens: _ } = released;
        for waiter in waiters {
            let activation = Arc::clone(&binding.activation);
            let turn = Turn { table: Arc::clone(self), activation };
            let in_flight = self.adopt(&binding.activation).in_turn(turn);
            let served = Served { binding: Arc::clone(&binding), in_flight };
            // One who left in this moment drops it, and with it the count.
            let _ = waiter.outcome.send(Ok(Arrival { served, phases: *phases }));
        }
    }

    /// The wake ended without a binding. True when some still wait, and another wake has to be asked for.
    ///
    /// One that ran out of time, after `took`, did so for those who waited through most of it. Who came when it was almost
    /// over has a budget of its own.
    pub(crate) fn failed(&self, key: &ActorKey, refused: Refused, took: Duration) -> bool {
        let policy = self.policies.known(key).unwrap_or_else(|| self.policies.default());
        let half = policy.wake / 2;
        let ran_out = matches!(refused.reason, Reason::WakeTimeout | Reason::NoCapacity);
        let stays = |waiter: &Waiter| ran_out && took > half && waiter.since.elapsed() < half;
        let Some(mut actor) = self.actors.get_mut(key) else { return false };
        let told = actor.failed(stays);
        let again = actor.parked() > 0;
        drop(actor);
        for waiter in told {
            let _ = waiter.outcome.send(Err(refused));
        }
        if again {
            return true;
        }
        let now = self.clock.now_ms();
        let mut failed = lock(&self.failed);
        failed.expire(|failed| failed.at_ms + FAILED_MS <= now);
        failed.insert(key.clone(), Failed { refused, at_ms: now });
        drop(failed);
        self.remove_unused(key);
        false
    }

    /// Takes a binding back. For those that still waited to be released a wake has to begin.
    pub(crate) fn revoke(&self, key: &ActorKey, version: Version) -> Option<Revoked> {
        let revoked = self.actors.get_mut(key)?.revoke(version);
        if revoked.unbound {
            self.metrics.bindings.dec();
        }
        self.remove_unused(key);
        Some(revoked)
    }

    /// Gives the binding of this endpoint out no more, and no other. For those that still waited to be released a wake has to begin.
    pub(crate) fn evict(&self, key: &ActorKey, endpoint: SocketAddr) -> Option<Revoked> {
        let mut actor = self.actors.get_mut(key)?;
        let version = actor.binding().filter(|binding| binding.endpoint == endpoint)?.version();
        let revoked = actor.revoke(version);
        let now = self.clock.now_ms();
        // Under the shard's lock: no wake begins without it.
        let mut doubted = lock(&self.doubted);
        doubted.expire(|doubted| doubted.at_ms + DOUBT_MS <= now);
        doubted.insert(key.clone(), Doubted { epoch: version.epoch, at_ms: now });
        drop(doubted);
        drop(actor);
        self.metrics.bindings.dec();
        self.remove_unused(key);
        Some(revoked)
    }

    /// The activation of this actor that could not be reached.
    pub(crate) fn doubted(&self, key: &ActorKey) -> Option<Epoch> {
        lock(&self.doubted).get(key).map(|doubted| doubted.epoch)
    }

    /// An activation that is bound or has requests in flight.
    pub(crate) fn activation(&self, key: &ActorKey, epoch: Epoch) -> Option<Arc<Activation>> {
        self.actors.get(key)?.activation_of(epoch).cloned()
    }

    pub(crate) fn remove_unused(&self, key: &ActorKey) {
        self.actors.remove_if_mut(key, |_, actor| actor.is_unused());
    }

    /// The control plane said what is in the actor's template, as the binding came.
    pub(crate) fn learn(&self, key: ActorKey, policy: &proto::ActorPolicy) {
        self.policies.learn(key, policy);
    }

    /// The same, while the wake is under way: it holds for those who wait already.
    pub(crate) fn set_policy(&self, key: ActorKey, policy: &proto::ActorPolicy) {
        let policy = self.policies.learn(key.clone(), policy);
        let beyond = self.actors.get_mut(&key).map(|mut actor| actor.told(policy));
        for waiter in beyond.unwrap_or_default() {
            self.metrics.parking_refused(Limit::Actor);
            let _ = waiter.outcome.send(Err(Reason::ActorParkingFull.into()));
        }
    }

    /// There is such an actor now.
    pub(crate) fn created(&self, key: &ActorKey) {
        lock(&self.failed).remove(key);
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

    /// Parking places that one actor may take, whatever its template says.
    pub(crate) fn parked_per_actor(&self) -> usize {
        self.policies.share()
    }

    /// Actors in the table, in whatever state.
    pub(crate) fn len(&self) -> usize {
        self.actors.len()
    }

    /// Why the last wake failed, where that is still the answer.
    fn refused(&self, key: &ActorKey, page: bool) -> Option<Refused> {
        let now = self.clock.now_ms();
        let failed = *lock(&self.failed).get(key)?;
        let believed = match failed.refused.reason {
            Reason::ActorNotFound => UNKNOWN_MS,
            _ if page => FAILED_MS,
            _ => 0,
        };
        (now < failed.at_ms + believed).then_some(failed.refused)
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
