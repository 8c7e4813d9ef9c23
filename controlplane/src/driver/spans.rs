//! The spans of one wake, in the trace of the first who asked for it.
//!
//! ```text
//!  Routers/Wake ─┬─ wake ─┬─ place
//!                │        └─ activate ─▶ the node's            (or both again, on another node; or only: thaw)
//!  Routers/Wake ─┴─ ─ link
//! ```

use reveille_api::{
    ActorKey, Reason,
    trace::{Kind, Span, Traceparent},
};

use super::Wakes;
use crate::lifecycle::Phase;

/// See the module.
#[derive(Debug)]
pub(super) struct Spans {
    wake: Span,
    step: Span,
    /// In whose trace it is.
    owner: Option<Traceparent>,
    /// What is logged of it.
    log: tracing::Span,
}

impl Default for Spans {
    fn default() -> Self {
        let log = tracing::Span::none();
        Self { wake: Span::none(), step: Span::none(), owner: None, log }
    }
}

impl Spans {
    /// Follows the machine. What a transition brings about is still done within the wake.
    pub(super) fn turned(&mut self, was: Phase, now: Phase, wakes: &Wakes, actor: &ActorKey) {
        if was == now {
            return;
        }
        match now {
            Phase::Placing => self.next("place", Kind::Internal, wakes, actor),
            Phase::Starting => self.next("activate", Kind::Client, wakes, actor),
            Phase::Thawing => self.next("thaw", Kind::Internal, wakes, actor),
            _ => self.step = Span::none(),
        }
    }

    /// The wake is over when the actor serves, or rests again.
    pub(super) fn settled(&mut self, phase: Phase) {
        if !matches!(phase, Phase::Placing | Phase::Starting | Phase::Thawing) {
            *self = Self::default();
        }
    }

    /// It will not be.
    pub(super) fn failed(&mut self, reason: Reason) {
        self.wake.fail(reason);
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
        self.wake.traceparent().filter(|_| others && self.wake.is_recorded())
    }

    fn next(&mut self, name: &'static str, kind: Kind, wakes: &Wakes, actor: &ActorKey) {
        if self.owner.is_none() {
            self.owner = wakes.traceparent();
            self.wake = Span::after(self.owner, "wake", Kind::Internal).of(actor);
            if let Some(trace_id) = self.wake.trace_id() {
                self.log = tracing::info_span!("wake", %actor, %trace_id);
            }
        }
        self.step = self.wake.child(name, kind);
    }
}
