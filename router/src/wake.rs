//! Wakes: one owned task per actor that sleeps and is asked for, however many requests wait for it.
//!
//! ```text
//!   first request ──▶ task ──Wake──▶ control plane
//!                      ▲  │ binding: everybody who waits goes on
//!                      │  │ failure: everybody who waits is told why
//!                      └──┘ binding revoked before it arrived: ask again
//! ```
//!
//! The task belongs to the actor, not to a request: callers come and go, it ends by its deadline. Whatever becomes of it,
//! those who wait get an answer.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use reveille_api::{
    ActorKey, Failure, Reason,
    proto::{WakeReply, WakeRequest, routers_client::RoutersClient},
    trace::{Kind, Span, Traceparent},
};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status};
use tracing::{Instrument, debug, info_span, warn};
use uuid::Uuid;

use crate::{
    activation::Activation, binding::Grant, metrics::WakeEnd, refusal::Refused, router::Router,
    table::Settled, vigil,
};

/// Above the greatest wake deadline, so that the control plane's own answer comes first.
const MARGIN: Duration = Duration::from_secs(2);
/// How long a control plane that cannot be reached is tried.
const RETRY_FOR: Duration = Duration::from_secs(2);
/// First and longest wait between tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(400));
/// Before a wake is asked for again because its reply was stale.
const STALE_PAUSE: Duration = Duration::from_millis(5);

/// Before another wake is asked for, for those who came when the last one had almost run out of time.
const AGAIN_PAUSE: Duration = Duration::from_millis(100);
/// How soon those who wait for a turn get twice as many.
const WIDEN: Duration = Duration::from_millis(50);

/// The request that a wake is for; nothing of it when others than the first still wait.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cause {
    pub(crate) traceparent: Option<Traceparent>,
    /// What Envoy calls it.
    pub(crate) request_id: Option<Uuid>,
}

/// Starts the wake of `actor`, whose first request has just been parked, or for which requests still wait.
pub(crate) fn start(router: &Arc<Router>, actor: ActorKey, cause: Cause) {
    let recorded = Span::after(cause.traceparent, "wake", Kind::Client).of(&actor);
    {
        let mut all = router.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        match recorded.traceparent().filter(|_| recorded.is_recorded()) {
            Some(at) => all.insert(actor.clone(), at),
            // Who joins this one must not be told of an earlier one.
            None => all.remove(&actor),
        }
    }
    let request = WakeRequest {
        traceparent: recorded.header(),
        request_id: cause.request_id.map(|id| id.to_string()).unwrap_or_default(),
        ..WakeRequest::default()
    };
    router.metrics.wakes_started.inc();
    let wake = Wake { step: router.wakes.begin(actor.clone()), router: Arc::clone(router), actor };
    vigil::keep(router);
    let span = info_span!("wake", actor = %wake.actor, trace_id = recorded.trace_id());
    router.tasks.spawn(wake.run(request, recorded).instrument(span));
}

struct Wake {
    router: Arc<Router>,
    actor: ActorKey,
    #[expect(dead_code, reason = "its drop is the end")]
    step: crate::progress::Step<ActorKey>,
}

impl Wake {
    async fn run(self, cause: WakeRequest, mut span: Span) {
        let mut unsettled = Unsettled { wake: &self, settled: false };
        let request = WakeRequest {
            actor: Some((&self.actor).into()),
            router_instance: self.router.instance.clone(),
            doubted_epoch: self.router.table.doubted(&self.actor).map_or(0, |epoch| epoch.0),
            ..cause
        };
        let stop = &self.router.stop;
        let end = match stop.run_until_cancelled(self.to_its_end(request)).await {
            Some(end) => end,
            // This router can wake it no more; another may.
            None => self.failed(Reason::ControlPlaneUnavailable.into()),
        };
        if let WakeEnd::Failed(reason) = end {
            span.fail(reason);
        }
        self.router.metrics.wake_ended(end);
        unsettled.settled = true;
    }

    fn failed(&self, refused: Refused) -> WakeEnd {
        self.router.table.failed(&self.actor, refused, Duration::ZERO);
        WakeEnd::Failed(refused.reason)
    }

    async fn to_its_end(&self, request: WakeRequest) -> WakeEnd {
        let router = &self.router;
        let mut started = Instant::now();
        loop {
            match ask(router, request.clone()).await.and_then(|reply| self.read(reply)) {
                Ok((grant, reply)) => {
                    let (kind, version) = (grant.woken_by, grant.version);
                    let phases = reply.phases.unwrap_or_default();
                    match router.table.woken(grant, &phases) {
                        Settled::Bound(wait) => {
                            if let Some(activation) = wait {
                                router.tasks.spawn(widen(Arc::clone(router), activation));
                            }
                            let took = started.elapsed();
                            router.metrics.wake_took(kind, took, &phases);
                            debug!(?kind, ?version, ?took, "bound");
                            return WakeEnd::Bound;
                        }
                        Settled::Stale => {
                            router.metrics.wakes_stale.inc();
                            debug!(?version, "revoked before it arrived, asking again");
                            sleep(STALE_PAUSE).await;
                        }
                        Settled::Dropped => return WakeEnd::Dropped,
                    }
                }
                Err(failure) => {
                    // Its message may quote the actor's own words: the control plane keeps it as an event.
                    let reason = failure.reason;
                    match reason {
                        Reason::ActorNotFound | Reason::ActorStopped | Reason::QuotaExceeded => {
                            debug!(%reason, "not woken")
                        }
                        _ => warn!(%reason, "not woken"),
                    }
                    let took = started.elapsed();
                    if !self.router.table.failed(&self.actor, (&failure).into(), took) {
                        return WakeEnd::Failed(reason);
                    }
                    sleep(AGAIN_PAUSE).await;
                    started = Instant::now();
                }
            }
        }
    }

    /// The binding of a reply, which must be the actor's that was asked for.
    fn read(&self, mut reply: WakeReply) -> Result<(Grant, WakeReply), Failure> {
        if let Some(policy) = reply.policy.take() {
            self.router.table.learn(self.actor.clone(), &policy);
        }
        let binding = reply.binding.take();
        let grant = Grant::try_from(
            binding.ok_or_else(|| Failure::internal("the reply to a wake has no binding"))?,
        )?;
        if grant.actor != self.actor {
            let other = grant.actor;
            return Err(Failure::internal(format!("the reply to a wake is for {other}")));
        }
        Ok((grant, reply))
    }
}

/// Gives those who wait for a turn more and more of them. Ends when nobody does, after a few doublings.
async fn widen(router: Arc<Router>, activation: Arc<Activation>) {
    loop {
        if router.stop.run_until_cancelled(sleep(WIDEN)).await.is_none()
            || !router.table.widen(&activation)
        {
            return;
        }
    }
}

/// Tells those who wait that it failed, should the task not come to its end.
struct Unsettled<'a> {
    wake: &'a Wake,
    settled: bool,
}

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        if !self.settled {
            let end = self.wake.failed(Reason::Internal.into());
            self.wake.router.metrics.wake_ended(end);
        }
    }
}

/// One wake, tried again for a short while when the control plane cannot be reached: it joins what it finds under way.
async fn ask(router: &Router, request: WakeRequest) -> Result<WakeReply, Failure> {
    let deadline = Instant::now() + router.ladder.wake() + MARGIN;
    let mut unreachable_since = None;
    let mut backoff = BACKOFF.0;
    loop {
        let mut client = RoutersClient::new(router.control_plane.clone());
        let answer = tokio::select! {
            answer = timeout_at(deadline, client.wake(request.clone())) => answer,
            () = router.vigil.silence() => {
                let why = "the control plane takes calls and says nothing";
                return Err(Failure::new(Reason::ControlPlaneUnavailable, why));
            }
        };
        let status = match answer {
            Ok(Ok(reply)) => return Ok(reply.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => return Err(Failure::new(Reason::WakeTimeout, "the wake's deadline passed")),
        };
        let failure = failure(&status);
        if failure.reason != Reason::ControlPlaneUnavailable {
            return Err(failure);
        }
        let since = *unreachable_since.get_or_insert_with(Instant::now);
        if since.elapsed() + backoff > RETRY_FOR {
            return Err(failure);
        }
        sleep(backoff.mul_f64(rand::random_range(0.5..1.0))).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// Without a named reason, codes that a broken connection makes mean that the control plane is away.
fn failure(status: &Status) -> Failure {
    let otherwise = match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal => {
            Reason::ControlPlaneUnavailable
        }
        _ => Reason::Internal,
    };
    Failure::from_status(status, otherwise)
}
