//! What is counted. Every series exists from the start, and no label carries the name of an actor or a client.

use std::time::Duration;

use reveille_api::{
    Reason,
    metrics::{Closed, Counter, Gauge, Histogram, Label, Registry, durations},
    proto::{WakeKind, WakePhases},
};

use crate::parking::Limit;

reveille_api::labels! {
    /// Whether a request had to wait.
    pub(crate) enum Class "class" {
        Warm "warm",
        Cold "cold",
    }
}

reveille_api::labels! {
    /// A part of a wake.
    enum Phase "phase" {
        Total "total",
        Park "park",
        Place "place",
        Fetch "fetch",
        Restore "restore",
        Ready "ready",
    }
}

/// What became of a request here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Sent on to its actor.
    Routed,
    Refused(Reason),
    /// The caller left while it waited.
    Left,
}

impl Label for Outcome {
    const KEY: &'static str = "outcome";

    fn all() -> Vec<Self> {
        let refused = Reason::ALL.iter().copied().map(Self::Refused);
        [Self::Routed, Self::Left].into_iter().chain(refused).collect()
    }

    fn value(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Refused(reason) => reason.name(),
            Self::Left => "left",
        }
    }
}

impl Label for Limit {
    const KEY: &'static str = "limit";

    fn all() -> Vec<Self> {
        vec![Self::Router, Self::Namespace, Self::Actor]
    }

    fn value(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Namespace => "namespace",
            Self::Actor => "actor",
        }
    }
}

/// How a wake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WakeEnd {
    Bound,
    /// Revoked before its reply arrived, and nobody waited any more.
    Dropped,
    Failed(Reason),
}

impl Label for WakeEnd {
    const KEY: &'static str = "outcome";

    fn all() -> Vec<Self> {
        let failed = Reason::ALL.iter().copied().map(Self::Failed);
        [Self::Bound, Self::Dropped].into_iter().chain(failed).collect()
    }

    fn value(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::Dropped => "dropped",
            Self::Failed(reason) => reason.name(),
        }
    }
}

/// Handles to every series; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: Closed<(Class, Outcome), Counter>,
    /// The one every warm request counts: resolved beforehand.
    warm_routed: Counter,
    answers: Closed<Reason, Counter>,
    pub(crate) in_flight: Gauge,
    pub(crate) parked: Gauge,
    pub(crate) parking_places: Gauge,
    parking_refused: Closed<Limit, Counter>,
    pub(crate) wakes_started: Counter,
    pub(crate) wakes_joined: Counter,
    /// Asked again because the reply was revoked before it arrived.
    pub(crate) wakes_stale: Counter,
    wakes_ended: Closed<WakeEnd, Counter>,
    wake_seconds: Closed<(Phase, WakeKind), Histogram>,
    first_byte_seconds: Closed<WakeKind, Histogram>,
    pub(crate) bindings: Gauge,
    pub(crate) not_connected: Counter,
    pub(crate) revokes: Counter,
    pub(crate) revokes_in_flight: Gauge,
    pub(crate) revoke_ack_seconds: Histogram,
    pub(crate) session_up: Gauge,
    pub(crate) sessions: Counter,
}

impl Metrics {
    /// Makes all series and registers them.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let requests = Closed::<(Class, Outcome), Counter>::default();
        let metrics = Self {
            warm_routed: requests.get((Class::Warm, Outcome::Routed)).clone(),
            requests,
            answers: Closed::default(),
            in_flight: Gauge::default(),
            parked: Gauge::default(),
            parking_places: Gauge::default(),
            parking_refused: Closed::default(),
            wakes_started: Counter::default(),
            wakes_joined: Counter::default(),
            wakes_stale: Counter::default(),
            wakes_ended: Closed::default(),
            wake_seconds: Closed::new(durations),
            first_byte_seconds: Closed::new(durations),
            bindings: Gauge::default(),
            not_connected: Counter::default(),
            revokes: Counter::default(),
            revokes_in_flight: Gauge::default(),
            revoke_ack_seconds: durations(),
            session_up: Gauge::default(),
            sessions: Counter::default(),
        };
        metrics.register(registry.sub_registry_with_prefix("reveille_router"));
        metrics
    }

    #[rustfmt::skip]
    fn register(&self, r: &mut Registry) {
        r.register("requests", "Requests by whether they had to wait and what became of them in the router", self.requests.clone());
        let help = "Answers that were not the actor's own, by the router or by Envoy itself, as Envoy tells them";
        r.register("answers", help, self.answers.clone());
        r.register("requests_in_flight", "Requests at actors now", self.in_flight.clone());
        r.register("requests_parked", "Requests waiting for a wake now", self.parked.clone());
        r.register("parking_places", "Requests that may wait for a wake at a time", self.parking_places.clone());
        r.register("parking_refused", "Requests refused because a parking limit was reached", self.parking_refused.clone());
        r.register("wakes_started", "Wakes begun; who comes late may have one asked again, which is not counted", self.wakes_started.clone());
        r.register("wakes_joined", "Requests that joined a wake under way", self.wakes_joined.clone());
        r.register("wakes_stale", "Wakes asked for again because their binding was revoked before it arrived", self.wakes_stale.clone());
        r.register("wakes_ended", "Wakes by how they ended, for the last who waited", self.wakes_ended.clone());
        r.register("wake_duration_seconds", "Wakes by phase, from the first request to the binding", self.wake_seconds.clone());
        let help = "After a wake, from the request's way to its actor to the first byte of the answer; of the request that began it";
        r.register("first_byte_seconds", help, self.first_byte_seconds.clone());
        r.register("bindings", "Actors bound now", self.bindings.clone());
        let help = "Requests that came again because they could not be connected to their actor";
        r.register("not_connected", help, self.not_connected.clone());
        reveille_api::telemetry::register(r);
        r.register("revokes", "Bindings the control plane took back", self.revokes.clone());
        r.register("revokes_in_flight", "Revokes not acknowledged yet", self.revokes_in_flight.clone());
        r.register("revoke_ack_seconds", "From a revoke to its acknowledgement", self.revoke_ack_seconds.clone());
        r.register("control_plane_session_up", "1 while the session with the control plane stands", self.session_up.clone());
        r.register("control_plane_sessions", "Sessions with the control plane that came to stand", self.sessions.clone());
    }

    pub(crate) fn warm_routed(&self) {
        self.warm_routed.inc();
    }

    pub(crate) fn request(&self, class: Class, outcome: Outcome) {
        self.requests.get((class, outcome)).inc();
    }

    /// A client got an answer with this reason.
    pub(crate) fn answered(&self, reason: Reason) {
        self.answers.get(reason).inc();
    }

    /// Of the request that began a wake.
    pub(crate) fn first_byte(&self, kind: WakeKind, took: Duration) {
        self.first_byte_seconds.get(kind).observe(took.as_secs_f64());
    }

    pub(crate) fn parking_refused(&self, limit: Limit) {
        self.parking_refused.get(limit).inc();
    }

    pub(crate) fn wake_ended(&self, outcome: WakeEnd) {
        self.wakes_ended.get(outcome).inc();
    }

    /// A wake that took `total` as seen here. `park` is what the control plane's phases do not explain.
    pub(crate) fn wake_took(&self, kind: WakeKind, total: Duration, phases: &WakePhases) {
        let told = [phases.place_us, phases.fetch_us, phases.restore_us, phases.ready_us];
        let told = told.map(Duration::from_micros);
        let park = total.saturating_sub(told.iter().sum());
        let kind = if kind == WakeKind::Unspecified { WakeKind::None } else { kind };
        for (phase, took) in Phase::all().into_iter().zip([total, park].into_iter().chain(told)) {
            self.wake_seconds.get((phase, kind)).observe(took.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use reveille_api::metrics::exposition;

    use super::*;

    #[test]
    fn every_series_is_there_from_the_start_as_zero() {
        let mut registry = Registry::default();
        Metrics::new(&mut registry);
        let text = exposition(&registry, None).1;
        for series in [
            "reveille_router_requests_total{class=\"warm\",outcome=\"routed\"} 0",
            "reveille_router_requests_total{class=\"cold\",outcome=\"wake_timeout\"} 0",
            "reveille_router_requests_parked 0",
            "reveille_router_parking_refused_total{limit=\"namespace\"} 0",
            "reveille_router_wakes_ended_total{outcome=\"restore_failed\"} 0",
            "reveille_router_answers_total{reason=\"upstream_reset\"} 0",
            "reveille_router_wake_duration_seconds_count{phase=\"restore\",kind=\"restored\"} 0",
            "reveille_router_wake_duration_seconds_count{phase=\"total\",kind=\"cloned\"} 0",
            "reveille_router_revoke_ack_seconds_count 0",
            "reveille_router_control_plane_session_up 0",
        ] {
            assert!(text.contains(series), "{series} is missing in\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.ends_with(" 0") || line.ends_with(" 0.0"), "{line}");
        }
    }

    #[test]
    fn the_phases_of_a_wake_add_up_to_its_total() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let phases = WakePhases { place_us: 500, restore_us: 60_000, ..Default::default() };
        metrics.wake_took(WakeKind::Restored, Duration::from_millis(62), &phases);
        let text = exposition(&registry, None).1;
        let sum = |phase: &str| -> f64 {
            let name = "reveille_router_wake_duration_seconds_sum";
            let series = format!("{name}{{phase=\"{phase}\",kind=\"restored\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
        };
        let parts = ["park", "place", "fetch", "restore", "ready"];
        let parts: f64 = parts.into_iter().map(sum).sum();
        assert!((sum("total") - parts).abs() < 1e-9);
        assert!((sum("park") - 0.0015).abs() < 1e-9);
    }
}
