//! What a node counts, and its pages. No label carries the name of an actor.

use std::{sync::Arc, time::Duration};

use reveille_api::{
    Reason,
    metrics::{Closed, Counter, Gauge, Histogram, Registry, Watched, durations, short_durations},
};
use tokio_util::sync::CancellationToken;

use crate::{
    actors::Actors,
    core::{Activated, Activation, OpError, Origin},
};

reveille_api::labels! {
    /// What an activation is made from.
    enum Made "from" {
        /// The template's command.
        Start "start",
        /// The template's golden snapshot.
        Clone "clone",
        /// The actor's snapshot.
        Snapshot "snapshot",
    }
}

reveille_api::labels! {
    /// A part of an activation.
    enum Phase "phase" {
        Fetch "fetch",
        Restore "restore",
        Ready "ready",
    }
}

reveille_api::labels! {
    /// How a suspend ended.
    pub(crate) enum Down "outcome" {
        Committed "committed",
        /// Called off before the commit: it serves.
        Resumed "resumed",
        /// Not possible: it serves.
        Failed "failed",
        /// Not possible, and it could not be brought back either.
        Lost "lost",
    }
}

reveille_api::labels! {
    /// A turn of a running actor.
    pub(crate) enum Turn "turn" {
        Freeze "freeze",
        Thaw "thaw",
    }
}

reveille_api::labels! {
    /// Whether something came about.
    pub(crate) enum End "outcome" {
        Done "done",
        Failed "failed",
    }
}

reveille_api::labels! {
    /// A request to the object store.
    pub(crate) enum Request "operation" {
        Head "head",
        Get "get",
        Put "put",
        Delete "delete",
        List "list",
    }
}

impl End {
    pub(crate) fn of<T, E>(outcome: &Result<T, E>) -> Self {
        if outcome.is_ok() { Self::Done } else { Self::Failed }
    }
}

/// Handles to every series; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    activations: Closed<Made, Counter>,
    activation_failures: Closed<(Made, Reason), Counter>,
    activation_seconds: Closed<(Phase, Made), Histogram>,
    suspends: Closed<Down, Counter>,
    suspend_seconds: Histogram,
    snapshot_written: Counter,
    turns: Closed<(Turn, End), Counter>,
    exits: Counter,
    workers: Gauge,
    workers_used: Gauge,
    snapshots: Gauge,
    snapshot_bytes: Gauge,
    snapshot_disk_bytes: Gauge,
    disk_free_bytes: Gauge,
    image_bytes: Gauge,
    uploads: Closed<End, Counter>,
    uploads_under_way: Gauge,
    upload_bytes_left: Gauge,
    fetches: Closed<End, Counter>,
    pub(crate) store: StoreMetrics,
    pub(crate) session_up: Gauge,
    pub(crate) sessions: Counter,
}

/// Of the object store.
#[derive(Clone, Debug)]
pub(crate) struct StoreMetrics {
    seconds: Closed<Request, Histogram>,
    failures: Closed<Request, Counter>,
    pub(crate) sent: Counter,
    pub(crate) received: Counter,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            seconds: Closed::new(short_durations),
            failures: Closed::default(),
            sent: Counter::default(),
            received: Counter::default(),
        }
    }
}

impl StoreMetrics {
    pub(crate) fn asked(&self, request: Request, took: Duration, failed: bool) {
        self.seconds.get(request).observe(took.as_secs_f64());
        if failed {
            self.failures.get(request).inc();
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            activations: Closed::default(),
            activation_failures: Closed::default(),
            activation_seconds: Closed::new(durations),
            suspends: Closed::default(),
            suspend_seconds: durations(),
            snapshot_written: Counter::default(),
            turns: Closed::default(),
            exits: Counter::default(),
            workers: Gauge::default(),
            workers_used: Gauge::default(),
            snapshots: Gauge::default(),
            snapshot_bytes: Gauge::default(),
            snapshot_disk_bytes: Gauge::default(),
            disk_free_bytes: Gauge::default(),
            image_bytes: Gauge::default(),
            uploads: Closed::default(),
            uploads_under_way: Gauge::default(),
            upload_bytes_left: Gauge::default(),
            fetches: Closed::default(),
            store: StoreMetrics::default(),
            session_up: Gauge::default(),
            sessions: Counter::default(),
        }
    }
}

impl Metrics {
    #[rustfmt::skip]
    fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("reveille_node");
        r.register("activations", "Activations that came to serve, by what they were made from", self.activations.clone());
        r.register("activation_failures", "Activations that failed", self.activation_failures.clone());
        r.register("activation_seconds", "Activations that came to serve, by phase", self.activation_seconds.clone());
        r.register("suspends", "Suspends by how they ended", self.suspends.clone());
        r.register("suspend_seconds", "Suspends that were committed, until the process was gone", self.suspend_seconds.clone());
        r.register("snapshot_written_bytes", "Bytes of snapshots that were committed", self.snapshot_written.clone());
        r.register("turns", "Freezes and thaws", self.turns.clone());
        r.register("exits", "Activations that ended without anybody having asked for it", self.exits.clone());
        r.register("workers", "Workers of this node", self.workers.clone());
        r.register("workers_used", "Workers with an activation", self.workers_used.clone());
        r.register("snapshots", "Snapshots on this node", self.snapshots.clone());
        r.register("snapshot_bytes", "Bytes of the snapshots on this node", self.snapshot_bytes.clone());
        r.register("snapshot_disk_bytes", "Bytes of the disk that they take: their files are sparse", self.snapshot_disk_bytes.clone());
        r.register("disk_free_bytes", "Free bytes of the disk they are on", self.disk_free_bytes.clone());
        r.register("image_bytes", "Bytes of the disk that images take", self.image_bytes.clone());
        r.register("uploads", "Tries to bring a snapshot into the object store", self.uploads.clone());
        r.register("uploads_under_way", "Snapshots on their way to the object store", self.uploads_under_way.clone());
        r.register("upload_bytes_left", "Bytes of them that are not there yet", self.upload_bytes_left.clone());
        r.register("fetches", "Snapshots asked of the object store for a wake", self.fetches.clone());
        r.register("store_seconds", "Requests to the object store, with their repetitions", self.store.seconds.clone());
        r.register("store_failures", "Requests to the object store that failed in the end", self.store.failures.clone());
        r.register("store_sent_bytes", "Bytes sent to the object store", self.store.sent.clone());
        r.register("store_received_bytes", "Bytes received from the object store", self.store.received.clone());
        r.register("control_plane_session_up", "1 while the session with the control plane stands", self.session_up.clone());
        r.register("control_plane_sessions", "Sessions with the control plane that came to stand", self.sessions.clone());
        reveille_api::telemetry::register(r);
    }

    /// `restores`: it was to be made from a snapshot.
    pub(crate) fn activated(&self, restores: bool, outcome: &Result<Box<Activation>, OpError>) {
        match outcome {
            Ok(activation) => self.served(&activation.reply),
            Err(error) => {
                let made = if restores { Made::Snapshot } else { Made::Start };
                self.activation_failures.get((made, error.reason())).inc();
            }
        }
    }

    fn served(&self, activated: &Activated) {
        let made = match activated.origin {
            Origin::Start | Origin::StartWithoutGolden { .. } => Made::Start,
            Origin::Golden => Made::Clone,
            Origin::Snapshot => Made::Snapshot,
            // It was counted by the agent that made it.
            Origin::Adopted => return,
        };
        self.activations.get(made).inc();
        for (phase, us) in [
            (Phase::Fetch, activated.fetch_us),
            (Phase::Restore, activated.restore_us),
            (Phase::Ready, activated.ready_us),
        ] {
            let seconds = Duration::from_micros(us).as_secs_f64();
            self.activation_seconds.get((phase, made)).observe(seconds);
        }
    }

    pub(crate) fn suspended(&self, how: Down) {
        self.suspends.get(how).inc();
    }

    /// A snapshot of so many bytes was committed.
    pub(crate) fn committed(&self, bytes: u64, took: Duration) {
        self.snapshot_written.inc_by(bytes);
        self.suspend_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn turned(&self, turn: Turn, end: End) {
        self.turns.get((turn, end)).inc();
    }

    pub(crate) fn exited(&self) {
        self.exits.inc();
    }

    pub(crate) fn uploaded(&self, end: End) {
        self.uploads.get(end).inc();
    }

    pub(crate) fn fetched(&self, end: End) {
        self.fetches.get(end).inc();
    }
}

/// Every series of a node, as it is at the start.
pub fn series() -> Registry {
    let mut registry = Registry::default();
    Metrics::default().register(&mut registry);
    registry
}

/// The pages of a node.
pub(crate) struct Page {
    actors: Arc<Actors>,
    registry: Registry,
    stop: CancellationToken,
}

impl Page {
    pub(crate) fn new(actors: Arc<Actors>, workers: u32, stop: CancellationToken) -> Self {
        let (metrics, mut registry) = (&actors.core().metrics, Registry::default());
        metrics.register(&mut registry);
        metrics.workers.set(workers.into());
        Self { actors, registry, stop }
    }
}

impl Watched for Page {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn unready(&self) -> Option<&'static str> {
        if self.stop.is_cancelled() {
            Some("shutting down")
        } else if self.actors.core().metrics.session_up.get() == 0 {
            Some("no session with the control plane")
        } else {
            None
        }
    }

    async fn look(&self) {
        let core = self.actors.core();
        let metrics = &core.metrics;
        let set = |gauge: &Gauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        let held = core.snapshots.held();
        set(&metrics.workers_used, core.slots.used().into());
        set(&metrics.snapshots, held.count);
        set(&metrics.snapshot_bytes, held.bytes);
        set(&metrics.snapshot_disk_bytes, held.disk);
        set(&metrics.disk_free_bytes, core.snapshots.free().unwrap_or_default());
        set(&metrics.image_bytes, core.images.bytes());
        let uploads = core.uploads.list();
        set(&metrics.uploads_under_way, uploads.len() as u64);
        let left = uploads.iter().map(|u| u.total_bytes.saturating_sub(u.done_bytes)).sum();
        set(&metrics.upload_bytes_left, left);
    }
}

#[cfg(test)]
mod tests {
    use reveille_api::metrics::exposition;

    use super::*;

    #[test]
    fn every_series_is_there_from_the_start_as_zero() {
        let (_, text) = exposition(&series(), None);
        for series in [
            "reveille_node_activations_total{from=\"clone\"} 0",
            "reveille_node_activation_failures_total{from=\"snapshot\",reason=\"snapshot_corrupt\"} 0",
            "reveille_node_suspends_total{outcome=\"lost\"} 0",
            "reveille_node_store_seconds_count{operation=\"put\"} 0",
            "reveille_node_snapshot_bytes 0",
        ] {
            assert!(text.contains(series), "{series} is missing in\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.ends_with(" 0") || line.ends_with(" 0.0"), "{line}");
        }
    }
}
