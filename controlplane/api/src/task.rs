//! Tasks with a name and an owner.

use std::future::Future;

use tokio::task::JoinSet;
use tracing::Instrument;

/// Spawns `future` into its owner's set, in a span that carries the name.
pub fn spawn<T: Send + 'static>(
    owner: &mut JoinSet<T>,
    name: &'static str,
    future: impl Future<Output = T> + Send + 'static,
) {
    owner.spawn(future.instrument(tracing::info_span!("task", name)));
}

/// Spawns a task that owns itself: it must end by a deadline or a token of its own.
#[allow(clippy::disallowed_methods)]
pub fn detach(name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(future.instrument(tracing::info_span!("task", name)));
}
