//! Who waits for an actor: to serve, or to be down.

use reveille_api::{Failure, proto, trace::Traceparent};
use tokio::{sync::oneshot, time::Instant};

use super::new_snapshot;
use crate::{
    lifecycle::{Asker, Cause, Event, Phase, StayedUp},
    record::Phases,
};

/// What somebody who waited for a wake gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// Where to send requests.
    pub binding: proto::Binding,
    /// Limits for the router.
    pub policy: proto::ActorPolicy,
    /// How long the wake took.
    pub phases: Phases,
    /// The span of that wake, if it is of another's trace and recorded.
    pub joined: Option<Traceparent>,
}

/// Somebody who waits for the actor to serve.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// Traffic or its user.
    pub(crate) asker: Asker,
    /// The router process that will hold the binding.
    pub(crate) router: Option<String>,
    /// Of the request's trace.
    pub(crate) traceparent: Option<Traceparent>,
    /// What Envoy calls the request.
    pub(crate) request_id: String,
    /// Where the answer goes.
    pub(crate) answer: oneshot::Sender<Result<Served, Failure>>,
}

/// Everybody who waits for the actor to serve.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    waiters: Vec<(Instant, Waiter)>,
}

impl Wakes {
    pub(crate) fn join(&mut self, waiter: Waiter, until: Instant) {
        self.waiters.push((until, waiter));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Those who have not left.
    pub(crate) fn count(&self) -> usize {
        self.waiters.iter().filter(|(_, waiter)| !waiter.answer.is_closed()).count()
    }

    /// Who came first.
    pub(crate) fn first(&self) -> Option<&Waiter> {
        self.waiters.first().map(|(_, waiter)| waiter)
    }

    /// On whose behalf: a user's word weighs more than traffic. Nothing when nobody waits.
    pub(crate) fn asker(&self) -> Option<Asker> {
        let user = self.waiters.iter().any(|(_, waiter)| waiter.asker == Asker::User);
        let asker = if user { Asker::User } else { Asker::Traffic };
        (!self.waiters.is_empty()).then_some(asker)
    }

    /// Of the first whose request has a trace.
    pub(crate) fn traceparent(&self) -> Option<Traceparent> {
        self.waiters.iter().find_map(|(_, waiter)| waiter.traceparent)
    }

    pub(crate) fn first_deadline(&self) -> Option<Instant> {
        self.waiters.iter().map(|(until, _)| *until).min()
    }

    pub(crate) fn last_deadline(&self) -> Option<Instant> {
        self.waiters.iter().map(|(until, _)| *until).max()
    }

    pub(crate) fn take(&mut self) -> Vec<Waiter> {
        self.waiters.drain(..).map(|(_, waiter)| waiter).collect()
    }

    /// Answers all of them. One who has gone does not mind.
    pub(crate) fn refuse(&mut self, failure: &Failure) {
        for waiter in self.take() {
            let _ = waiter.answer.send(Err(failure.clone()));
        }
    }

    /// Answers those who have waited for most of their time, until `most`. The others came when a wake was almost over, and
    /// wait for another one.
    pub(crate) fn refuse_early(&mut self, failure: &Failure, most: Instant) {
        for (_, waiter) in self.waiters.extract_if(.., |(until, _)| *until <= most) {
            let _ = waiter.answer.send(Err(failure.clone()));
        }
    }

    /// Answers those whose time is up, and tells with what.
    pub(crate) fn expire(&mut self, now: Instant, failure: impl Fn() -> Failure) {
        if self.first_deadline().is_none_or(|first| first > now) {
            return;
        }
        let failure = failure();
        for (_, waiter) in self.waiters.extract_if(.., |(until, _)| *until <= now) {
            let _ = waiter.answer.send(Err(failure.clone()));
        }
    }
}

/// What somebody wants an actor to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// Frozen.
    Freeze(Cause),
    /// Asleep.
    Suspend(Cause),
    /// Stopped.
    Stop,
    /// Gone.
    Delete,
}

/// Why it did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDown {
    /// It was used.
    #[error("it is in use: a request came in while it was going to sleep")]
    InUse,
    /// No snapshot could be taken.
    #[error("its checkpoint failed, it serves on: {0}")]
    CheckpointFailed(String),
    /// Its processes could not be stopped.
    #[error("it could not be frozen, it serves on: {0}")]
    FreezeFailed(String),
    /// There is nothing to suspend.
    #[error("there is no running process of it: {0}")]
    Gone(String),
    /// The record could not be written.
    #[error("its record could not be stored: {0}")]
    Store(String),
}

/// Everybody who waits for the actor to be down.
#[derive(Debug, Default)]
pub(crate) struct Downs {
    waiters: Vec<DownWaiter>,
}

#[derive(Debug)]
struct DownWaiter {
    goal: Down,
    traceparent: Option<Traceparent>,
    /// The machine was told.
    told: bool,
    answer: oneshot::Sender<Result<(), NotDown>>,
}

impl Downs {
    pub(crate) fn join(
        &mut self,
        goal: Down,
        traceparent: Option<Traceparent>,
        answer: oneshot::Sender<Result<(), NotDown>>,
    ) {
        self.waiters.push(DownWaiter { goal, traceparent, told: false, answer });
    }

    /// What the first wants who has a trace, and that.
    pub(crate) fn traced(&self) -> (&'static str, Option<Traceparent>) {
        let traced = self.waiters.iter().find(|waiter| waiter.traceparent.is_some());
        traced.map_or(("suspend", None), |waiter| (waiter.goal.name(), waiter.traceparent))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// The next thing to tell the machine in this phase, on behalf of those who wait.
    pub(crate) fn next(&mut self, phase: Phase) -> Option<Event> {
        // Nobody is interested any more in what was not begun.
        self.waiters.retain(|waiter| waiter.told || !waiter.answer.is_closed());
        let waiter = self.waiters.iter_mut().find(|w| !w.told && w.goal.fits(phase))?;
        waiter.told = true;
        Some(match waiter.goal {
            Down::Freeze(cause) => Event::Freeze(cause, None),
            Down::Suspend(cause) => {
                Event::Suspend { cause, decided_for: None, snapshot: new_snapshot() }
            }
            Down::Stop => Event::Stop { snapshot: new_snapshot() },
            Down::Delete => Event::Delete,
        })
    }

    /// Answers those who have what they wanted, or never will. `why` tells what is wrong with an actor at rest.
    pub(crate) fn settle(&mut self, phase: Phase, why: &str) {
        for waiter in self.waiters.extract_if(.., |waiter| waiter.goal.is_settled(phase)) {
            let outcome = match (waiter.goal, phase) {
                (Down::Freeze(_), Phase::Frozen) => Ok(()),
                (Down::Suspend(_), Phase::Suspended | Phase::Stopped) => Ok(()),
                (Down::Stop, Phase::Stopped) => Ok(()),
                _ => Err(NotDown::Gone(why.into())),
            };
            let _ = waiter.answer.send(outcome);
        }
    }

    /// It serves on.
    pub(crate) fn stayed_up(&mut self, why: &StayedUp) {
        for waiter in &mut self.waiters {
            // A stop is tried again; only a failed checkpoint is a reason to give up.
            if waiter.goal == Down::Stop && !matches!(why, StayedUp::CheckpointFailed(_)) {
                waiter.told = false;
            }
        }
        let outcome = match why {
            StayedUp::InUse => NotDown::InUse,
            StayedUp::FreezeFailed(message) => NotDown::FreezeFailed(message.clone()),
            StayedUp::CheckpointFailed(message) => NotDown::CheckpointFailed(message.clone()),
            StayedUp::Lost(message) => NotDown::Gone(message.clone()),
        };
        for waiter in
            self.waiters.extract_if(.., |waiter| waiter.told && waiter.goal != Down::Delete)
        {
            let _ = waiter.answer.send(Err(outcome.clone()));
        }
    }

    /// It is gone for good.
    pub(crate) fn deleted(&mut self) {
        for waiter in self.waiters.drain(..) {
            let _ = waiter.answer.send(match waiter.goal {
                Down::Delete => Ok(()),
                _ => Err(NotDown::Gone("it was deleted".into())),
            });
        }
    }

    pub(crate) fn fail(&mut self, error: &crate::store::Error) {
        for waiter in self.waiters.drain(..) {
            let _ = waiter.answer.send(Err(NotDown::Store(error.to_string())));
        }
    }
}

impl Down {
    const fn name(self) -> &'static str {
        match self {
            Self::Freeze(_) => "freeze",
            Self::Suspend(_) => "suspend",
            Self::Stop => "stop",
            Self::Delete => "delete",
        }
    }

    /// True when the machine can be told now; while a wake is under way it has to wait for that.
    fn fits(self, phase: Phase) -> bool {
        match self {
            Self::Freeze(_) => matches!(phase, Phase::Running | Phase::Draining),
            Self::Suspend(_) => matches!(
                phase,
                Phase::Running | Phase::Draining | Phase::Frozen | Phase::Checkpointing
            ),
            Self::Stop => !matches!(
                phase,
                Phase::Starting
                    | Phase::Freezing
                    | Phase::Thawing
                    | Phase::Deleting
                    | Phase::Stopped
            ),
            Self::Delete => true,
        }
    }

    fn is_settled(self, phase: Phase) -> bool {
        match self {
            Self::Freeze(_) => {
                phase == Phase::Frozen || phase.is_rest() || phase == Phase::Deleting
            }
            Self::Suspend(_) => phase.is_rest() || phase == Phase::Deleting,
            Self::Stop => matches!(phase, Phase::Stopped | Phase::Deleting),
            Self::Delete => false,
        }
    }
}
