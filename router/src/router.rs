//! [`Router`]: what every part of this role shares, and the way of a request through it.
//!
//! ```text
//!  authority ─▶ not of this zone ─────────────────────────────▶ invalid_host
//!            ─▶ bound ────────────────────────────────────────▶ go on            (warm: no await, no call)
//!            ─▶ known not to exist ───────────────────────────▶ actor_not_found
//!            ─▶ no place left ────────────────────────────────▶ parking_full, actor_parking_full
//!            ─▶ wait ─▶ woken ────────────────────────────────▶ go on
//!                    ─▶ the wake failed ──────────────────────▶ its reason
//!                    ─▶ the budget is over ───────────────────▶ wake_timeout     (the wake goes on)
//!                    ─▶ the caller leaves: its place is free  (the wake goes on)
//! ```

use std::{sync::Arc, time::Duration};

use reveille_api::{ActorKey, Ladder, Reason, Zone, proto::RevokeAck};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Channel;

use crate::{
    actor::Parked,
    binding::Version,
    metrics::{Class, Metrics, Outcome},
    progress::Progress,
    session,
    table::{Admission, Arrival, Served, Table, Wait},
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
    pub(crate) table: Table,
    pub(crate) metrics: Metrics,
    pub(crate) control_plane: Channel,
    pub(crate) session: session::State,
    pub(crate) acks: mpsc::UnboundedSender<RevokeAck>,
    pub(crate) wakes: Progress<ActorKey>,
    pub(crate) revokes: Progress<(ActorKey, Version)>,
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
    Refused(Reason),
}

/// A parked request. Dropping it frees its place.
#[derive(Debug)]
pub(crate) struct Ticket {
    router: Arc<Router>,
    actor: ActorKey,
    wait: Wait,
    since: Instant,
    over: bool,
}

impl Router {
    /// Takes a request in. Never waits.
    pub(crate) fn request(
        self: &Arc<Self>,
        authority: Option<&str>,
        traceparent: Option<&str>,
    ) -> Request {
        let authority = authority.unwrap_or_default();
        let Some(prefix) = self.zone.actor_prefix(authority) else {
            return self.refused(Class::warm, Reason::InvalidHost);
        };
        if let Some(served) = self.table.serve(&prefix) {
            self.metrics.warm_routed();
            return Request::Served(served);
        }
        let Some(actor) = self.zone.actor(authority) else {
            return self.refused(Class::warm, Reason::InvalidHost);
        };
        match self.table.admit(&actor) {
            Admission::Served(served) => {
                self.metrics.warm_routed();
                Request::Served(served)
            }
            Admission::Refused(reason) => self.refused(Class::cold, reason),
            Admission::Waits(wait) => {
                match wait.parked {
                    Parked::First => {
                        let traceparent = traceparent.unwrap_or_default().to_owned();
                        wake::start(self, actor.clone(), traceparent);
                    }
                    Parked::Joined => {
                        self.metrics.wakes_joined.inc();
                    }
                }
                let router = Arc::clone(self);
                Request::Parked(Ticket { router, actor, wait, since: Instant::now(), over: false })
            }
        }
    }

    /// Time since this process began.
    pub(crate) fn uptime_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn refused(&self, class: Class, reason: Reason) -> Request {
        self.metrics.request(class, Outcome::Refused(reason));
        Request::Refused(reason)
    }
}

impl Ticket {
    /// Waits for the wake or the end of the park budget. Safe to drop at any time.
    pub(crate) async fn wait(&mut self) -> Result<Arrival, Reason> {
        let outcome = tokio::time::timeout_at(self.wait.deadline, &mut self.wait.outcome).await;
        let outcome = match outcome {
            Ok(Ok(outcome)) => outcome,
            // The waiter was dropped without an answer.
            Ok(Err(_)) => Err(Reason::Internal),
            Err(_) => Err(Reason::WakeTimeout),
        };
        self.over = true;
        let counted = outcome.as_ref().map_or_else(|r| Outcome::Refused(*r), |_| Outcome::Routed);
        self.router.metrics.request(Class::cold, counted);
        outcome
    }

    /// How long it has waited.
    pub(crate) fn held(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.over {
            self.router.metrics.request(Class::cold, Outcome::Left);
        }
        self.router.table.leave(&self.actor, self.wait.id);
    }
}
