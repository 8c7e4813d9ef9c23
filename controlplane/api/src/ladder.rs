//! The one ladder of timeouts, and the limits that must stand above one another.
//!
//! ```text
//!  a request    stream idle timeout  >  ext_proc timeout  >  park budget  >  wake deadline  ≥  a template's
//!               stream idle timeout  >  connect timeout
//!  a stop       drain deadline  ≥  park budget
//!               grace  >  the time in which Envoy notices, or no grace at all
//!  limits       Envoy's circuit breakers  >  parking capacity
//! ```
//!
//! [`Ladder::rungs`] is that table: the same rows are checked when a ladder is made and printed by
//! `reveille router --explain-timeouts`.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};

/// Added above the park budget, so that the router's own answer always comes before Envoy's.
const EXT_PROC_MARGIN: Duration = Duration::from_secs(5);
/// A WebSocket or an event stream must say something this often.
const STREAM_IDLE: Duration = Duration::from_secs(60 * 60);
/// An endpoint that does not serve refuses at once, so only a lost machine is waited for; but a thousand requests
/// released by one wake can overrun the actor's queue, and a first packet dropped there is sent again after
/// 1 s and 3 s.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a router that stops is still chosen, and serves.
const GRACE: Duration = Duration::from_secs(3);
/// How an Envoy with several routers asks each whether it serves.
pub const HEALTH: Health =
    Health { interval: Duration::from_millis(500), timeout: Duration::from_secs(1), failures: 2 };

/// Timeouts and limits that depend on each other. Made only by [`Ladder::new`] and what changes it: all of them
/// check every rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ladder {
    wake: Duration,
    park: Duration,
    drain: Duration,
    grace: Duration,
    stream_idle: Duration,
    max_parked: u32,
    max_requests: u32,
}

/// Health checks of the routers by an Envoy that has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// From one check to the next.
    pub interval: Duration,
    /// For one answer.
    pub timeout: Duration,
    /// In a row, until a router is given no more requests.
    pub failures: u32,
}

/// One value of the ladder, and what it must stand above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rung {
    /// What it is.
    pub name: &'static str,
    /// How much.
    pub value: Value,
    /// The flag or field it comes from.
    pub from: &'static str,
    /// The part that keeps to it.
    pub kept_by: &'static str,
    /// What it must stand above.
    pub above: Vec<Above>,
}

/// Why one rung stands above another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Above {
    /// The lower one.
    pub name: &'static str,
    /// Its value.
    pub value: Value,
    /// Whether both may be the same.
    pub or_equal: bool,
    /// What would go wrong otherwise.
    pub why: &'static str,
}

/// A time or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// A time.
    Time(Duration),
    /// A number.
    Count(u32),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => humantime::format_duration(*time).fmt(f),
            Self::Count(count) => count.fmt(f),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Time(_) => serializer.collect_str(self),
            Self::Count(count) => serializer.serialize_u32(*count),
        }
    }
}

/// Two rungs stand the wrong way round.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {upper} ({upper_value}) must {relation} the {lower} ({lower_value}): raise the first or lower the second"
)]
pub struct Inverted {
    upper: &'static str,
    upper_value: Value,
    relation: &'static str,
    lower: &'static str,
    lower_value: Value,
}

impl Ladder {
    /// Checks the values configured: `wake` is the greatest wake deadline a template may have, `park` the greatest time a request may
    /// wait, `max_parked` the requests that may wait on one router, and `max_requests` what Envoy lets
    /// through to the router at a time.
    pub fn new(
        wake: Duration,
        park: Duration,
        max_parked: u32,
        max_requests: u32,
    ) -> Result<Self, Inverted> {
        // Both may be raised later.
        let (drain, stream_idle) = (park, STREAM_IDLE);
        Self { wake, park, drain, grace: GRACE, stream_idle, max_parked, max_requests }.checked()
    }

    /// With another time for what is in flight at a stop.
    pub fn with_drain(self, drain: Duration) -> Result<Self, Inverted> {
        Self { drain, ..self }.checked()
    }

    /// With another time in which a stopping part still takes requests; nothing where nobody takes over.
    pub fn with_grace(self, grace: Duration) -> Result<Self, Inverted> {
        Self { grace, ..self }.checked()
    }

    /// With another limit of silence on a stream.
    pub fn with_stream_idle(self, stream_idle: Duration) -> Result<Self, Inverted> {
        Self { stream_idle, ..self }.checked()
    }

    /// Deadline of one wake.
    pub fn wake(&self) -> Duration {
        self.wake
    }

    /// Longest time a request waits in the router.
    pub fn park(&self) -> Duration {
        self.park
    }

    /// Envoy's `message_timeout` of ext_proc.
    pub fn ext_proc(&self) -> Duration {
        self.park + EXT_PROC_MARGIN
    }

    /// Longest silence on a stream.
    pub fn stream_idle(&self) -> Duration {
        self.stream_idle
    }

    /// Limit of one connection attempt of Envoy to an actor.
    pub fn connect(&self) -> Duration {
        CONNECT
    }

    /// How long a router that stops waits for what it has in flight or parked.
    pub fn drain(&self) -> Duration {
        self.drain
    }

    /// How long a router that stops says that it is not ready, and still takes requests.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Requests that may wait on one router.
    pub fn max_parked(&self) -> u32 {
        self.max_parked
    }

    /// Envoy's circuit breakers: requests, connections and pending requests of each cluster.
    pub fn max_requests(&self) -> u32 {
        self.max_requests
    }

    /// Every rung, each before those it must stand above.
    pub fn rungs(&self) -> Vec<Rung> {
        use Value::{Count, Time};
        let park = ("park budget", Time(self.park));
        let idle = ("stream idle timeout", Time(self.stream_idle));
        let ext_proc = ("ext_proc timeout", Time(self.ext_proc()));
        let wake = ("wake deadline", Time(self.wake));
        let connect = ("connect timeout", Time(CONNECT));
        let parked = ("parking capacity", Count(self.max_parked));
        let noticed = ("time until Envoy notices", Time(HEALTH.noticed()));
        let of = Rung::new;
        vec![
            of(idle, "--stream-idle", "Envoy")
                .above(ext_proc, "or Envoy would end a parked request, on which nothing moves")
                .above(connect, "or Envoy would end a request that is being connected"),
            of(ext_proc, "--park and 5s", "Envoy").above(
                park,
                "or Envoy's answer would come before the router's, which knows the reason",
            ),
            of(park, "--park", "router")
                .above(wake, "or nobody would be left when a wake ends just in time"),
            of(wake, "--wake", "control plane"),
            of(connect, "fixed", "Envoy"),
            of(("drain deadline", Time(self.drain)), "--drain", "router")
                .not_below(park, "or a stop would cut requests that may still be answered"),
            of(("grace", Time(self.grace)), "--grace", "router").above_unless_zero(
                noticed,
                "or a router would go while Envoys still choose it (0s: there is no other one)",
            ),
            of(noticed, "fixed", "Envoy"),
            of(("circuit breakers", Count(self.max_requests)), "--max-requests", "Envoy")
                .above(parked, "or parked requests would keep those to running actors out"),
            of(parked, "--max-parked", "router"),
        ]
    }

    /// Whether a template may ask for these.
    pub fn admit(&self, wake: Duration, park: Duration) -> Result<(), Inverted> {
        use Value::Time;
        let asked = |name, value| (name, Time(value));
        let limits = [
            (("wake deadline", Time(self.wake)), asked("template's spec.wake.timeout", wake)),
            (("park budget", Time(self.park)), asked("template's spec.wake.park", park)),
        ];
        let rungs = limits.map(|(own, asked)| Rung::new(own, "", "").not_below(asked, ""));
        rungs.iter().find_map(Rung::inverted).map_or(Ok(()), Err)
    }

    fn checked(self) -> Result<Self, Inverted> {
        self.rungs().iter().find_map(Rung::inverted).map_or(Ok(self), Err)
    }
}

impl Health {
    /// Longest time from the moment a router says that it does not serve until no request is sent to it.
    pub fn noticed(&self) -> Duration {
        self.interval * self.failures + self.timeout
    }
}

impl Rung {
    fn new((name, value): (&'static str, Value), from: &'static str, by: &'static str) -> Self {
        Self { name, value, from, kept_by: by, above: Vec::new() }
    }

    fn above(self, lower: (&'static str, Value), why: &'static str) -> Self {
        self.over(lower, false, why)
    }

    fn not_below(self, lower: (&'static str, Value), why: &'static str) -> Self {
        self.over(lower, true, why)
    }

    fn above_unless_zero(self, lower: (&'static str, Value), why: &'static str) -> Self {
        if self.value == Value::Time(Duration::ZERO) { self } else { self.above(lower, why) }
    }

    fn over(mut self, lower: (&'static str, Value), or_equal: bool, why: &'static str) -> Self {
        self.above.push(Above { name: lower.0, value: lower.1, or_equal, why });
        self
    }

    fn inverted(&self) -> Option<Inverted> {
        let above = self.above.iter().find(|above| {
            self.value < above.value || !above.or_equal && self.value == above.value
        })?;
        Some(Inverted {
            upper: self.name,
            upper_value: self.value,
            relation: if above.or_equal { "not be less than" } else { "be greater than" },
            lower: above.name,
            lower_value: above.value,
        })
    }
}

/// 20 s to wake, 30 s parked (the design's template defaults); 10,000 parked under 65,536 requests.
impl Default for Ladder {
    fn default() -> Self {
        let park = Duration::from_secs(30);
        Self {
            wake: Duration::from_secs(20),
            park,
            drain: park,
            grace: GRACE,
            stream_idle: STREAM_IDLE,
            max_parked: 10_000,
            max_requests: 65_536,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn an_inverted_ladder_is_refused_with_both_values() {
        let default = Ladder::default();
        let cases = [
            (Ladder::new(30 * S, 20 * S, 10, 100), ["park budget (20s)", "wake deadline (30s)"]),
            (
                Ladder::new(10 * S, 20 * S, 100, 100),
                ["circuit breakers (100)", "parking capacity (100)"],
            ),
            (
                default.with_stream_idle(35 * S),
                ["stream idle timeout (35s)", "ext_proc timeout (35s)"],
            ),
            (
                Ladder::new(20 * S, 3600 * S, 10, 100),
                ["stream idle timeout (1h)", "ext_proc timeout (1h 5s)"],
            ),
            (default.with_drain(29 * S), ["drain deadline (29s)", "park budget (30s)"]),
            (default.with_grace(2 * S), ["grace (2s)", "time until Envoy notices (2s)"]),
        ];
        for (ladder, named) in cases {
            let error = ladder.unwrap_err().to_string();
            assert!(named.iter().all(|value| error.contains(value)), "{error}");
        }
    }

    #[test]
    fn a_template_may_not_ask_for_more_than_the_ladder_has() {
        let ladder = Ladder::default();
        assert!(ladder.admit(ladder.wake(), ladder.park()).is_ok());
        let error = ladder.admit(21 * S, 30 * S).unwrap_err().to_string();
        assert!(error.contains("wake deadline (20s)") && error.contains("(21s)"), "{error}");
        assert!(ladder.admit(S, 31 * S).is_err());
    }

    #[test]
    fn equal_values_stand_only_where_that_is_allowed_and_no_grace_is_no_inversion() {
        let default = Ladder::default();
        assert!(default.with_drain(default.park()).is_ok());
        assert!(Ladder::new(S, S, 10, 100).is_err());
        assert!(default.with_grace(Duration::ZERO).is_ok());
    }

    #[test]
    fn the_default_stands_and_a_longer_park_budget_takes_the_drain_with_it() {
        let d = Ladder::default();
        assert_eq!(Ladder::new(d.wake, d.park, d.max_parked, d.max_requests), Ok(d));
        assert!(d.ext_proc() > d.park() && d.park() > d.wake());
        assert_eq!(Ladder::new(S, 50 * S, 10, 100).unwrap().drain(), 50 * S);
    }

    #[test]
    fn everything_that_a_rung_stands_above_is_a_rung() {
        let rungs = Ladder::default().rungs();
        for above in rungs.iter().flat_map(|rung| &rung.above) {
            let lower = rungs.iter().find(|rung| rung.name == above.name);
            assert_eq!(lower.map(|rung| rung.value), Some(above.value), "{}", above.name);
        }
    }
}
