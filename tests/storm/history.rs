//! What happened, as the checker reads it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{
    leaks::Usage,
    plan::{Actor, Kind, Part},
};

/// Of an increment; unique in a run.
pub(crate) type Id = u64;

/// Microseconds since the storm began.
pub(crate) type At = u64;

/// One increment that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) id: Id,
    pub(crate) actor: Actor,
    pub(crate) kind: Kind,
    pub(crate) invoked: At,
    pub(crate) completed: At,
    pub(crate) outcome: Outcome,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Acked(Ack),
    /// An answer that is not the actor's.
    Refused {
        status: u16,
        reason: String,
    },
    /// The connection ended before the answer had.
    Broken(String),
    /// A 200 that is not an answer to this request.
    Wrong(String),
    /// Nothing at all, for longer than any budget.
    Hung,
}

/// The actor's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) actor: Actor,
    pub(crate) nonce: u64,
    pub(crate) count: u64,
    /// `x-reveille-wake`, when it waited for a wake.
    pub(crate) wake: Option<String>,
}

/// Something done to the instance that may show.
#[derive(Clone, Debug)]
pub(crate) struct Disturbance {
    pub(crate) cause: Cause,
    /// Just before.
    pub(crate) begun: At,
    /// What was killed is dead; what was stopped may be woken again.
    pub(crate) done: At,
    /// A wake and a request have worked again.
    pub(crate) over: At,
    /// Actors whose processes ended with it.
    pub(crate) hit: Vec<Actor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    Killed(Part),
    /// By its user, until woken by its user.
    Stopped(Actor),
}

/// An event of the product's own log.
#[derive(Clone, Debug)]
pub(crate) struct Notice {
    pub(crate) actor: Actor,
    /// Cut off to the millisecond.
    pub(crate) at: At,
    pub(crate) kind: String,
    #[expect(dead_code, reason = "for the traces")]
    pub(crate) message: String,
}

/// Everything that is known in the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) ops: Vec<Op>,
    pub(crate) disturbances: Vec<Disturbance>,
    /// By their number.
    pub(crate) notices: BTreeMap<u64, Notice>,
    /// The ids each actor remembers in the end, in order.
    pub(crate) ids: BTreeMap<Actor, Vec<Id>>,
    /// Suspends asked for, and how they ended.
    pub(crate) suspends: BTreeMap<String, u64>,
    /// What was there and should not have been, after a recovery or in the end.
    pub(crate) leaks: Vec<String>,
    /// Of each part, before the storm and after it.
    pub(crate) usage: (Usage, Usage),
    pub(crate) took: Duration,
}

/// Where everybody writes down what happened.
#[derive(Debug)]
pub(crate) struct Recorder {
    began: Instant,
    began_unix: Duration,
    history: Mutex<History>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            began: Instant::now(),
            began_unix: unix.expect("after 1970"),
            history: Mutex::default(),
        }
    }

    pub(crate) fn now(&self) -> At {
        self.began.elapsed().as_micros() as At
    }

    /// That moment by the clock of the event log; 0 when it was before the storm.
    pub(crate) fn at_unix_ms(&self, unix_ms: u64) -> At {
        (u128::from(unix_ms) * 1000).saturating_sub(self.began_unix.as_micros()) as At
    }

    pub(crate) fn write(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn finish(&self) -> History {
        let mut history = std::mem::take(&mut *self.write());
        history.took = self.began.elapsed();
        history
    }
}
