//! What nodes tell without being asked, and what is left of an earlier control plane.

use reveille_api::Epoch;

use super::{
    Actor, Cause, Draining, Effect, Frozen, Goal, Ice, Lost, Note, Place, Rest, Running, Serving,
    Snapshot, Stage, State, Step, Storage, Survivor, Waking,
};

impl Actor {
    pub(super) fn exited(&mut self, node: &str, epoch: Epoch, message: String) -> Step {
        // Only the node that has it can know.
        if epoch != self.epoch || self.place().is_none_or(|place| place.node != node) {
            return Step::nothing();
        }
        match &mut self.state {
            // The node's answer is under way and decides; it must not be believed blindly.
            State::Waking(Waking { stage: Stage::Starting { exited, .. }, .. }) => {
                *exited = Some(message);
                Step::nothing()
            }
            State::Checkpointing(checkpointing) => {
                checkpointing.exited = Some(message);
                Step::nothing()
            }
            _ => self.lose(message, false),
        }
    }

    pub(super) fn node_lost(&mut self, node: &str) -> Step {
        match self.place() {
            Some(place) if place.node == node => self.lose(format!("{node} does not answer"), true),
            _ => Step::nothing(),
        }
    }

    pub(super) fn found(
        &mut self,
        place: &Place,
        epoch: Epoch,
        serving: bool,
        frozen: bool,
    ) -> Step {
        if self.place() == Some(place) && epoch == self.epoch {
            return self.agree(serving, frozen);
        }
        if (serving || frozen)
            && epoch == self.epoch
            && let Some(step) = self.take_back(place, frozen)
        {
            return step;
        }
        Step::only(vec![
            Effect::Destroy(epoch, place.clone()),
            Effect::Note(Note::StaleDestroyed(epoch)),
        ])
    }

    /// The survivor of a silent node, if nothing has taken its place.
    fn take_back(&mut self, place: &Place, frozen: bool) -> Option<Step> {
        let rest = match &self.state {
            State::Waking(Waking { stage: Stage::Placing(rest), .. }) | State::Rest(rest) => rest,
            _ => return None,
        };
        let Survivor { activation, term } = rest.lost()?.unreachable.clone()?;
        if activation.place != *place {
            return None;
        }
        let term = term + 1;
        let note = Effect::Note(Note::FoundAgain);
        if matches!(self.state, State::Rest(Rest::Stopped(_))) {
            // Its user has stopped it meanwhile: it goes down as it should have, with a snapshot.
            let (cause, goal) = (Cause::User, Goal::Stop);
            self.state = State::Draining(Draining { activation, term, cause, goal });
            return Some(Step::first(vec![Effect::Drain(self.epoch, term, cause), note]));
        }
        if frozen {
            self.state = State::Frozen(Frozen { activation, term, stage: Ice::Frozen });
            return Some(Step::first(vec![note]));
        }
        self.state = State::Running(Running { activation, term });
        Some(Step::first(vec![Effect::Serve(Serving::Resumed), note]))
    }

    pub(super) fn absent(&mut self, node: &str, epoch: Epoch, snapshots: Vec<Snapshot>) -> Step {
        if epoch != self.epoch {
            return Step::nothing();
        }
        match &mut self.state {
            State::Running(_) | State::Draining(_) | State::Frozen(_) => {
                if self.place().is_some_and(|place| place.node == node) {
                    self.lose(format!("{node} has it no more"), false)
                } else {
                    Step::nothing()
                }
            }
            State::Checkpointing(c) if c.activation.place.node == node => {
                match snapshots.into_iter().find(|s| s.id == c.snapshot) {
                    Some(snapshot) => {
                        let note = Note::SnapshotAdopted(snapshot.id.clone());
                        let mut step = self.committed(epoch, snapshot);
                        step.effects.push(Effect::Note(note));
                        step
                    }
                    None => self.lose(format!("{node} has it no more"), false),
                }
            }
            State::Rest(rest) | State::Waking(Waking { stage: Stage::Placing(rest), .. }) => {
                let (Rest::Lost(lost) | Rest::Stopped(Some(lost))) = rest else {
                    return Step::nothing();
                };
                let on_node =
                    lost.unreachable.as_ref().is_none_or(|s| s.activation.place.node == node);
                match snapshots.into_iter().find(|s| lost.pending.as_ref() == Some(&s.id)) {
                    Some(snapshot) => self.adopt(snapshot),
                    None if on_node && *lost != settled(lost) => {
                        let survivor = lost.unreachable.take();
                        *lost = settled(lost);
                        let free = |s: Survivor| Effect::Free(epoch, s.activation.place);
                        Step::first(survivor.map(free).into_iter().collect())
                    }
                    None => Step::nothing(),
                }
            }
            _ => Step::nothing(),
        }
    }

    /// The node had committed what it was asked for before it fell silent: nothing was lost after all.
    fn adopt(&mut self, snapshot: Snapshot) -> Step {
        let mut effects = vec![Effect::Note(Note::SnapshotAdopted(snapshot.id.clone()))];
        let (rest, lost) = match &self.state {
            State::Rest(Rest::Stopped(lost)) => (Rest::Stopped(None), lost.as_ref()),
            State::Rest(rest) | State::Waking(Waking { stage: Stage::Placing(rest), .. }) => {
                (Rest::Suspended, rest.lost())
            }
            _ => (Rest::Suspended, None),
        };
        if let Some(survivor) = lost.and_then(|lost| lost.unreachable.as_ref()) {
            effects.push(Effect::Free(self.epoch, survivor.activation.place.clone()));
        }
        self.previous = self.snapshot.replace(snapshot).or(self.previous.take());
        // A wake that waited for a worker begins again, now from this snapshot.
        self.state = State::Rest(rest);
        Step::first(effects)
    }

    pub(super) fn stored_now(&mut self, id: &str) -> Step {
        let mut kept = self.snapshot.iter_mut().chain(&mut self.previous);
        match kept.find(|snapshot| snapshot.id == id) {
            Some(snapshot) if snapshot.storage != Storage::Stored => {
                snapshot.storage = Storage::Stored;
                Step::first(vec![Effect::Note(Note::Stored(id.to_owned()))])
            }
            _ => Step::nothing(),
        }
    }

    /// A node remembers a higher epoch than the store: the store is older. Never fall behind it.
    pub(super) fn seen(&mut self, epoch: Epoch) -> Step {
        if epoch <= self.epoch {
            return Step::nothing();
        }
        self.epoch = epoch;
        Step::first(vec![])
    }

    /// Asks again for what the stored state intends.
    pub(super) fn recover(&mut self) -> Step {
        let epoch = self.epoch;
        match &self.state {
            State::Rest(_) | State::Running(_) => Step::nothing(),
            State::Waking(Waking { source, stage: Stage::Starting { place, .. } }) => {
                Step::only(vec![Effect::Activate(epoch, place.clone(), source.clone())])
            }
            State::Waking(_) => Step::nothing(),
            // A guess made by another process means nothing now.
            State::Draining(d) if d.cause.basis().is_some() => {
                let (activation, term) = (d.activation.clone(), d.term + 1);
                self.state = State::Running(Running { activation, term });
                Step::first(vec![Effect::Note(Note::SuspendCancelled)])
            }
            State::Draining(d) => Step::only(vec![Effect::Drain(epoch, d.term, d.cause)]),
            State::Frozen(f) => {
                let place = f.activation.place.clone();
                Step::only(match f.stage {
                    Ice::Freezing => vec![Effect::Freeze(epoch, f.term, place)],
                    Ice::Frozen => vec![],
                    Ice::Thawing => vec![Effect::Thaw(epoch, f.term, place)],
                })
            }
            State::Checkpointing(c) => {
                let place = c.activation.place.clone();
                let mut effects =
                    vec![Effect::Suspend(epoch, place.clone(), c.snapshot.clone(), None)];
                // In this order: there must be something to call off.
                if c.resuming {
                    effects.push(Effect::Resume(epoch, place));
                }
                Step::only(effects)
            }
            State::Deleting(_) => Step::only(vec![Effect::Purge]),
        }
    }
}

/// The same loss, with nothing left to hope for.
fn settled(lost: &Lost) -> Lost {
    Lost { message: lost.message.clone(), unreachable: None, pending: None }
}
