//! How long to wait before Envoy is started again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
/// A run of this length was a good one.
const STABLE: Duration = Duration::from_secs(30);

/// Counts the short runs in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    short_runs: u32,
}

impl Backoff {
    /// After a run of this length: how long to wait, and how many short runs there were in a row.
    pub(super) fn next(&mut self, ran: Duration) -> (Duration, u32) {
        if ran >= STABLE {
            self.short_runs = 0;
        }
        let wait = FIRST.saturating_mul(2u32.saturating_pow(self.short_runs)).min(LONGEST);
        self.short_runs = self.short_runs.saturating_add(1);
        (wait, self.short_runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_runs_are_waited_after_longer_and_longer_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..100).map(|_| backoff.next(Duration::ZERO).0).collect();
        assert_eq!(waits[..3], [FIRST, 2 * FIRST, 4 * FIRST]);
        assert_eq!(waits[99], LONGEST);
        assert!(waits.is_sorted());
    }

    #[test]
    fn a_stable_run_makes_the_next_start_quick() {
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            backoff.next(Duration::ZERO);
        }
        assert_eq!(backoff.next(STABLE), (FIRST, 1));
    }
}
