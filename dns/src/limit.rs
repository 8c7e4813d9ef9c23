//! How often a source is answered over UDP.
//!
//! ```text
//!  each /24 or /56 ─▶ one cell of a fixed table ─▶ under the rate, or a second's worth at once: answered
//!                                               └▶ above: every second one truncated, the others not at all
//! ```
//!
//! Who really is there comes by TCP when it is told that the answer was truncated; who is only named by a forger gets little.
//! Sources that share a cell share its rate: the table never grows, whatever addresses are made up. Where in the table a
//! source is, nobody outside can tell.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZero,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::time::Instant;

const CELLS: usize = 1 << 16;
const SECOND: u64 = 1_000_000_000;

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Answer,
    Truncate,
    Drop,
}

/// Replies a second for each prefix.
#[derive(Debug)]
pub(crate) struct RateLimit {
    /// When the cell is empty again, in nanoseconds since the start (GCRA).
    cells: Box<[AtomicU64]>,
    hasher: RandomState,
    start: Instant,
    /// Of one reply.
    cost: u64,
    over: AtomicU64,
}

impl RateLimit {
    pub(crate) fn new(per_second: NonZero<u32>, start: Instant) -> Self {
        Self {
            cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            start,
            cost: SECOND / u64::from(per_second.get()),
            over: AtomicU64::new(0),
        }
    }

    pub(crate) fn check(&self, from: IpAddr, now: Instant) -> Verdict {
        let now = u64::try_from((now - self.start).as_nanos()).unwrap_or(u64::MAX);
        let place = self.hasher.hash_one(prefix(from)) as usize % CELLS;
        let spent = self.cells[place].fetch_update(Ordering::Relaxed, Ordering::Relaxed, |empty| {
            let empty = empty.max(now) + self.cost;
            (empty - now <= SECOND).then_some(empty)
        });
        match spent {
            Ok(_) => Verdict::Answer,
            Err(_) if self.over.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => {
                Verdict::Truncate
            }
            Err(_) => Verdict::Drop,
        }
    }
}

/// What one forger could easily pretend to be, or one network really is.
pub(crate) fn prefix(from: IpAddr) -> u64 {
    match from.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8),
        IpAddr::V6(v6) => 1 << 63 | (v6.to_bits() >> 72) as u64,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_prefix_gets_its_rate_and_another_one_its_own() {
        let start = Instant::now();
        let limit = RateLimit::new(NonZero::new(10).unwrap(), start);
        let ask =
            |from: &str, ms| limit.check(from.parse().unwrap(), start + Duration::from_millis(ms));
        for _ in 0..10 {
            assert_eq!(ask("192.0.2.7", 0), Verdict::Answer);
        }
        // The whole prefix, in turns.
        assert_eq!(ask("192.0.2.7", 0), Verdict::Truncate);
        assert_eq!(ask("192.0.2.200", 0), Verdict::Drop);
        assert_eq!(ask("::ffff:192.0.2.7", 0), Verdict::Truncate);
        assert_eq!(ask("198.51.100.7", 0), Verdict::Answer);
        assert_eq!(ask("2001:db8::1", 0), Verdict::Answer);
        // A tenth of a second is one reply more, and no more.
        assert_eq!(ask("192.0.2.7", 100), Verdict::Answer);
        assert_ne!(ask("192.0.2.7", 100), Verdict::Answer);
        // After a second it is as at the start.
        let again = (0..20).filter(|_| ask("192.0.2.7", 1_200) == Verdict::Answer).count();
        assert_eq!(again, 10);
    }
}
