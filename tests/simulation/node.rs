//! A fake node: its machine, which survives its agent, and the agent's calls.
//!
//! ```text
//!              Activate                    Suspend
//!   (none) ───────────▶ Making ─▶ Serving ─────────▶ Saving ─▶ (none), a snapshot
//!      ▲                  │         │  ▲                │
//!      └── Destroy, ◀─────┴─────────┘  └────────────────┘ Resume before the commit
//!          a higher epoch
//! ```
//!
//! An actor is a list of the requests it has done. Fences and snapshots are on its disk: a machine that goes down keeps them
//! and loses what ran. Each step takes a while, so that messages can come in between. Which stay a call may belong to is decided
//! by the real node's code.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::Stream;
use reveille_api::{
    Stay,
    proto::{self, node_agent_server::NodeAgent},
    task,
};
use tokio::time::sleep;
use tonic::{Request, Response, Status};

use crate::{
    mutant::Mutant,
    oracle::{Id, Oracle},
    stay::{Newest, Over},
    world::Dice,
};

/// Between two looks at what others do.
const LOOK: Duration = Duration::from_millis(5);
/// Workers of a node.
pub(crate) const WORKERS: u32 = 2;
/// First endpoint.
const PORTS: u16 = 20_000;

/// One machine. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Machine {
    /// Name of the node and of its host.
    pub(crate) name: &'static str,
    oracle: Oracle,
    dice: Dice,
    mutant: Option<Mutant>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    actors: BTreeMap<String, Actor>,
    /// By actor and name.
    snapshots: BTreeMap<(String, String), Saved>,
    endpoints: u16,
    /// Where requests find it, which the network decides.
    ip: String,
    /// Of this agent: the next one has heard of none.
    newest: Newest,
}

#[derive(Clone)]
struct Saved {
    epoch: u64,
    done: Vec<Id>,
}

#[derive(Default)]
struct Actor {
    highest: u64,
    ended: bool,
    now: Option<Activation>,
}

#[derive(Clone)]
struct Activation {
    epoch: u64,
    worker: String,
    port: u16,
    done: Vec<Id>,
    phase: Phase,
    /// The last suspend that ended with it running on: when repeated, it is answered so again.
    resumed: Option<String>,
}

#[derive(Clone, PartialEq)]
enum Phase {
    Making,
    Serving,
    Saving { snapshot: String, cancelled: bool },
}

impl Phase {
    fn saves(&self, to: &str) -> bool {
        matches!(self, Self::Saving { snapshot, .. } if snapshot == to)
    }
}

/// What became of a request at an endpoint.
pub(crate) enum Met {
    /// Nobody listens.
    Refused,
    /// It waits for a process that is held.
    Held,
    /// It is done.
    Done,
}

impl Machine {
    pub(crate) fn new(
        name: &'static str,
        oracle: Oracle,
        dice: Dice,
        mutant: Option<Mutant>,
    ) -> Self {
        Self { name, oracle, dice, mutant, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    async fn a_while(&self, least: u64, most: u64) {
        sleep(Duration::from_millis(self.dice.between(least, most))).await;
    }

    /// An agent starts: what serves is adopted, what is half-made removed, what was being saved is let go on.
    pub(crate) fn adopt(&self, ip: String) {
        let mut state = self.state();
        state.ip = ip;
        state.newest = Newest::default();
        for (key, actor) in &mut state.actors {
            match actor.now.as_mut().map(|now| (now.epoch, &mut now.phase)) {
                Some((epoch, Phase::Making)) => {
                    self.oracle.seen().made(key, self.name, epoch);
                    actor.now = None;
                }
                Some((epoch, phase @ Phase::Saving { .. })) => {
                    *phase = Phase::Serving;
                    self.oracle.seen().serves(key, self.name, epoch);
                }
                _ => {}
            }
        }
    }

    /// The power fails.
    pub(crate) fn power_off(&self) {
        for (key, actor) in &mut self.state().actors {
            if let Some(now) = actor.now.take() {
                actor.ended = true;
                self.oracle.seen().lost(key, &now.done, true);
                self.oracle.seen().closed(key, self.name, now.epoch, "the power fails");
            }
        }
    }

    /// A request comes to an endpoint: which actor is there.
    pub(crate) fn connect(&self, port: u16) -> Option<(String, u64)> {
        let state = self.state();
        let at = |actor: &Actor| {
            actor
                .now
                .as_ref()
                .filter(|now| now.port == port && now.phase == Phase::Serving)
                .cloned()
        };
        state.actors.iter().find_map(|(key, actor)| Some((key.clone(), at(actor)?.epoch)))
    }

    /// A request that is connected gets its turn.
    pub(crate) fn meet(&self, key: &str, epoch: u64, asked: &str, id: Id) -> Met {
        let mut state = self.state();
        let now = state.actors.get_mut(key).and_then(|actor| actor.now.as_mut());
        match now.filter(|now| now.epoch == epoch) {
            None => Met::Refused,
            Some(now) if now.phase == Phase::Serving => {
                now.done.push(id);
                self.oracle.seen().did(key, asked, id, epoch);
                Met::Done
            }
            Some(_) => Met::Held,
        }
    }

    /// What an actor that serves here has done.
    pub(crate) fn done(&self, key: &str) -> Option<Vec<Id>> {
        self.state().actors.get(key)?.now.as_ref().map(|now| now.done.clone())
    }

    /// The newest that calls of this agent have quoted.
    pub(crate) fn stay(&self) -> Stay {
        self.state().newest.get()
    }

    /// A call comes: the stay that it quotes, unless that is over.
    fn hear<T>(&self, request: &Request<T>) -> Result<Stay, Status> {
        let stay = Stay::quoted(request.metadata())?;
        self.state().newest.hear(stay).map_err(|over| self.refuse(&over))?;
        Ok(stay)
    }

    /// It has its turn. One that has joined what was begun is of no stay any more.
    fn admit(
        &self,
        state: &State,
        key: &str,
        stay: Option<Stay>,
        epoch: u64,
    ) -> Result<(), Status> {
        let begun = stay.map(|stay| state.newest.begin(stay)).transpose();
        begun.map(drop).map_err(|over| self.refuse(&over))?;
        let highest = state.actors.get(key).map_or(0, |actor| actor.highest);
        if epoch < highest && !self.is(Mutant::NodeIgnoresEpochs) {
            return Err(Status::failed_precondition("the epoch is over"));
        }
        Ok(())
    }

    fn refuse(&self, over: &Over) -> Status {
        let mut seen = self.oracle.seen();
        seen.late += 1;
        seen.say(format!("{}: {over}", self.name));
        Status::aborted(over.to_string())
    }

    fn end(&self, key: &str, actor: &mut Actor, epoch: u64, why: &str) {
        if let Some(now) = actor.now.take() {
            self.oracle.seen().lost(key, &now.done, false);
            self.oracle.seen().closed(key, self.name, now.epoch, why);
        }
        if epoch >= actor.highest {
            (actor.highest, actor.ended) = (epoch, true);
        }
    }

    async fn activate(
        &self,
        stay: Stay,
        request: proto::ActivateRequest,
    ) -> Result<String, Status> {
        let (key, epoch, mut stay) = (name(&request.actor)?, request.epoch, Some(stay));
        loop {
            {
                let mut guard = self.state();
                let state = &mut *guard;
                self.admit(state, &key, stay, epoch)?;
                let actor = state.actors.entry(key.clone()).or_default();
                match actor.now.as_ref().map(|now| (now.epoch, &now.phase, now.port)) {
                    Some((here, Phase::Serving, port)) if here == epoch => {
                        return Ok(format!("{}:{port}", state.ip));
                    }
                    Some((here, Phase::Making, _)) if here == epoch => stay = None,
                    Some((_, Phase::Saving { .. }, _)) => {}
                    Some(_) => self.end(&key, actor, epoch - 1, "a later one is to be made"),
                    None if actor.highest == epoch
                        && actor.ended
                        && !self.is(Mutant::NodeIgnoresEpochs) =>
                    {
                        return Err(Status::failed_precondition("it has ended"));
                    }
                    None => {
                        (actor.highest, actor.ended) = (epoch, false);
                        let from = (key.clone(), request.snapshot.clone());
                        let saved = state.snapshots.get(&from).cloned();
                        if saved.is_none() && !request.snapshot.is_empty() {
                            return Err(Status::internal("there is no such snapshot"));
                        }
                        if !self.is(Mutant::EndpointsAreReused) {
                            state.endpoints += 1;
                        }
                        let done = saved.as_ref().map(|saved| saved.done.clone());
                        self.oracle.seen().making(&key, self.name, epoch, done.as_deref());
                        actor.now = Some(Activation {
                            epoch,
                            worker: request.worker.clone(),
                            port: PORTS + state.endpoints,
                            done: done.unwrap_or_default(),
                            phase: Phase::Making,
                            resumed: None,
                        });
                        stay = None;
                        let (machine, key) = (self.clone(), key.clone());
                        task::detach("make", async move { machine.make(&key, epoch).await });
                    }
                }
            }
            sleep(LOOK).await;
        }
    }

    async fn make(&self, key: &str, epoch: u64) {
        self.a_while(10, 200).await;
        let mut state = self.state();
        let now = state.actors.get_mut(key).and_then(|actor| actor.now.as_mut());
        if let Some(now) = now.filter(|now| now.epoch == epoch && now.phase == Phase::Making) {
            now.phase = Phase::Serving;
            self.oracle.seen().wakes += 1;
            self.oracle.seen().serves(key, self.name, epoch);
        }
    }

    async fn suspend(
        &self,
        stay: Stay,
        request: proto::SuspendRequest,
    ) -> Result<proto::SuspendReply, Status> {
        use proto::suspend_reply::Outcome;
        let (key, epoch, snapshot) = (name(&request.actor)?, request.epoch, request.snapshot);
        let mut stay = Some(stay);
        loop {
            {
                let mut guard = self.state();
                let state = &mut *guard;
                self.admit(state, &key, stay, epoch)?;
                let actor = state.actors.entry(key.clone()).or_default();
                match actor.now.as_mut().filter(|now| now.epoch == epoch) {
                    Some(now)
                        if now.phase == Phase::Serving
                            && now.resumed.as_ref() == Some(&snapshot) =>
                    {
                        let outcome = Some(Outcome::Resumed(proto::Resumed {}));
                        return Ok(proto::SuspendReply { outcome });
                    }
                    Some(now) if now.phase == Phase::Serving => {
                        stay = None;
                        let snapshot = snapshot.clone();
                        now.phase = Phase::Saving { snapshot: snapshot.clone(), cancelled: false };
                        self.oracle.seen().closed(&key, self.name, epoch, "it is saved");
                        let (machine, key) = (self.clone(), key.clone());
                        task::detach(
                            "save",
                            async move { machine.save(&key, epoch, snapshot).await },
                        );
                    }
                    Some(now) if now.phase.saves(&snapshot) => stay = None,
                    Some(_) => {}
                    None => {
                        let at = (key.clone(), snapshot.clone());
                        let saved = state.snapshots.get(&at).filter(|saved| saved.epoch == epoch);
                        let saved = saved.ok_or_else(|| Status::not_found("it does not run"))?;
                        let outcome = Some(Outcome::Committed(self.told(&at, saved)));
                        return Ok(proto::SuspendReply { outcome });
                    }
                }
            }
            sleep(LOOK).await;
        }
    }

    async fn save(&self, key: &str, epoch: u64, snapshot: String) {
        self.a_while(10, 200).await;
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(actor) = state.actors.get_mut(key) else { return };
        let Some(now) = actor.now.as_mut().filter(|now| now.epoch == epoch) else { return };
        let Phase::Saving { cancelled, .. } = now.phase else { return };
        if cancelled {
            (now.phase, now.resumed) = (Phase::Serving, Some(snapshot));
            return self.oracle.seen().serves(key, self.name, epoch);
        }
        self.oracle.seen().committed(key, self.name, epoch, &now.done);
        let saved = Saved { epoch, done: now.done.clone() };
        state.snapshots.insert((key.to_owned(), snapshot.clone()), saved);
        if self.is(Mutant::NodeServesAfterCommit) {
            (now.phase, now.resumed) = (Phase::Serving, Some(snapshot));
            return self.oracle.seen().serves(key, self.name, epoch);
        }
        actor.now = None;
        actor.ended = true;
    }

    async fn resume(&self, stay: Stay, request: proto::ActivationRef) -> Result<bool, Status> {
        let (key, epoch, mut stay) = (name(&request.actor)?, request.epoch, Some(stay));
        loop {
            {
                let mut state = self.state();
                self.admit(&state, &key, stay, epoch)?;
                let actor = state.actors.entry(key.clone()).or_default();
                match actor.now.as_mut() {
                    None => return Ok(false),
                    Some(now) => match &mut now.phase {
                        Phase::Serving => return Ok(now.epoch == epoch),
                        Phase::Saving { cancelled, .. } if now.epoch == epoch => {
                            (*cancelled, stay) = (true, None);
                        }
                        _ => {}
                    },
                }
            }
            sleep(LOOK).await;
        }
    }

    async fn destroy(&self, stay: Stay, request: proto::ActivationRef) -> Result<(), Status> {
        let (key, epoch) = (name(&request.actor)?, request.epoch);
        self.a_while(5, 50).await;
        let mut state = self.state();
        self.admit(&state, &key, Some(stay), epoch)?;
        let actor = state.actors.entry(key.clone()).or_default();
        self.end(&key, actor, epoch, "it is destroyed");
        Ok(())
    }

    fn inventory(&self) -> proto::Inventory {
        let state = self.state();
        let activation = |(key, actor): (&String, &Actor)| {
            let now = actor.now.as_ref()?;
            Some(proto::Activation {
                actor: Some(key_of(key)),
                epoch: now.epoch,
                worker: now.worker.clone(),
                endpoint: format!("{}:{}", state.ip, now.port),
                serving: now.phase == Phase::Serving,
                frozen: false,
            })
        };
        let epoch = |(key, actor): (&String, &Actor)| proto::ActivationRef {
            actor: Some(key_of(key)),
            epoch: actor.highest,
            term: 0,
            ..Default::default()
        };
        proto::Inventory {
            activations: state.actors.iter().filter_map(activation).collect(),
            snapshots: state.snapshots.iter().map(|(at, saved)| self.told(at, saved)).collect(),
            epochs: state.actors.iter().map(epoch).collect(),
        }
    }

    fn told(&self, (key, id): &(String, String), saved: &Saved) -> proto::Snapshot {
        proto::Snapshot {
            actor: Some(key_of(key)),
            id: id.clone(),
            epoch: saved.epoch,
            bytes: 1,
            created_unix_ms: 1,
            runtime: "gvisor".into(),
            runtime_version: "1".into(),
            node: self.name.into(),
            ..Default::default()
        }
    }

    fn delete(&self, stay: Stay, request: &proto::DeleteSnapshotsRequest) -> Result<(), Status> {
        let key = name(&request.actor)?;
        let mut state = self.state();
        self.admit(&state, &key, Some(stay), request.epoch)?;
        state.snapshots.retain(|(of, id), _| *of != key || request.keep.contains(id));
        Ok(())
    }
}

fn name(key: &Option<proto::ActorKey>) -> Result<String, Status> {
    let key = key.as_ref().ok_or_else(|| Status::invalid_argument("no actor"))?;
    Ok(key.name.clone())
}

/// All are in one namespace.
pub(crate) fn key_of(name: &str) -> proto::ActorKey {
    proto::ActorKey { namespace: "demo".into(), name: name.into() }
}

type Reply<T> = Result<Response<T>, Status>;

/// What is asked goes on when the caller is gone.
async fn owned<T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Reply<T> {
    let (told, answer) = tokio::sync::oneshot::channel();
    task::detach("call", async move { drop(told.send(work.await)) });
    answer.await.unwrap_or_else(|_| Err(Status::unavailable("the agent stops"))).map(Response::new)
}

#[tonic::async_trait]
impl NodeAgent for Machine {
    type LogsStream = Pin<Box<dyn Stream<Item = Result<proto::LogChunk, Status>> + Send>>;

    async fn activate(
        &self,
        request: Request<proto::ActivateRequest>,
    ) -> Reply<proto::ActivateReply> {
        let (machine, stay) = (self.clone(), self.hear(&request)?);
        owned(async move {
            let endpoint = Machine::activate(&machine, stay, request.into_inner()).await?;
            Ok(proto::ActivateReply { endpoint, ..Default::default() })
        })
        .await
    }

    async fn suspend(&self, request: Request<proto::SuspendRequest>) -> Reply<proto::SuspendReply> {
        let (machine, stay) = (self.clone(), self.hear(&request)?);
        owned(async move { Machine::suspend(&machine, stay, request.into_inner()).await }).await
    }

    async fn freeze(&self, _: Request<proto::ActivationRef>) -> Reply<proto::FreezeReply> {
        Err(Status::unimplemented("it cannot"))
    }

    async fn resume(&self, request: Request<proto::ActivationRef>) -> Reply<proto::ResumeReply> {
        let (machine, stay) = (self.clone(), self.hear(&request)?);
        owned(async move {
            let resumed = Machine::resume(&machine, stay, request.into_inner()).await?;
            Ok(proto::ResumeReply { resumed })
        })
        .await
    }

    async fn destroy(&self, request: Request<proto::ActivationRef>) -> Reply<proto::DestroyReply> {
        let (machine, stay) = (self.clone(), self.hear(&request)?);
        owned(async move {
            Machine::destroy(&machine, stay, request.into_inner()).await?;
            Ok(proto::DestroyReply {})
        })
        .await
    }

    async fn get_inventory(
        &self,
        request: Request<proto::GetInventoryRequest>,
    ) -> Reply<proto::Inventory> {
        self.hear(&request)?;
        Ok(Response::new(self.inventory()))
    }

    async fn logs(&self, _: Request<proto::LogsRequest>) -> Reply<Self::LogsStream> {
        Err(Status::unimplemented("it says nothing"))
    }

    async fn delete_snapshots(
        &self,
        request: Request<proto::DeleteSnapshotsRequest>,
    ) -> Reply<proto::DeleteSnapshotsReply> {
        self.delete(self.hear(&request)?, request.get_ref())?;
        Ok(Response::new(proto::DeleteSnapshotsReply {}))
    }
}
