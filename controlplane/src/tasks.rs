//! The owner of the control plane's tasks: each has a name, and ends when its work does or when it is told to stop.

use std::future::Future;

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// Tasks of one control plane. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Runs until it ends or is stopped. Whatever it was doing must bear being dropped at any `.await`.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let until_stopped = async move {
            stop.run_until_cancelled_owned(future).await;
        };
        self.tracker.spawn(until_stopped.instrument(tracing::info_span!("task", name)));
    }

    /// Resolves when the tasks are told to stop.
    pub fn stopping(&self) -> impl Future<Output = ()> + use<> {
        self.stop.clone().cancelled_owned()
    }

    /// True once they were told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Stops all of them and waits until they have ended.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
