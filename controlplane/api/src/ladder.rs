//! The one ladder of timeouts, and the limits that must stand above one another.

use std::time::Duration;

use serde::Serialize;

/// Added above the park budget, so that the router's own answer always comes before Envoy's.
const EXT_PROC_MARGIN: Duration = Duration::from_secs(5);

/// Timeouts and limits that depend on each other. Made only by [`Ladder::new`], which checks them.
///
/// ```text
///  Envoy's ext_proc message timeout  >  router's park budget  >  wake deadline
///  Envoy's circuit breakers          >  parking capacity
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ladder {
    wake: Duration,
    park: Duration,
    max_parked: u32,
    max_requests: u32,
}

/// Two rungs stand the wrong way round.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{upper} ({upper_value}) must be greater than {lower} ({lower_value}): raise the first or lower the second"
)]
pub struct Inverted {
    upper: &'static str,
    upper_value: String,
    lower: &'static str,
    lower_value: String,
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
        if park <= wake {
            return Err(Inverted {
                upper: "the park budget",
                upper_value: humantime::format_duration(park).to_string(),
                lower: "the wake deadline",
                lower_value: humantime::format_duration(wake).to_string(),
            });
        }
        if max_requests <= max_parked {
            return Err(Inverted {
                upper: "Envoy's circuit breaker",
                upper_value: max_requests.to_string(),
                lower: "the parking capacity",
                lower_value: max_parked.to_string(),
            });
        }
        Ok(Self { wake, park, max_parked, max_requests })
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

    /// Requests that may wait on one router.
    pub fn max_parked(&self) -> u32 {
        self.max_parked
    }

    /// Envoy's circuit breakers: requests, connections and pending requests of each cluster.
    pub fn max_requests(&self) -> u32 {
        self.max_requests
    }
}

/// 20 s to wake, 30 s parked (the design's template defaults); 10,000 parked under 65,536 requests.
impl Default for Ladder {
    fn default() -> Self {
        Self {
            wake: Duration::from_secs(20),
            park: Duration::from_secs(30),
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
        let error = Ladder::new(30 * S, 20 * S, 10, 100).unwrap_err().to_string();
        assert!(error.contains("20s") && error.contains("30s"), "{error}");
        let error = Ladder::new(10 * S, 20 * S, 100, 100).unwrap_err().to_string();
        assert!(error.contains("circuit breaker (100)"), "{error}");
    }

    #[test]
    fn the_default_stands() {
        let d = Ladder::default();
        assert_eq!(Ladder::new(d.wake, d.park, d.max_parked, d.max_requests), Ok(d));
        assert!(d.ext_proc() > d.park() && d.park() > d.wake());
    }
}
