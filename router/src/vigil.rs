//! Whether the control plane still says anything, while somebody waits for it.
//!
//! One that was killed refuses connections. One that hangs (it is stopped, its disk does not answer, it was cut off without a
//! word) takes calls and says nothing, and each wake would wait for its own deadline. So while wakes are under way it is
//! asked how it is; what it answers does not matter.
//!
//! ```text
//!  a wake begins ─▶ pause ─▶ ask ── an answer, or an error ──▶ pause, as long as there are wakes
//!                             └── neither ─▶ ask again ── nothing ─▶ silent, until there is an answer
//! ```
//!
//! The second question is for a machine that stood still: after that the first one's time is over before anybody could answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tracing::{info, warn};

use crate::router::Router;

/// Between questions: most wakes are over before the first one.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the first and the second answer may take.
const ANSWERS: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(500)];

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Vigil {
    /// Somebody asks.
    kept: AtomicBool,
    silent: watch::Sender<bool>,
}

impl Vigil {
    /// Returns as soon as the control plane says nothing.
    pub(crate) async fn silence(&self) {
        // Its sender is a part of this: it cannot be gone.
        let _ = self.silent.subscribe().wait_for(|silent| *silent).await;
    }
}

/// Asks for as long as there are wakes, unless somebody does already. Called when one has begun.
pub(crate) fn keep(router: &Arc<Router>) {
    if router.vigil.kept.swap(true, SeqCst) {
        return;
    }
    let watched = Arc::clone(router);
    router.tasks.spawn(async move { watched.stop.run_until_cancelled(watch(&watched)).await });
}

async fn watch(router: &Router) {
    let Vigil { kept, silent } = &router.vigil;
    loop {
        sleep(PAUSE).await;
        let wanted = || *silent.borrow() || router.wakes.len() > 0;
        if !wanted() {
            kept.store(false, SeqCst);
            // One that began just before found that somebody asks.
            if !wanted() || kept.swap(true, SeqCst) {
                return;
            }
        }
        let heard = speaks(router, ANSWERS[0]).await || speaks(router, ANSWERS[1]).await;
        if silent.send_replace(!heard) == heard {
            match heard {
                true => info!("the control plane speaks again"),
                false => warn!("the control plane takes calls and says nothing"),
            }
        }
    }
}

/// False when there is neither an answer nor an error in time.
async fn speaks(router: &Router, within: Duration) -> bool {
    let mut health = HealthClient::new(router.control_plane.clone());
    timeout(within, health.check(HealthCheckRequest::default())).await.is_ok()
}
