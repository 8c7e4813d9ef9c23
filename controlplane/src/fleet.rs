//! Every actor: finds or starts the one task that owns it, and hands it what callers want.
//!
//! ```text
//!  Routers, Control, Nodes services ──▶ Fleet ──▶ driver of demo/a ──▶ placement, nodes, routers, store, events
//!  pressure, node losses, reconcile ──▶       ──▶ driver of demo/b
//! ```

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use reveille_api::{ActorKey, Failure, Reason, trace::Traceparent};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::{
    budget::Budget,
    catalog::Catalog,
    clock::{Clock, unix_ms},
    config::Timings,
    driver::{self, Command, Doing, Down, Driver, NotDown, Served, Waiter, new_snapshot},
    events::Events,
    lifecycle::{Asker, Event},
    metrics::Metrics,
    nodes::Nodes,
    pace::Pace,
    placement::Placement,
    record::ActorRecord,
    routers::Routers,
    store::{self, records::Records},
    tasks::Tasks,
};

/// After a driver failed, how long until what it left under way is picked up.
const PICK_UP: Duration = Duration::from_secs(1);
/// How long a driver may take to say what it has in hand: it may be storing something.
const TELL: Duration = Duration::from_secs(1);

/// A driver did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy;

/// The parts that drivers work with, and the drivers.
pub struct Fleet {
    /// What is stored.
    pub records: Records,
    /// Templates and pools.
    pub catalog: Catalog,
    /// Workers.
    pub placement: Arc<Placement>,
    /// Nodes.
    pub nodes: Arc<Nodes>,
    /// Routers and bindings.
    pub routers: Arc<Routers>,
    /// The event log.
    pub events: Events,
    /// Counters.
    pub metrics: Metrics,
    /// Wakes that namespaces may begin.
    pub budget: Budget,
    /// Owner of every task.
    pub tasks: Tasks,
    /// What time it is.
    pub clock: Clock,
    /// Clocks of the protocol.
    pub timings: Timings,
    /// How long wakes took lately.
    pub pace: Pace,
    /// When it was started.
    pub started_unix_ms: u64,
    drivers: Mutex<HashMap<ActorKey, Handle>>,
    numbers: AtomicU64,
    draining: AtomicBool,
    /// Callers that wait for an answer.
    calls: TaskTracker,
}

#[derive(Clone)]
struct Handle {
    number: u64,
    mailbox: mpsc::Sender<Command>,
    view: watch::Receiver<Option<Arc<ActorRecord>>>,
}

/// Where a wake comes from. Nothing of it for a verb.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin<'a> {
    /// Instance of the router that will hold the binding.
    pub router: Option<&'a str>,
    /// Of the request's trace.
    pub traceparent: Option<Traceparent>,
    /// What Envoy calls the request.
    pub request_id: &'a str,
}

/// What a [`Fleet`] is made of.
pub struct Parts {
    /// What is stored.
    pub records: Records,
    /// Templates and pools.
    pub catalog: Catalog,
    /// Nodes.
    pub nodes: Nodes,
    /// Routers and bindings.
    pub routers: Routers,
    /// The event log.
    pub events: Events,
    /// Counters.
    pub metrics: Metrics,
    /// Wakes that namespaces may begin.
    pub budget: Budget,
    /// Owner of every task.
    pub tasks: Tasks,
    /// What time it is.
    pub clock: Clock,
    /// Clocks of the protocol.
    pub timings: Timings,
}

impl Fleet {
    /// Picks up every actor that is not at rest, and starts the tasks that watch over all.
    pub async fn start(parts: Parts) -> Result<Arc<Self>, store::Error> {
        let Parts {
            records,
            catalog,
            nodes,
            routers,
            events,
            metrics,
            budget,
            tasks,
            clock,
            timings,
        } = parts;
        let fleet = Arc::new(Self {
            records,
            catalog,
            placement: Arc::default(),
            nodes: Arc::new(nodes),
            routers: Arc::new(routers),
            events,
            metrics,
            budget,
            tasks,
            clock,
            timings,
            pace: Pace::default(),
            started_unix_ms: unix_ms(),
            drivers: Mutex::default(),
            numbers: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            calls: TaskTracker::new(),
        });
        fleet.placement.set_pools(fleet.catalog.pools());
        // All of them before the first call is served: their workers and bindings are known then.
        for key in fleet.records.active()? {
            let mut view = fleet.handle(&key).view;
            let _ = view.wait_for(Option::is_some).await;
        }
        fleet.watch();
        Ok(fleet)
    }

    fn watch(self: &Arc<Self>) {
        let fleet = Arc::clone(self);
        self.tasks.spawn("settle routers", async move { fleet.routers.settle().await });
        let fleet = Arc::clone(self);
        self.tasks.spawn("watch nodes", async move {
            let lost = |node: &str| {
                for (_, actor, _) in fleet.placement.occupants(node) {
                    fleet.tell_later(actor, Event::NodeLost { node: node.to_owned() });
                }
            };
            fleet.nodes.watch_for_lost(lost).await;
        });
        let fleet = Arc::clone(self);
        self.tasks.spawn("relieve pressure", async move {
            let (placement, routers) = (Arc::clone(&fleet.placement), Arc::clone(&fleet.routers));
            let suspend = |victim: crate::placement::pressure::Victim| {
                let (cause, decided_for) = (victim.cause, Some(victim.epoch));
                let event = Event::Suspend { cause, decided_for, snapshot: new_snapshot() };
                fleet.tell_later(victim.actor, event);
            };
            let (clock, timings) = (fleet.clock, fleet.timings);
            crate::placement::pressure::relieve(placement, routers, clock, timings, suspend).await;
        });
    }

    fn drivers(&self) -> MutexGuard<'_, HashMap<ActorKey, Handle>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the actor serve. Whoever stops waiting cancels nothing.
    pub async fn wake(
        self: &Arc<Self>,
        key: &ActorKey,
        asker: Asker,
        origin: Origin<'_>,
    ) -> Result<Served, Failure> {
        if self.is_draining() {
            return Err(driver::draining());
        }
        let command = |answer| {
            let router = origin.router.map(str::to_owned);
            let traceparent = origin.traceparent;
            let request_id = origin.request_id.to_owned();
            Command::Wake(Waiter { asker, router, traceparent, request_id, answer })
        };
        self.ask(key, command).await?
    }

    /// Takes the actor down.
    pub async fn down(
        self: &Arc<Self>,
        key: &ActorKey,
        goal: Down,
    ) -> Result<Result<(), NotDown>, Failure> {
        self.down_within(None, key, goal).await
    }

    /// The same, in a trace.
    pub async fn down_within(
        self: &Arc<Self>,
        trace: Option<Traceparent>,
        key: &ActorKey,
        goal: Down,
    ) -> Result<Result<(), NotDown>, Failure> {
        self.ask(key, |answer| Command::Down(goal, trace, answer)).await
    }

    /// Asks the actor's driver; a driver that has just retired is replaced and asked again.
    async fn ask<T>(
        self: &Arc<Self>,
        key: &ActorKey,
        command: impl Fn(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Failure> {
        let _call = self.calls.token();
        loop {
            if self.view(key).map_err(|e| Failure::internal(e.to_string()))?.is_none() {
                let message = format!("actor {:?} does not exist", key.to_string());
                return Err(Failure::new(Reason::ActorNotFound, message));
            }
            let handle = self.handle(key);
            let (answer, answered) = oneshot::channel();
            if handle.mailbox.send(command(answer)).await.is_ok()
                && let Ok(answer) = answered.await
            {
                return Ok(answer);
            }
            if self.tasks.is_stopping() {
                let message = "the control plane is stopping";
                return Err(Failure::new(Reason::ControlPlaneUnavailable, message));
            }
        }
    }

    /// Tells an actor's driver that something happened to it.
    pub async fn tell(self: &Arc<Self>, key: &ActorKey, event: Event) {
        self.post(key, Command::Event(event)).await;
    }

    /// As [`Fleet::tell`], from where nobody can wait.
    fn tell_later(self: &Arc<Self>, key: ActorKey, event: Event) {
        let fleet = Arc::clone(self);
        self.tasks.spawn("tell", async move { fleet.tell(&key, event).await });
    }

    /// Has snapshots that an actor does not need deleted on this node.
    pub(crate) async fn collect(self: &Arc<Self>, key: &ActorKey, node: &str) {
        self.post(key, Command::Collect(node.to_owned())).await;
    }

    async fn post(self: &Arc<Self>, key: &ActorKey, mut command: Command) {
        while !self.tasks.is_stopping() {
            match self.handle(key).mailbox.send(command).await {
                Ok(()) => return,
                Err(mpsc::error::SendError(back)) => command = back,
            }
        }
    }

    /// An actor as it is now: its driver knows better than the store.
    pub fn view(&self, key: &ActorKey) -> Result<Option<Arc<ActorRecord>>, store::Error> {
        let live = self.drivers().get(key).and_then(|handle| handle.view.borrow().clone());
        if live.is_some() {
            return Ok(live);
        }
        Ok(self.records.actor(key)?.map(|stored| Arc::new(stored.value)))
    }

    /// The actors of a namespace, or all of them.
    pub fn views(&self, namespace: &str) -> Result<Vec<Arc<ActorRecord>>, store::Error> {
        let mut records = Vec::new();
        for record in self.records.actors(namespace)? {
            let live =
                self.drivers().get(&record.key).and_then(|handle| handle.view.borrow().clone());
            records.push(live.unwrap_or_else(|| Arc::new(record)));
        }
        Ok(records)
    }

    /// An actor with a driver, watched.
    pub(crate) fn watched(
        &self,
        key: &ActorKey,
    ) -> Option<watch::Receiver<Option<Arc<ActorRecord>>>> {
        self.drivers().get(key).map(|handle| handle.view.clone())
    }

    /// Actors that are not at rest.
    pub fn active(&self) -> Vec<ActorKey> {
        let live = |handle: &Handle| {
            handle.view.borrow().as_ref().is_some_and(|record| !record.life.phase().is_rest())
        };
        let drivers = self.drivers();
        drivers.iter().filter(|(_, handle)| live(handle)).map(|(key, _)| key.clone()).collect()
    }

    /// Records of the actors that are not at rest, of a namespace or all.
    pub fn awake(&self, namespace: &str) -> Vec<Arc<ActorRecord>> {
        let drivers = self.drivers();
        let here = |key: &ActorKey| namespace.is_empty() || key.namespace() == namespace;
        let views = drivers.iter().filter(|(key, _)| here(key));
        let views = views.filter_map(|(_, handle)| handle.view.borrow().clone());
        views.filter(|record| !record.life.phase().is_rest()).collect()
    }

    /// What the actor's driver has in hand; nothing when it has none.
    pub(crate) async fn doing(&self, key: &ActorKey) -> Result<Option<Doing>, Busy> {
        let handle = self.drivers().get(key).cloned();
        let Some(handle) = handle else { return Ok(None) };
        let (answer, answered) = oneshot::channel();
        let asked = async {
            // One that has just retired leaves the actor at rest.
            handle.mailbox.send(Command::Tell(answer)).await.ok()?;
            answered.await.ok()
        };
        tokio::time::timeout(TELL, asked).await.map_err(|_| Busy)
    }

    /// How many actors have a driver.
    #[cfg(test)]
    pub(crate) fn driven(&self) -> usize {
        self.drivers().len()
    }

    /// From now on nothing is woken.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// True once nothing is woken any more.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Wakes nothing more, and waits until those who wait have their answers, or for so long.
    pub async fn quiesce(&self, patience: Duration) {
        self.begin_drain();
        self.calls.close();
        let _ = tokio::time::timeout(patience, self.calls.wait()).await;
    }

    fn handle(self: &Arc<Self>, key: &ActorKey) -> Handle {
        let mut drivers = self.drivers();
        if let Some(handle) = drivers.get(key) {
            return handle.clone();
        }
        let (mailbox, commands) = mpsc::channel(driver::MAILBOX);
        let (publish, view) = watch::channel(None);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let handle = Handle { number, mailbox, view };
        drivers.insert(key.clone(), handle.clone());
        drop(drivers);
        let (fleet, key) = (Arc::clone(self), key.clone());
        self.tasks.spawn("actor", async move {
            fleet.own(key, number, commands, publish).await;
        });
        handle
    }

    /// Runs one driver, and hands over what came too late for it.
    async fn own(
        self: Arc<Self>,
        key: ActorKey,
        number: u64,
        mut commands: mpsc::Receiver<Command>,
        publish: watch::Sender<Option<Arc<ActorRecord>>>,
    ) {
        let loaded = match driver::load(&self, &key) {
            Ok(Some(loaded)) => loaded,
            // Callers see that it does not exist when they ask again.
            Ok(None) => return self.retire(&key, number),
            Err(failure) => {
                tracing::error!(actor = %key, %failure, "an actor cannot be driven");
                self.retire(&key, number);
                commands.close();
                while let Ok(command) = commands.try_recv() {
                    command.refuse(&failure);
                }
                return;
            }
        };
        let driver = Driver::new(Arc::clone(&self), loaded, commands, publish);
        let outcome = Box::pin(driver.drive()).await;
        self.retire(&key, number);
        match outcome {
            Ok(mut late) => {
                late.close();
                while let Ok(command) = late.try_recv() {
                    self.post(&key, command).await;
                }
            }
            Err(error) => {
                tracing::error!(actor = %key, %error, "a record could not be stored");
                tokio::time::sleep(PICK_UP).await;
                let at_rest = |record: Arc<ActorRecord>| record.life.phase().is_rest();
                if self.view(&key).is_ok_and(|view| view.is_some_and(|record| !at_rest(record))) {
                    self.handle(&key);
                }
            }
        }
    }

    fn retire(&self, key: &ActorKey, number: u64) {
        let mut drivers = self.drivers();
        if drivers.get(key).is_some_and(|handle| handle.number == number) {
            drivers.remove(key);
        }
    }
}
