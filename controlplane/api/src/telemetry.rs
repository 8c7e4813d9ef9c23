//! What of a part's telemetry never reaches its collector. It is counted here, because whoever sends it knows nothing of the part's
//! own series, and is served among them.

use std::sync::LazyLock;

use crate::metrics::{Closed, Counter, Registry};

crate::labels! {
    /// What a collector takes.
    pub enum Signal "signal" {
        /// Steps of requests.
        Spans "spans",
        /// Values of series.
        MetricPoints "metric_points",
    }
}

/// Of this process, like what is told itself.
static LOST: LazyLock<Closed<Signal, Counter>> = LazyLock::new(Closed::default);

/// Among the series of a part.
pub fn register(registry: &mut Registry) {
    let help = "Spans, and values of metrics, that the OpenTelemetry collector did not take in time, or that found no room in the queue";
    registry.register("telemetry_dropped", help, LOST.clone());
}

/// So many more.
pub fn lost(signal: Signal, count: usize) {
    LOST.get(signal).inc_by(count as u64);
}

/// How many so far.
pub fn losses(signal: Signal) -> u64 {
    LOST.get(signal).get()
}
