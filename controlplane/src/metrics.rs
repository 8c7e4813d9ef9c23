//! What the control plane counts. No label carries the name of an actor.

use std::{sync::Arc, time::Duration};

use reveille_api::{
    Reason,
    metrics::{
        Closed, Counter, Gauge, Histogram, Label, Registry, durations, exposition, short_durations,
    },
    proto::{ActorState, WakeKind},
};

use crate::{
    lifecycle::{Cause, Note, Source},
    placement::{Status, WorkerView},
    record::LastWake,
    routers::Drained,
};

reveille_api::labels! {
    /// Whose calls they are: programs', node agents', routers', DNS servers', of those who look on, or those of a service of the servers' own.
    enum Service "service" {
        Control "control",
        Nodes "nodes",
        Routers "routers",
        Names "names",
        Overview "overview",
        Other "other",
    }
}

impl Service {
    fn of(path: &str) -> Self {
        match path.strip_prefix("/reveille.v1.").and_then(|rest| rest.split('/').next()) {
            Some("Control") => Self::Control,
            Some("Nodes") => Self::Nodes,
            Some("Routers") => Self::Routers,
            Some("Names") => Self::Names,
            Some("Overview") => Self::Overview,
            _ => Self::Other,
        }
    }
}

reveille_api::labels! {
    /// Why an actor goes down.
    enum Why "cause" {
        User "user",
        Shutdown "shutdown",
        Idle "idle",
        Pressure "pressure",
    }
}

impl From<Cause> for Why {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::User => Self::User,
            Cause::Shutdown => Self::Shutdown,
            Cause::Idle(_) => Self::Idle,
            Cause::Pressure(_) => Self::Pressure,
        }
    }
}

reveille_api::labels! {
    /// A part of a wake.
    enum Phase "phase" {
        Total "total",
        Place "place",
        Fetch "fetch",
        Restore "restore",
        Ready "ready",
    }
}

reveille_api::labels! {
    /// How a drain ended.
    enum Drain "outcome" {
        /// Every router has answered, and nothing is in flight.
        Done "done",
        /// Requests were still in flight at the deadline.
        InUse "in_use",
        /// A router did not answer.
        Silent "silent",
    }
}

reveille_api::labels! {
    /// Why a binding is taken back.
    enum Revoke "kind" {
        /// Its actor is to go down; requests in flight may end.
        Drain "drain",
        /// Its activation is no more.
        Gone "gone",
    }
}

reveille_api::labels! {
    /// What is done with the store.
    pub(crate) enum Operation "operation" {
        Commit "commit",
        Get "get",
        List "list",
    }
}

reveille_api::labels! {
    /// What a worker is busy with.
    pub(crate) enum Work "state" {
        Free "free",
        Reserved "reserved",
        Starting "starting",
        Serving "serving",
        Leaving "leaving",
        Cleaning "cleaning",
        /// No pool wants it.
        Unpooled "unpooled",
        /// Its node is not ready.
        Away "away",
    }
}

impl Work {
    pub(crate) fn of(worker: &WorkerView) -> Self {
        match worker.occupant.as_ref().map(|(_, _, status)| status) {
            _ if !worker.ready => Self::Away,
            None if worker.pool.is_none() => Self::Unpooled,
            None => Self::Free,
            Some(Status::Reserved) => Self::Reserved,
            Some(Status::Starting) => Self::Starting,
            Some(Status::Serving(_)) => Self::Serving,
            Some(Status::Leaving(_)) => Self::Leaving,
            Some(Status::Cleaning) => Self::Cleaning,
        }
    }
}

reveille_api::labels! {
    /// Whether a node is there.
    pub(crate) enum Presence "state" {
        Ready "ready",
        /// It has registered and is being asked what it has.
        Joining "joining",
        Away "away",
        /// Away for longer than the grace: what ran there is lost.
        Lost "lost",
    }
}

/// Everything that is counted. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    calls: Closed<Service, Counter>,
    wakes: Closed<WakeKind, Counter>,
    wake_failures: Closed<Reason, Counter>,
    wake_seconds: Closed<(Phase, WakeKind), Histogram>,
    freezes: Closed<Why, Counter>,
    suspends: Closed<Why, Counter>,
    suspends_cancelled: Counter,
    checkpoint_failures: Counter,
    losses: Counter,
    restore_failures: Closed<Reason, Counter>,
    restore_fallbacks: Closed<WakeKind, Counter>,
    revokes: Closed<Revoke, Counter>,
    drains: Closed<Drain, Counter>,
    drain_seconds: Histogram,
    store_seconds: Closed<Operation, Histogram>,
    store_failures: Closed<Operation, Counter>,
    pub(crate) store_conflicts: Counter,
    /// Wakes that wait for a worker.
    pub(crate) waiting: Gauge,
    /// Of all actors.
    pub(crate) actors: Closed<ActorState, Gauge>,
    pub(crate) workers: Closed<Work, Gauge>,
    pub(crate) nodes: Closed<Presence, Gauge>,
    /// Routers with a session.
    pub(crate) routers: Gauge,
    /// Snapshots on their way to the store.
    pub(crate) uploads: Gauge,
    /// Their bytes that are not there yet.
    pub(crate) upload_bytes: Gauge,
}

/// Every series of a control plane, as it is at the start.
pub fn series() -> Registry {
    let mut registry = Registry::default();
    Metrics::unregistered().register(&mut registry);
    registry
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let metrics = Self::unregistered();
        metrics.register(&mut registry);
        Self { registry: Arc::new(registry), ..metrics }
    }
}

impl Metrics {
    fn unregistered() -> Self {
        Self {
            calls: Closed::default(),
            wakes: Closed::default(),
            wake_failures: Closed::default(),
            wake_seconds: Closed::new(durations),
            freezes: Closed::default(),
            suspends: Closed::default(),
            suspends_cancelled: Counter::default(),
            checkpoint_failures: Counter::default(),
            losses: Counter::default(),
            restore_failures: Closed::default(),
            restore_fallbacks: Closed::default(),
            revokes: Closed::default(),
            drains: Closed::default(),
            drain_seconds: durations(),
            store_seconds: Closed::new(short_durations),
            store_failures: Closed::default(),
            store_conflicts: Counter::default(),
            waiting: Gauge::default(),
            actors: Closed::default(),
            workers: Closed::default(),
            nodes: Closed::default(),
            routers: Gauge::default(),
            uploads: Gauge::default(),
            upload_bytes: Gauge::default(),
            registry: Arc::default(),
        }
    }

    #[rustfmt::skip]
    fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("reveille_controlplane");
        r.register("calls", "Calls that were begun, by service", self.calls.clone());
        r.register("wakes", "Activations that came to serve", self.wakes.clone());
        r.register("wake_failures", "Wakes that failed", self.wake_failures.clone());
        r.register("wake_seconds", "Wakes by phase, from the call to the answer", self.wake_seconds.clone());
        r.register("wakes_waiting", "Wakes that wait for a worker now", self.waiting.clone());
        r.register("freezes", "Freezes begun", self.freezes.clone());
        r.register("suspends", "Ways down begun", self.suspends.clone());
        r.register("suspends_cancelled", "Ways down called off because the actor was wanted", self.suspends_cancelled.clone());
        r.register("checkpoint_failures", "Checkpoints that failed; the actors serve on", self.checkpoint_failures.clone());
        r.register("losses", "Processes that were lost", self.losses.clone());
        r.register("restore_failures", "Restores that failed, whatever was tried instead", self.restore_failures.clone());
        r.register("restore_fallbacks", "Restores that failed and were replaced as the template allows", self.restore_fallbacks.clone());
        r.register("revokes", "Bindings taken back from routers", self.revokes.clone());
        r.register("drains", "Drains by how they ended", self.drains.clone());
        r.register("drain_seconds", "From the revoke to the last router's acknowledgement, or the deadline", self.drain_seconds.clone());
        r.register("store_seconds", "What is done with the store of records; a commit with its sync, and the wait for those before it", self.store_seconds.clone());
        r.register("store_failures", "What the store of records could not do", self.store_failures.clone());
        r.register("store_conflicts", "Commits that did not find what they expected, and changed nothing", self.store_conflicts.clone());
        r.register("actors", "Actors by state", self.actors.clone());
        r.register("workers", "Workers by what they are busy with", self.workers.clone());
        r.register("nodes", "Nodes by whether they are there", self.nodes.clone());
        r.register("routers", "Routers with a session", self.routers.clone());
        r.register("uploads", "Snapshots on their way to the store", self.uploads.clone());
        r.register("upload_bytes_left", "Bytes of them that are not there yet", self.upload_bytes.clone());
        reveille_api::telemetry::register(r);
    }

    /// All of it.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// As Prometheus text.
    pub fn encode(&self) -> String {
        exposition(&self.registry, None).1
    }

    /// A call of the gRPC method at this path has begun. A session is one call, however much it says.
    pub(crate) fn called(&self, path: &str) {
        self.calls.get(Service::of(path)).inc();
    }

    pub(crate) fn woken(&self, wake: &LastWake) {
        let kind = WakeKind::from(wake.kind);
        self.wakes.get(kind).inc();
        let p = &wake.phases;
        for (phase, us) in [
            (Phase::Place, p.place_us),
            (Phase::Fetch, p.fetch_us),
            (Phase::Restore, p.restore_us),
            (Phase::Ready, p.ready_us),
            (Phase::Total, p.total_us),
        ] {
            let seconds = Duration::from_micros(us).as_secs_f64();
            self.wake_seconds.get((phase, kind)).observe(seconds);
        }
    }

    pub(crate) fn wake_failed(&self, reason: Reason) {
        self.wake_failures.get(reason).inc();
    }

    /// An activation is no more, and its binding with it.
    pub(crate) fn revoked(&self) {
        self.revokes.get(Revoke::Gone).inc();
    }

    /// A binding is taken back, and requests may end.
    pub(crate) fn draining(&self) {
        self.revokes.get(Revoke::Drain).inc();
    }

    pub(crate) fn drained(&self, drained: &Drained, took: Duration) {
        let outcome = match drained {
            Drained { silent: true, .. } => Drain::Silent,
            Drained { in_flight: 0, .. } => Drain::Done,
            Drained { .. } => Drain::InUse,
        };
        self.drains.get(outcome).inc();
        self.drain_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn stored(&self, operation: Operation, took: Duration, failed: bool) {
        self.store_seconds.get(operation).observe(took.as_secs_f64());
        if failed {
            self.store_failures.get(operation).inc();
        }
    }

    pub(crate) fn note(&self, note: &Note) {
        match note {
            Note::FreezeStarted(cause) => drop(self.freezes.get((*cause).into()).inc()),
            Note::SuspendStarted(cause) => drop(self.suspends.get((*cause).into()).inc()),
            Note::SuspendCancelled => drop(self.suspends_cancelled.inc()),
            Note::CheckpointFailed(_) => drop(self.checkpoint_failures.inc()),
            Note::Lost(_) => drop(self.losses.inc()),
            Note::RestoreFailed { instead, failure, .. } => {
                self.restore_failures.get(failure.reason).inc();
                let kind = match instead {
                    Some(Source::Previous(_)) => WakeKind::PreviousSnapshot,
                    Some(_) => WakeKind::ColdStartAfterFailure,
                    None => return,
                };
                self.restore_fallbacks.get(kind).inc();
            }
            _ => {}
        }
    }
}

/// Sets each gauge to the sum of what comes with its label.
pub(crate) fn count<L: Label>(
    gauges: &Closed<L, Gauge>,
    found: impl IntoIterator<Item = (L, i64)>,
) {
    let mut counts: Vec<(L, i64)> = L::all().into_iter().map(|label| (label, 0)).collect();
    for (label, more) in found {
        if let Some((_, count)) = counts.iter_mut().find(|(other, _)| *other == label) {
            *count += more;
        }
    }
    for (label, count) in counts {
        gauges.get(label).set(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_from_the_start_as_zero() {
        let text = Metrics::default().encode();
        for series in [
            "reveille_controlplane_wakes_total{kind=\"cloned\"} 0",
            "reveille_controlplane_wake_seconds_count{phase=\"fetch\",kind=\"restored\"} 0",
            "reveille_controlplane_restore_failures_total{reason=\"snapshot_corrupt\"} 0",
            "reveille_controlplane_drains_total{outcome=\"silent\"} 0",
            "reveille_controlplane_actors{state=\"paused\"} 0",
            "reveille_controlplane_workers{state=\"free\"} 0",
            "reveille_controlplane_store_seconds_count{operation=\"commit\"} 0",
        ] {
            assert!(text.contains(series), "{series} is missing in\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.ends_with(" 0") || line.ends_with(" 0.0"), "{line}");
        }
    }
}
