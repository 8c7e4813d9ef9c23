//! The session with the control plane: one stream, kept for ever, begun again whenever it breaks.
//!
//! ```text
//!   ┌─▶ connect ─▶ Hello, Held… ─▶ Welcome ─▶ ⟲ Activity every interval, RevokeAck as they come ─┐
//!   │                                            ◀ Revoke, ActorPolicy…                           │
//!   └───────────── wait with jitter ◀─────────────────────────── it broke ◀──────────────────────┘
//! ```
//!
//! While there is no session the bindings stay: the warm path needs none, and an endpoint that no longer serves refuses.
//! An acknowledgement may be lost with its stream, so the latest are said again on the next.

mod outbox;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use reveille_api::{
    ActorKey,
    proto::{
        Hello, RouterCommand, RouterReport, router_command::Command, routers_client::RoutersClient,
    },
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::{debug, error, info, warn};

use crate::{revoke, router::Router};
use outbox::Outbox;

/// First and longest wait before the next try.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// As long as another router has our name.
const REFUSED: Duration = Duration::from_secs(5);
/// Reports under way to the transport.
const OUTBOUND: usize = 16;
/// Between reports, until the control plane has said what it likes, and at the least.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(10));

/// What is known of the session.
#[derive(Debug, Default)]
pub(crate) struct State {
    ever: AtomicBool,
    /// While it stands: which control plane, and since when.
    up: Mutex<Option<(String, Instant)>>,
}

impl State {
    /// Whether there ever was a session.
    pub(crate) fn ever(&self) -> bool {
        self.ever.load(Relaxed)
    }

    /// While it stands: the control plane's instance, and for how long.
    pub(crate) fn up(&self) -> Option<(String, Duration)> {
        let up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        up.as_ref().map(|(instance, since)| (instance.clone(), since.elapsed()))
    }

    fn set(&self, up: Option<String>) {
        self.ever.fetch_or(up.is_some(), Relaxed);
        *self.up.lock().unwrap_or_else(PoisonError::into_inner) =
            up.map(|instance| (instance, Instant::now()));
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the control plane ended it")]
    ByControlPlane,
    #[error("{}", .0.message())]
    Broken(#[from] Status),
}

/// Keeps a session until the router stops.
pub(crate) async fn keep(router: Arc<Router>) {
    let stop = router.stop.clone();
    let _ = stop.run_until_cancelled(again_and_again(&router)).await;
    set_down(&router);
}

async fn again_and_again(router: &Arc<Router>) {
    let mut outbox = Outbox::default();
    let (mut backoff, mut refused) = (BACKOFF.0, false);
    loop {
        let ended = session(router, &mut outbox).await;
        if let Ended::Broken(status) = &ended
            && status.code() == Code::AlreadyExists
        {
            if !refused {
                error!("{}; asks again now and then", status.message());
            }
            refused = true;
            set_down(router);
            sleep(REFUSED.mul_f64(rand::random_range(0.5..1.0))).await;
            continue;
        }
        refused = false;
        if router.session.up().is_some() {
            warn!(%ended, "the session with the control plane ended; bindings are kept");
            backoff = BACKOFF.0;
        } else {
            debug!(%ended, "no session with the control plane");
        }
        set_down(router);
        sleep(backoff.mul_f64(rand::random_range(0.5..1.0))).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

fn set_down(router: &Router) {
    router.session.set(None);
    router.metrics.session_up.set(0);
}

/// One session, to its end.
async fn session(router: &Arc<Router>, outbox: &mut Outbox) -> Ended {
    let (reports, outbound) = mpsc::channel(OUTBOUND);
    let hello = Hello { router: router.name.clone(), instance: router.instance.clone() };
    outbox.begin(hello, router.table.held(), |ack, age| revoke::as_now(router, ack, age));
    let mut client = RoutersClient::new(router.control_plane.clone());
    let mut calling = std::pin::pin!(client.session(ReceiverStream::new(outbound)));
    let mut commands: Option<Streaming<RouterCommand>> = None;
    let mut ticks = ticks(INTERVAL.0);
    loop {
        tokio::select! {
            // In this order, so that a broken stream ends with its own status.
            biased;
            reply = &mut calling, if commands.is_none() => match reply {
                Ok(reply) => commands = Some(reply.into_inner()),
                Err(status) => return status.into(),
            },
            command = next(&mut commands) => match command {
                Ok(Some(command)) => {
                    if let Some(interval) = obey(router, command) {
                        ticks = self::ticks(interval);
                    }
                }
                Ok(None) => return Ended::ByControlPlane,
                Err(status) => return status.into(),
            },
            permit = reports.reserve(), if !outbox.is_empty() => match permit {
                Ok(permit) => {
                    if let report @ Some(_) = outbox.pop() {
                        permit.send(RouterReport { report });
                    }
                }
                Err(_) => return Ended::ByControlPlane,
            },
            // Not faster than the transport takes them: those of one actor become one while they wait.
            ack = router.acks.next(), if outbox.is_empty() => outbox.ack(ack),
            _ = ticks.tick(), if router.session.up().is_some() && outbox.is_empty() => {
                outbox.activity(router.table.activity());
            }
        }
    }
}

/// The next command, once there is a stream.
async fn next(
    commands: &mut Option<Streaming<RouterCommand>>,
) -> Result<Option<RouterCommand>, Status> {
    match commands {
        Some(commands) => commands.message().await,
        None => std::future::pending().await,
    }
}

/// Does what the control plane says; returns the report interval where it names one.
fn obey(router: &Arc<Router>, command: RouterCommand) -> Option<Duration> {
    match command.command? {
        Command::Welcome(welcome) => {
            info!(control_plane = welcome.control_plane_instance, "session stands");
            router.session.set(Some(welcome.control_plane_instance));
            router.metrics.session_up.set(1);
            router.metrics.sessions.inc();
            return Some(match welcome.report_interval_ms {
                0 => INTERVAL.0,
                ms => Duration::from_millis(ms).max(INTERVAL.1),
            });
        }
        Command::Revoke(revoke) => {
            if let Err(failure) = revoke::revoke(router, revoke) {
                warn!(%failure, "a revoke that cannot be read");
            }
        }
        Command::Policy(mut policy) => match ActorKey::try_from(policy.actor.take()) {
            Ok(actor) => router.table.set_policy(actor, &policy),
            Err(failure) => warn!(%failure, "a policy that cannot be read"),
        },
        Command::Created(actor) => match ActorKey::try_from(actor) {
            Ok(actor) => router.table.created(&actor),
            Err(failure) => warn!(%failure, "a name that cannot be read"),
        },
    }
    None
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
