//! Revokes: a binding is given out no more at once, and acknowledged when nothing of ours is at that activation.
//!
//! ```text
//!   Revoke ─▶ table (no new request) ─▶ nothing in flight ──────────────▶ RevokeAck { in_flight: 0 }
//!                                   └─▶ wait ─▶ the last request ended ─▶ RevokeAck { in_flight: 0 }
//!                                            └▶ drain_ms passed ────────▶ RevokeAck { in_flight: n }
//! ```
//!
//! Of an activation that is gone nothing more can come: its requests are ended at once. Requests that wait to be let go
//! to it are not in flight; a new wake begins for them.

use std::{sync::Arc, time::Duration};

use reveille_api::{
    ActorKey, Epoch, Failure,
    proto::{Revoke, RevokeAck},
};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::{activation::Activation, binding::Version, router::Router, wake};

/// Takes a binding back and sees to its acknowledgement.
pub(crate) fn revoke(router: &Arc<Router>, revoke: Revoke) -> Result<(), Failure> {
    let actor = ActorKey::try_from(revoke.actor)?;
    let version = Version::new(revoke.epoch, revoke.term);
    router.metrics.revokes.inc();
    let revoked = router.table.revoke(&actor, version);
    if revoked.as_ref().is_some_and(|revoked| revoked.left_waiting) {
        wake::start(router, actor.clone(), wake::Cause::default());
    }
    let activation = revoked.and_then(|revoked| revoked.draining);
    if let Some(activation) = activation.as_ref().filter(|_| revoke.gone) {
        debug!(%actor, ?version, in_flight = activation.in_flight(), "gone");
        activation.cut();
    }
    match activation {
        Some(activation) if activation.in_flight() > 0 => {
            debug!(%actor, ?version, in_flight = activation.in_flight(), "draining");
            let router = Arc::clone(router);
            let drain = Drain { router, actor, version, activation, since: Instant::now() };
            let tasks = drain.router.tasks.clone();
            tasks.spawn(drain.run(Duration::from_millis(revoke.drain_ms)));
        }
        _ => {
            // Without a trace of that activation nothing was active here since this process started.
            let idle = activation.map_or_else(|| router.uptime_ms(), |a| a.idle_ms());
            router.metrics.revoke_ack_seconds.observe(0.0);
            acknowledge(router, &actor, version, 0, idle);
        }
    }
    Ok(())
}

struct Drain {
    router: Arc<Router>,
    actor: ActorKey,
    version: Version,
    activation: Arc<Activation>,
    since: Instant,
}

impl Drain {
    async fn run(self, drain: Duration) {
        let stop = self.router.stop.clone();
        let _ = stop.run_until_cancelled(self.to_its_end(drain)).await;
    }

    async fn to_its_end(&self, drain: Duration) {
        let router = &self.router;
        let step = router.revokes.begin((self.actor.clone(), self.version));
        router.metrics.revokes_in_flight.inc();
        let rested = timeout(drain, self.activation.at_rest()).await;
        router.metrics.revokes_in_flight.dec();
        drop(step);
        // At rest, any that began since came by a later term of this epoch: not what is asked here.
        let in_flight = if rested.is_ok() { 0 } else { self.activation.in_flight() };
        if rested.is_err() {
            warn!(actor = %self.actor, in_flight, "the drain deadline passed");
        }
        let idle = self.activation.idle_ms();
        router.metrics.revoke_ack_seconds.observe(self.since.elapsed().as_secs_f64());
        acknowledge(router, &self.actor, self.version, in_flight, idle);
        // The entry stays for those; with the last of them it goes.
        self.activation.at_rest().await;
        router.table.remove_unused(&self.actor);
    }
}

/// An acknowledgement of `age` ago, with the counts of now.
pub(crate) fn as_now(router: &Router, ack: &RevokeAck, age: Duration) -> RevokeAck {
    let actor = ActorKey::try_from(ack.actor.clone()).ok();
    let activation = actor.and_then(|actor| router.table.activation(&actor, Epoch(ack.epoch)));
    let (in_flight, idle_ms) = match activation {
        Some(activation) => (activation.in_flight(), activation.idle_ms()),
        None => (0, ack.idle_ms.saturating_add(age.as_millis() as u64)),
    };
    RevokeAck { in_flight, idle_ms, ..ack.clone() }
}

fn acknowledge(router: &Router, actor: &ActorKey, version: Version, in_flight: u32, idle_ms: u64) {
    let ack = RevokeAck {
        actor: Some(actor.into()),
        epoch: version.epoch.0,
        term: version.term,
        in_flight,
        idle_ms,
    };
    router.acks.put(actor, ack);
}
