//! Two clocks: one that only grows, for what is compared, and the wall's, for what people read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Milliseconds since this process made its [`Clock`]. Means nothing to another process.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// This long after it.
    #[must_use]
    pub fn plus(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(millis(wait)))
    }

    /// This long before it, or the clock's start.
    #[must_use]
    pub fn minus(self, wait: Duration) -> Self {
        Self(self.0.saturating_sub(millis(wait)))
    }

    /// Time from `earlier` to this; nothing when it is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Tells moments, in a way that tests can pause.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock {
    /// Moments before the first are told apart too: an actor may have been idle since before this process.
    const BEFORE: Duration = Duration::from_secs(365 * 24 * 3600);

    /// This moment.
    pub fn now(&self) -> Moment {
        Moment(millis(self.start.elapsed() + Self::BEFORE))
    }

    /// The moment of a timer.
    pub fn moment(&self, when: Instant) -> Moment {
        Moment(millis(when.saturating_duration_since(self.start) + Self::BEFORE))
    }

    /// When `moment` is, for a timer.
    pub fn instant(&self, moment: Moment) -> Instant {
        self.start + Duration::from_millis(moment.0).saturating_sub(Self::BEFORE)
    }
}

/// The wall's clock in milliseconds since 1970.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whole microseconds.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
