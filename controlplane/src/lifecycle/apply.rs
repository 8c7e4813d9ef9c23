//! [`Actor::apply`], and the way up: wake, place, start.

use reveille_api::{Epoch, Failure, Reason, manifest::template::OnRestoreFailure};

use super::{
    Activation, Actor, Asker, Effect, Event, Failed, Goal, NoWake, Note, Place, Rest, Rules,
    Running, Serving, Source, Stage, State, Step, Waking, Write, table,
};

impl Step {
    /// Changes nothing.
    pub(super) fn nothing() -> Self {
        Self::default()
    }

    /// Changes nothing that is stored.
    pub(super) fn only(effects: Vec<Effect>) -> Self {
        Self { write: Write::Nothing, effects }
    }

    /// Stored before its effects begin.
    pub(super) fn first(effects: Vec<Effect>) -> Self {
        Self { write: Write::First, effects }
    }
}

impl Actor {
    /// One transition. Without a row in the [`table`], or when the event is stale, it changes nothing.
    pub fn apply(&mut self, rules: Rules<'_>, event: Event) -> Step {
        let Some(outcomes) = table::outcomes(self.phase(), event.kind()) else {
            return Step::nothing();
        };
        let before = (self.phase(), event.kind());
        let step = self.transition(rules, event);
        let stale = step == Step::nothing() && self.phase() == before.0;
        debug_assert!(stale || outcomes.contains(&self.phase()), "{before:?} → {:?}", self.phase());
        step
    }

    fn transition(&mut self, rules: Rules<'_>, event: Event) -> Step {
        match event {
            Event::Wake(asker) => self.wake(rules, asker),
            Event::Freeze(cause, epoch) => self.freeze(cause, epoch),
            Event::Suspend { cause, decided_for, snapshot } => {
                self.suspend(cause, decided_for, snapshot)
            }
            Event::Stop { snapshot } => self.stop(snapshot),
            Event::Delete => self.delete(),
            Event::Placed(place) => self.placed(place),
            Event::NotPlaced(failure) => self.not_placed(failure),
            Event::Activated { epoch, endpoint, h2c } => self.activated(epoch, endpoint, h2c),
            Event::ActivateFailed { epoch, failure } => self.activate_failed(rules, epoch, failure),
            Event::Elsewhere { epoch, failure } => self.elsewhere(epoch, failure),
            Event::Stored(id) => self.stored_now(&id),
            Event::Fenced { epoch, seen } => self.fenced(epoch, seen),
            Event::Drained { epoch, term, in_flight, last_active, silent, snapshot } => {
                let quiet = !silent && in_flight == 0;
                self.drained(epoch, term, quiet, last_active, snapshot)
            }
            Event::Frozen(epoch) => self.frozen(epoch),
            Event::FreezeFailed { epoch, message } => self.freeze_failed(epoch, message),
            Event::Thawed(epoch) => self.thawed(epoch),
            Event::Committed { epoch, snapshot } => self.committed(epoch, snapshot),
            Event::Resumed { epoch, snapshot } => self.resumed(epoch, &snapshot),
            Event::CheckpointFailed { epoch, snapshot, message } => {
                self.checkpoint_failed(epoch, &snapshot, message)
            }
            Event::Exited { node, epoch, message } => self.exited(&node, epoch, message),
            Event::NodeLost { node } => self.node_lost(&node),
            Event::Found { place, epoch, serving, frozen } => {
                self.found(&place, epoch, serving, frozen)
            }
            Event::Absent { node, epoch, snapshots } => self.absent(&node, epoch, snapshots),
            Event::Seen(epoch) => self.seen(epoch),
            Event::DeadlinePassed(deadline) => {
                if self.deadline() == Some(deadline) {
                    self.deadline_passed()
                } else {
                    Step::nothing()
                }
            }
            Event::Purged => self.purged(),
            Event::Recover => self.recover(),
        }
    }

    fn wake(&mut self, rules: Rules<'_>, asker: Asker) -> Step {
        match &mut self.state {
            State::Rest(rest) => {
                let rest = rest.clone();
                self.wake_from(rules, asker, rest)
            }
            State::Waking(_) => Step::nothing(),
            State::Running(_) => Step::only(vec![Effect::Serve(Serving::Already)]),
            State::Draining(draining) => {
                if draining.goal == Goal::Delete {
                    return Step::only(vec![refuse(deleted())]);
                }
                if draining.goal == Goal::Stop && asker == Asker::Traffic {
                    return Step::only(vec![refuse(stopped())]);
                }
                let running =
                    Running { activation: draining.activation.clone(), term: draining.term + 1 };
                self.state = State::Running(running);
                Step::first(vec![
                    Effect::Serve(Serving::Resumed),
                    Effect::StayedUp(super::StayedUp::InUse),
                    Effect::Note(Note::SuspendCancelled),
                ])
            }
            State::Frozen(_) => self.thaw(),
            State::Checkpointing(checkpointing) => {
                if checkpointing.goal == Goal::Stop && asker == Asker::Traffic {
                    return Step::only(vec![refuse(stopped())]);
                }
                let goal = std::mem::replace(&mut checkpointing.goal, Goal::Suspend);
                if std::mem::replace(&mut checkpointing.resuming, true) {
                    let more = goal != Goal::Suspend;
                    return if more { Step::first(vec![]) } else { Step::nothing() };
                }
                let place = checkpointing.activation.place.clone();
                Step::first(vec![Effect::Resume(self.epoch, place)])
            }
            State::Deleting(_) => Step::only(vec![refuse(deleted())]),
        }
    }

    fn wake_from(&mut self, rules: Rules<'_>, asker: Asker, rest: Rest) -> Step {
        if matches!(rest, Rest::Stopped(_)) && asker == Asker::Traffic {
            return Step::only(vec![refuse(stopped())]);
        }
        let source = match (&self.snapshot, rest.lost()) {
            (Some(snapshot), _) => Source::Current(snapshot.clone()),
            (None, None) => Source::Cold,
            // Its state is gone. A user may say that it shall start anew; traffic may not.
            (None, Some(lost)) => {
                let refused = rules.on_restore_failure != OnRestoreFailure::ColdStart;
                if refused && asker == Asker::Traffic {
                    let message = format!("{}; no snapshot was ever taken", lost.message);
                    let failure = Failure::new(Reason::ActorLost, message);
                    return Step::only(vec![
                        refuse(failure),
                        Effect::Note(Note::Refused(Reason::ActorLost)),
                    ]);
                }
                Source::ColdAfterFailure
            }
        };
        if let Some(NoWake { failure, news }) = rules.no_wake {
            let note = news.then_some(Effect::Note(Note::Refused(failure.reason)));
            return Step::only([refuse(failure.clone())].into_iter().chain(note).collect());
        }
        self.place_for(source, rest)
    }

    fn place_for(&mut self, source: Source, rest: Rest) -> Step {
        let stage = Stage::Placing(rest);
        self.state = State::Waking(Waking { source: source.clone(), stage });
        Step::only(vec![Effect::Place(source)])
    }

    fn placed(&mut self, place: Place) -> Step {
        let State::Waking(Waking { source, stage: Stage::Placing(rest) }) = &self.state else {
            return Step::nothing();
        };
        let (source, lost) = (source.clone(), rest.lost().is_some());
        let note = Note::WakeStarted { source: source.clone(), place: place.clone(), lost };
        let mut step = self.start(place, source);
        step.effects.push(Effect::Note(note));
        step
    }

    /// The next activation.
    fn start(&mut self, place: Place, source: Source) -> Step {
        self.epoch = self.epoch.next();
        let stage = Stage::Starting { place: place.clone(), exited: None };
        self.state = State::Waking(Waking { source: source.clone(), stage });
        Step::first(vec![Effect::Activate(self.epoch, place, source)])
    }

    fn not_placed(&mut self, failure: Failure) -> Step {
        let State::Waking(Waking { stage: Stage::Placing(rest), .. }) = &self.state else {
            return Step::nothing();
        };
        self.state = State::Rest(rest.clone());
        Step::only(vec![refuse(failure.clone()), Effect::Note(Note::WakeFailed(failure))])
    }

    fn activated(&mut self, epoch: Epoch, endpoint: String, h2c: bool) -> Step {
        let Some((source, place, exited)) = self.starting(epoch) else { return Step::nothing() };
        if let Some(message) = exited {
            let reason = match source.snapshot() {
                Some(_) => Reason::RestoreFailed,
                None => Reason::StartFailed,
            };
            let message = format!("it ended right after it was ready: {message}");
            let failure = Failure::new(reason, message);
            return self.fail(failure, Effect::Destroy(epoch, place));
        }
        let activation = Activation { place, endpoint, h2c, source };
        self.state = State::Running(Running { activation: activation.clone(), term: 0 });
        let effects = vec![Effect::Serve(Serving::Woken), Effect::Note(Note::Woke(activation))];
        Step { write: Write::Behind, effects }
    }

    fn activate_failed(&mut self, rules: Rules<'_>, epoch: Epoch, failure: Failure) -> Step {
        let Some((source, place, _)) = self.starting(epoch) else { return Step::nothing() };
        let Some(snapshot) = source.snapshot() else {
            return self.fail(failure, Effect::Free(epoch, place));
        };
        let restore = matches!(failure.reason, Reason::RestoreFailed | Reason::SnapshotCorrupt);
        let instead = match rules.on_restore_failure {
            _ if !restore => None,
            OnRestoreFailure::Refuse => None,
            OnRestoreFailure::PreviousSnapshot => match (&source, &self.previous) {
                (Source::Current(_), Some(previous)) => Some(Source::Previous(previous.clone())),
                _ => None,
            },
            OnRestoreFailure::ColdStart => Some(Source::ColdAfterFailure),
        };
        let note = Effect::Note(Note::RestoreFailed {
            snapshot: snapshot.id.clone(),
            failure: failure.clone(),
            instead: instead.clone(),
        });
        let mut step = match instead {
            None => self.fail(failure, Effect::Free(epoch, place)),
            // Nothing of the failed one is left, so its worker serves the next attempt.
            Some(source) if source.snapshot().is_none_or(|s| s.node == place.node) => {
                self.start(place, source)
            }
            Some(source) => {
                let mut step = self.place_for(source, Rest::Failed(failure.into()));
                step.write = Write::First;
                step.effects.insert(0, Effect::Free(epoch, place));
                step
            }
        };
        step.effects.push(note);
        step
    }

    /// Once more, and the driver remembers which nodes it is not to be.
    fn elsewhere(&mut self, epoch: Epoch, failure: Failure) -> Step {
        let Some((source, place, _)) = self.starting(epoch) else { return Step::nothing() };
        let mut step = self.place_for(source, Rest::Failed(failure.clone().into()));
        step.write = Write::First;
        step.effects.insert(0, Effect::Free(epoch, place));
        step.effects.push(Effect::Note(Note::Elsewhere(failure)));
        step
    }

    /// The node knows a higher epoch: the store was older than the node. Catch up and go on.
    fn fenced(&mut self, epoch: Epoch, seen: Epoch) -> Step {
        let Some((source, place, _)) = self.starting(epoch) else { return Step::nothing() };
        if seen < epoch {
            let failure = Failure::internal(format!("the node refuses epoch {epoch} as old"));
            return self.fail(failure, Effect::Destroy(epoch, place));
        }
        self.epoch = seen;
        self.start(place, source)
    }

    /// The wake has failed for good; what is left of it is dealt with by `cleanup`.
    pub(super) fn fail(&mut self, failure: Failure, cleanup: Effect) -> Step {
        self.state = State::Rest(Rest::Failed(Failed::from(failure.clone())));
        Step::first(vec![cleanup, refuse(failure.clone()), Effect::Note(Note::WakeFailed(failure))])
    }

    /// What is being started at this epoch.
    pub(super) fn starting(&self, epoch: Epoch) -> Option<(Source, Place, Option<String>)> {
        match &self.state {
            State::Waking(Waking { source, stage: Stage::Starting { place, exited } })
                if epoch == self.epoch =>
            {
                Some((source.clone(), place.clone(), exited.clone()))
            }
            _ => None,
        }
    }
}

pub(super) fn refuse(failure: Failure) -> Effect {
    Effect::Refuse(failure)
}

pub(super) fn stopped() -> Failure {
    Failure::new(Reason::ActorStopped, "it was stopped by its user")
}

pub(super) fn deleted() -> Failure {
    Failure::new(Reason::ActorNotFound, "it is being deleted")
}
