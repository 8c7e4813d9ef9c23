//! An actor's timers: the deadline of its state, and its idle time.

use std::time::Duration;

use reveille_api::manifest::ActorTemplateSpec;
use tokio::time::Instant;

use crate::{config::Timings, lifecycle::Deadline, record::Phases};

/// Beyond the node's own deadline: what its answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// What is pending.
#[derive(Debug, Default)]
pub(super) struct Timers {
    deadline: Option<(Deadline, Instant)>,
    /// When to look whether it is idle.
    pub(super) idle: Option<Instant>,
    /// Of the last wake.
    pub(super) phases: Phases,
    /// Whether that was a clone of the template's golden snapshot.
    pub(super) cloned: bool,
}

/// What deadlines are made from.
pub(super) struct Limits<'a> {
    pub(super) template: &'a ActorTemplateSpec,
    pub(super) timings: &'a Timings,
    pub(super) placed_at: Option<Instant>,
    pub(super) last_waiter: Option<Instant>,
}

impl Limits<'_> {
    /// Callers are answered after the template's wake timeout. The activation itself may take as much longer as its
    /// readiness may, so that what is slow, and not stuck, serves the next request. How long it waited for a worker
    /// does not count.
    pub(super) fn start(&self) -> Instant {
        let begun = self.placed_at.unwrap_or_else(Instant::now);
        begun + self.template.wake.timeout + self.template.readiness.timeout
    }

    fn of(&self, deadline: &Deadline) -> Instant {
        let now = Instant::now();
        match deadline {
            Deadline::Place => {
                let own = now + self.template.wake.timeout;
                self.last_waiter.map_or(own, |last| last.max(now))
            }
            Deadline::Start(_) => self.start(),
            // The drain itself has a deadline; this one is for the case that it does not keep it.
            Deadline::Drain(..) => {
                now + self.template.drain.timeout + self.timings.ack + self.timings.settle + ANSWER
            }
            // It takes milliseconds. A node that is silent is given up before, and may come back with it.
            Deadline::Freeze(..) => now + self.timings.node_grace + ANSWER,
            Deadline::Checkpoint(..) => now + self.timings.checkpoint + ANSWER,
            Deadline::Purge => now + self.timings.purge,
        }
    }
}

impl Timers {
    /// Follows the state: a deadline that is still the same goes on.
    pub(super) fn arm(&mut self, deadline: Option<Deadline>, limits: &Limits<'_>) {
        let same = self.deadline.as_ref().map(|(deadline, _)| deadline) == deadline.as_ref();
        if !same {
            self.deadline = deadline.map(|deadline| {
                let when = limits.of(&deadline);
                (deadline, when)
            });
        }
    }

    /// Somebody has joined the wait for a worker, and has until then.
    pub(super) fn extend_placing(&mut self, until: Instant) {
        if let Some((Deadline::Place, when)) = &mut self.deadline {
            *when = until.max(*when);
        }
    }

    /// When the deadline is.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline.as_ref().map(|(_, when)| *when)
    }

    /// The deadline, once it has passed.
    pub(super) fn passed(&mut self, now: Instant) -> Option<Deadline> {
        let passed = self.deadline.take_if(|(_, when)| *when <= now);
        passed.map(|(deadline, _)| deadline)
    }

    pub(super) fn idle_is_due(&self, now: Instant) -> bool {
        self.idle.is_some_and(|when| when <= now)
    }

    /// The first of all.
    pub(super) fn next(&self, first_waiter: Option<Instant>) -> Option<Instant> {
        let deadline = self.deadline.as_ref().map(|(_, when)| *when);
        deadline.into_iter().chain(self.idle).chain(first_waiter).min()
    }
}

pub(super) async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
