//! Counters of the control plane. No label carries the name of an actor.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use reveille_api::Reason;

use crate::{
    lifecycle::{Cause, Note, Source},
    record::{LastWake, WokenBy},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: ReasonLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCause {
    cause: CauseLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPhase {
    phase: PhaseLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByService {
    service: ServiceLabel,
}

/// Whose calls they are: programs', node agents', routers', DNS servers', or those of a service of the servers' own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum ServiceLabel {
    Control,
    Nodes,
    Routers,
    Names,
    Other,
}

impl ServiceLabel {
    fn of(path: &str) -> Self {
        match path.strip_prefix("/reveille.v1.").and_then(|rest| rest.split('/').next()) {
            Some("Control") => Self::Control,
            Some("Nodes") => Self::Nodes,
            Some("Routers") => Self::Routers,
            Some("Names") => Self::Names,
            _ => Self::Other,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Kind {
    ColdStart,
    Cloned,
    Restored,
    PreviousSnapshot,
    ColdStartAfterFailure,
    Thawed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum CauseLabel {
    User,
    Shutdown,
    Idle,
    Pressure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum PhaseLabel {
    Place,
    Fetch,
    Restore,
    Ready,
    Total,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ReasonLabel(Reason);

impl EncodeLabelValue for ReasonLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0.name(), encoder)
    }
}

impl From<WokenBy> for Kind {
    fn from(kind: WokenBy) -> Self {
        match kind {
            WokenBy::ColdStart => Self::ColdStart,
            WokenBy::Cloned => Self::Cloned,
            WokenBy::Restored => Self::Restored,
            WokenBy::PreviousSnapshot => Self::PreviousSnapshot,
            WokenBy::ColdStartAfterFailure => Self::ColdStartAfterFailure,
            WokenBy::Thawed => Self::Thawed,
        }
    }
}

impl From<Cause> for CauseLabel {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::User => Self::User,
            Cause::Shutdown => Self::Shutdown,
            Cause::Idle(_) => Self::Idle,
            Cause::Pressure(_) => Self::Pressure,
        }
    }
}

fn seconds() -> Histogram {
    Histogram::new([0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0])
}

/// Everything that is counted. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    calls: Family<ByService, Counter>,
    wakes: Family<ByKind, Counter>,
    wake_failures: Family<ByReason, Counter>,
    wake_seconds: Family<ByPhase, Histogram, fn() -> Histogram>,
    freezes: Family<ByCause, Counter>,
    suspends: Family<ByCause, Counter>,
    suspends_cancelled: Counter,
    checkpoint_failures: Counter,
    losses: Counter,
    restore_fallbacks: Family<ByKind, Counter>,
    /// Wakes that wait for a worker.
    pub(crate) waiting: Gauge,
    /// Actors that are not at rest.
    pub(crate) active: Gauge,
    /// Snapshots on their way to the store.
    pub(crate) uploads: Gauge,
    /// Their bytes that are not there yet.
    pub(crate) upload_bytes: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("reveille_controlplane");
        let metrics = Self {
            calls: Family::default(),
            wakes: Family::default(),
            wake_failures: Family::default(),
            wake_seconds: Family::new_with_constructor(seconds),
            freezes: Family::default(),
            suspends: Family::default(),
            suspends_cancelled: Counter::default(),
            checkpoint_failures: Counter::default(),
            losses: Counter::default(),
            restore_fallbacks: Family::default(),
            waiting: Gauge::default(),
            active: Gauge::default(),
            uploads: Gauge::default(),
            upload_bytes: Gauge::default(),
            registry: Arc::default(),
        };
        let m = &metrics;
        registry.register("calls", "Calls that were begun, by service", m.calls.clone());
        registry.register("wakes", "Activations that came to serve", m.wakes.clone());
        registry.register("wake_failures", "Wakes that failed", m.wake_failures.clone());
        registry.register("wake_seconds", "Time of a wake, by phase", m.wake_seconds.clone());
        registry.register("freezes", "Freezes begun", m.freezes.clone());
        registry.register("suspends", "Ways down begun", m.suspends.clone());
        let help = "Ways down called off because the actor was wanted";
        registry.register("suspends_cancelled", help, m.suspends_cancelled.clone());
        let help = "Checkpoints that failed; the actors serve on";
        registry.register("checkpoint_failures", help, m.checkpoint_failures.clone());
        registry.register("losses", "Processes that were lost", m.losses.clone());
        let help = "Restores that failed and were replaced as the template allows";
        registry.register("restore_fallbacks", help, m.restore_fallbacks.clone());
        let help = "Wakes that wait for a worker";
        registry.register("wakes_waiting", help, m.waiting.clone());
        registry.register("actors_active", "Actors that are not at rest", m.active.clone());
        let help = "Snapshots on their way to the store";
        registry.register("uploads", help, m.uploads.clone());
        let help = "Bytes of them that are not there yet";
        registry.register("upload_bytes_left", help, m.upload_bytes.clone());
        // Series exist from the start, with zeros.
        for service in ["Control/", "Nodes/", "Routers/", "Names/", ""] {
            let path = &format!("/reveille.v1.{service}");
            drop(m.calls.get_or_create(&ByService { service: ServiceLabel::of(path) }));
        }
        for kind in [Kind::ColdStart, Kind::Cloned, Kind::Restored, Kind::Thawed] {
            drop(m.wakes.get_or_create(&ByKind { kind }));
        }
        for kind in [Kind::PreviousSnapshot, Kind::ColdStartAfterFailure] {
            drop(m.wakes.get_or_create(&ByKind { kind }));
            drop(m.restore_fallbacks.get_or_create(&ByKind { kind }));
        }
        for reason in Reason::ALL {
            drop(m.wake_failures.get_or_create(&ByReason { reason: ReasonLabel(*reason) }));
        }
        use CauseLabel::{Idle, Pressure, Shutdown, User};
        for cause in [User, Shutdown, Idle, Pressure] {
            drop(m.freezes.get_or_create(&ByCause { cause }));
            drop(m.suspends.get_or_create(&ByCause { cause }));
        }
        Self { registry: Arc::new(Mutex::new(registry)), ..metrics }
    }
}

impl Metrics {
    /// As Prometheus text.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string does not fail.
        let _ = text::encode(&mut out, &registry);
        out
    }

    /// A call of the gRPC method at this path has begun. A session is one call, however much it says.
    pub(crate) fn called(&self, path: &str) {
        self.calls.get_or_create(&ByService { service: ServiceLabel::of(path) }).inc();
    }

    pub(crate) fn woken(&self, wake: &LastWake) {
        self.wakes.get_or_create(&ByKind { kind: wake.kind.into() }).inc();
        let p = &wake.phases;
        for (phase, us) in [
            (PhaseLabel::Place, p.place_us),
            (PhaseLabel::Fetch, p.fetch_us),
            (PhaseLabel::Restore, p.restore_us),
            (PhaseLabel::Ready, p.ready_us),
            (PhaseLabel::Total, p.total_us),
        ] {
            let seconds = us as f64 / 1_000_000.0;
            self.wake_seconds.get_or_create(&ByPhase { phase }).observe(seconds);
        }
    }

    pub(crate) fn wake_failed(&self, reason: Reason) {
        self.wake_failures.get_or_create(&ByReason { reason: ReasonLabel(reason) }).inc();
    }

    pub(crate) fn note(&self, note: &Note) {
        match note {
            Note::FreezeStarted(cause) => {
                self.freezes.get_or_create(&ByCause { cause: (*cause).into() }).inc();
            }
            Note::SuspendStarted(cause) => {
                self.suspends.get_or_create(&ByCause { cause: (*cause).into() }).inc();
            }
            Note::SuspendCancelled => drop(self.suspends_cancelled.inc()),
            Note::CheckpointFailed(_) => drop(self.checkpoint_failures.inc()),
            Note::Lost(_) => drop(self.losses.inc()),
            Note::RestoreFailed { instead: Some(source), .. } => {
                let kind = match source {
                    Source::Previous(_) => Kind::PreviousSnapshot,
                    _ => Kind::ColdStartAfterFailure,
                };
                self.restore_fallbacks.get_or_create(&ByKind { kind }).inc();
            }
            _ => {}
        }
    }
}
