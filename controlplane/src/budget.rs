//! Wake budgets: how many wakes a namespace may begin in a minute.
//!
//! A token bucket for each namespace that has begun one lately: as many at once as in a minute, and then one each time
//! that a minute's share of time has passed. Kept in memory: after a restart of the control plane every bucket is full.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reveille_api::{Failure, Reason};

use crate::{
    clock::{Clock, Moment},
    lifecycle::NoWake,
};

const MINUTE: Duration = Duration::from_secs(60);
/// Above this many buckets, those that are full again are forgotten.
const BUCKETS: usize = 4_096;

/// See the module.
#[derive(Debug)]
pub struct Budget {
    /// Wakes in a minute; 0 is no limit.
    wakes: u32,
    clock: Clock,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    /// What is spent of it, as the time it takes to come back.
    spent: Duration,
    at: Moment,
    /// It was told that nothing is left.
    told: bool,
}

impl Budget {
    /// Every namespace may begin `wakes` in a minute, or any number, if it is 0.
    pub fn new(wakes: u32, clock: Clock) -> Self {
        Self { wakes, clock, buckets: Mutex::default() }
    }

    /// Takes one wake out of the namespace's budget.
    pub(crate) fn take(&self, namespace: &str) -> Result<(), NoWake> {
        let Some(each) = MINUTE.checked_div(self.wakes) else { return Ok(()) };
        let now = self.clock.now();
        let mut buckets = self.lock();
        if buckets.len() >= BUCKETS {
            buckets.retain(|_, bucket| !bucket.left(now).is_zero());
        }
        let bucket = buckets.entry(namespace.to_owned()).or_insert_with(|| Bucket {
            spent: Duration::ZERO,
            at: now,
            told: false,
        });
        bucket.spent = bucket.left(now);
        bucket.at = now;
        let after = bucket.spent + each;
        if let Some(failure) = self.refusal(after) {
            let news = !std::mem::replace(&mut bucket.told, true);
            return Err(NoWake { failure, news });
        }
        bucket.spent = after;
        bucket.told = false;
        Ok(())
    }

    /// What a wake of this namespace would be refused with now.
    pub(crate) fn refuses(&self, namespace: &str) -> Option<NoWake> {
        let each = MINUTE.checked_div(self.wakes)?;
        let spent = self.lock().get(namespace)?.left(self.clock.now());
        let failure = self.refusal(spent + each)?;
        Some(NoWake { failure, news: false })
    }

    /// When so much would be spent.
    fn refusal(&self, after: Duration) -> Option<Failure> {
        // A division of a minute by a count is rounded down: all of them fit.
        let over = after.checked_sub(MINUTE).filter(|over| !over.is_zero())?;
        let wakes = self.wakes;
        let message =
            format!("the namespace has begun its {wakes} wakes of a minute (--wake-budget)");
        let mut failure = Failure::new(Reason::QuotaExceeded, message);
        failure.retry_after = Some(over);
        Some(failure)
    }

    /// Gives one back that was not begun after all.
    pub(crate) fn give_back(&self, namespace: &str) {
        let Some(each) = MINUTE.checked_div(self.wakes) else { return };
        if let Some(bucket) = self.lock().get_mut(namespace) {
            bucket.spent = bucket.spent.saturating_sub(each);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    /// What is spent of it still.
    fn left(&self, now: Moment) -> Duration {
        self.spent.saturating_sub(now.since(self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_minutes_wakes_may_come_at_once_and_then_one_at_a_time() {
        let budget = Budget::new(6, Clock::default());
        for _ in 0..6 {
            assert_eq!(budget.take("demo"), Ok(()));
        }
        assert_eq!(budget.refuses("other"), None);
        let refuses = budget.refuses("demo").unwrap();
        let refused = budget.take("demo").unwrap_err();
        assert_eq!(refused.failure.reason, Reason::QuotaExceeded);
        assert_eq!(refuses.failure, refused.failure);
        assert_eq!((refused.failure.retry_after, refused.news), (Some(10 * S), true));
        assert_eq!(budget.take("other"), Ok(()));
        tokio::time::advance(4 * S).await;
        let refused = budget.take("demo").unwrap_err();
        assert_eq!((refused.failure.retry_after, refused.news), (Some(6 * S), false));
        tokio::time::advance(6 * S).await;
        assert_eq!(budget.take("demo"), Ok(()));
        assert!(budget.take("demo").unwrap_err().news, "it was told of another time");
        tokio::time::advance(600 * S).await;
        for _ in 0..6 {
            assert_eq!(budget.take("demo"), Ok(()), "no more than a minute's is saved up");
        }
        assert!(budget.take("demo").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_is_none_and_what_was_not_begun_is_given_back() {
        let none = Budget::new(0, Clock::default());
        assert!((0..1_000).all(|_| none.take("demo").is_ok()));
        let budget = Budget::new(1, Clock::default());
        for _ in 0..3 {
            assert_eq!(budget.take("demo"), Ok(()));
            budget.give_back("demo");
        }
        for n in [7, 59, 61, 1_000_000] {
            let budget = Budget::new(n, Clock::default());
            assert!((0..n).all(|_| budget.take("demo").is_ok()), "{n}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn full_buckets_are_forgotten() {
        let budget = Budget::new(60, Clock::default());
        for n in 0..2 * BUCKETS {
            budget.take(&format!("n{n}")).unwrap();
            if n == BUCKETS - 1 {
                tokio::time::advance(2 * S).await;
            }
        }
        assert!(budget.lock().len() <= BUCKETS);
    }
}
