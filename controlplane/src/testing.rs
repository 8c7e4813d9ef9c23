//! A world for tests: a fleet on a store in memory, a node that keeps its promises, routers that acknowledge.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures::{FutureExt, stream::BoxStream};
use reveille_api::{
    ActorKey, Epoch, Failure, Ladder, Reason, Stay,
    manifest::{self, ActorTemplateSpec, Spec},
    proto::{self, suspend_reply::Outcome},
    task,
};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use crate::{
    budget::Budget,
    catalog::Catalog,
    clock::Clock,
    config::Timings,
    events::Events,
    fleet::{Fleet, Origin, Parts},
    lifecycle::{Asker, Phase},
    metrics::Metrics,
    nodes::{Agent, Dial, Nodes, Session, agent::Reply, reconcile::reconcile},
    record::ActorRecord,
    routers::Routers,
    store::{Store, memory::MemoryStore, records::Records},
    tasks::Tasks,
};

/// Waits until `done` gives something; tells the last state when it does not.
pub(crate) async fn eventually<T>(what: &str, mut done: impl FnMut() -> Result<T, String>) -> T {
    let mut last = String::new();
    for _ in 0..12_000 {
        match done() {
            Ok(found) => return found,
            Err(state) => last = state,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} never happened; last: {last}");
}

pub(crate) fn key(name: &str) -> ActorKey {
    ActorKey::new("demo", name).unwrap()
}

pub(crate) fn spec(extra: &str) -> ActorTemplateSpec {
    let text = format!(
        "apiVersion: reveille.dev/v1alpha1\nkind: ActorTemplate\nmetadata: {{name: t}}\n\
         spec: {{runtime: gvisor, rootfs: {{directory: /x}}, command: [/a]{extra}}}\n"
    );
    match manifest::parse_one(&text).unwrap().spec {
        Spec::ActorTemplate(spec) => *spec,
        other => panic!("{other:?}"),
    }
}

/// A node that does what the protos promise, also when its caller has gone.
pub(crate) struct FakeNode {
    state: Arc<Mutex<NodeState>>,
    /// That its callers quote.
    stay: Stay,
    /// While false, activations and checkpoints take for ever.
    pub(crate) starts: watch::Sender<bool>,
    pub(crate) commits: watch::Sender<bool>,
    /// Calls of this verb are under way and do not arrive.
    pub(crate) held: watch::Sender<&'static str>,
}

#[derive(Default)]
pub(crate) struct NodeState {
    pub(crate) activations: BTreeMap<ActorKey, proto::Activation>,
    pub(crate) snapshots: Vec<proto::Snapshot>,
    pub(crate) highest: BTreeMap<ActorKey, u64>,
    /// The highest stay that was quoted.
    pub(crate) newest: Stay,
    /// Every call, as "verb namespace/name epoch".
    pub(crate) calls: Vec<String>,
    /// Those of an earlier stay, which are refused.
    pub(crate) late: Vec<String>,
    /// The next activations fail like this.
    pub(crate) refuse_start: Vec<Failure>,
    /// The next checkpoints fail like this.
    pub(crate) refuse_checkpoint: Vec<String>,
    /// The next freeze fails.
    pub(crate) refuse_freeze: bool,
    /// Promises of the control plane that it broke.
    pub(crate) violations: Vec<String>,
    /// The last term of an epoch that was thawed.
    resumed: HashMap<(ActorKey, u64), u64>,
    suspends: HashMap<String, watch::Sender<Option<SuspendOutcome>>>,
    /// How to call the last suspend of an epoch off, and its name.
    resume: HashMap<(ActorKey, u64), (watch::Sender<bool>, String)>,
    port: u16,
}

type SuspendOutcome = Result<proto::SuspendReply, Failure>;

fn actor_of(key: &Option<proto::ActorKey>) -> ActorKey {
    ActorKey::try_from(key.clone()).unwrap()
}

impl NodeState {
    fn hear(&mut self, stay: Stay) -> Result<(), Status> {
        if stay < self.newest {
            return Err(Status::aborted("an earlier stay"));
        }
        self.newest = stay;
        Ok(())
    }

    fn enter(&mut self, stay: Stay, verb: &str, key: &ActorKey, epoch: u64) -> Result<(), Status> {
        let call = format!("{verb} {key} {epoch}");
        if let Err(status) = self.hear(stay) {
            self.late.push(call);
            return Err(status);
        }
        self.calls.push(call);
        let highest = self.highest.entry(key.clone()).or_default();
        if epoch < *highest {
            return Err(Status::failed_precondition("a lower epoch"));
        }
        *highest = epoch;
        Ok(())
    }

    /// How often something was called.
    pub(crate) fn count(&self, call: &str) -> usize {
        self.calls.iter().filter(|c| c.starts_with(call)).count()
    }
}

impl FakeNode {
    pub(crate) fn new() -> Arc<Self> {
        let (starts, commits) = (watch::channel(true).0, watch::channel(true).0);
        let (state, stay, held) = (Arc::default(), Stay::default(), watch::channel("").0);
        Arc::new(Self { state, stay, starts, commits, held })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock().unwrap()
    }

    /// The same node, called in this stay.
    pub(crate) fn of(&self, stay: Stay) -> Self {
        Self {
            state: Arc::clone(&self.state),
            stay,
            starts: self.starts.clone(),
            commits: self.commits.clone(),
            held: self.held.clone(),
        }
    }

    /// A call that arrives when its verb is not held, and also if its caller has gone by then.
    fn delivered<T: Send + 'static>(
        &self,
        verb: &'static str,
        call: impl FnOnce(&Self) -> Reply<T> + Send + 'static,
    ) -> Reply<T> {
        let mut held = self.held.subscribe();
        let node = self.of(self.stay);
        let (done, reply) = oneshot::channel();
        task::detach("fake call", async move {
            let _ = held.wait_for(|held| *held != verb).await;
            let reply = call(&node);
            let _ = done.send(reply.await);
        });
        async move { reply.await.unwrap_or_else(|_| Err(Status::cancelled("the world ends"))) }
            .boxed()
    }

    /// The process of an actor dies; nothing is told.
    pub(crate) fn kill(&self, key: &ActorKey) {
        self.state().activations.remove(key);
    }
}

impl FakeNode {
    fn suspend_now(&self, request: proto::SuspendRequest) -> Reply<proto::SuspendReply> {
        let key = actor_of(&request.actor);
        let mut state = self.state();
        if let Err(status) = state.enter(self.stay, "suspend", &key, request.epoch) {
            return async { Err(status) }.boxed();
        }
        let known = state.suspends.contains_key(&request.snapshot);
        if !known && !state.activations.contains_key(&key) {
            return async { Err(Status::not_found("no such activation")) }.boxed();
        }
        let joined = state.suspends.get(&request.snapshot).map(watch::Sender::subscribe);
        let mut outcome = match joined {
            Some(outcome) => outcome,
            None => {
                let (tell, outcome) = watch::channel(None);
                state.suspends.insert(request.snapshot.clone(), tell);
                let (resume, resumed) = watch::channel(false);
                let id = request.snapshot.clone();
                state.resume.insert((key.clone(), request.epoch), (resume, id));
                drop(state);
                let shared = Arc::clone(&self.state);
                let commits = self.commits.subscribe();
                task::detach("fake checkpoint", checkpoint(shared, commits, resumed, request));
                outcome
            }
        };
        async move {
            let told = outcome.wait_for(Option::is_some).await.unwrap();
            told.clone().unwrap().map_err(Status::from)
        }
        .boxed()
    }

    /// As the node: a term that was resumed is over.
    fn resume_now(&self, request: &proto::ActivationRef) -> Reply<proto::ResumeReply> {
        let key = actor_of(&request.actor);
        let mut state = self.state();
        if let Err(status) = state.enter(self.stay, "resume", &key, request.epoch) {
            return async { Err(status) }.boxed();
        }
        let Some((resume, id)) = state.resume.get(&(key.clone(), request.epoch)) else {
            let here = state.activations.get_mut(&key);
            let resumed = here.map(|it| (it.serving, it.frozen) = (true, false)).is_some();
            if resumed {
                state.resumed.insert((key, request.epoch), request.term);
            }
            return async move { Ok(proto::ResumeReply { resumed }) }.boxed();
        };
        resume.send_replace(true);
        let mut outcome = state.suspends[id].subscribe();
        async move {
            let told = outcome.wait_for(Option::is_some).await.unwrap();
            let committed =
                |reply: &proto::SuspendReply| matches!(reply.outcome, Some(Outcome::Committed(_)));
            let resumed = !told.as_ref().unwrap().as_ref().is_ok_and(committed);
            Ok(proto::ResumeReply { resumed })
        }
        .boxed()
    }

    fn freeze_now(&self, request: &proto::ActivationRef) -> Reply<proto::FreezeReply> {
        let key = actor_of(&request.actor);
        let mut state = self.state();
        let mut outcome = state.enter(self.stay, "freeze", &key, request.epoch);
        let late = state
            .resumed
            .get(&(key.clone(), request.epoch))
            .is_some_and(|term| request.term <= *term);
        if outcome.is_ok() && late {
            outcome = Err(Status::aborted("it was resumed"));
        }
        if outcome.is_ok() && std::mem::take(&mut state.refuse_freeze) {
            outcome = Err(Failure::internal("it cannot be stopped").into());
        }
        if outcome.is_ok() {
            match state.activations.get_mut(&key) {
                Some(here) => (here.serving, here.frozen) = (false, true),
                None => outcome = Err(Status::not_found("no such activation")),
            }
        }
        async move { outcome.map(|()| proto::FreezeReply {}) }.boxed()
    }

    fn destroy_now(&self, request: proto::ActivationRef) -> Reply<proto::DestroyReply> {
        let key = actor_of(&request.actor);
        let mut state = self.state();
        let entered = state.enter(self.stay, "destroy", &key, request.epoch);
        if entered.is_ok() {
            // What is being made now ends up below the fence.
            state.activations.remove(&key);
            let fence = state.highest.entry(key).or_default();
            *fence = (*fence).max(request.epoch);
        }
        async move { entered.map(|()| proto::DestroyReply {}) }.boxed()
    }
}

impl Agent for FakeNode {
    fn activate(&self, request: proto::ActivateRequest) -> Reply<proto::ActivateReply> {
        let key = actor_of(&request.actor);
        let mut state = self.state();
        if let Err(status) = state.enter(self.stay, "activate", &key, request.epoch) {
            return async { Err(status) }.boxed();
        }
        let failure = (!state.refuse_start.is_empty()).then(|| state.refuse_start.remove(0));
        let known =
            request.snapshot.is_empty() || state.snapshots.iter().any(|s| s.id == request.snapshot);
        if !known {
            let failure = Failure::new(Reason::SnapshotCorrupt, "there is no such snapshot");
            return async { Err(failure.into()) }.boxed();
        }
        drop(state);
        let (shared, mut starts) = (Arc::clone(&self.state), self.starts.subscribe());
        let (done, mut reply) = mpsc::channel(1);
        task::detach("fake activation", async move {
            let _ = starts.wait_for(|open| *open).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let outcome = match failure {
                Some(failure) => Err(failure.into()),
                None => {
                    let mut state = shared.lock().unwrap();
                    if state.highest.get(&key) != Some(&request.epoch) {
                        return;
                    }
                    state.port += 1;
                    let port = 20_000 + state.port;
                    let endpoint = match state.activations.get(&key) {
                        Some(same) if same.epoch == request.epoch => same.endpoint.clone(),
                        _ => format!("10.0.0.1:{port}"),
                    };
                    let activation = proto::Activation {
                        actor: request.actor,
                        epoch: request.epoch,
                        worker: request.worker,
                        endpoint: endpoint.clone(),
                        serving: true,
                        frozen: false,
                    };
                    let mut others = state.activations.iter().filter(|(other, _)| **other != key);
                    let clash = others.find(|(_, other)| other.worker == activation.worker);
                    let clash = clash.map(|(other, _)| format!("{key} and {other} on one worker"));
                    state.violations.extend(clash);
                    state.activations.insert(key, activation);
                    Ok(proto::ActivateReply {
                        endpoint,
                        fetch_us: 1_000,
                        restore_us: 30_000,
                        ready_us: 9_000,
                        cloned: request.template.contains("\"golden\":true"),
                        ..Default::default()
                    })
                }
            };
            let _ = done.send(outcome).await;
        });
        async move { reply.recv().await.unwrap_or(Err(Status::cancelled("destroyed"))) }.boxed()
    }

    fn suspend(&self, request: proto::SuspendRequest) -> Reply<proto::SuspendReply> {
        self.delivered("suspend", move |node| node.suspend_now(request))
    }

    fn freeze(&self, request: proto::ActivationRef) -> Reply<proto::FreezeReply> {
        self.delivered("freeze", move |node| node.freeze_now(&request))
    }

    fn resume(&self, request: proto::ActivationRef) -> Reply<proto::ResumeReply> {
        self.delivered("resume", move |node| node.resume_now(&request))
    }

    fn destroy(&self, request: proto::ActivationRef) -> Reply<proto::DestroyReply> {
        self.delivered("destroy", move |node| node.destroy_now(request))
    }

    fn inventory(&self) -> Reply<proto::Inventory> {
        let mut state = self.state();
        if let Err(status) = state.hear(self.stay) {
            return async { Err(status) }.boxed();
        }
        let inventory = proto::Inventory {
            activations: state.activations.values().cloned().collect(),
            snapshots: state.snapshots.clone(),
            epochs: state
                .highest
                .iter()
                .map(|(key, epoch)| proto::ActivationRef {
                    actor: Some(key.into()),
                    epoch: *epoch,
                    term: 0,
                    ..Default::default()
                })
                .collect(),
        };
        async move { Ok(inventory) }.boxed()
    }

    fn delete_snapshots(
        &self,
        request: proto::DeleteSnapshotsRequest,
    ) -> Reply<proto::DeleteSnapshotsReply> {
        self.delivered("delete", move |node| {
            let mut state = node.state();
            if let Err(status) = state.hear(node.stay) {
                return async { Err(status) }.boxed();
            }
            let kept = |s: &proto::Snapshot| {
                let old = request.everything || s.epoch < request.epoch;
                s.actor != request.actor || !old || request.keep.contains(&s.id)
            };
            state.snapshots.retain(kept);
            if request.everything {
                state.highest.remove(&actor_of(&request.actor));
            }
            async { Ok(proto::DeleteSnapshotsReply {}) }.boxed()
        })
    }

    fn logs(
        &self,
        _request: proto::LogsRequest,
    ) -> Reply<BoxStream<'static, Result<proto::LogChunk, Status>>> {
        let chunk = proto::LogChunk { data: b"hello\n".to_vec() };
        async { Ok(Box::pin(futures::stream::iter([Ok(chunk)])) as BoxStream<'static, _>) }.boxed()
    }
}

async fn checkpoint(
    state: Arc<Mutex<NodeState>>,
    mut commits: watch::Receiver<bool>,
    mut resumed: watch::Receiver<bool>,
    request: proto::SuspendRequest,
) {
    let called_off = tokio::select! {
        biased;
        _ = resumed.wait_for(|resumed| *resumed) => true,
        _ = commits.wait_for(|open| *open) => false,
    };
    if !called_off {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut state = state.lock().unwrap();
    let outcome = if called_off {
        Ok(Outcome::Resumed(proto::Resumed {}))
    } else if state.refuse_checkpoint.is_empty() {
        let taken = proto::Snapshot {
            actor: request.actor.clone(),
            id: request.snapshot.clone(),
            epoch: request.epoch,
            bytes: 10,
            created_unix_ms: crate::clock::unix_ms(),
            runtime: "gvisor".into(),
            runtime_version: "1".into(),
            node: "n1".into(),
            ..Default::default()
        };
        state.snapshots.push(taken.clone());
        state.activations.remove(&actor_of(&request.actor));
        Ok(Outcome::Committed(taken))
    } else {
        Err(Failure::internal(state.refuse_checkpoint.remove(0)))
    };
    let reply = outcome.map(|outcome| proto::SuspendReply { outcome: Some(outcome) });
    state.suspends[&request.snapshot].send_replace(Some(reply));
}

/// A router process that acknowledges revokes.
pub(crate) struct FakeRouter {
    pub(crate) name: String,
    pub(crate) instance: String,
    session: u64,
    /// What it says of requests in flight, and of their age.
    pub(crate) in_flight: Arc<Mutex<(u32, u64)>>,
    pub(crate) revoked: Arc<Mutex<Vec<proto::Revoke>>>,
    /// Policies it was told.
    pub(crate) policies: Arc<Mutex<Vec<proto::ActorPolicy>>>,
}

/// Everything.
pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) node: Arc<FakeNode>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) timings: Timings,
    workers: u32,
    session: Option<Session>,
}

impl World {
    /// One template `t`, with `extra` fields; one node `n1`.
    pub(crate) async fn new(workers: u32, extra: &str) -> Self {
        Self::with_budget(workers, extra, 0).await
    }

    /// The same, with so many wakes a minute.
    pub(crate) async fn with_budget(workers: u32, extra: &str, wakes: u32) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let node = FakeNode::new();
        let timings = Timings::default();
        let fleet = fleet(&store, &node, timings, wakes).await;
        let mut world = Self { store, node, fleet, timings, workers, session: None };
        world.template("t", extra).await;
        world.node_joins().await;
        world
    }

    pub(crate) async fn template(&self, name: &str, extra: &str) {
        let manifest = reveille_api::manifest::Manifest {
            metadata: manifest::Metadata { name: name.into(), namespace: Some("demo".into()) },
            spec: Spec::ActorTemplate(Box::new(spec(extra))),
        };
        self.fleet.catalog.apply(manifest).await.unwrap();
    }

    pub(crate) async fn create(&self, name: &str) -> ActorKey {
        self.fleet.catalog.create(&key(name), "t").await.unwrap();
        key(name)
    }

    pub(crate) async fn node_joins(&mut self) {
        let register = proto::Register {
            node: "n1".into(),
            instance: "i".into(),
            stay: self.node.state().newest.0,
            address: "fake".into(),
            workers: self.workers,
            runtimes: vec![proto::Runtime { name: "gvisor".into(), version: "1".into() }],
            freezes: true,
            ..Default::default()
        };
        let session = self.fleet.nodes.join(register.clone()).unwrap();
        reconcile(&self.fleet, &session, &register).await.unwrap();
        self.session = Some(session);
    }

    pub(crate) fn node_leaves(&mut self) {
        if let Some(session) = self.session.take() {
            self.fleet.nodes.leave(&session);
            self.fleet.placement.node_down("n1");
        }
    }

    /// The control plane dies at once and starts again on the same store. The node is not back yet.
    pub(crate) async fn crash(&mut self) {
        self.fleet.tasks.stop().await;
        self.session = None;
        self.fleet = fleet(&self.store, &self.node, self.timings, 0).await;
    }

    pub(crate) async fn wake(&self, key: &ActorKey) -> Result<crate::driver::Served, Failure> {
        self.fleet.wake(key, Asker::Traffic, Origin::default()).await
    }

    /// In a task of its own.
    pub(crate) fn waking(
        &self,
        key: &ActorKey,
    ) -> tokio::task::JoinSet<Result<crate::driver::Served, Failure>> {
        let (fleet, key) = (Arc::clone(&self.fleet), key.clone());
        let mut set = tokio::task::JoinSet::new();
        task::spawn(&mut set, "wake", async move {
            fleet.wake(&key, Asker::Traffic, Origin::default()).await
        });
        set
    }

    pub(crate) fn going_down(
        &self,
        key: &ActorKey,
        goal: crate::driver::Down,
    ) -> tokio::task::JoinSet<Result<Result<(), crate::driver::NotDown>, Failure>> {
        let (fleet, key) = (Arc::clone(&self.fleet), key.clone());
        let mut set = tokio::task::JoinSet::new();
        task::spawn(&mut set, "down", async move { fleet.down(&key, goal).await });
        set
    }

    pub(crate) fn record(&self, key: &ActorKey) -> Arc<ActorRecord> {
        self.fleet.view(key).unwrap().unwrap()
    }

    pub(crate) async fn until(&self, key: &ActorKey, phase: Phase) -> Arc<ActorRecord> {
        let what = format!("{key} {phase:?}");
        eventually(&what, || {
            let record = self.record(key);
            if record.life.phase() == phase { Ok(record) } else { Err(format!("{record:?}")) }
        })
        .await
    }

    pub(crate) async fn until_event(&self, key: &ActorKey, kind: &str) {
        eventually(kind, || {
            let events = self.fleet.events.history(Some(key)).unwrap();
            let kinds: Vec<_> = events.into_iter().map(|event| event.kind).collect();
            if kinds.iter().any(|k| k == kind) { Ok(()) } else { Err(format!("{kinds:?}")) }
        })
        .await;
    }

    /// Connects a router that has nothing.
    pub(crate) fn router(&self, name: &str, instance: &str) -> FakeRouter {
        let (commands, mut received) = mpsc::channel(64);
        let hello = proto::Hello { router: name.into(), instance: instance.into() };
        let (session, _over) = self.fleet.routers.connect(&hello, commands);
        self.fleet.routers.held(name, &proto::Held { bindings: vec![], complete: true });
        let in_flight = Arc::new(Mutex::new((0, 1_000_000)));
        let revoked: Arc<Mutex<Vec<proto::Revoke>>> = Arc::default();
        let policies: Arc<Mutex<Vec<proto::ActorPolicy>>> = Arc::default();
        let told = Arc::clone(&policies);
        let (fleet, router) = (Arc::clone(&self.fleet), name.to_owned());
        let (answer, log) = (Arc::clone(&in_flight), Arc::clone(&revoked));
        task::detach("fake router", async move {
            use proto::router_command::Command;
            while let Some(command) = received.recv().await {
                let revoke = match command.command {
                    Some(Command::Revoke(revoke)) => revoke,
                    Some(Command::Policy(policy)) => {
                        told.lock().unwrap().push(policy);
                        continue;
                    }
                    _ => continue,
                };
                log.lock().unwrap().push(revoke.clone());
                let (in_flight, idle_ms) = *answer.lock().unwrap();
                if in_flight > 0 {
                    tokio::time::sleep(Duration::from_millis(revoke.drain_ms)).await;
                }
                let ack = proto::RevokeAck {
                    actor: revoke.actor,
                    epoch: revoke.epoch,
                    term: revoke.term,
                    in_flight,
                    idle_ms,
                };
                fleet.routers.acknowledge(&router, &ack);
            }
        });
        let (name, instance) = (name.into(), instance.into());
        FakeRouter { name, instance, session, in_flight, revoked, policies }
    }

    pub(crate) fn router_leaves(&self, router: &FakeRouter) {
        self.fleet.routers.disconnect(&router.name, router.session);
    }

    pub(crate) async fn wake_through(
        &self,
        router: &FakeRouter,
        key: &ActorKey,
    ) -> Result<crate::driver::Served, Failure> {
        let origin =
            Origin { router: Some(&router.instance), request_id: "r-1", traceparent: None };
        self.fleet.wake(key, Asker::Traffic, origin).await
    }

    pub(crate) fn report(&self, router: &FakeRouter, key: &ActorKey, in_flight: u32, idle_ms: u64) {
        let epoch = self.record(key).life.epoch.0;
        let report = proto::ActorActivity {
            actor: Some(key.into()),
            epoch,
            in_flight,
            requests: 1,
            idle_ms,
        };
        let activity = proto::Activity { actors: vec![report] };
        self.fleet.routers.activity(&router.name, &activity);
    }

    pub(crate) fn epoch(&self, key: &ActorKey) -> Epoch {
        self.record(key).life.epoch
    }
}

async fn fleet(
    store: &Arc<dyn Store>,
    node: &Arc<FakeNode>,
    timings: Timings,
    wakes: u32,
) -> Arc<Fleet> {
    let records = Records::new(Arc::clone(store));
    let (clock, tasks) = (Clock::default(), Tasks::default());
    let (events, log) = Events::open(records.clone()).unwrap();
    tasks.spawn("event log", log.run());
    let agent = Arc::clone(node);
    let dial: Dial = Arc::new(move |_, _, stay| Ok(Arc::new(agent.of(stay)) as Arc<dyn Agent>));
    let parts = Parts {
        catalog: Catalog::open(records.clone(), events.clone(), Ladder::default()).unwrap(),
        nodes: Nodes::new(dial, clock, timings),
        routers: Routers::open(records.clone(), clock, timings).unwrap(),
        metrics: Metrics::default(),
        budget: Budget::new(wakes, clock),
        records,
        events,
        tasks,
        clock,
        timings,
    };
    Fleet::start(parts).await.unwrap()
}
