//! The spans of one wake, in the trace of the first who asked for it; and those of one way down, in the trace of a user who asked.
//!
//! ```text
//!  Routers/Wake ─┬─ wake ─┬─ place
//!                │        └─ activate ─▶ the node's       (or both again, on another node; or only: thaw ─▶ the node's)
//!  Routers/Wake ─┴─ ─ link
//!
//!  Control/SuspendActor ─── suspend ─┬─ drain             (or: freeze, whose second step is freeze; stop; delete)
//!                                    └─ checkpoint ─▶ the node's
//! ```
//!
//! Of an actor that goes to sleep because nobody uses it there are none: no part begins a trace.

use reveille_api::{
    ActorKey, Reason,
    trace::{Kind, Span, Traceparent},
};

use super::{Downs, Wakes};
use crate::lifecycle::Phase;

/// See the module.
#[derive(Debug)]
pub(super) struct Spans {
    /// The wake, or the way down.
    whole: Span,
    step: Span,
    way: Option<Way>,
    /// In whose trace it is.
    owner: Option<Traceparent>,
    /// What is logged of it.
    log: tracing::Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// That this phase is a step of, and how the step is called.
const fn step(phase: Phase) -> Option<(Way, &'static str, Kind)> {
    Some(match phase {
        Phase::Placing => (Way::Up, "place", Kind::Internal),
        Phase::Starting => (Way::Up, "activate", Kind::Client),
        Phase::Thawing => (Way::Up, "thaw", Kind::Client),
        Phase::Draining => (Way::Down, "drain", Kind::Internal),
        Phase::Freezing => (Way::Down, "freeze", Kind::Client),
        Phase::Checkpointing => (Way::Down, "checkpoint", Kind::Client),
        _ => return None,
    })
}

impl Default for Spans {
    fn default() -> Self {
        let log = tracing::Span::none();
        Self { whole: Span::none(), step: Span::none(), way: None, owner: None, log }
    }
}

impl Spans {
    /// Follows the machine. What a transition brings about is still done within the wake.
    pub(super) fn turned(
        &mut self,
        was: Phase,
        now: Phase,
        wakes: &Wakes,
        downs: &Downs,
        actor: &ActorKey,
    ) {
        if was == now {
            return;
        }
        // Ended before the next one begins.
        self.step = Span::none();
        let Some((way, name, kind)) = step(now) else { return };
        if self.way != Some(way) {
            *self = Self { way: Some(way), ..Self::default() };
        }
        if self.owner.is_none() {
            let (whole, owner) = match way {
                Way::Up => ("wake", wakes.traceparent()),
                Way::Down => downs.traced(),
            };
            self.owner = owner;
            self.whole = Span::after(owner, whole, Kind::Internal).of(actor);
            if let Some(trace_id) = self.whole.trace_id() {
                self.log = match way {
                    Way::Up => tracing::info_span!("wake", %actor, %trace_id),
                    Way::Down => tracing::info_span!("down", %actor, %trace_id),
                };
            }
        }
        self.step = self.whole.child(name, kind);
    }

    /// The wake is over when the actor serves, or rests again; a way down too.
    pub(super) fn settled(&mut self, phase: Phase) {
        if step(phase).is_none() {
            *self = Self::default();
        }
    }

    /// It will not be.
    pub(super) fn failed(&mut self, reason: Reason) {
        self.whole.fail(reason);
    }

    /// What the node is told.
    pub(super) fn step(&self) -> String {
        self.step.header()
    }

    /// What the log says of it.
    pub(super) fn log(&self) -> tracing::Span {
        self.log.clone()
    }

    /// The wake, for one who waited for it and did not begin it.
    pub(super) fn joined(&self, traceparent: Option<Traceparent>) -> Option<Traceparent> {
        let others = traceparent.is_some() && traceparent != self.owner;
        self.whole.traceparent().filter(|_| others && self.whole.is_recorded())
    }
}
