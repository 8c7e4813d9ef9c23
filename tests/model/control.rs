//! The control plane: what its driver and its list of routers do around the real lifecycle.
//!
//! | here | there |
//! | --- | --- |
//! | [`World::handle`], `step`, `perform` | `controlplane/src/driver.rs`, `driver/perform.rs` |
//! | `hello`, `held`, `acknowledged`, `begin_drain` | `controlplane/src/routers.rs`, `routers/usage.rs` |
//! | [`World::register`] | `controlplane/src/nodes/reconcile.rs` |

use std::collections::{BTreeMap, BTreeSet};

use reveille_api::{Epoch, Failure, Reason};
use reveille_controlplane::{
    clock::Moment,
    lifecycle::{
        Actor, Asker, Cause, Effect, Event, Phase, Place, Rules, Snapshot, State, Step as Taken,
        Write,
    },
};
use reveille_router::model::At;

use crate::{
    mutant::Mutant,
    world::{
        Call, Control, Drain, Errand, Link, NODE, NodeLink, Operation, Process, ROUTERS, Refusal,
        Reply, Report, Revoke, Sandbox, Usage, Use, Waiter, Wake, World,
    },
};

pub(crate) fn place() -> Place {
    Place { node: NODE.into(), worker: format!("{NODE}-0") }
}

fn snapshot(id: &str, epoch: u64) -> Snapshot {
    Snapshot {
        id: id.into(),
        node: NODE.into(),
        epoch: Epoch(epoch),
        bytes: 0,
        created_unix_ms: 0,
        runtime: String::new(),
        runtime_version: String::new(),
        image: String::new(),
        storage: Default::default(),
    }
}

/// `perform.rs`: the first term a router may still use.
fn valid_from(life: &Actor) -> Option<u64> {
    match &life.state {
        State::Waking(_) if life.phase() == Phase::Starting => Some(0),
        State::Running(running) => Some(running.term),
        State::Draining(draining) => Some(draining.term + 1),
        State::Checkpointing(checkpointing) => Some(checkpointing.term + 1),
        _ => None,
    }
}

impl World {
    pub(crate) fn control(&mut self) -> &mut Control {
        self.control.as_mut().expect("the control plane is up")
    }

    pub(crate) fn start_control(&mut self) {
        let awaited = match self.is(Mutant::RoutersAreNotAwaited) {
            true => BTreeSet::new(),
            false => self.store.routers.clone(),
        };
        self.control = Some(Control {
            life: self.store.life.clone(),
            behind: false,
            wakes: Vec::new(),
            links: [Link::Unknown; ROUTERS],
            awaited,
            usage: None,
            node: NodeLink::Away,
            stay: 0,
            worker: None,
            errand: Errand::None,
            resume: None,
            cleaning: BTreeMap::new(),
        });
        if !self.store.life.phase().is_rest() {
            self.handle(Event::Recover);
        }
    }

    /// Everything in memory and every connection is gone.
    pub(crate) fn crash_control(&mut self) {
        self.control = None;
        for router in 0..ROUTERS {
            self.hang_up(router);
        }
        self.cut_node_off();
    }

    /// `fleet.rs` and `driver.rs`: a transition, and what follows from it for those who wait.
    pub(crate) fn handle(&mut self, event: Event) {
        self.step(event);
        while {
            let control = self.control();
            control.life.phase().is_rest() && !control.wakes.is_empty()
        } {
            self.step(Event::Wake(Asker::Traffic));
        }
        self.pump();
    }

    fn step(&mut self, event: Event) {
        let joined = matches!(event, Event::Wake(_)) && self.is(Mutant::WakesAreNotJoined);
        let same_terms = self.is(Mutant::TermsDoNotGrow);
        let forgets = self.is(Mutant::IntentIsNotStored);
        let control = self.control();
        let errand = |life: &Actor| (life.phase(), life.epoch, life.deadline());
        let before = errand(&control.life);
        if joined && control.life.phase() == Phase::Starting {
            let _ = control.life.apply(
                Rules::default(),
                Event::Fenced { epoch: control.life.epoch, seen: control.life.epoch },
            );
        }
        let Taken { write, mut effects } = control.life.apply(Rules::default(), event);
        if same_terms && let State::Running(running) = &mut control.life.state {
            running.term = 0;
        }
        let after = errand(&control.life);
        // A checkpoint that is called off is the same errand.
        let same = (before.0, before.1) == (after.0, after.1)
            && (after.0 != Phase::Draining || before.2 == after.2);
        if joined && !same && after.0 == Phase::Starting {
            let source = match &control.life.state {
                State::Waking(waking) => waking.source.clone(),
                _ => unreachable!("it is starting"),
            };
            effects = vec![Effect::Activate(control.life.epoch, place(), source)];
        }
        if !same {
            control.errand = Errand::None;
            control.resume = None;
        }
        let starts = effects.iter().any(|effect| matches!(effect, Effect::Activate(..)));
        match write {
            Write::First if forgets && starts => {}
            Write::First => {
                control.behind = false;
                self.store.life = control.life.stored();
            }
            Write::Behind => control.behind = true,
            Write::Nothing => {}
        }
        self.settle_in();
        for effect in effects {
            self.perform(effect);
        }
        let control = self.control();
        if control.life.phase().is_rest() && !control.life.may_return() {
            control.usage = None;
        }
    }

    fn settle_in(&mut self) {
        let control = self.control();
        let epoch = control.life.epoch.0;
        if control.life.place().is_some() {
            control.worker = Some(epoch);
        }
        if let Some(from) = valid_from(&control.life) {
            match control.usage.as_mut().filter(|usage| usage.epoch == epoch) {
                Some(usage) => usage.valid_from = usage.valid_from.max(from),
                None => {
                    let routers = [Use::default(); ROUTERS];
                    control.usage = Some(Usage { epoch, valid_from: from, routers, drain: None });
                }
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Place(_) => self.control().errand = Errand::Place,
            Effect::Activate(epoch, _, source) => {
                let snapshot = source.snapshot().map(|snapshot| snapshot.id.clone());
                self.control().errand = Errand::Activate { epoch: epoch.0, snapshot, sent: false };
            }
            Effect::Drain(_, term, cause) => {
                let patient = cause.basis().is_none();
                self.control().errand = Errand::Drain { term, patient, begun: false };
            }
            Effect::Revoke(epoch, term) => self.revoke_everywhere((epoch.0, term)),
            Effect::Suspend(epoch, _, id, _) => {
                self.control().errand = Errand::Suspend { epoch: epoch.0, id, sent: false };
            }
            Effect::Resume(..) => self.control().resume = Some(false),
            Effect::Destroy(epoch, _) => {
                let control = self.control();
                control.worker = Some(epoch.0);
                control.cleaning.entry(epoch.0).or_insert(false);
            }
            Effect::Free(epoch, _) => self.free(epoch.0),
            Effect::Serve(_) => self.serve(),
            Effect::Refuse(_) => self.answer_all(|_, _| Err(Refusal::Failed)),
            Effect::Collect(_) | Effect::StayedUp(_) | Effect::Note(_) => {}
            Effect::Freeze(..) | Effect::Thaw(..) => unreachable!("nothing is frozen here"),
            Effect::Purge | Effect::Remove => unreachable!("nothing is deleted here"),
        }
    }

    fn free(&mut self, epoch: u64) {
        let control = self.control();
        if control.worker == Some(epoch) {
            control.worker = None;
        }
    }

    fn serve(&mut self) {
        let noted = !self.is(Mutant::HoldersAreNotNoted);
        let life = &self.control().life;
        let State::Running(running) = &life.state else { return };
        let at = (life.epoch.0, running.term);
        self.answer_all(|control, waiter| {
            // Known as a holder before it hears of the binding.
            let known = control.links[waiter.router] == Link::Up(waiter.instance)
                && (!noted || control.hold(waiter.router, at));
            if known { Ok(at) } else { Err(Refusal::NoSession) }
        });
    }

    fn answer_all(&mut self, answer: impl Fn(&mut Control, Waiter) -> Result<At, Refusal>) {
        for waiter in std::mem::take(&mut self.control().wakes) {
            let outcome = answer(self.control(), waiter);
            if waiter.live {
                self.routers[waiter.router].wake = Some(Wake::Answered(outcome));
            }
        }
    }

    fn revoke_everywhere(&mut self, at: At) {
        let control = self.control();
        let Some(usage) = control.usage.as_mut().filter(|usage| usage.epoch == at.0) else {
            return;
        };
        usage.valid_from = usage.valid_from.max(at.1 + 1);
        for router in usage.users() {
            self.send_revoke(router, Revoke { at, patient: false });
        }
    }

    fn send_revoke(&mut self, router: usize, revoke: Revoke) {
        if let (Link::Up(_), Some(session)) =
            (self.control().links[router], &mut self.routers[router].session)
        {
            session.revokes.push_back(revoke);
        }
    }

    /// Calls that can be sent, are; drains that can begin or are over, do.
    pub(crate) fn pump(&mut self) {
        let Some(control) = &mut self.control else { return };
        if control.node == NodeLink::Ready {
            let (calls, stay) = (&mut self.node.calls, control.stay);
            let mut send = |operation, sent: &mut bool| {
                if !std::mem::replace(sent, true) {
                    calls.insert(Call { operation, stay });
                }
            };
            match &mut control.errand {
                Errand::Activate { epoch, snapshot, sent } => {
                    let (epoch, snapshot) = (*epoch, snapshot.clone());
                    send(Operation::Activate { epoch, snapshot }, sent);
                }
                Errand::Suspend { epoch, id, sent } => {
                    let (epoch, id) = (*epoch, id.clone());
                    send(Operation::Suspend { epoch, id }, sent);
                }
                _ => {}
            }
            if let Some(sent) = &mut control.resume {
                send(Operation::Resume { epoch: control.life.epoch.0 }, sent);
            }
            for (epoch, sent) in &mut control.cleaning {
                send(Operation::Destroy { epoch: *epoch }, sent);
            }
        }
        self.pump_drain();
    }

    fn pump_drain(&mut self) {
        let control = self.control();
        let Errand::Drain { term, patient, begun } = control.errand else { return };
        if !begun && control.awaited.is_empty() {
            self.begin_drain(term, patient);
        }
        let not_awaited = self.is(Mutant::DrainIsNotAwaited);
        let control = self.control();
        let drain = control.usage.as_ref().and_then(|usage| usage.drain.as_ref());
        let over = drain.is_none_or(|drain| drain.waiting.is_empty());
        if matches!(control.errand, Errand::Drain { begun: true, .. }) && (over || not_awaited) {
            self.drained(false);
        }
    }

    fn begin_drain(&mut self, term: u64, patient: bool) {
        let control = self.control();
        control.errand = Errand::Drain { term, patient, begun: true };
        let epoch = control.life.epoch.0;
        let Some(usage) = &mut control.usage else { return };
        let waiting: BTreeSet<_> = usage.users().into_iter().collect();
        usage.valid_from = usage.valid_from.max(term + 1);
        usage.drain = Some(Drain { term, waiting: waiting.clone(), patient });
        for router in waiting {
            self.send_revoke(router, Revoke { at: (epoch, term), patient });
        }
    }

    /// The routers have answered; or, `silent`, have not.
    pub(crate) fn drained(&mut self, silent: bool) {
        let control = self.control();
        let Errand::Drain { term, .. } = control.errand else { return };
        let epoch = control.life.epoch;
        let usage = control.usage.as_ref();
        let in_flight = usage.map_or(0, |u| u.routers.iter().map(|r| r.in_flight).sum());
        let not_awaited = self.is(Mutant::DrainIsNotAwaited);
        self.handle(Event::Drained {
            epoch,
            term,
            in_flight: if not_awaited { 0 } else { in_flight },
            last_active: Moment(0),
            silent,
            snapshot: format!("{epoch}-{term}"),
        });
    }

    /// Routers whose silence keeps the drain waiting.
    pub(crate) fn awaited_by_drain(&self) -> Option<&BTreeSet<usize>> {
        let control = self.control.as_ref()?;
        let Errand::Drain { begun, .. } = control.errand else { return None };
        if !begun {
            return Some(&control.awaited);
        }
        control.usage.as_ref()?.drain.as_ref().map(|drain| &drain.waiting)
    }

    pub(crate) fn suspend(&mut self, cause: Cause) {
        let decided_for = cause.basis().map(|_| self.control().life.epoch);
        self.handle(Event::Suspend { cause, decided_for, snapshot: String::new() });
    }

    /// Whether an idle decision may be made: every router that could know is there, and knows of nothing in flight.
    pub(crate) fn is_believed_idle(&self) -> bool {
        let Some(control) = &self.control else { return false };
        let Some(usage) = &control.usage else { return false };
        let away = |router: usize| !matches!(control.links[router], Link::Up(_));
        control.life.phase() == Phase::Running
            && control.awaited.is_empty()
            && !usage.users().into_iter().any(away)
            && usage.routers.iter().all(|router| router.in_flight == 0)
    }

    /// A router's wake call arrives.
    pub(crate) fn wake_arrives(&mut self, router: usize) {
        let instance = self.routers[router].instance;
        self.routers[router].wake = Some(Wake::Waiting);
        self.control().wakes.push(Waiter { router, instance, live: true });
        self.handle(Event::Wake(Asker::Traffic));
    }

    /// The first of what a router said arrives.
    pub(crate) fn report_arrives(&mut self, router: usize) {
        let Some(session) = &mut self.routers[router].session else { return };
        let report = session.reports.pop_front();
        match report {
            Some(Report::Hello(instance)) => self.hello(router, instance),
            Some(Report::Held(held)) => self.held(router, &held),
            Some(Report::Ack(at, in_flight)) => self.acknowledged(router, at, in_flight),
            None => {}
        }
        self.pump();
    }

    fn hello(&mut self, router: usize, instance: u8) {
        let control = self.control();
        let earlier = std::mem::replace(&mut control.links[router], Link::Up(instance));
        if matches!(earlier, Link::Up(other) | Link::Away(other) if other != instance) {
            control.drop_uses(router);
        }
        self.store.routers.insert(router);
        let control = self.control();
        let pending = control.usage.as_ref().and_then(|usage| {
            let drain = usage.drain.as_ref().filter(|drain| drain.waiting.contains(&router))?;
            Some(Revoke { at: (usage.epoch, drain.term), patient: drain.patient })
        });
        if let Some(revoke) = pending {
            self.send_revoke(router, revoke);
        }
    }

    fn held(&mut self, router: usize, held: &[(At, u32)]) {
        for (at, in_flight) in held {
            let control = self.control();
            let usage = control.usage.as_mut().filter(|usage| usage.epoch == at.0);
            let patient = usage.as_ref().is_some_and(|usage| usage.has_time());
            let valid = usage.is_some_and(|usage| {
                // Revoked or not, it may use it until it acknowledges.
                let holds = usage.routers[router].holds.max(Some(at.1));
                usage.routers[router] = Use { holds, in_flight: *in_flight };
                at.1 >= usage.valid_from
            });
            if !valid {
                self.send_revoke(router, Revoke { at: *at, patient });
            }
        }
        let control = self.control();
        if let Some(usage) = &mut control.usage
            && !held.iter().any(|(at, _)| at.0 == usage.epoch)
        {
            usage.routers[router].in_flight = 0;
        }
        control.awaited.remove(&router);
    }

    fn acknowledged(&mut self, router: usize, at: At, in_flight: u32) {
        let control = self.control();
        let Some(usage) = control.usage.as_mut().filter(|usage| usage.epoch == at.0) else {
            return;
        };
        let used = &mut usage.routers[router];
        used.in_flight = in_flight;
        used.holds = used.holds.filter(|held| *held > at.1);
        if let Some(drain) = usage.drain.as_mut().filter(|drain| drain.term <= at.1) {
            drain.waiting.remove(&router);
        }
    }

    /// A router has been away for longer than the grace.
    pub(crate) fn give_up_router(&mut self, router: usize) {
        let control = self.control();
        control.links[router] = Link::Unknown;
        control.drop_uses(router);
        self.store.routers.remove(&router);
        self.pump();
    }

    /// Routers of before the start have not come back in time.
    pub(crate) fn give_up_awaited(&mut self) {
        for router in std::mem::take(&mut self.control().awaited) {
            self.store.routers.remove(&router);
        }
        self.pump();
    }

    pub(crate) fn can_place(&self) -> bool {
        self.control.as_ref().is_some_and(|control| {
            let free = control.worker.is_none() && control.node == NodeLink::Ready;
            free && control.errand == Errand::Place
        })
    }

    /// An answer of the node arrives. One that nobody waits for any more is dropped.
    pub(crate) fn reply_arrives(&mut self, reply: &Reply) {
        self.node.replies.remove(reply);
        let control = self.control();
        let suspends =
            |id: &String| matches!(&control.errand, Errand::Suspend { id: of, .. } if of == id);
        let starts =
            |epoch| matches!(control.errand, Errand::Activate { epoch: of, .. } if of == epoch);
        let event = match reply.clone() {
            Reply::Activated { epoch } if starts(epoch) => {
                Event::Activated { epoch: Epoch(epoch), endpoint: format!("e{epoch}"), h2c: false }
            }
            Reply::ActivateFailed { epoch } if starts(epoch) => Event::ActivateFailed {
                epoch: Epoch(epoch),
                failure: Failure::new(Reason::RestoreFailed, ""),
            },
            Reply::Fenced { epoch, seen } if starts(epoch) => {
                Event::Fenced { epoch: Epoch(epoch), seen: Epoch(seen) }
            }
            Reply::Committed { id, epoch } if suspends(&id) => {
                Event::Committed { epoch: Epoch(epoch), snapshot: snapshot(&id, epoch) }
            }
            Reply::Resumed { id, epoch } if suspends(&id) => {
                Event::Resumed { epoch: Epoch(epoch), snapshot: id }
            }
            Reply::CheckpointFailed { id, epoch } if suspends(&id) => {
                let message = String::new();
                Event::CheckpointFailed { epoch: Epoch(epoch), snapshot: id, message }
            }
            Reply::NotRunning { id, epoch } if suspends(&id) => {
                Event::Absent { node: NODE.into(), epoch: Epoch(epoch), snapshots: Vec::new() }
            }
            Reply::Destroyed { epoch } => {
                control.cleaning.remove(&epoch);
                self.free(epoch);
                return self.pump();
            }
            _ => return,
        };
        self.handle(event);
    }

    pub(crate) fn exit_arrives(&mut self) {
        if let Some(epoch) = self.node.exits.pop_front() {
            let (node, message) = (NODE.into(), String::new());
            self.handle(Event::Exited { node, epoch: Epoch(epoch), message });
        }
    }

    pub(crate) fn node_lost(&mut self) {
        self.control().node = NodeLink::Lost;
        if self.control().worker.is_some() {
            self.handle(Event::NodeLost { node: NODE.into() });
        }
    }

    /// The agent registers: what is really there is compared with what is believed. By that question it hears of the
    /// new stay.
    pub(crate) fn register(&mut self) {
        let stay = self.node.stay.max(self.control().stay) + 1;
        self.control().stay = stay;
        self.node.stay = stay;
        let believed = self.control().worker;
        let snapshots: Vec<_> =
            self.node.snapshots.iter().map(|(id, (epoch, _))| snapshot(id, *epoch)).collect();
        let found = match self.node.sandbox {
            Sandbox::None => None,
            Sandbox::Activating { epoch, .. } | Sandbox::Suspending { epoch, .. } => {
                Some((epoch, false))
            }
            Sandbox::Serving { epoch, .. } => Some((epoch, true)),
        };
        let highest = self.node.fence.0;
        if highest > self.control().life.epoch.0 {
            self.handle(Event::Seen(Epoch(highest)));
        }
        if let Some((epoch, serving)) = found {
            self.control().worker = Some(epoch);
            self.handle(Event::Found {
                place: place(),
                epoch: Epoch(epoch),
                serving,
                frozen: false,
            });
        }
        let life = &self.control().life;
        let known = |id: &str| life.snapshot.iter().chain(&life.previous).any(|s| s.id == id);
        let pending = |id: &str| life.needs(id) && !known(id);
        let absent = |epoch| Event::Absent {
            node: NODE.into(),
            epoch: Epoch(epoch),
            snapshots: snapshots.clone(),
        };
        if found.is_none() && snapshots.iter().any(|snapshot| pending(&snapshot.id)) {
            let epoch = life.epoch.0;
            self.handle(absent(epoch));
        }
        if let Some(epoch) = believed.filter(|epoch| found.is_none_or(|(f, _)| f != *epoch)) {
            let life = &self.control().life;
            if life.epoch.0 != epoch || life.place().is_none() {
                self.free(epoch);
            }
            self.handle(absent(epoch));
        }
        self.control().node = NodeLink::Ready;
        self.pump();
    }

    /// The wake of a router that cannot reach the control plane.
    pub(crate) fn is_unreachable_for(&self, router: usize) -> bool {
        let up = Link::Up(self.routers[router].instance);
        self.control.as_ref().is_none_or(|control| control.links[router] != up)
    }

    pub(crate) fn may_ask(&self, router: usize) -> bool {
        let ready = &self.routers[router];
        ready.process == Process::Up
            && ready.wake == Some(Wake::Asking)
            && !self.is_unreachable_for(router)
    }
}

impl Control {
    fn hold(&mut self, router: usize, at: At) -> bool {
        let usage = self.usage.as_mut().filter(|usage| usage.epoch == at.0);
        usage.is_some_and(|usage| usage.hold(router, at.1))
    }

    /// Its process is gone, and every request it had in flight.
    fn drop_uses(&mut self, router: usize) {
        if let Some(usage) = &mut self.usage {
            usage.routers[router] = Use::default();
            if let Some(drain) = &mut usage.drain {
                drain.waiting.remove(&router);
            }
        }
    }
}

impl Usage {
    fn users(&self) -> Vec<usize> {
        let used = |router: &usize| {
            let used = self.routers[*router];
            used.holds.is_some() || used.in_flight > 0
        };
        (0..ROUTERS).filter(used).collect()
    }

    fn hold(&mut self, router: usize, term: u64) -> bool {
        let valid = term >= self.valid_from;
        if valid {
            self.routers[router].holds = Some(term);
        }
        valid
    }

    /// A drain of it gives requests in flight time to end; so does one that is about to begin.
    fn has_time(&self) -> bool {
        self.drain.as_ref().is_none_or(|drain| drain.patient)
    }
}
