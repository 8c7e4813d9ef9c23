//! What can happen next, and what must always hold.

use std::collections::BTreeSet;

use reveille_api::{Failure, Reason};
use reveille_controlplane::{
    clock::Moment,
    lifecycle::{Cause, Deadline, Event, Phase},
};
use reveille_router::model::At;
use stateright::{Model, Property};

use crate::{
    control::place,
    mutant::Mutant,
    world::{
        Call, Fault, Left, Link, NodeLink, Process, ROUTERS, Reply, Sandbox, Stage, Step, Wake,
        World,
    },
};

/// A size of the world to check.
#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    pub(crate) requests: usize,
    pub(crate) left: Left,
    /// What may go wrong, `left.faults` times.
    pub(crate) faults: &'static [Fault],
    /// Whether a router that was stopped goes on some time.
    pub(crate) continues: bool,
    pub(crate) mutant: Option<Mutant>,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    RequestArrives(usize, usize),
    CallerLeaves(usize),
    RequestConnects(usize),
    RequestEnds(usize),
    WakeIsAsked(usize),
    WakeIsGivenUp(usize),
    AnswerArrives(usize),
    Connects(usize),
    ReportArrives(usize),
    RevokeArrives(usize),
    Suspends(Cause),
    IsPlaced,
    CallArrives(Call),
    ReplyArrives(Reply),
    ExitArrives,
    NodeSteps,
    WriteLands,
    Registers,
    // Time.
    RoutersDrainDeadline(usize, At),
    DrainDeadline,
    RoutersAreGivenUp,
    RouterIsGivenUp(usize),
    NodeIsGivenUp,
    DeadlinePasses(Deadline),
    // Faults, and what ends them.
    Fails(Fault, usize),
    ControlPlaneStarts,
    RouterStarts(usize),
    RouterContinues(usize),
    AgentStarts,
}

use Action as A;

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.requests, self.left, self.mutant)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.traffic(world, actions);
        self.messages(world, actions);
        self.time(world, actions);
        self.mishaps(world, actions);
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            A::RequestArrives(request, router) => world.request_arrives(request, router),
            A::CallerLeaves(request) => {
                world.left.leaves -= 1;
                world.caller_leaves(request);
            }
            A::RequestConnects(request) => world.request_connects(request),
            A::RequestEnds(request) => world.end_request(request, Stage::Answered),
            A::WakeIsAsked(router) => world.wake_arrives(router),
            A::WakeIsGivenUp(router) => world.wake_fails(router),
            A::AnswerArrives(router) => world.answer_arrives(router),
            A::Connects(router) => world.connect(router),
            A::ReportArrives(router) => world.report_arrives(router),
            A::RevokeArrives(router) => world.revoke_arrives(router),
            A::Suspends(cause) => {
                match cause.basis() {
                    None => world.left.suspends -= 1,
                    Some(_) => world.left.idles -= 1,
                }
                world.suspend(cause);
            }
            A::IsPlaced => world.handle(Event::Placed(place())),
            A::CallArrives(call) => world.call_arrives(&call),
            A::ReplyArrives(reply) => world.reply_arrives(&reply),
            A::ExitArrives => world.exit_arrives(),
            A::NodeSteps => world.node_steps(),
            A::WriteLands => {
                let control = world.control();
                control.behind = false;
                world.store.life = world.control().life.stored();
            }
            A::Registers => world.register(),
            A::RoutersDrainDeadline(router, at) => {
                world.too_slow();
                world.drain_deadline(router, at);
            }
            A::DrainDeadline => {
                if !world.is_excused(world.awaited_by_drain()) {
                    world.too_slow();
                }
                world.drained(true);
            }
            A::RoutersAreGivenUp => {
                if !world.is_excused(world.awaited_by_drain()) {
                    world.too_slow();
                }
                world.give_up_awaited();
            }
            A::RouterIsGivenUp(router) => {
                if world.routers[router].process == Process::Up {
                    world.too_slow();
                }
                world.give_up_router(router);
            }
            A::NodeIsGivenUp => world.node_lost(),
            A::DeadlinePasses(deadline) => {
                if world.node.up {
                    world.too_slow();
                }
                world.handle(match deadline {
                    Deadline::Place => Event::NotPlaced(Failure::new(Reason::NoCapacity, "")),
                    other => Event::DeadlinePassed(other),
                });
            }
            A::Fails(fault, router) => {
                world.left.faults -= 1;
                world.seen.faults.insert(fault);
                match fault {
                    Fault::ControlPlaneCrashes => world.crash_control(),
                    Fault::ConnectionBreaks => world.hang_up(router),
                    Fault::RouterCrashes => world.router_crashes(router),
                    Fault::RouterStops => world.routers[router].process = Process::Stopped,
                    Fault::AgentCrashes => world.agent_crashes(),
                    Fault::NodeCutOff => world.cut_node_off(),
                    Fault::SandboxCrashes => world.sandbox_crashes(),
                    Fault::RestoreFails => world.restore_fails(),
                    Fault::CheckpointFails => world.checkpoint_fails(),
                    Fault::TooSlow => {}
                }
            }
            A::ControlPlaneStarts => world.start_control(),
            A::RouterStarts(router) => world.router_starts(router),
            A::RouterContinues(router) => world.router_continues(router),
            A::AgentStarts => world.agent_starts(),
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_ACTIVATION, |_, world: &World| !world.seen.old_one_serves),
            Property::always(NO_MISDELIVERY, |_, world: &World| !world.seen.misdelivered),
            Property::always(NO_LOST_REQUEST, |_, world: &World| world.errors_are_explained()),
            Property::always(NO_LOST_STATE, |_, world: &World| !world.seen.state_lost),
            Property::always(WAKES_ARE_JOINED, |_, world: &World| {
                !world.seen.faults.is_empty() || world.seen.activations <= world.seen.ends + 1
            }),
            Property::always(NOTHING_IS_STUCK, |model: &Self, world: &World| {
                let mut actions = Vec::new();
                model.actions(world, &mut actions);
                !actions.is_empty() || world.is_quiet()
            }),
        ]
    }
}

pub(crate) const ONE_ACTIVATION: &str = "1: one activation serves, and never an older one";
pub(crate) const NO_MISDELIVERY: &str = "2: a request reaches what it was sent to, or nothing";
pub(crate) const NO_LOST_REQUEST: &str = "3: a request is answered, or somebody has failed";
pub(crate) const NO_LOST_STATE: &str = "4: nothing that an actor did is forgotten";
pub(crate) const WAKES_ARE_JOINED: &str = "5: one activation for any number of wakes";
pub(crate) const NOTHING_IS_STUCK: &str = "8: whoever waits, waits for something";

impl Protocol {
    fn traffic(&self, world: &World, actions: &mut Vec<Action>) {
        // Requests are alike: they come in order.
        let next = world.requests.iter().position(|request| request.stage == Stage::NotSent);
        if let Some(next) = next {
            let up = (0..ROUTERS).filter(|r| world.routers[*r].process == Process::Up);
            actions.extend(up.map(|router| A::RequestArrives(next, router)));
        }
        for (index, request) in world.requests.iter().enumerate() {
            match request.stage {
                Stage::Parked(router)
                    if world.left.leaves > 0 && world.routers[router].process == Process::Up =>
                {
                    actions.push(A::CallerLeaves(index));
                }
                Stage::Told(_) => actions.push(A::RequestConnects(index)),
                Stage::Arrived(_) => actions.push(A::RequestEnds(index)),
                _ => {}
            }
        }
        if let Some(control) = &world.control {
            let phase = control.life.phase();
            if world.left.suspends > 0 && phase == Phase::Running {
                actions.push(A::Suspends(Cause::User));
            }
            if world.left.idles > 0 && world.is_believed_idle() {
                actions.push(A::Suspends(Cause::Idle(Moment(0))));
            }
        }
    }

    fn messages(&self, world: &World, actions: &mut Vec<Action>) {
        for router in 0..ROUTERS {
            let of = &world.routers[router];
            let reports = of.session.as_ref().is_some_and(|s| !s.reports.is_empty());
            if reports && world.control.is_some() {
                actions.push(A::ReportArrives(router));
            }
            if of.process != Process::Up {
                continue;
            }
            if of.session.is_none() && world.control.is_some() {
                actions.push(A::Connects(router));
            }
            if of.session.as_ref().is_some_and(|s| !s.revokes.is_empty()) {
                actions.push(A::RevokeArrives(router));
            }
            if world.may_ask(router) {
                actions.push(A::WakeIsAsked(router));
            }
            if of.wake == Some(Wake::Asking) && world.is_unreachable_for(router) {
                actions.push(A::WakeIsGivenUp(router));
            }
            if matches!(of.wake, Some(Wake::Answered(_))) {
                actions.push(A::AnswerArrives(router));
            }
        }
        if world.node.up {
            actions.extend(world.node.calls.iter().cloned().map(A::CallArrives));
            if !matches!(world.node.sandbox, Sandbox::None | Sandbox::Serving { .. }) {
                actions.push(A::NodeSteps);
            }
        }
        let Some(control) = &world.control else { return };
        if world.can_place() {
            actions.push(A::IsPlaced);
        }
        actions.extend(world.node.replies.iter().cloned().map(A::ReplyArrives));
        if !world.node.exits.is_empty() {
            actions.push(A::ExitArrives);
        }
        if control.behind {
            actions.push(A::WriteLands);
        }
        if world.node.up && control.node != NodeLink::Ready {
            actions.push(A::Registers);
        }
    }

    /// Deadlines. Of somebody who is dead they pass; of somebody who is only slow, as a fault.
    fn time(&self, world: &World, actions: &mut Vec<Action>) {
        let slow = world.left.faults > 0 && self.faults.contains(&Fault::TooSlow);
        for (router, of) in world.routers.iter().enumerate() {
            if slow && of.process == Process::Up {
                actions.extend(of.drains.iter().map(|at| A::RoutersDrainDeadline(router, *at)));
            }
        }
        let Some(control) = &world.control else { return };
        if let Some(waiting) = world.awaited_by_drain()
            && !waiting.is_empty()
            && (slow || world.is_excused(Some(waiting)))
            && self.mutant != Some(Mutant::NoDrainDeadline)
        {
            actions.push(match control.awaited.is_empty() {
                true => A::DrainDeadline,
                false => A::RoutersAreGivenUp,
            });
        }
        for router in 0..ROUTERS {
            let up = world.routers[router].process == Process::Up;
            if matches!(control.links[router], Link::Away(_)) && (!up || slow) {
                actions.push(A::RouterIsGivenUp(router));
            }
        }
        let cut_off = world.seen.faults.contains(&Fault::NodeCutOff);
        if control.node == NodeLink::Away && (cut_off || !world.node.up) {
            actions.push(A::NodeIsGivenUp);
        }
        if let Some(deadline) = control.life.deadline()
            && !matches!(deadline, Deadline::Drain(..))
            && (slow || !world.node.up)
        {
            actions.push(A::DeadlinePasses(deadline));
        }
    }

    fn mishaps(&self, world: &World, actions: &mut Vec<Action>) {
        if world.control.is_none() {
            actions.push(A::ControlPlaneStarts);
        }
        if !world.node.up {
            actions.push(A::AgentStarts);
        }
        for (router, of) in world.routers.iter().enumerate() {
            match of.process {
                Process::Up => {}
                Process::Stopped if self.continues => actions.push(A::RouterContinues(router)),
                Process::Stopped => {}
                Process::Down => actions.push(A::RouterStarts(router)),
            }
        }
        if world.left.faults == 0 {
            return;
        }
        for fault in self.faults.iter().copied() {
            match fault {
                Fault::ConnectionBreaks | Fault::RouterCrashes | Fault::RouterStops => {
                    let can = |router: &usize| {
                        let of = &world.routers[*router];
                        of.process == Process::Up
                            && (fault != Fault::ConnectionBreaks || of.session.is_some())
                    };
                    actions.extend((0..ROUTERS).filter(can).map(|r| A::Fails(fault, r)));
                }
                _ if world.can(fault) => actions.push(A::Fails(fault, 0)),
                _ => {}
            }
        }
    }
}

impl World {
    fn can(&self, fault: Fault) -> bool {
        match fault {
            Fault::ControlPlaneCrashes => self.control.is_some(),
            Fault::AgentCrashes => self.node.up,
            Fault::NodeCutOff => {
                self.control.as_ref().is_some_and(|control| control.node == NodeLink::Ready)
            }
            Fault::SandboxCrashes => matches!(self.node.sandbox, Sandbox::Serving { .. }),
            Fault::RestoreFails => {
                self.node.up && matches!(self.node.sandbox, Sandbox::Activating { .. })
            }
            Fault::CheckpointFails => {
                let under_way = matches!(
                    self.node.sandbox,
                    Sandbox::Suspending { step: Step::Closed | Step::Sealed(_), .. }
                );
                self.node.up && under_way
            }
            _ => false,
        }
    }

    fn too_slow(&mut self) {
        self.left.faults -= 1;
        self.seen.faults.insert(Fault::TooSlow);
    }

    /// All of these routers are dead, not slow.
    fn is_excused(&self, waiting: Option<&BTreeSet<usize>>) -> bool {
        waiting.is_none_or(|w| w.iter().all(|r| self.routers[*r].process != Process::Up))
    }

    /// Invariant 3: without a fault there is no error, and some faults spare what was told where to go.
    fn errors_are_explained(&self) -> bool {
        let spared = self.seen.faults.iter().all(|fault| fault.spares_requests_in_flight());
        self.requests.iter().all(|request| match request.stage {
            Stage::Refused => !self.seen.faults.is_empty(),
            Stage::CutOff => !spared,
            _ => true,
        })
    }
}
