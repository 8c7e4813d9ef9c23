//! Freeze and thaw: the shallowest sleep. The activation keeps its worker, its epoch and its endpoint.
//!
//! Nothing is saved, so nothing is decided for good: an outcome that is not known is asked for again, for as long as it takes. A
//! node that answers late is slow, and what it holds is not lost.

use reveille_api::Epoch;

use super::{
    Activation, Actor, Effect, Frozen, Ice, Note, Running, Serving, State, StayedUp, Step, Write,
};

impl Actor {
    /// From `Draining`: no router has its binding any more.
    pub(super) fn begin_freezing(&mut self, activation: Activation, term: u64) -> Step {
        let freeze = Effect::Freeze(self.epoch, term, activation.place.clone());
        self.state = State::Frozen(Frozen { activation, term, stage: Ice::Freezing });
        Step::first(vec![freeze])
    }

    pub(super) fn frozen(&mut self, epoch: Epoch) -> Step {
        if self.ice(epoch) != Some(Ice::Freezing) {
            return Step::nothing();
        }
        if let State::Frozen(frozen) = &mut self.state {
            frozen.stage = Ice::Frozen;
        }
        Step::first(vec![Effect::Note(Note::Frozen)])
    }

    pub(super) fn freeze_failed(&mut self, epoch: Epoch, message: String) -> Step {
        if self.ice(epoch) != Some(Ice::Freezing) {
            return Step::nothing();
        }
        self.stay_up(StayedUp::FreezeFailed(message.clone()), Note::FreezeFailed(message))
    }

    /// Somebody wants it to run. One that is not frozen yet is asked again when it is.
    pub(super) fn thaw(&mut self) -> Step {
        match self.ice(self.epoch) {
            Some(Ice::Frozen) => self.begin_thawing(),
            _ => Step::nothing(),
        }
    }

    /// Stored behind: if we die now, its node will tell that it serves.
    fn begin_thawing(&mut self) -> Step {
        let State::Frozen(frozen) = &mut self.state else { return Step::nothing() };
        frozen.stage = Ice::Thawing;
        let thaw = Effect::Thaw(self.epoch, frozen.term, frozen.activation.place.clone());
        Step { write: Write::Behind, effects: vec![thaw] }
    }

    pub(super) fn thawed(&mut self, epoch: Epoch) -> Step {
        let State::Frozen(Frozen { activation, term, stage: Ice::Thawing }) = &self.state else {
            return Step::nothing();
        };
        if epoch != self.epoch {
            return Step::nothing();
        }
        self.state = State::Running(Running { activation: activation.clone(), term: term + 1 });
        let effects = vec![Effect::Serve(Serving::Thawed), Effect::Note(Note::Thawed)];
        Step { write: Write::Behind, effects }
    }

    /// The node did not say in time how a freeze ended: it shall thaw it.
    pub(super) fn frozen_too_long(&mut self) -> Step {
        match self.ice(self.epoch) {
            Some(Ice::Freezing) => self.begin_thawing(),
            _ => Step::nothing(),
        }
    }

    /// What its node says of it against what is stored: an older store is made to agree.
    pub(super) fn agree(&mut self, serving: bool, frozen: bool) -> Step {
        match &self.state {
            State::Frozen(Frozen { stage: Ice::Frozen, .. }) if serving => self.begin_thawing(),
            State::Running(running) if frozen => {
                let (activation, term) = (running.activation.clone(), running.term);
                self.state = State::Frozen(Frozen { activation, term, stage: Ice::Frozen });
                let mut step = self.begin_thawing();
                step.effects.insert(0, Effect::Revoke(self.epoch, term));
                step
            }
            _ => Step::nothing(),
        }
    }

    fn ice(&self, epoch: Epoch) -> Option<Ice> {
        match &self.state {
            State::Frozen(frozen) if epoch == self.epoch => Some(frozen.stage),
            _ => None,
        }
    }
}
