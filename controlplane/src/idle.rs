//! When an actor that nobody uses goes to sleep.
//!
//! A pure decision, asked for by the actor's own timer: there is no round over all actors. It carries the activity it was
//! based on, and the routers' acknowledgements are compared with that before anything irreversible happens.

use std::time::Duration;

use reveille_api::manifest::template;

use crate::{clock::Moment, lifecycle::Cause, routers::Use};

/// How soon to ask again when a router that could know is away.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What the timer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: this actor is never put to sleep.
    Never,
    /// Looks again then.
    LookAgain(Moment),
    /// Stops its processes.
    Freeze(Cause),
    /// Suspends.
    Suspend(Cause),
}

/// A way to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// Its processes are stopped.
    Freeze,
    /// A snapshot on its node.
    Pause,
    /// A snapshot, in the store if there is one.
    Suspend,
}

impl Rung {
    /// As templates call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Pause => "pause",
            Self::Suspend => "suspend",
        }
    }
}

/// The rung that comes first, and after how long without use.
pub fn first_rung(policy: &template::Idle, may_freeze: bool) -> Option<(Rung, Duration)> {
    let freeze = policy.freeze_after.filter(|_| may_freeze).map(|after| (Rung::Freeze, after));
    let pause = policy.pause_after.map(|after| (Rung::Pause, after));
    let suspend = policy.suspend_after.map(|after| (Rung::Suspend, after));
    // Of two at the same time the deeper one.
    let all = suspend.into_iter().chain(pause).chain(freeze);
    all.min_by_key(|(_, after)| *after).filter(|_| !policy.keep_warm)
}

/// Decides. `not_before` holds back after a failed checkpoint or freeze. Of two rungs that are due it takes the deeper one.
pub fn decide(
    policy: &template::Idle,
    used: Use,
    now: Moment,
    not_before: Option<Moment>,
    may_freeze: bool,
) -> Decision {
    let freeze = policy.freeze_after.filter(|_| may_freeze && !policy.keep_warm);
    // Both rungs take a snapshot and free the worker; when it goes to the store the node decides.
    let suspend = policy.pause_after.into_iter().chain(policy.suspend_after).min();
    let suspend = suspend.filter(|_| !policy.keep_warm);
    let Some((_, first)) = first_rung(policy, may_freeze) else { return Decision::Never };
    let since = match used {
        // It cannot be due earlier than this even if the last request ends right now.
        Use::Busy => return Decision::LookAgain(now.plus(first)),
        Use::Unknown => return Decision::LookAgain(now.plus(ASK_AGAIN)),
        Use::Quiet(since) => since,
    };
    let due = |after| since.plus(after).max(not_before.unwrap_or_default());
    if suspend.is_some_and(|after| now >= due(after)) {
        return Decision::Suspend(Cause::Idle(since));
    }
    if freeze.is_some_and(|after| now >= due(after)) {
        return Decision::Freeze(Cause::Idle(since));
    }
    Decision::LookAgain(due(first))
}

/// How long a snapshot that is taken now stays on its node only. For ever if the ladder ends there.
pub fn store_after(policy: &template::Idle, cause: Option<Cause>, now: Moment) -> Option<Duration> {
    let basis = cause.and_then(Cause::basis);
    match (policy.pause_after, basis) {
        (Some(_), Some(since)) => {
            policy.suspend_after.map(|after| after.saturating_sub(now.since(since)))
        }
        _ => Some(Duration::ZERO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn after(after: Duration) -> template::Idle {
        template::Idle { suspend_after: Some(after), ..template::Idle::default() }
    }

    #[test]
    fn idle_time_counts_from_the_last_activity() {
        let now = Moment(100_000);
        let quiet = |secs| Use::Quiet(now.minus(secs * S));
        assert_eq!(
            decide(&after(5 * S), quiet(5), now, None, false),
            Decision::Suspend(Cause::Idle(now.minus(5 * S)))
        );
        assert_eq!(
            decide(&after(5 * S), quiet(2), now, None, false),
            Decision::LookAgain(now.plus(3 * S))
        );
    }

    #[test]
    fn it_pauses_first_and_what_is_left_until_it_is_suspended_the_snapshot_stays_on_its_node() {
        let now = Moment(100_000);
        let both = template::Idle { pause_after: Some(2 * S), ..after(10 * S) };
        let since = now.minus(3 * S);
        let idle = Cause::Idle(since);
        assert_eq!(decide(&both, Use::Quiet(since), now, None, false), Decision::Suspend(idle));
        assert_eq!(store_after(&both, Some(idle), now), Some(7 * S));
        assert_eq!(
            store_after(&both, Some(Cause::Idle(now.minus(11 * S))), now),
            Some(Duration::ZERO)
        );
        let pause = template::Idle { suspend_after: None, ..both.clone() };
        assert_eq!(decide(&pause, Use::Quiet(since), now, None, false), Decision::Suspend(idle));
        assert_eq!(store_after(&pause, Some(idle), now), None);
        // Whoever asks for a suspend means all of it, and so does a ladder without that rung.
        assert_eq!(store_after(&both, Some(Cause::User), now), Some(Duration::ZERO));
        assert_eq!(store_after(&pause, None, now), Some(Duration::ZERO));
        assert_eq!(store_after(&after(10 * S), Some(idle), now), Some(Duration::ZERO));
    }

    #[test]
    fn requests_in_flight_and_ignorance_prevent_it() {
        let now = Moment(100_000);
        let busy = decide(&after(5 * S), Use::Busy, now, None, false);
        assert_eq!(busy, Decision::LookAgain(now.plus(5 * S)));
        let unknown = decide(&after(5 * S), Use::Unknown, now, None, false);
        assert_eq!(unknown, Decision::LookAgain(now.plus(S)));
    }

    #[test]
    fn keep_warm_and_no_idle_time_mean_never() {
        let now = Moment(100_000);
        let quiet = Use::Quiet(Moment(0));
        let warm = template::Idle { keep_warm: true, ..after(S) };
        assert_eq!(decide(&warm, quiet, now, None, false), Decision::Never);
        assert_eq!(decide(&template::Idle::default(), quiet, now, None, false), Decision::Never);
    }

    #[test]
    fn a_failed_checkpoint_is_not_tried_again_at_once() {
        let now = Moment(100_000);
        let quiet = Use::Quiet(Moment(0));
        let later = now.plus(10 * S);
        assert_eq!(decide(&after(S), quiet, now, Some(later), false), Decision::LookAgain(later));
    }

    #[test]
    fn of_two_rungs_the_deeper_one_that_is_due_is_taken_and_a_frozen_actor_waits_for_the_next() {
        let now = Moment(100_000);
        let idle = template::Idle { freeze_after: Some(2 * S), ..after(5 * S) };
        let quiet = |secs| Use::Quiet(now.minus(secs * S));
        let decide = |secs, may_freeze| decide(&idle, quiet(secs), now, None, may_freeze);
        assert_eq!(decide(1, true), Decision::LookAgain(now.plus(S)));
        assert_eq!(decide(3, true), Decision::Freeze(Cause::Idle(now.minus(3 * S))));
        assert_eq!(decide(3, false), Decision::LookAgain(now.plus(2 * S)));
        assert_eq!(decide(6, true), Decision::Suspend(Cause::Idle(now.minus(6 * S))));
    }
}
