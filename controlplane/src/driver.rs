//! One task for each actor that is not at rest, or that somebody waits for.
//!
//! ```text
//!   mailbox ──▶ ┌────────────────────────────────────────────┐ ──▶ store (before the effects)
//!   errands ──▶ │ next() → Action → lifecycle → Step → do it │ ──▶ errands: node calls, drains, placement
//!   timers  ──▶ └────────────────────────────────────────────┘ ──▶ answers to those who wait
//! ```
//!
//! That operations of one actor do not run beside each other is structural: all of them come through this task.
//! An *errand* is a call the present state has under way; when the state is left, its errands are dropped and
//! their late answers with them. Those who wait are not part of the state: a caller who leaves changes nothing.
//!
//! The task ends when the actor is at rest and nobody waits; the next caller starts another one, from the store. It may be
//! dropped at any `.await`: what it intended is stored, and the next one asks again.

use std::{collections::BTreeSet, sync::Arc};

use futures::{StreamExt, stream::FuturesOrdered};
use reveille_api::{ActorKey, Epoch, Failure, Reason, proto::ActorState, trace::Traceparent};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};

use crate::{
    census,
    clock::{Moment, unix_ms},
    fleet::Fleet,
    idle,
    lifecycle::{Asker, Deadline, Effect, Event, Note, Phase, Rules, State, Storage, Write},
    placement::{self, Grant, Status},
    record::{ActorRecord, Asked, LastWake, Phases, TemplateRecord, WokenBy},
    store::{
        self, Expect,
        records::{Commit, Stored},
    },
};

mod perform;
mod spans;
mod timers;
pub(crate) mod waiters;

#[cfg(test)]
mod tests;

pub(crate) use perform::snapshot;
use spans::Spans;
use timers::Timers;
pub(crate) use waiters::Waiter;
pub use waiters::{Down, NotDown, Served};
use waiters::{Downs, Wakes};

/// Commands that may wait for one actor; callers wait for room.
pub(crate) const MAILBOX: usize = 256;

/// What callers ask of a driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// Make it serve.
    Wake(Waiter),
    /// Take it down, in the trace of who asks.
    Down(Down, Option<Traceparent>, oneshot::Sender<Result<(), NotDown>>),
    /// Something happened to it.
    Event(Event),
    /// This node has snapshots of it that are not needed.
    Collect(String),
    /// Say what is in hand.
    Tell(oneshot::Sender<Doing>),
}

/// What a driver has in hand that no record tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Doing {
    /// Until when its state may last.
    pub(crate) deadline: Option<Moment>,
    /// Who was the first to want the wake under way.
    pub(crate) asked: Option<Asked>,
    /// Those who wait for it to serve.
    pub(crate) callers: usize,
    /// Why it has no worker yet.
    pub(crate) short: Option<String>,
    /// Checkpoints and freezes that failed one after another.
    pub(crate) failures: u32,
    /// It is not to go down before then.
    pub(crate) not_before: Option<Moment>,
}

/// What an errand came back with.
enum Done {
    Placed(Grant),
    Activated {
        epoch: Epoch,
        reply: reveille_api::proto::ActivateReply,
        h2c: bool,
    },
    /// This node cannot restore the snapshot, and another may.
    Unfit {
        epoch: Epoch,
        node: String,
        failure: Failure,
    },
    Event(Event),
    Nothing,
}

enum Action {
    Command(Command),
    Done(Done),
    Stored(Result<(), store::Error>),
    Tick,
}

/// What an errand belongs to: when it changes, the errand is of no use.
type Errand = (Phase, Epoch, Option<u64>);

pub(crate) struct Driver {
    fleet: Arc<Fleet>,
    record: ActorRecord,
    expect: Expect,
    template: Arc<TemplateRecord>,
    mailbox: mpsc::Receiver<Command>,
    view: watch::Sender<Option<Arc<ActorRecord>>>,
    wakes: Wakes,
    downs: Downs,
    errands: JoinSet<Done>,
    /// Deletions of snapshots: the next activation or checkpoint waits for them.
    collecting: JoinSet<()>,
    commits: FuturesOrdered<Commit>,
    timers: Timers,
    /// Of the wake or the way down that is under way.
    spans: Spans,
    grant: Option<Grant>,
    request: Option<placement::Request>,
    /// When the wake under way began.
    woken_at: Option<Instant>,
    /// When that wake was given its worker.
    placed_at: Option<Instant>,
    /// Who wanted that wake first.
    asked: Option<Asked>,
    /// Turns true when the node is being asked for the checkpoint under way.
    suspending: Option<watch::Receiver<bool>>,
    /// A snapshot that is in the store, while its checkpoint has not been answered yet.
    stored_early: Option<String>,
    /// Nodes that cannot restore what the wake under way restores.
    unfit: BTreeSet<String>,
    checkpoint_failures: u32,
    not_before: Option<Moment>,
    /// The state that the census has it in.
    counted: Option<ActorState>,
    deleted: bool,
}

/// What a driver begins with.
pub(crate) struct Loaded {
    stored: Stored<ActorRecord>,
    template: Arc<TemplateRecord>,
}

/// The stored record and its template. Nothing when there is no such actor.
pub(crate) fn load(fleet: &Fleet, key: &ActorKey) -> Result<Option<Loaded>, Failure> {
    let found = fleet.records.actor(key).map_err(|e| Failure::internal(e.to_string()))?;
    let Some(stored) = found else { return Ok(None) };
    let name = &stored.value.template;
    let missing = || Failure::internal(format!("template {name} is missing"));
    let template = fleet.catalog.template(key.namespace(), name).ok_or_else(missing)?;
    Ok(Some(Loaded { stored, template }))
}

impl Command {
    /// Answers it without a driver.
    pub(crate) fn refuse(self, failure: &Failure) {
        match self {
            Self::Wake(waiter) => drop(waiter.answer.send(Err(failure.clone()))),
            Self::Down(.., answer) => {
                drop(answer.send(Err(NotDown::Gone(failure.message.clone()))));
            }
            Self::Event(_) | Self::Collect(_) | Self::Tell(_) => {}
        }
    }
}

impl Driver {
    pub(crate) fn new(
        fleet: Arc<Fleet>,
        loaded: Loaded,
        mailbox: mpsc::Receiver<Command>,
        view: watch::Sender<Option<Arc<ActorRecord>>>,
    ) -> Self {
        let Loaded { stored: Stored { value: record, expect }, template } = loaded;
        let counted = Some(census::state(&record.life));
        Self {
            fleet,
            record,
            expect,
            template,
            mailbox,
            view,
            wakes: Wakes::default(),
            downs: Downs::default(),
            errands: JoinSet::new(),
            collecting: JoinSet::new(),
            commits: FuturesOrdered::new(),
            timers: Timers::default(),
            spans: Spans::default(),
            grant: None,
            request: None,
            woken_at: None,
            placed_at: None,
            asked: None,
            suspending: None,
            stored_early: None,
            unfit: BTreeSet::new(),
            checkpoint_failures: 0,
            not_before: None,
            counted,
            deleted: false,
        }
    }

    /// Until there is nothing left to do. Commands that came too late are given back.
    pub(crate) async fn drive(mut self) -> Result<mpsc::Receiver<Command>, store::Error> {
        let outcome = self.work().await;
        if let Err(error) = &outcome {
            let failure = Failure::internal(format!("its record could not be stored: {error}"));
            self.wakes.refuse(&failure);
            self.downs.fail(error);
            // The next driver begins with what is stored. Where that cannot be told either, it stays counted as it was.
            if let Ok(stored) = self.fleet.records.actor(&self.record.key) {
                self.count(stored.map(|stored| census::state(&stored.value.life)));
            }
        }
        outcome.map(|()| self.mailbox)
    }

    async fn work(&mut self) -> Result<(), store::Error> {
        // What an earlier driver left under way.
        if !self.record.life.phase().is_rest() {
            self.handle(Event::Recover).await?;
        }
        self.publish();
        while !self.is_done() {
            match self.next().await {
                Action::Command(command) => self.command(command).await?,
                Action::Done(done) => self.done(done).await?,
                Action::Stored(outcome) => outcome?,
                Action::Tick => self.tick().await?,
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let at_rest = self.record.life.phase().is_rest();
        let idle = self.wakes.is_empty() && self.downs.is_empty() && self.mailbox.is_empty();
        let written = self.commits.is_empty() && self.collecting.is_empty();
        self.deleted || (at_rest && idle && written)
    }

    async fn next(&mut self) -> Action {
        let timer = self.timers.next(self.wakes.first_deadline());
        loop {
            tokio::select! {
                // News from a node comes before a worker on it: it may be back with the actor still running.
                biased;
                Some(command) = self.mailbox.recv() => return Action::Command(command),
                Some(done) = self.errands.join_next() => match done {
                    Ok(done) => return Action::Done(done),
                    Err(error) if error.is_panic() => {
                        let key = &self.record.key;
                        tracing::error!(actor = %key, %error, "an errand panicked");
                    }
                    // Dropped with the state it belonged to.
                    Err(_) => {}
                },
                Some(stored) = self.commits.next() => return Action::Stored(stored),
                Some(_) = self.collecting.join_next() => return Action::Tick,
                () = timers::sleep_until(timer) => return Action::Tick,
            }
        }
    }

    async fn command(&mut self, command: Command) -> Result<(), store::Error> {
        match command {
            Command::Wake(waiter) => {
                let asker = waiter.asker;
                self.refresh_template();
                // It has others waiting by now. Of an actor that serves it hears at once with the binding.
                if let Some(router) = &waiter.router
                    && self.record.life.phase() != Phase::Running
                {
                    self.fleet.routers.tell_policy(router, self.policy());
                }
                let until = Instant::now() + self.template.spec.wake.timeout;
                self.wakes.join(waiter, until);
                self.timers.extend_placing(until);
                self.handle(Event::Wake(asker)).await
            }
            Command::Down(goal, traceparent, answer) => {
                self.downs.join(goal, traceparent, answer);
                self.follow_up().await
            }
            // Late news: it has come back meanwhile.
            Command::Event(Event::NodeLost { node }) if !self.fleet.nodes.is_lost(&node) => Ok(()),
            Command::Event(event) => self.handle(event).await,
            Command::Collect(node) => {
                self.collect(node);
                Ok(())
            }
            Command::Tell(answer) => {
                // Who asked may have left.
                let _ = answer.send(self.doing());
                Ok(())
            }
        }
    }

    fn doing(&self) -> Doing {
        let clock = self.fleet.clock;
        let placing = self.record.life.phase() == Phase::Placing;
        let request = self.request.as_ref().filter(|_| placing);
        Doing {
            deadline: self.timers.deadline().map(|when| clock.moment(when)),
            asked: self.asked.clone(),
            callers: self.wakes.count(),
            short: request.map(|request| self.fleet.placement.explain(request)),
            failures: self.checkpoint_failures,
            not_before: self.not_before,
        }
    }

    async fn done(&mut self, done: Done) -> Result<(), store::Error> {
        match done {
            Done::Nothing => Ok(()),
            Done::Event(event) => self.handle(event).await,
            Done::Placed(grant) => {
                let Some(place) = grant.place().cloned() else { return Ok(()) };
                self.grant = Some(grant);
                let outcome = self.handle(Event::Placed(place)).await;
                // Kept if it is used now; else its drop frees the worker.
                self.grant = None;
                outcome
            }
            Done::Unfit { epoch, node, failure } => {
                self.unfit.insert(node);
                self.handle(Event::Elsewhere { epoch, failure }).await
            }
            Done::Activated { epoch, reply, h2c } => {
                if epoch == self.record.life.epoch {
                    let begun = self.woken_at.unwrap_or_else(Instant::now);
                    let total = crate::clock::micros(begun.elapsed());
                    self.timers.phases = Phases::new(total, &reply);
                    self.timers.cloned = reply.cloned;
                    if !reply.not_cloned.is_empty() {
                        let note = Note::NotCloned(reply.not_cloned);
                        self.fleet.events.note(&self.record.key, epoch, &note);
                    }
                }
                let endpoint = reply.endpoint;
                self.handle(Event::Activated { epoch, endpoint, h2c }).await
            }
        }
    }

    async fn tick(&mut self) -> Result<(), store::Error> {
        let now = Instant::now();
        let (phase, request) = (self.record.life.phase(), self.request.clone());
        let placement = Arc::clone(&self.fleet.placement);
        let late = || match request.as_ref().filter(|_| phase == Phase::Placing) {
            Some(request) => Failure::new(Reason::NoCapacity, placement.explain(request)),
            None => Failure::new(Reason::WakeTimeout, "it did not wake in time"),
        };
        self.wakes.expire(now, late);
        if let Some(deadline) = self.timers.passed(now) {
            let event = match deadline {
                Deadline::Place => Event::NotPlaced(late()),
                other => Event::DeadlinePassed(other),
            };
            self.handle(event).await?;
        }
        if matches!(phase, Phase::Running | Phase::Frozen) && self.timers.idle_is_due(now) {
            self.consider_idle().await?;
        }
        Ok(())
    }

    async fn consider_idle(&mut self) -> Result<(), store::Error> {
        let now = self.fleet.clock.now();
        let used = self.fleet.routers.usage(&self.record.key);
        let may_freeze = self.record.life.phase() == Phase::Running && self.node_freezes();
        let policy = &self.template.spec.idle;
        match idle::decide(policy, used, now, self.not_before, may_freeze) {
            idle::Decision::Never => self.timers.idle = None,
            idle::Decision::LookAgain(when) => {
                self.timers.idle = Some(self.fleet.clock.instant(when));
            }
            idle::Decision::Freeze(cause) => {
                let epoch = self.record.life.epoch;
                self.handle(Event::Freeze(cause, Some(epoch))).await?;
            }
            idle::Decision::Suspend(cause) => {
                let epoch = self.record.life.epoch;
                let (decided_for, snapshot) = (Some(epoch), new_snapshot());
                self.handle(Event::Suspend { cause, decided_for, snapshot }).await?;
            }
        }
        Ok(())
    }

    /// A transition, and what follows from it for those who wait.
    async fn handle(&mut self, event: Event) -> Result<(), store::Error> {
        let event = self.in_order(event);
        self.step(event).await?;
        self.follow_up().await
    }

    /// A node may tell that a snapshot is stored before its reply tells that there is one.
    fn in_order(&mut self, mut event: Event) -> Event {
        match (&mut event, &self.record.life.state) {
            (Event::Stored(id), State::Checkpointing(c)) if c.snapshot == *id => {
                self.stored_early = Some(id.clone());
            }
            (Event::Committed { snapshot, .. }, _)
                if self.stored_early.as_ref() == Some(&snapshot.id) =>
            {
                snapshot.storage = Storage::Stored;
            }
            _ => {}
        }
        event
    }

    async fn follow_up(&mut self) -> Result<(), store::Error> {
        loop {
            let phase = self.record.life.phase();
            self.downs.settle(phase, &self.why());
            let next = match self.wakes.asker() {
                _ if self.deleted => None,
                Some(_) if phase.is_rest() && self.fleet.is_draining() => {
                    self.wakes.refuse(&draining());
                    None
                }
                // It went down under those who wait for it: it wakes again at once.
                Some(asker) if phase.is_rest() || phase == Phase::Frozen => {
                    Some(Event::Wake(asker))
                }
                Some(_) if phase == Phase::Placing && self.fleet.is_draining() => {
                    Some(Event::NotPlaced(draining()))
                }
                _ => self.downs.next(phase),
            };
            match next {
                Some(event) => self.step(event).await?,
                None => return Ok(()),
            }
        }
    }

    /// What is wrong with an actor at rest.
    fn why(&self) -> String {
        use crate::lifecycle::{Rest, State};
        match &self.record.life.state {
            State::Rest(Rest::Lost(lost)) => lost.message.clone(),
            State::Rest(Rest::Failed(failed)) => failed.message.clone(),
            State::Rest(Rest::Suspended) => "it is suspended".into(),
            State::Rest(Rest::Stopped(_)) => "it is stopped".into(),
            State::Deleting(_) => "it is being deleted".into(),
            _ => String::new(),
        }
    }

    fn errand(&self) -> Errand {
        let life = &self.record.life;
        let term = match life.deadline() {
            Some(Deadline::Drain(_, term)) => Some(term),
            _ => None,
        };
        (life.phase(), life.epoch, term)
    }

    async fn step(&mut self, event: Event) -> Result<(), store::Error> {
        let (errand, was) = (self.errand(), self.record.life.phase());
        let budgeted = was.is_rest() && matches!(event, Event::Wake(_));
        let on_restore_failure = self.template.spec.on_restore_failure;
        let namespace = self.record.key.namespace();
        let taken = if budgeted { self.fleet.budget.take(namespace) } else { Ok(()) };
        let no_wake = taken.as_ref().err();
        let step = self.record.life.apply(Rules { on_restore_failure, no_wake }, event);
        if budgeted && taken.is_ok() && self.record.life.phase().is_rest() {
            // It was refused for another reason.
            self.fleet.budget.give_back(namespace);
        }
        if self.errand() != errand {
            // Only what belongs to the state that was left.
            self.errands = JoinSet::new();
        }
        self.annotate(was);
        let phase = self.record.life.phase();
        self.spans.turned(was, phase, &self.wakes, &self.downs, &self.record.key);
        match step.write {
            Write::First => {
                let commit = self.commit();
                commit.await?;
            }
            Write::Behind => {
                let commit = self.commit();
                self.commits.push_back(commit);
            }
            Write::Nothing => {}
        }
        self.settle_in();
        // Before the answers: who is told that it serves finds it so.
        self.publish();
        let removed = step.effects.contains(&Effect::Remove);
        let log = self.spans.log();
        for effect in step.effects {
            log.in_scope(|| self.perform(effect));
        }
        self.spans.settled(self.record.life.phase());
        if self.record.life.phase().is_rest() {
            // Of one that may be taken back, requests in flight go on counting.
            if !self.record.life.may_return() {
                self.fleet.routers.forget(&self.record.key);
            }
            (self.checkpoint_failures, self.not_before) = (0, None);
        }
        if removed {
            self.remove().await?;
        }
        self.rearm();
        Ok(())
    }

    /// What the record tells people about the transition just made.
    fn annotate(&mut self, was: Phase) {
        let asked = self.wakes.first().map(|first| self.asked_by(first));
        let record = &mut self.record;
        let now = unix_ms();
        if record.life.phase() != was {
            record.since_unix_ms = now;
        }
        match (was, record.life.phase()) {
            (_, Phase::Placing) if was != Phase::Placing => {
                self.woken_at = Some(Instant::now());
                if was.is_rest() {
                    self.unfit.clear();
                    self.asked = asked;
                }
            }
            (_, Phase::Thawing) if was != Phase::Thawing => {
                self.woken_at = Some(Instant::now());
                self.asked = asked;
            }
            (Phase::Thawing, Phase::Running) => {
                let begun = self.woken_at.unwrap_or_else(Instant::now);
                self.timers.phases = Phases::thawed(crate::clock::micros(begun.elapsed()));
                let (kind, phases) = (WokenBy::Thawed, self.timers.phases);
                let asked = self.asked.take();
                record.last_wake = Some(LastWake { unix_ms: now, kind, phases, asked });
            }
            (Phase::Placing, Phase::Starting) => self.placed_at = Some(Instant::now()),
            (Phase::Starting, Phase::Running) => {
                if let Some(activation) = record.life.activation() {
                    let kind = match WokenBy::from(&activation.source) {
                        WokenBy::ColdStart if self.timers.cloned => WokenBy::Cloned,
                        kind => kind,
                    };
                    let (phases, asked) = (self.timers.phases, self.asked.take());
                    record.last_wake = Some(LastWake { unix_ms: now, kind, phases, asked });
                }
                record.last_active_unix_ms = now;
            }
            (Phase::Running | Phase::Draining | Phase::Checkpointing, _) => {
                if let Some((_, moment)) = self.fleet.routers.seen(&record.key) {
                    let ago = self.fleet.clock.now().since(moment);
                    let at = now.saturating_sub(crate::clock::millis(ago));
                    record.last_active_unix_ms = record.last_active_unix_ms.max(at);
                }
            }
            _ => {}
        }
        if let Some(place) = record.life.place() {
            record.node = Some(place.node.clone());
        }
    }

    /// A router that has no session any more is known by its instance only.
    fn asked_by(&self, waiter: &Waiter) -> Asked {
        if waiter.asker == Asker::User {
            return Asked::User;
        }
        let instance = waiter.router.as_deref().unwrap_or_default();
        Asked::Request {
            router: self.fleet.routers.router_of(instance).unwrap_or_else(|| instance.to_owned()),
            id: waiter.request_id.clone(),
            traceparent: waiter.traceparent.map(|t| t.to_string()).unwrap_or_default(),
        }
    }

    fn commit(&mut self) -> Commit {
        let commit = self.fleet.records.put_actor(&self.record, self.expect);
        // Commits are applied in the order of the calls, so the next one can build on this one already.
        let version = match self.expect {
            Expect::At { version, .. } => version + 1,
            Expect::Absent | Expect::Anything => 1,
        };
        self.expect = Expect::At { version, epoch: self.record.life.stored().epoch.0 };
        commit
    }

    async fn remove(&mut self) -> Result<(), store::Error> {
        self.fleet.records.remove_actor(&self.record, self.expect, unix_ms()).await?;
        self.fleet.events.forget(&self.record.key).await;
        self.fleet.routers.forget(&self.record.key);
        self.deleted = true;
        self.publish();
        self.downs.deleted();
        let gone = Failure::new(Reason::ActorNotFound, "it was deleted");
        self.wakes.refuse(&gone);
        Ok(())
    }

    /// Tells the parts that keep track of workers and bindings where the actor stands now.
    fn settle_in(&mut self) {
        let life = &self.record.life;
        let key = &self.record.key;
        let fleet = &self.fleet;
        if let Some(place) = life.place() {
            let now = fleet.clock.now();
            let status = match life.phase() {
                Phase::Running | Phase::Frozen if self.template.spec.idle.keep_warm => {
                    Status::Serving(None)
                }
                Phase::Running | Phase::Frozen => {
                    Status::Serving(Some(self.not_before.unwrap_or(now).max(now)))
                }
                Phase::Starting => Status::Starting,
                _ => Status::Leaving(None),
            };
            if let Some(grant) = self.grant.take_if(|grant| grant.place() == Some(place)) {
                drop(grant.take());
            }
            fleet.placement.occupy(place, key, life.epoch, status);
            fleet.nodes.expect(&place.node);
        }
        if let Some(valid_from) = perform::valid_from(life) {
            let active = self.record.last_active_unix_ms;
            // One that was never used has not been idle since 1970.
            let active = if active == 0 { unix_ms() } else { active };
            let ago = std::time::Duration::from_millis(unix_ms().saturating_sub(active));
            let last_active = fleet.clock.now().minus(ago);
            fleet.routers.track(key, life.epoch, valid_from, last_active);
        }
    }

    fn rearm(&mut self) {
        let deadline = self.record.life.deadline();
        let limits = timers::Limits {
            template: &self.template.spec,
            timings: &self.fleet.timings,
            placed_at: self.placed_at,
            last_waiter: self.wakes.last_deadline(),
        };
        self.timers.arm(deadline, &limits);
        match self.record.life.phase() {
            Phase::Running | Phase::Frozen if self.timers.idle.is_none() => {
                self.timers.idle = Some(Instant::now());
            }
            Phase::Running | Phase::Frozen => {}
            _ => self.timers.idle = None,
        }
    }

    /// True when the node that it runs on can stop its processes.
    fn node_freezes(&self) -> bool {
        self.record.life.place().is_some_and(|place| self.fleet.placement.freezes(&place.node))
    }

    /// New activations use the template as it is now.
    fn refresh_template(&mut self) {
        if self.record.life.phase().is_rest() {
            let key = &self.record.key;
            let current = self.fleet.catalog.template(key.namespace(), &self.record.template);
            self.template = current.unwrap_or_else(|| Arc::clone(&self.template));
        }
    }

    /// Has the census follow. Nothing: it is deleted.
    fn count(&mut self, now: Option<ActorState>) {
        let was = std::mem::replace(&mut self.counted, now);
        if now == was {
            return;
        }
        let (census, namespace) = (self.fleet.catalog.census(), self.record.key.namespace());
        if let Some(now) = now {
            census.begins(namespace, now);
        }
        if let Some(was) = was {
            census.ends(namespace, was);
        }
    }

    fn publish(&mut self) {
        self.count((!self.deleted).then(|| census::state(&self.record.life)));
        let record = (!self.deleted).then(|| Arc::new(self.record.clone()));
        self.view.send_replace(record);
    }
}

/// A name that no snapshot has.
pub(crate) fn new_snapshot() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

pub(crate) fn draining() -> Failure {
    let message = "the control plane is draining: nothing is woken until it restarts";
    Failure::new(Reason::ControlPlaneUnavailable, message)
}
