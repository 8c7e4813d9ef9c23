//! Requests that come a second time, because they could not be connected to the endpoint they were given.
//!
//! ```text
//!  first stream:  asked ─▶ endpoint ─▶ (Envoy: no connection) ─ ─ ─ ─ ─ ─ ─ ─ ─ still open ─ ─ ─ ─▶ end of the request
//!  second stream:                         └─▶ not_connected: the binding is given out no more
//!                                              ─▶ asked, as if for the first time ─▶ endpoint ────▶ end of the request
//! ```
//!
//! Only the binding of exactly that endpoint is evicted: one who tried for long may have missed that there is another. The
//! wake that follows says which activation is in doubt, so that the control plane asks its node before it names the same again.
//! Without a session nothing is evicted: bindings are all there is then, and one connection that failed is no proof.
//!
//! The first stream counts as in flight where nothing is. When that activation is known to be gone, its requests are
//! ended, but not those that are somewhere else by now: they are known by the id that Envoy gave them.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing::debug;
use uuid::Uuid;

use crate::{ext_proc::wire::HttpHeaders, router::Router, wake};
use reveille_envoy::resources::names;

/// Requests that are here a second time.
#[derive(Debug, Default)]
pub(crate) struct Again(Mutex<HashSet<Uuid>>);

/// One of them, for as long as it lasts.
#[derive(Debug)]
pub(crate) struct Second {
    router: Arc<Router>,
    id: Option<Uuid>,
}

impl Again {
    pub(crate) fn has(&self, id: Uuid) -> bool {
        self.lock().contains(&id)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.router.again.lock().remove(&id);
        }
    }
}

/// What Envoy calls this request, both times.
pub(crate) fn id(headers: &HttpHeaders) -> Option<Uuid> {
    Uuid::try_parse(headers.get(names::REQUEST_ID_HEADER)?).ok()
}

/// Takes note of a request that comes a second time; nothing when it is the first.
pub(crate) fn second(router: &Arc<Router>, headers: &HttpHeaders) -> Option<Second> {
    let failed = headers.get(names::FAILED_HEADER)?.parse().ok()?;
    let id = id(headers).filter(|id| router.again.lock().insert(*id));
    router.metrics.not_connected.inc();
    not_connected(router, headers.get(":authority").unwrap_or_default(), failed);
    Some(Second { router: Arc::clone(router), id })
}

fn not_connected(router: &Arc<Router>, authority: &str, endpoint: SocketAddr) {
    let Some(actor) = router.zone.actor(authority) else { return };
    if router.session.up().is_none() {
        return;
    }
    let Some(revoked) = router.table.evict(&actor, endpoint) else { return };
    debug!(%actor, %endpoint, "it could not be reached: given out no more");
    if revoked.left_waiting {
        wake::start(router, actor, wake::Cause::default());
    }
}
