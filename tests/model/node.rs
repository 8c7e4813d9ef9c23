//! The node: `node/src/actor.rs`, `actor/suspend.rs` and `adopt.rs`, one step at a time.

use crate::{
    mutant::Mutant,
    world::{Call, NodeLink, Operation, Reply, Sandbox, Stage, Step, World},
};

impl World {
    /// A call arrives.
    pub(crate) fn call_arrives(&mut self, call: &Call) {
        self.node.calls.remove(call);
        self.carry_out(call.clone());
        self.work_off();
    }

    /// What waited, once no operation is under way.
    fn work_off(&mut self) {
        while matches!(self.node.sandbox, Sandbox::None | Sandbox::Serving { .. }) {
            let Some(call) = self.node.backlog.pop_front() else { return };
            self.carry_out(call);
        }
    }

    fn reply(&mut self, answer: bool, reply: Reply) {
        if answer {
            self.node.replies.insert(reply);
        }
    }

    fn carry_out(&mut self, call: Call) {
        let (highest, ended) = self.node.fence;
        let asked = match &call.operation {
            Operation::Activate { epoch, .. }
            | Operation::Suspend { epoch, .. }
            | Operation::Resume { epoch }
            | Operation::Destroy { epoch } => *epoch,
        };
        let fenced = asked < highest && !self.is(Mutant::NodeIgnoresEpochs);
        if call.stay < self.node.stay && !self.is(Mutant::StaysAreNotChecked) {
            return;
        }
        let heard = self
            .control
            .as_ref()
            .is_some_and(|control| control.node == NodeLink::Ready && control.stay == call.stay);
        match call.operation.clone() {
            Operation::Activate { epoch, snapshot } => {
                let over = epoch == highest && ended && !self.is(Mutant::NodeIgnoresEpochs);
                match &mut self.node.sandbox {
                    _ if fenced => self.reply(heard, Reply::Fenced { epoch, seen: highest }),
                    Sandbox::Activating { epoch: now, answer, .. } if *now == epoch => {
                        *answer |= heard;
                    }
                    Sandbox::Activating { epoch: now, cancelled, .. } => {
                        *cancelled |= epoch > *now;
                        self.node.backlog.push_back(call);
                    }
                    Sandbox::Serving { epoch: now, .. } if *now == epoch => {
                        self.reply(heard, Reply::Activated { epoch });
                    }
                    Sandbox::Suspending { .. } => self.node.backlog.push_back(call),
                    Sandbox::Serving { .. } | Sandbox::None if over => {
                        self.reply(heard, Reply::Fenced { epoch, seen: highest });
                    }
                    Sandbox::Serving { .. } | Sandbox::None => {
                        self.end_sandbox();
                        self.node.fence = (epoch.max(highest), false);
                        let (answer, cancelled) = (heard, false);
                        self.node.sandbox =
                            Sandbox::Activating { epoch, snapshot, answer, cancelled };
                    }
                }
            }
            Operation::Suspend { epoch, id } => match self.node.sandbox.clone() {
                _ if fenced => self.reply(heard, Reply::CheckpointFailed { id, epoch }),
                Sandbox::Suspending { id: now, .. } if now == id => {
                    if let Sandbox::Suspending { answer, .. } = &mut self.node.sandbox {
                        *answer |= heard;
                    }
                }
                Sandbox::Serving { epoch: now, .. }
                    if now == epoch && self.node.resumed.as_ref() == Some(&id) =>
                {
                    self.reply(heard, Reply::Resumed { id, epoch });
                }
                Sandbox::Serving { epoch: now, effects } if now == epoch => {
                    if !self.is(Mutant::EndpointOutlivesDrain) {
                        self.reset_connections();
                    }
                    let (step, cancelled, answer) = (Step::Closed, false, heard);
                    self.node.sandbox =
                        Sandbox::Suspending { epoch, id, effects, step, cancelled, answer };
                }
                Sandbox::None | Sandbox::Serving { .. } => {
                    let committed = self.node.snapshots.get(&id).is_some_and(|s| s.0 == epoch);
                    self.reply(
                        heard,
                        match committed {
                            true => Reply::Committed { id, epoch },
                            false => Reply::NotRunning { id, epoch },
                        },
                    );
                }
                _ => self.node.backlog.push_back(call),
            },
            Operation::Resume { epoch } => match &mut self.node.sandbox {
                _ if fenced => {}
                Sandbox::Suspending { epoch: now, cancelled, step, .. } if *now == epoch => {
                    *cancelled |= *step != Step::Committed;
                }
                Sandbox::Serving { .. } | Sandbox::None => {}
                _ => self.node.backlog.push_back(call),
            },
            Operation::Destroy { epoch } => match &mut self.node.sandbox {
                // It has a later one; this one is not there.
                _ if fenced => self.reply(heard, Reply::Destroyed { epoch }),
                Sandbox::None | Sandbox::Serving { .. } => {
                    self.end_sandbox();
                    self.node.fence = (epoch.max(self.node.fence.0), true);
                    self.reply(heard, Reply::Destroyed { epoch });
                }
                Sandbox::Activating { cancelled, .. } => {
                    *cancelled = true;
                    self.node.backlog.push_back(call);
                }
                Sandbox::Suspending { cancelled, step, .. } => {
                    *cancelled |= *step != Step::Committed;
                    self.node.backlog.push_back(call);
                }
            },
        }
    }

    /// The process is killed, and with it what it had.
    fn end_sandbox(&mut self) {
        if let Sandbox::Serving { epoch, .. } | Sandbox::Suspending { epoch, .. } =
            self.node.sandbox
        {
            self.reset_connections();
            self.seen.ended = self.seen.ended.max(epoch);
            self.seen.floor = self.seen.committed;
        }
        self.node.sandbox = Sandbox::None;
    }

    /// Requests that the actor has are cut off.
    fn reset_connections(&mut self) {
        for request in 0..self.requests.len() {
            if matches!(self.requests[request].stage, Stage::Arrived(_)) {
                self.end_request(request, Stage::CutOff);
            }
        }
    }

    /// The operation under way goes a step further.
    pub(crate) fn node_steps(&mut self) {
        match self.node.sandbox.clone() {
            Sandbox::None | Sandbox::Serving { .. } => return,
            Sandbox::Activating { epoch, snapshot, answer, cancelled } => {
                if cancelled {
                    self.node.sandbox = Sandbox::None;
                    self.reply(answer, Reply::ActivateFailed { epoch });
                } else {
                    let effects = snapshot.map_or(0, |id| self.node.snapshots[&id].1);
                    self.serves(epoch, effects);
                    self.seen.activations += 1;
                    self.reply(answer, Reply::Activated { epoch });
                }
            }
            Sandbox::Suspending { epoch, id, answer, cancelled: true, effects, step }
                if step != Step::Committed =>
            {
                self.serves(epoch, effects);
                self.node.resumed = Some(id.clone());
                self.reply(answer, Reply::Resumed { id, epoch });
            }
            Sandbox::Suspending { epoch, id, effects, step, cancelled, answer } => {
                let step = match step {
                    Step::Closed => Step::Sealed(effects),
                    Step::Sealed(sealed) => {
                        self.node.snapshots.insert(id.clone(), (epoch, sealed));
                        self.seen.committed = sealed;
                        self.seen.ends += 1;
                        Step::Committed
                    }
                    Step::Committed => {
                        // What it did after the image was taken is gone; its floor stays.
                        let floor = self.seen.floor;
                        self.end_sandbox();
                        self.seen.floor = floor;
                        self.node.fence = (epoch.max(self.node.fence.0), true);
                        self.reply(answer, Reply::Committed { id, epoch });
                        return self.work_off();
                    }
                };
                self.node.sandbox =
                    Sandbox::Suspending { epoch, id, effects, step, cancelled, answer };
            }
        }
        self.work_off();
    }

    /// The endpoint of an activation is open.
    fn serves(&mut self, epoch: u64, effects: u8) {
        self.node.sandbox = Sandbox::Serving { epoch, effects };
        let seen = &mut self.seen;
        seen.old_one_serves |= epoch < seen.served || epoch <= seen.ended;
        seen.served = seen.served.max(epoch);
        seen.state_lost |= effects < seen.floor;
    }

    /// A restore, or the start, fails; nothing of it is left.
    pub(crate) fn restore_fails(&mut self) {
        if let Sandbox::Activating { epoch, answer, .. } = self.node.sandbox {
            self.node.sandbox = Sandbox::None;
            self.reply(answer, Reply::ActivateFailed { epoch });
            self.work_off();
        }
    }

    /// No snapshot can be taken; it serves on.
    pub(crate) fn checkpoint_fails(&mut self) {
        if let Sandbox::Suspending { epoch, id, effects, answer, .. } = self.node.sandbox.clone() {
            self.serves(epoch, effects);
            self.reply(answer, Reply::CheckpointFailed { id, epoch });
            self.work_off();
        }
    }

    pub(crate) fn sandbox_crashes(&mut self) {
        let Sandbox::Serving { epoch, .. } = self.node.sandbox else { return };
        self.end_sandbox();
        self.seen.ends += 1;
        if self.node.up {
            self.node.fence = (epoch.max(self.node.fence.0), true);
            let heard = |node| node == NodeLink::Ready;
            if self.control.as_ref().is_some_and(|control| heard(control.node)) {
                self.node.exits.push_back(epoch);
            }
        }
    }

    /// The connections between the node and the control plane are gone: calls under way are carried out or not, and
    /// nobody hears the answers.
    pub(crate) fn cut_node_off(&mut self) {
        self.node.replies.clear();
        self.node.exits.clear();
        if let Sandbox::Activating { answer, .. } | Sandbox::Suspending { answer, .. } =
            &mut self.node.sandbox
        {
            *answer = false;
        }
        let repeated = !self.is(Mutant::CallsAreNotRepeated);
        let Some(control) = &mut self.control else { return };
        control.node = NodeLink::Away;
        if repeated {
            use crate::world::Errand;
            if let Errand::Activate { sent, .. } | Errand::Suspend { sent, .. } =
                &mut control.errand
            {
                *sent = false;
            }
            control.resume = control.resume.map(|_| false);
            control.cleaning.values_mut().for_each(|sent| *sent = false);
        }
    }

    /// The agent is gone; sandboxes stay as they are.
    pub(crate) fn agent_crashes(&mut self) {
        self.cut_node_off();
        self.node.calls.clear();
        self.node.backlog.clear();
        self.node.stay = 0;
        self.node.up = false;
    }

    /// The next agent adopts what serves.
    pub(crate) fn agent_starts(&mut self) {
        self.node.up = true;
        match self.node.sandbox.clone() {
            // A start that was cut short may be tried again.
            Sandbox::Activating { .. } => self.node.sandbox = Sandbox::None,
            Sandbox::Suspending { epoch, step: Step::Committed, .. } => {
                let floor = self.seen.floor;
                self.end_sandbox();
                self.seen.floor = floor;
                self.node.fence = (epoch.max(self.node.fence.0), true);
            }
            Sandbox::Suspending { epoch, effects, .. } => self.serves(epoch, effects),
            Sandbox::Serving { .. } => {}
            Sandbox::None => {
                // One that crashed meanwhile is over.
                if self.seen.ended >= self.node.fence.0 {
                    self.node.fence.1 = true;
                }
            }
        }
    }

    /// The endpoint that a request was told, as the network finds it: the epoch and effects of what answers there.
    fn behind_endpoint(&mut self, told: u64) -> Option<(u64, &mut u8)> {
        let reused = self.is(Mutant::EndpointsAreReused);
        let open = self.is(Mutant::EndpointOutlivesDrain);
        match &mut self.node.sandbox {
            Sandbox::Serving { epoch, effects } if *epoch == told || reused => {
                Some((*epoch, effects))
            }
            Sandbox::Suspending { epoch, effects, .. } if open && *epoch == told => {
                Some((0, effects))
            }
            _ => None,
        }
    }

    /// Envoy connects where it was told.
    pub(crate) fn request_connects(&mut self, request: usize) {
        let Stage::Told(at) = self.requests[request].stage else { return };
        match self.behind_endpoint(at.0) {
            Some((epoch, effects)) => {
                *effects += 1;
                let effects = *effects;
                self.seen.floor = self.seen.floor.max(effects);
                self.seen.misdelivered |= epoch != at.0;
                self.requests[request].stage = Stage::Arrived(at.0);
            }
            // Refused at once.
            None => self.end_request(request, Stage::CutOff),
        }
    }
}
