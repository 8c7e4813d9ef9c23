//! The pages of the control plane, and what is looked up when somebody asks for them.

use std::sync::Arc;

use reveille_api::metrics::{Registry, Watched};

use crate::{
    fleet::Fleet,
    metrics::{Work, count},
};

/// See the module.
pub(crate) struct Page(Arc<Fleet>);

impl Page {
    pub(crate) fn new(fleet: Arc<Fleet>) -> Self {
        Self(fleet)
    }
}

impl Watched for Page {
    fn registry(&self) -> &Registry {
        self.0.metrics.registry()
    }

    fn unready(&self) -> Option<&'static str> {
        self.0.is_draining().then_some("draining: nothing is woken any more")
    }

    async fn look(&self) {
        let (fleet, metrics) = (&self.0, &self.0.metrics);
        metrics.waiting.set(fleet.placement.waiting() as i64);
        let (uploads, bytes) = fleet.nodes.uploads();
        metrics.uploads.set(uploads as i64);
        metrics.upload_bytes.set(bytes as i64);
        metrics.routers.set(fleet.routers.connected() as i64);
        count(&metrics.nodes, fleet.nodes.presence().into_iter().map(|state| (state, 1)));
        count(
            &metrics.workers,
            fleet.placement.workers().iter().map(|worker| (Work::of(worker), 1)),
        );
        let actors = fleet.catalog.census().counts("").into_iter();
        count(&metrics.actors, actors.map(|(state, count)| (state, count as i64)));
    }
}
