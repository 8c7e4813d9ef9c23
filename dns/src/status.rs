//! The pages of [`reveille_api::metrics`]. The server is ready while there is a front to answer with.

use std::sync::Arc;

use reveille_api::metrics::{Registry, Watched};
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;

/// What the pages are made from.
pub(crate) struct Status {
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Registry,
    /// A shutdown will come, or its grace is running.
    pub(crate) leaving: CancellationToken,
}

impl Watched for Status {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn unready(&self) -> Option<&'static str> {
        if self.leaving.is_cancelled() {
            Some("shutting down")
        } else if self.shared.records.load().fronts() == (0, 0) {
            Some("no address of the front is known yet")
        } else {
            None
        }
    }
}
