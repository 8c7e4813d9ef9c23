//! The way down: suspend, stop, delete; and what calls it off.

use std::collections::BTreeSet;

use reveille_api::{Epoch, Failure, Reason};

use super::{
    Activation, Actor, Cause, Checkpointing, Deleting, Draining, Effect, Frozen, Goal, Ice, Lost,
    Note, Rest, Running, Serving, Snapshot, Source, Stage, State, StayedUp, Step, Waking,
    apply::{deleted, refuse, stopped},
    newer,
};
use crate::clock::Moment;

impl Actor {
    pub(super) fn freeze(&mut self, cause: Cause, decided_for: Option<Epoch>) -> Step {
        if decided_for.is_some_and(|epoch| epoch != self.epoch) {
            return Step::nothing();
        }
        self.go_down(cause, Goal::Freeze, String::new())
    }

    pub(super) fn suspend(
        &mut self,
        cause: Cause,
        decided_for: Option<Epoch>,
        snapshot: String,
    ) -> Step {
        if decided_for.is_some_and(|epoch| epoch != self.epoch) {
            return Step::nothing();
        }
        self.go_down(cause, Goal::Suspend, snapshot)
    }

    pub(super) fn stop(&mut self, snapshot: String) -> Step {
        match &mut self.state {
            State::Rest(rest) => {
                let lost = rest.lost().cloned();
                self.state = State::Rest(Rest::Stopped(lost));
                Step::first(vec![Effect::Note(Note::Stopped)])
            }
            State::Waking(Waking { stage: Stage::Placing(rest), .. }) => {
                let lost = rest.lost().cloned();
                self.state = State::Rest(Rest::Stopped(lost));
                Step::first(vec![refuse(stopped()), Effect::Note(Note::Stopped)])
            }
            State::Checkpointing(checkpointing) => {
                checkpointing.goal = Goal::Stop;
                Step::first(vec![refuse(stopped())])
            }
            _ => self.go_down(Cause::User, Goal::Stop, snapshot),
        }
    }

    /// From `Running` or `Frozen`; or from `Draining`, when what was a guess is now somebody's wish.
    fn go_down(&mut self, cause: Cause, goal: Goal, snapshot: String) -> Step {
        match &mut self.state {
            State::Running(running) => {
                let (activation, term) = (running.activation.clone(), running.term);
                self.state = State::Draining(Draining { activation, term, cause, goal });
                let note = match goal {
                    Goal::Freeze => Some(Effect::Note(Note::FreezeStarted(cause))),
                    Goal::Suspend | Goal::Stop => Some(Effect::Note(Note::SuspendStarted(cause))),
                    Goal::Delete => None,
                };
                let drain = Effect::Drain(self.epoch, term, cause);
                Step::first([drain].into_iter().chain(note).collect())
            }
            State::Draining(draining) => {
                let more = goal > draining.goal;
                if more {
                    draining.goal = goal;
                }
                if cause.basis().is_none() && draining.cause.basis().is_some() {
                    // Requests in flight now get their time: it is another revoke, with another term.
                    draining.cause = cause;
                    draining.term += 1;
                    return Step::first(vec![Effect::Drain(self.epoch, draining.term, cause)]);
                }
                if more { Step::first(vec![]) } else { Step::nothing() }
            }
            // No router has a binding, and nothing has happened since: it is saved as it stands.
            State::Frozen(Frozen { activation, term, stage: Ice::Frozen })
                if goal > Goal::Freeze =>
            {
                let (activation, term) = (activation.clone(), *term);
                let mut step = self.begin_checkpointing(activation, term, cause, goal, snapshot);
                step.effects.push(Effect::Note(Note::SuspendStarted(cause)));
                step
            }
            _ => Step::nothing(),
        }
    }

    pub(super) fn drained(
        &mut self,
        epoch: Epoch,
        term: u64,
        quiet: bool,
        last_active: Moment,
        snapshot: String,
    ) -> Step {
        let State::Draining(draining) = &self.state else { return Step::nothing() };
        if (epoch, term) != (self.epoch, draining.term) {
            return Step::nothing();
        }
        // A guess holds only while nothing has happened since; a wish goes on and cuts off what is left.
        let stands = draining.cause.basis().is_none_or(|basis| quiet && !newer(last_active, basis));
        if !stands {
            return self.stay_up(StayedUp::InUse, Note::SuspendCancelled);
        }
        let Draining { activation, term, cause, goal } = draining.clone();
        if goal == Goal::Delete {
            return self.begin_deleting();
        }
        if goal == Goal::Freeze {
            return self.begin_freezing(activation, term);
        }
        self.begin_checkpointing(activation, term, cause, goal, snapshot)
    }

    /// No router has its binding any more.
    fn begin_checkpointing(
        &mut self,
        activation: Activation,
        term: u64,
        cause: Cause,
        goal: Goal,
        snapshot: String,
    ) -> Step {
        let place = activation.place.clone();
        let suspend = Effect::Suspend(self.epoch, place, snapshot.clone(), Some(cause));
        self.state = State::Checkpointing(Checkpointing {
            activation,
            term,
            snapshot,
            goal,
            resuming: false,
            exited: None,
        });
        Step::first(vec![suspend])
    }

    /// Back to `Running`, one term later: routers have forgotten the binding of this one.
    pub(super) fn stay_up(&mut self, why: StayedUp, note: Note) -> Step {
        let (activation, term) = match &self.state {
            State::Draining(d) => (d.activation.clone(), d.term),
            State::Frozen(f) => (f.activation.clone(), f.term),
            State::Checkpointing(c) => (c.activation.clone(), c.term),
            _ => return Step::nothing(),
        };
        self.state = State::Running(Running { activation, term: term + 1 });
        Step::first(vec![
            Effect::Serve(Serving::Resumed),
            Effect::StayedUp(why),
            Effect::Note(note),
        ])
    }

    pub(super) fn committed(&mut self, epoch: Epoch, snapshot: Snapshot) -> Step {
        let Some(checkpointing) = self.checkpointing(epoch, &snapshot.id) else {
            return Step::nothing();
        };
        let (place, goal) = (checkpointing.activation.place.clone(), checkpointing.goal);
        let known = self.snapshot.iter().chain(&self.previous).map(|snapshot| &snapshot.node);
        // Also where it was before it moved.
        let nodes: BTreeSet<_> = known.chain([&place.node]).cloned().collect();
        self.previous = self.usable(&checkpointing.activation).or(self.previous.take());
        self.snapshot = Some(snapshot.clone());
        let note = Effect::Note(Note::Suspended(snapshot));
        let mut effects = vec![Effect::Free(epoch, place), note];
        effects.extend(nodes.into_iter().map(Effect::Collect));
        self.state = State::Rest(match goal {
            // Nothing is saved of what is to be deleted.
            Goal::Freeze | Goal::Suspend | Goal::Delete => Rest::Suspended,
            Goal::Stop => {
                effects.push(refuse(stopped()));
                effects.push(Effect::Note(Note::Stopped));
                Rest::Stopped(None)
            }
        });
        Step::first(effects)
    }

    /// The snapshot that becomes the previous one: what this activation was restored from, if it was the one
    /// before the current, which is known to be bad; else the current one.
    fn usable(&self, activation: &Activation) -> Option<Snapshot> {
        match &activation.source {
            Source::Previous(snapshot) => Some(snapshot.clone()),
            _ => self.snapshot.clone(),
        }
    }

    pub(super) fn resumed(&mut self, epoch: Epoch, snapshot: &str) -> Step {
        match self.checkpointing(epoch, snapshot).map(|c| c.exited) {
            None => Step::nothing(),
            Some(Some(message)) => self.lose(message, false),
            Some(None) => self.stay_up(StayedUp::InUse, Note::SuspendCancelled),
        }
    }

    pub(super) fn checkpoint_failed(
        &mut self,
        epoch: Epoch,
        snapshot: &str,
        message: String,
    ) -> Step {
        match self.checkpointing(epoch, snapshot).map(|c| c.exited) {
            None => Step::nothing(),
            Some(Some(message)) => self.lose(message, false),
            Some(None) => {
                let why = StayedUp::CheckpointFailed(message.clone());
                self.stay_up(why, Note::CheckpointFailed(message))
            }
        }
    }

    /// The checkpoint of this epoch and name.
    fn checkpointing(&self, epoch: Epoch, snapshot: &str) -> Option<Checkpointing> {
        match &self.state {
            State::Checkpointing(c) if epoch == self.epoch && c.snapshot == snapshot => {
                Some(c.clone())
            }
            _ => None,
        }
    }

    /// Requests in flight have their time, as at a suspend.
    pub(super) fn delete(&mut self) -> Step {
        let begun = [
            refuse(deleted()),
            Effect::StayedUp(StayedUp::Lost("it is being deleted".into())),
            Effect::Note(Note::DeleteStarted),
        ];
        let serves = matches!(self.state, State::Running(_) | State::Draining(_));
        let mut step = if serves {
            self.go_down(Cause::User, Goal::Delete, String::new())
        } else {
            self.begin_deleting()
        };
        if step != Step::nothing() {
            step.effects.splice(0..0, begun);
        }
        step
    }

    fn begin_deleting(&mut self) -> Step {
        let mut effects = Vec::new();
        if let State::Draining(Draining { term, .. }) = &self.state {
            effects.push(Effect::Revoke(self.epoch, *term));
        }
        self.state = State::Deleting(Deleting { place: self.place().cloned() });
        effects.push(Effect::Purge);
        Step::first(effects)
    }

    pub(super) fn purged(&mut self) -> Step {
        let place = self.place().cloned();
        let free = place.map(|place| Effect::Free(self.epoch, place));
        let rest = [Effect::Note(Note::Deleted), Effect::Remove];
        Step::only(free.into_iter().chain(rest).collect())
    }

    /// Called for the deadline of the present state.
    pub(super) fn deadline_passed(&mut self) -> Step {
        match &mut self.state {
            State::Waking(_) => match self.starting(self.epoch) {
                Some((_, place, _)) => {
                    let message = format!("{} did not start it in time", place.node);
                    let failure = Failure::new(Reason::WakeTimeout, message);
                    self.fail(failure, Effect::Destroy(self.epoch, place))
                }
                None => Step::nothing(),
            },
            State::Draining(Draining { goal: Goal::Delete, .. }) => self.begin_deleting(),
            State::Draining(_) => self.stay_up(StayedUp::InUse, Note::SuspendCancelled),
            State::Frozen(_) => self.frozen_too_long(),
            State::Checkpointing(c) if !c.resuming => {
                c.resuming = true;
                let place = c.activation.place.clone();
                Step::first(vec![Effect::Resume(self.epoch, place)])
            }
            // Only its node knows how that ends, and is asked until it says so; if it is lost, so is this.
            State::Checkpointing(_) => Step::nothing(),
            State::Deleting(deleting) => {
                // The node is told until it confirms, or finds out when it comes back.
                let place = deleting.place.clone();
                let destroy = place.map(|place| Effect::Destroy(self.epoch, place));
                let rest = [Effect::Note(Note::Deleted), Effect::Remove];
                Step::only(destroy.into_iter().chain(rest).collect())
            }
            State::Rest(_) | State::Running(_) => Step::nothing(),
        }
    }

    /// The process is gone, or out of reach.
    pub(super) fn lose(&mut self, message: String, unreachable: bool) -> Step {
        let (term, pending) = match &self.state {
            State::Running(r) => (r.term, None),
            State::Draining(d) => (d.term, None),
            State::Frozen(f) => (f.term, None),
            State::Checkpointing(c) => (c.term, Some(c.snapshot.clone())),
            _ => return Step::nothing(),
        };
        let wanted = match &self.state {
            State::Draining(Draining { goal, .. })
            | State::Checkpointing(Checkpointing { goal, .. }) => *goal,
            _ => Goal::Suspend,
        };
        let Some(activation) = self.activation().cloned() else { return Step::nothing() };
        let place = activation.place.clone();
        let survivor = unreachable.then_some(super::Survivor { activation, term });
        let lost = Lost { message: message.clone(), unreachable: survivor, pending };
        self.losses += 1;
        self.state = State::Rest(Rest::Lost(lost));
        let mut effects = vec![Effect::Revoke(self.epoch, term)];
        // An activation out of reach may be well; what becomes of it is decided when its node is back.
        if !unreachable {
            effects.push(Effect::Destroy(self.epoch, place));
        }
        effects.push(Effect::StayedUp(StayedUp::Lost(message.clone())));
        effects.push(Effect::Note(Note::Lost(message)));
        let mut step = Step::first(effects);
        // Its user wanted it down, and down it is.
        let rest = match wanted {
            Goal::Freeze | Goal::Suspend => return step,
            Goal::Stop => self.stop(String::new()),
            Goal::Delete => self.begin_deleting(),
        };
        step.effects.extend(rest.effects);
        step
    }
}
