//! [`Router`]: what every part of this role shares, and the way of a request through it.
//!
//! ```text
//!  authority ─▶ not of this zone ─────────────────────────────▶ invalid_host
//!            ─▶ bound ────────────────────────────────────────▶ go on            (warm: no await, no call)
//!            ─▶ known not to exist ───────────────────────────▶ actor_not_found
//!            ─▶ no place left ────────────────────────────────▶ parking_full, actor_parking_full
//!            ─▶ wait ─▶ woken, and its turn ──────────────────▶ go on
//!                    ─▶ the wake failed ──────────────────────▶ its reason
//!                    ─▶ a browser, and its template has a page ▶ waking           (the wake goes on)
//!                    ─▶ the budget is over ───────────────────▶ wake_timeout     (the wake goes on)
//!                                  awake, others before it ───▶ upstream_timeout
//!                    ─▶ the caller leaves: its place is free  (the wake goes on)
//! ```

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reveille_api::{ActorKey, Ladder, Reason, Zone, trace::Traceparent};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Channel;
use uuid::Uuid;

use crate::{
    acks::Acks,
    actor::Parked,
    again::Again,
    binding::Version,
    bounded::Bounded,
    metrics::{Class, Metrics, Outcome},
    policy::Policy,
    progress::Progress,
    recent::{End, Recent},
    refusal::Refused,
    session,
    table::{Admission, Arrival, Left, Served, Table, Wait},
    vigil::Vigil,
    wake,
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Router {
    /// Stays over restarts.
    pub(crate) name: String,
    /// Changes with each start.
    pub(crate) instance: String,
    pub(crate) zone: Zone,
    pub(crate) ladder: Ladder,
    pub(crate) table: Arc<Table>,
    pub(crate) metrics: Metrics,
    pub(crate) control_plane: Channel,
    pub(crate) session: session::State,
    pub(crate) vigil: Vigil,
    pub(crate) acks: Acks,
    pub(crate) again: Again,
    pub(crate) wakes: Progress<ActorKey>,
    /// The spans of those that are recorded, for whoever joins them: of each actor that of its last wake.
    pub(crate) recorded: Mutex<Bounded<ActorKey, Traceparent>>,
    pub(crate) revokes: Progress<(ActorKey, Version)>,
    /// Nothing of the warm path.
    pub(crate) recent: Recent,
    /// Wakes and drains; each ends by a deadline or by `stop`.
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) started: Instant,
}

/// What a request meets.
#[derive(Debug)]
pub(crate) enum Request {
    Served(Served),
    Parked(Ticket),
    Refused(Refused),
}

/// What is looked at of a request whose actor sleeps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cold {
    pub(crate) traceparent: Option<Traceparent>,
    /// What Envoy calls it.
    pub(crate) request_id: Option<Uuid>,
    /// It is a browser that opens a page, so it may be shown one.
    pub(crate) page: bool,
}

/// A parked request. Dropping it frees its place.
#[derive(Debug)]
pub(crate) struct Ticket {
    router: Arc<Router>,
    actor: ActorKey,
    wait: Wait,
    since: Instant,
    id: Option<Uuid>,
    page: bool,
    over: bool,
}

impl Router {
    /// Takes a request in. Never waits. `cold` is not called for a bound actor.
    pub(crate) fn request(
        self: &Arc<Self>,
        authority: Option<&str>,
        cold: impl FnOnce() -> Cold,
    ) -> Request {
        let authority = authority.unwrap_or_default();
        let Some(prefix) = self.zone.actor_prefix(authority) else {
            return self.refused(Class::Warm, None, Reason::InvalidHost);
        };
        if let Some(served) = self.table.serve(&prefix) {
            self.metrics.warm_routed();
            return Request::Served(served);
        }
        let Some(actor) = self.zone.actor(authority) else {
            return self.refused(Class::Warm, None, Reason::InvalidHost);
        };
        let Cold { traceparent, request_id, page } = cold();
        match self.table.admit(&actor, page) {
            Admission::Served(served) => {
                self.metrics.warm_routed();
                Request::Served(served)
            }
            Admission::Refused(refused) => {
                self.refused(Class::Cold, Some((&actor, request_id)), refused)
            }
            Admission::Waits(wait) => {
                match wait.parked {
                    Parked::First => {
                        let cause = wake::Cause { traceparent, request_id };
                        wake::start(self, actor.clone(), cause);
                    }
                    Parked::Joined => {
                        self.metrics.wakes_joined.inc();
                    }
                }
                let router = Arc::clone(self);
                let since = Instant::now();
                let (id, over) = (request_id, false);
                Request::Parked(Ticket { router, actor, wait, since, id, page, over })
            }
        }
    }

    /// Time since this process began.
    pub(crate) fn uptime_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn refused(
        &self,
        class: Class,
        of: Option<(&ActorKey, Option<Uuid>)>,
        refused: impl Into<Refused>,
    ) -> Request {
        let refused = refused.into();
        self.metrics.request(class, Outcome::Refused(refused.reason));
        let (actor, id) = of.unzip();
        self.recent.note(actor, End::Refused(refused.reason), Duration::ZERO, id.flatten());
        Request::Refused(refused)
    }
}

impl Ticket {
    /// Waits for the wake and its turn, or the end of the park budget. Safe to drop at any time.
    pub(crate) async fn wait(&mut self) -> Result<Arrival, Refused> {
        let outcome = self.outcome().await;
        self.over = true;
        let refused = |refused: &Refused| Outcome::Refused(refused.reason);
        let counted = outcome.as_ref().map_or_else(refused, |_| Outcome::Routed);
        self.router.metrics.request(Class::Cold, counted);
        self.note(match &outcome {
            Ok(arrival) => End::Woken(arrival.served.binding.woken_by, arrival.phases),
            Err(refused) => End::Refused(refused.reason),
        });
        outcome
    }

    fn note(&self, end: End) {
        self.router.recent.note(Some(&self.actor), end, self.held(), self.id);
    }

    async fn outcome(&mut self) -> Result<Arrival, Refused> {
        loop {
            let known = *self.wait.policy.borrow_and_update();
            if let Some(policy) = known {
                self.wait.deadline = self.wait.deadline.min(self.since + policy.park);
                if self.page && policy.page {
                    return self.give_up(|_| Reason::Waking);
                }
            }
            tokio::select! {
                biased;
                outcome = &mut self.wait.outcome => {
                    // Dropped without an answer: that must not be.
                    return outcome.unwrap_or(Err(Reason::Internal.into()));
                }
                () = told(&mut self.wait.policy) => {}
                () = sleep_until(self.wait.deadline) => {
                    return self.give_up(|left| match left {
                        Left::Awake => Reason::UpstreamTimeout,
                        Left::Asleep | Left::Nobody => Reason::WakeTimeout,
                    });
                }
            }
        }
    }

    /// Waits no longer; unless its wait was over in this very moment.
    fn give_up(&mut self, why: impl FnOnce(Left) -> Reason) -> Result<Arrival, Refused> {
        let left = self.router.table.leave(&self.actor, self.wait.id);
        match self.wait.outcome.try_recv() {
            Ok(outcome) => outcome,
            Err(_) => Err(why(left).into()),
        }
    }

    /// Whom it waits for.
    pub(crate) fn actor(&self) -> &ActorKey {
        &self.actor
    }

    /// The span of the wake that another request began, if that is recorded.
    pub(crate) fn joined(&self) -> Option<Traceparent> {
        if self.is_first() {
            return None;
        }
        let recorded = self.router.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.get(&self.actor).copied()
    }

    /// Whether it began the wake.
    pub(crate) fn is_first(&self) -> bool {
        self.wait.parked == Parked::First
    }

    /// How long it has waited.
    pub(crate) fn held(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.over {
            self.router.metrics.request(Class::Cold, Outcome::Left);
            self.note(End::Left);
        }
        self.router.table.leave(&self.actor, self.wait.id);
    }
}

/// Returns when something new is known; never, once nothing new can be.
async fn told(policy: &mut watch::Receiver<Option<Policy>>) {
    if policy.changed().await.is_err() {
        std::future::pending().await
    }
}
