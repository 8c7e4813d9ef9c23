//! The spans of one activation: its phases, one after another, as they are measured.

use std::sync::{Mutex, MutexGuard, PoisonError};

use reveille_api::{
    ActorKey, Reason,
    trace::{Kind, Span},
};

use super::Activate;

/// The whole, and the phase it is in.
#[derive(Debug)]
pub(super) struct Spans(Mutex<(Span, Span)>);

impl Spans {
    /// It begins with what has to come from elsewhere.
    pub(super) fn begin(actor: &ActorKey, request: &Activate) -> Self {
        let mut all =
            Span::after(request.traceparent, "NodeAgent/Activate", Kind::Server).of(actor);
        all.set("reveille.epoch", request.epoch);
        all.set("reveille.worker", &request.worker);
        let fetch = all.child("fetch", Kind::Internal);
        Self(Mutex::new((all, fetch)))
    }

    /// One phase is over, and this one begins.
    pub(super) fn next(&self, name: &'static str) {
        let (all, phase) = &mut *self.lock();
        // Ended before the next one begins.
        *phase = Span::none();
        *phase = all.child(name, Kind::Internal);
    }

    /// It came to nothing, in the phase it is in. What is taken down after that is no part of the phase.
    pub(super) fn fail(&self, reason: Reason) {
        let (all, phase) = &mut *self.lock();
        phase.fail(reason);
        *phase = Span::none();
        all.fail(reason);
    }

    fn lock(&self) -> MutexGuard<'_, (Span, Span)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
