//! A router: `router/src/wake.rs`, `revoke.rs` and `session.rs` around the real machine of one actor.

use std::collections::BTreeSet;

use reveille_router::model::{self, At, State, Woken};

use crate::{
    mutant::Mutant,
    world::{Link, Process, Refusal, Report, Revoke, Session, Stage, Wake, World},
};

impl World {
    /// A request arrives at a router.
    pub(crate) fn request_arrives(&mut self, request: usize, router: usize) {
        let to = &mut self.routers[router];
        if let Some(at) = to.actor.begin() {
            self.requests[request].stage = Stage::Told(at);
            self.requests[request].counted = Some((router, at.0));
            return;
        }
        if to.actor.park(request as u64) {
            to.wake = Some(Wake::Asking);
        }
        self.requests[request].stage = Stage::Parked(router);
    }

    /// A caller that waits leaves.
    pub(crate) fn caller_leaves(&mut self, request: usize) {
        if let Stage::Parked(router) = self.requests[request].stage {
            self.routers[router].actor.leave(request as u64);
            self.requests[request].stage = Stage::Left;
        }
    }

    /// Whatever its end is; a router that is stopped notices later.
    pub(crate) fn end_request(&mut self, request: usize, end: Stage) {
        self.requests[request].stage = end;
        self.notice_ends();
    }

    fn notice_ends(&mut self) {
        for request in 0..self.requests.len() {
            let Some((router, epoch)) = self.requests[request].counted else { continue };
            if self.requests[request].stage.is_over() && self.routers[router].process == Process::Up
            {
                self.requests[request].counted = None;
                self.routers[router].actor.end(epoch);
                self.acknowledge_rested(router, epoch);
            }
        }
    }

    fn acknowledge_rested(&mut self, router: usize, epoch: u64) {
        let of = &mut self.routers[router];
        if of.actor.in_flight(epoch) > 0 {
            return;
        }
        let rested: Vec<At> = of.drains.iter().copied().filter(|at| at.0 == epoch).collect();
        for at in rested {
            self.acknowledge(router, at, 0);
        }
    }

    fn acknowledge(&mut self, router: usize, at: At, in_flight: u32) {
        let of = &mut self.routers[router];
        of.drains.remove(&at);
        of.said.insert(at);
        if let Some(session) = &mut of.session {
            session.reports.push_back(Report::Ack(at, in_flight));
        }
    }

    /// The first revoke under way arrives.
    pub(crate) fn revoke_arrives(&mut self, router: usize) {
        let Some(session) = &mut self.routers[router].session else { return };
        let Some(Revoke { at, patient }) = session.revokes.pop_front() else { return };
        let in_flight = self.routers[router].actor.revoke(at);
        match in_flight {
            0 => self.acknowledge(router, at, 0),
            _ if self.is(Mutant::AcknowledgedBeforeTheEnd) => self.acknowledge(router, at, 0),
            _ if patient => {
                self.routers[router].drains.insert(at);
            }
            _ => self.acknowledge(router, at, in_flight),
        }
    }

    /// The time that requests in flight were given is over.
    pub(crate) fn drain_deadline(&mut self, router: usize, at: At) {
        let in_flight = self.routers[router].actor.in_flight(at.0);
        self.acknowledge(router, at, in_flight);
    }

    /// The answer to a wake arrives.
    pub(crate) fn answer_arrives(&mut self, router: usize) {
        let naive = self.is(Mutant::StaleRepliesAreInstalled);
        let of = &mut self.routers[router];
        let Some(Wake::Answered(answer)) = of.wake.take() else { return };
        match answer {
            Ok(at) => {
                if let State::Waking { fence, .. } = &mut of.actor.state
                    && naive
                {
                    *fence = None;
                }
                match of.actor.woken(at) {
                    Woken::Bound(waiters) => {
                        for waiter in waiters {
                            let request = &mut self.requests[waiter as usize];
                            request.stage = Stage::Told(at);
                            request.counted = Some((router, at.0));
                        }
                    }
                    Woken::Stale => of.wake = Some(Wake::Asking),
                    Woken::Dropped => {}
                }
            }
            Err(Refusal::NoSession) => of.wake = Some(Wake::Asking),
            Err(Refusal::Failed) => self.wake_fails(router),
        }
    }

    /// The wake ends without a binding.
    pub(crate) fn wake_fails(&mut self, router: usize) {
        let of = &mut self.routers[router];
        of.wake = None;
        for waiter in of.actor.failed() {
            self.requests[waiter as usize].stage = Stage::Refused;
        }
    }

    /// A new session begins: who this is, what it holds, and what may have been lost.
    pub(crate) fn connect(&mut self, router: usize) {
        let of = &mut self.routers[router];
        let mut session = Session::default();
        session.reports.push_back(Report::Hello(of.instance));
        session.reports.push_back(Report::Held(of.actor.held()));
        for at in &of.said {
            session.reports.push_back(Report::Ack(*at, of.actor.in_flight(at.0)));
        }
        of.session = Some(session);
    }

    /// The connection with the control plane is gone, and the calls on it.
    pub(crate) fn hang_up(&mut self, router: usize) {
        let of = &mut self.routers[router];
        of.session = None;
        if of.wake.is_some() {
            of.wake = Some(Wake::Asking);
        }
        let Some(control) = &mut self.control else { return };
        let waiters = control.wakes.iter_mut().filter(|waiter| waiter.router == router);
        waiters.for_each(|waiter| waiter.live = false);
        if let Link::Up(instance) = control.links[router] {
            control.links[router] = Link::Away(instance);
        }
    }

    /// A killed router takes its requests with it.
    pub(crate) fn router_crashes(&mut self, router: usize) {
        self.hang_up(router);
        for request in &mut self.requests {
            if request.stage == Stage::Parked(router) {
                request.stage = Stage::Refused;
            }
            if request.counted.is_some_and(|(at, _)| at == router) {
                request.counted = None;
                if !request.stage.is_over() {
                    request.stage = Stage::CutOff;
                }
            }
        }
        let of = &mut self.routers[router];
        of.process = Process::Down;
        of.actor = model::Actor::default();
        of.wake = None;
        of.drains = BTreeSet::new();
        of.said = BTreeSet::new();
    }

    pub(crate) fn router_starts(&mut self, router: usize) {
        self.routers[router].process = Process::Up;
        self.routers[router].instance += 1;
    }

    pub(crate) fn router_continues(&mut self, router: usize) {
        self.routers[router].process = Process::Up;
        self.notice_ends();
    }
}
