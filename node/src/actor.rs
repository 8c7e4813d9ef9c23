//! One driver per actor: a task that does the actor's operations one after another.
//!
//! ```text
//!            Activate                       Suspend
//!   Empty ───────────▶ Activating ─▶ Serving ───────────▶ Suspending ─▶ Empty   (committed)
//!     ▲                    │          │  ▲                    │
//!     │      failed        │          │  └────────────────────┘  Resume before the commit, or a failure before it
//!     ├────────────────────┘          │
//!     │                               │ the process ended by itself; Destroy, or Activate with a higher epoch
//!     └──────────── Destroying ◀──────┘
//!
//!  Serving ─ Freeze ─▶ Turning ─▶ Serving, frozen ─ Resume ─▶ Turning ─▶ Serving
//! ```
//!
//! While an operation is under way the driver goes on listening: a repeated call joins it, Resume and Destroy cancel
//! a suspend, Destroy and a higher epoch cancel an activation, and everything else waits its turn. A caller that goes
//! away changes nothing. Each operation is refused if its epoch is lower than the highest one seen ([`Fence`]), or its stay
//! is over ([`stay`](crate::stay)), also when it has waited its turn.

mod activate;
mod command;
mod freeze;
mod suspend;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{FutureExt, future::BoxFuture};
use reveille_api::{ActorKey, Epoch, proto, trace::Traceparent};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument;

pub(crate) use activate::{Activate, chain};
pub(crate) use command::{Command, Deletion, Reply, Suspended};
pub(crate) use freeze::freeze_again;
use suspend::{Gate, SuspendEnd};
pub(crate) use suspend::{Suspend, come_back};

use crate::{
    core::{Activated, Activation, Core, OpError},
    files,
    record::{Fence, Record},
    uploads,
};

/// Operations of one actor that may wait.
const BACKLOG: usize = 64;

/// What anybody may see of a driver.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) fence: Fence,
    pub(crate) activation: Option<proto::Activation>,
}

/// The way to a driver.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) commands: mpsc::Sender<Command>,
    view: Arc<Mutex<View>>,
}

impl Handle {
    pub(crate) fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// See the module.
pub(crate) struct Driver {
    core: Arc<Core>,
    actor: ActorKey,
    fence: Fence,
    stage: Stage,
    commands: mpsc::Receiver<Command>,
    backlog: VecDeque<Command>,
    view: Arc<Mutex<View>>,
    stop: CancellationToken,
    /// Of a frozen activation, while its memory goes to swap.
    paging: Option<DropGuard>,
}

enum Stage {
    Empty,
    Activating {
        request: Activate,
        cancel: CancellationToken,
        waiters: Vec<Reply<Activated>>,
        done: BoxFuture<'static, Result<Box<Activation>, OpError>>,
    },
    Serving(Box<Activation>),
    Suspending {
        request: Suspend,
        gate: Arc<Gate>,
        waiters: Vec<Reply<Suspended>>,
        resumers: Vec<Reply<bool>>,
        /// As it was, for those who ask what is here.
        shown: proto::Activation,
        done: BoxFuture<'static, SuspendEnd>,
    },
    /// Being frozen or thawed, which takes milliseconds.
    Turning {
        epoch: Epoch,
        waiter: freeze::Waiter,
        /// As it was, for those who ask what is here.
        shown: proto::Activation,
        done: BoxFuture<'static, freeze::Turned>,
    },
    Destroying {
        epoch: Epoch,
        done: BoxFuture<'static, ()>,
    },
}

enum Event {
    Command(Command),
    Activated(Result<Box<Activation>, OpError>),
    Suspended(SuspendEnd),
    Turned(freeze::Turned),
    Destroyed,
    /// Or is to be ended, for this.
    Exited(Option<String>),
    Stop,
}

impl Driver {
    /// A driver for what is known of an actor. It runs until `stop`, and then to the end of its operation.
    pub(crate) fn new(
        core: Arc<Core>,
        actor: ActorKey,
        fence: Fence,
        activation: Option<Box<Activation>>,
        stop: CancellationToken,
    ) -> (Handle, Self) {
        let (sender, commands) = mpsc::channel(BACKLOG);
        let view = Arc::default();
        let handle = Handle { commands: sender, view: Arc::clone(&view) };
        let stage = activation.map_or(Stage::Empty, Stage::Serving);
        let backlog = VecDeque::new();
        let driver =
            Self { core, actor, fence, stage, commands, backlog, view, stop, paging: None };
        driver.publish();
        (handle, driver)
    }

    /// `release` lets it end when it knows nothing of the actor any more.
    pub(crate) async fn run(
        mut self,
        release: impl Fn(&ActorKey, &mpsc::Receiver<Command>) -> bool,
    ) {
        loop {
            match self.next().await {
                Event::Command(command) => self.command(command).await,
                Event::Activated(outcome) => self.activated(outcome),
                Event::Suspended(end) => self.suspended(end),
                Event::Turned(turned) => self.turned(turned),
                Event::Destroyed => self.destroyed(),
                Event::Exited(why) => self.exited(why).await,
                Event::Stop => return,
            }
            self.publish();
            let idle = matches!(self.stage, Stage::Empty) && self.backlog.is_empty();
            if idle && self.fence == Fence::default() && release(&self.actor, &self.commands) {
                return;
            }
        }
    }

    async fn next(&mut self) -> Event {
        let busy = !matches!(self.stage, Stage::Empty | Stage::Serving(_));
        if !busy && let Some(command) = self.backlog.pop_front() {
            return Event::Command(command);
        }
        let stage = &mut self.stage;
        let progress = async {
            match stage {
                Stage::Empty => futures::future::pending().await,
                Stage::Activating { done, .. } => Event::Activated(done.await),
                Stage::Serving(activation) if activation.record.is_frozen() => {
                    activation.process.exited().await;
                    Event::Exited(None)
                }
                Stage::Serving(activation) => tokio::select! {
                    () = activation.process.exited() => Event::Exited(activation.watch.killed()),
                    excess = activation.watch.exceeded() => Event::Exited(Some(excess)),
                },
                Stage::Suspending { done, .. } => Event::Suspended(done.await),
                Stage::Turning { done, .. } => Event::Turned(done.await),
                Stage::Destroying { done, .. } => {
                    done.await;
                    Event::Destroyed
                }
            }
        };
        tokio::select! {
            biased;
            event = progress => event,
            command = self.commands.recv() => command.map_or(Event::Stop, Event::Command),
            () = self.stop.cancelled(), if !busy => Event::Stop,
        }
    }

    async fn command(&mut self, command: Command) {
        let deletion = {
            let core = Arc::clone(&self.core);
            match command.stay().map(|stay| core.newest.begin(stay)).transpose() {
                Ok(_held) => {
                    let deletion = self.begin(command);
                    self.publish();
                    deletion
                }
                Err(over) => {
                    command.refuse(over.into());
                    None
                }
            }
        };
        if let Some((deletion, reply)) = deletion {
            reply.answer(self.delete_snapshots(deletion).await);
        }
    }

    /// Does what takes no time. A deletion is left to the caller.
    fn begin(&mut self, command: Command) -> Option<(Deletion, Reply<()>)> {
        match command {
            Command::Activate(request, reply) => self.activate(request, reply),
            Command::Suspend(request, reply) => self.suspend(request, reply),
            Command::Freeze(epoch, term, reply) => self.freeze(epoch, term, reply),
            Command::Resume(epoch, term, reply) => self.resume(epoch, term, reply),
            Command::Destroy(epoch, reply) => self.destroy(epoch, reply),
            // A snapshot under way outlives the node's end.
            Command::DestroyAny(reply) if matches!(self.stage, Stage::Suspending { .. }) => {
                self.defer(Command::DestroyAny(reply));
            }
            Command::DestroyAny(reply) => self.destroy(self.fence.epoch, reply),
            Command::DeleteSnapshots(deletion, reply) => match self.fence.check(deletion.epoch) {
                Err(error) => reply.answer(Err(error.into())),
                Ok(()) if matches!(self.stage, Stage::Empty | Stage::Serving(_)) => {
                    return Some((deletion, reply));
                }
                Ok(()) => self.defer(Command::DeleteSnapshots(deletion, reply)),
            },
        }
        None
    }

    fn activate(&mut self, request: Activate, reply: Reply<Activated>) {
        if let Err(error) = self.fence.check(request.epoch) {
            return reply.answer(Err(error.into()));
        }
        match &mut self.stage {
            Stage::Activating { request: current, waiters, .. } if current.same_as(&request) => {
                waiters.push(reply);
            }
            Stage::Activating { request: current, cancel, .. } => {
                if request.epoch > current.epoch {
                    cancel.cancel();
                }
                self.defer(Command::Activate(request, reply));
            }
            Stage::Serving(activation) if activation.record.epoch == request.epoch => {
                reply.answer(Ok(activation.reply.clone()));
            }
            // The control plane has given the old one up: there is never more than one.
            Stage::Serving(_) => {
                self.begin_destroy();
                self.backlog.push_front(Command::Activate(request, reply));
            }
            Stage::Empty => {
                if let Err(error) = self.fence.admit(request.epoch) {
                    return reply.answer(Err(error.into()));
                }
                let cancel = CancellationToken::new();
                let (core, actor, fence) = (self.core.clone(), self.actor.clone(), self.fence);
                let trace_id = request.traceparent.map(Traceparent::trace_id);
                let run = activate::activate(core, actor, fence, request.clone(), cancel.clone());
                let run = run.instrument(tracing::info_span!("activate", trace_id));
                let waiters = vec![reply];
                self.stage = Stage::Activating { request, cancel, waiters, done: run.boxed() };
            }
            _ => self.defer(Command::Activate(request, reply)),
        }
    }

    fn activated(&mut self, outcome: Result<Box<Activation>, OpError>) {
        let Stage::Activating { request, waiters, .. } = self.take_stage() else { return };
        self.core.metrics.activated(request.snapshot.is_some(), &outcome);
        let reply = match outcome {
            Ok(activation) => {
                let reply = Ok(activation.reply.clone());
                self.stage = Stage::Serving(activation);
                reply
            }
            Err(error) => {
                self.save_empty();
                Err(error)
            }
        };
        for waiter in waiters {
            waiter.answer(reply.clone());
        }
    }

    fn suspend(&mut self, request: Suspend, reply: Reply<Suspended>) {
        if let Err(error) = self.fence.check(request.epoch) {
            return reply.answer(Err(error.into()));
        }
        match self.take_stage() {
            Stage::Suspending { request: current, gate, mut waiters, resumers, shown, done }
                if current.same_as(&request) =>
            {
                waiters.push(reply);
                let request = current;
                self.stage = Stage::Suspending { request, gate, waiters, resumers, shown, done };
            }
            Stage::Serving(activation) if activation.record.was_resumed(&request) => {
                self.stage = Stage::Serving(activation);
                reply.answer(Ok(Suspended::Resumed));
            }
            Stage::Serving(activation) if activation.record.epoch == request.epoch => {
                let gate = Arc::new(Gate::default());
                let mut shown = activation.record.to_proto(&self.actor);
                shown.serving = false;
                let (core, actor, fence) = (self.core.clone(), self.actor.clone(), self.fence);
                let run =
                    suspend::suspend(core, actor, fence, activation, request.clone(), gate.clone());
                let (waiters, resumers, done) = (vec![reply], Vec::new(), run.boxed());
                self.stage = Stage::Suspending { request, gate, waiters, resumers, shown, done };
            }
            stage @ (Stage::Empty | Stage::Serving(_)) => {
                self.stage = stage;
                // It may be a repeated call, also to an agent that was started in between.
                let (core, id) = (&self.core, &request.snapshot);
                let done = core.snapshots.told(&self.actor, id, &core.node);
                let done = done.filter(|taken| taken.epoch == request.epoch.0);
                let (actor, epoch) = (self.actor.clone(), request.epoch);
                let outcome =
                    done.map(Suspended::Committed).ok_or(OpError::NotRunning { actor, epoch });
                reply.answer(outcome);
            }
            stage => {
                self.stage = stage;
                self.defer(Command::Suspend(request, reply));
            }
        }
    }

    fn suspended(&mut self, end: SuspendEnd) {
        let Stage::Suspending { request, waiters, resumers, .. } = self.take_stage() else {
            return;
        };
        self.core.metrics.suspended(end.how());
        let (outcome, running) = match end {
            SuspendEnd::Committed(snapshot) => {
                self.fence.end(request.epoch);
                (Ok(Suspended::Committed(snapshot)), false)
            }
            SuspendEnd::Resumed(activation) => {
                self.stage = Stage::Serving(activation);
                (Ok(Suspended::Resumed), true)
            }
            SuspendEnd::Failed(activation, error) => {
                self.stage = Stage::Serving(activation);
                (Err(error), true)
            }
            SuspendEnd::Lost(error) => {
                self.end_activation(request.epoch);
                self.core.report_exit(&self.actor, request.epoch, error);
                // Anything else would mean that it serves on.
                let (actor, epoch) = (self.actor.clone(), request.epoch);
                (Err(OpError::NotRunning { actor, epoch }), false)
            }
        };
        for waiter in waiters {
            waiter.answer(outcome.clone());
        }
        for resumer in resumers {
            resumer.answer(Ok(running));
        }
    }

    fn resume(&mut self, epoch: Epoch, term: u64, reply: Reply<bool>) {
        if let Err(error) = self.fence.check(epoch) {
            return reply.answer(Err(error.into()));
        }
        if let Stage::Serving(activation) = &mut self.stage
            && activation.record.epoch == epoch
        {
            return self.thaw(term, reply);
        }
        match &mut self.stage {
            Stage::Suspending { request, gate, resumers, .. } if request.epoch == epoch => {
                gate.cancel();
                resumers.push(reply);
            }
            Stage::Empty | Stage::Serving(_) => reply.answer(Ok(false)),
            _ => self.defer(Command::Resume(epoch, term, reply)),
        }
    }

    fn destroy(&mut self, epoch: Epoch, reply: Reply<()>) {
        if let Err(error) = self.fence.check(epoch) {
            return reply.answer(Err(error.into()));
        }
        match &mut self.stage {
            Stage::Empty => {
                self.end_activation(epoch);
                reply.answer(Ok(()));
            }
            Stage::Serving(_) => {
                self.begin_destroy();
                // Answered when it is done: then there is none.
                self.backlog.push_front(Command::Destroy(epoch, reply));
            }
            stage => {
                match stage {
                    Stage::Activating { cancel, .. } => cancel.cancel(),
                    Stage::Suspending { gate, .. } => gate.cancel(),
                    _ => {}
                }
                self.defer(Command::Destroy(epoch, reply));
            }
        }
    }

    fn begin_destroy(&mut self) {
        match self.take_stage() {
            Stage::Serving(activation) => {
                let epoch = activation.record.epoch;
                let core = self.core.clone();
                let run = async move {
                    activation.end(&core).await;
                };
                self.stage = Stage::Destroying { epoch, done: run.boxed() };
            }
            stage => self.stage = stage,
        }
    }

    fn destroyed(&mut self) {
        if let Stage::Destroying { epoch, .. } = self.take_stage() {
            self.end_activation(epoch);
        }
    }

    async fn exited(&mut self, why: Option<String>) {
        let Stage::Serving(activation) = self.take_stage() else { return };
        let epoch = activation.record.epoch;
        activation.end(&self.core).await;
        self.end_activation(epoch);
        let why = why.unwrap_or_else(|| {
            format!("the process ended by itself: {}", activate::see_logs(&self.actor))
        });
        self.core.report_exit(&self.actor, epoch, why);
    }

    async fn delete_snapshots(&mut self, deletion: Deletion) -> Result<(), OpError> {
        let Deletion { epoch, keep, everything } = deletion;
        let forget = everything && matches!(self.stage, Stage::Empty);
        // One of the present epoch may have been committed after this was asked for.
        let below = if everything { Epoch(u64::MAX) } else { epoch };
        if let Some(store) = self.core.store.clone() {
            // Of an actor of this name that comes after it, the epochs are higher.
            let below = if everything { epoch.next() } else { epoch };
            let (actor, keep) = (self.actor.clone(), keep.clone());
            let delete = async move { store.delete(&actor, below, &keep).await };
            if everything {
                let deleted = delete.await;
                deleted.map_err(|e| OpError::internal(format!("cannot delete: {}", chain(&e))))?;
            } else {
                // A store that is slow must not hold up a wake. What is left over goes with the next snapshot.
                let actor = self.actor.clone();
                self.core.cleanups.spawn(async move {
                    if let Err(error) = delete.await {
                        tracing::warn!(%actor, %error, "old snapshots are not deleted from the store yet");
                    }
                });
            }
        }
        let (core, actor) = (self.core.clone(), self.actor.clone());
        let deleted = files::blocking(move || {
            core.snapshots.delete(&actor, below, &keep)?;
            if forget {
                core.snapshots.forget(&actor);
                core.logs.remove(&actor)?;
                core.records.remove(&actor)?;
            }
            Ok(())
        });
        let deleted = deleted.await;
        // Those that are kept are known by now to who asks.
        uploads::make_room(&self.core);
        if forget && deleted.is_ok() {
            self.fence = Fence::default();
        }
        deleted.map_err(|e| OpError::internal(format!("cannot delete: {e}")))
    }

    /// Puts a command off until the operation under way is over.
    fn defer(&mut self, command: Command) {
        if self.backlog.len() < BACKLOG {
            self.backlog.push_back(command);
        } else {
            command.refuse(OpError::TooBusy);
        }
    }

    fn end_activation(&mut self, epoch: Epoch) {
        self.fence.end(epoch);
        self.save_empty();
    }

    fn save_empty(&self) {
        let record = Record { actor: self.actor.clone(), fence: self.fence, activation: None };
        if let Err(error) = self.core.records.save(&record) {
            tracing::error!(actor = %self.actor, %error, "the actor's record was not written");
        }
    }

    fn take_stage(&mut self) -> Stage {
        std::mem::replace(&mut self.stage, Stage::Empty)
    }

    fn publish(&self) {
        let activation = match &self.stage {
            Stage::Serving(activation) => Some(activation.record.to_proto(&self.actor)),
            Stage::Suspending { shown, .. } | Stage::Turning { shown, .. } => Some(shown.clone()),
            Stage::Activating { request, .. } => Some(proto::Activation {
                actor: Some((&self.actor).into()),
                epoch: request.epoch.0,
                worker: request.worker.clone(),
                endpoint: String::new(),
                serving: false,
                frozen: false,
            }),
            Stage::Empty | Stage::Destroying { .. } => None,
        };
        let view = View { fence: self.fence, activation };
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }
}
