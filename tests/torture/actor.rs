//! [`Actor`]: what a control plane would know of one, and how it asks.

use std::time::Duration;

use reveille_api::proto::{self, suspend_reply::Outcome};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use crate::{
    agent::{Agent, Client, NODE, inventory, told},
    harness::{
        client::{self, Answer, Count},
        repository,
    },
    judge::{Case, Seen, Told, Verdict, judge},
    plan::{Operation, Victim},
    step::Places,
};

const NAMESPACE: &str = "torture";
/// For anything that is asked: what takes longer is stuck.
const STUCK: Duration = Duration::from_secs(90);
/// After the death of its process.
pub(crate) const NOTICED: Duration = Duration::from_secs(30);
const DEADLINE_MS: u64 = 60_000;

/// What lives in the memory of the counter only.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Memory {
    nonce: String,
    count: u64,
}

/// See the module.
pub(crate) struct Actor {
    number: usize,
    pub(crate) places: Places,
    /// Of its template.
    rootfs: Value,
    /// The highest one that was asked for.
    epoch: u64,
    /// Of revokes, as the control plane counts them.
    term: u64,
    made: u32,
    /// What it had when it last answered.
    memory: Option<Memory>,
    /// Its last snapshot, and what it had then.
    last: Option<(String, Memory)>,
    endpoint: Option<String>,
}

/// What is asked in a round.
#[derive(Clone)]
pub(crate) struct Request {
    operation: Operation,
    key: proto::ActorKey,
    activate: proto::ActivateRequest,
    had: u64,
    term: u64,
    new: String,
    store: bool,
}

/// What the kill was, as far as this actor is concerned.
#[derive(Clone, Copy)]
pub(crate) struct Hit {
    pub(crate) victim: Victim,
    pub(crate) hit: bool,
    pub(crate) killed: bool,
}

impl Actor {
    /// Every second one is of CRIU, and two of four run from an image; those may open connections.
    pub(crate) fn new(number: usize, agent: &Agent) -> Self {
        let (data, store) = (agent.data(), agent.store());
        let rootfs = match number / 2 % 2 {
            0 => json!({ "directory": repository().join(".deps/rootfs/counter") }),
            _ => json!({ "ociLayout": agent.layout.dir }),
        };
        let (namespace, name) = (NAMESPACE.into(), format!("a{number}"));
        let places = Places { data, store, namespace, name, snapshot: String::new() };
        let (epoch, term, made) = (0, 0, 0);
        let (memory, last, endpoint) = Default::default();
        Self { number, places, rootfs, epoch, term, made, memory, last, endpoint }
    }

    pub(crate) fn is_criu(&self) -> bool {
        self.number % 2 == 1
    }

    pub(crate) fn snapshot(&self) -> Option<&str> {
        self.last.as_ref().map(|(id, _)| id.as_str())
    }

    fn key(&self) -> proto::ActorKey {
        let Places { namespace, name, .. } = &self.places;
        proto::ActorKey { namespace: namespace.clone(), name: name.clone() }
    }

    fn activation(&self, epoch: u64, snapshot: &str) -> proto::ActivateRequest {
        let egress = match self.rootfs.get("ociLayout") {
            None => json!([]),
            Some(_) => json!([{ "cidr": "198.51.100.0/24" }]),
        };
        let template = json!({
            "egress": egress,
            "runtime": if self.is_criu() { "criu" } else { "gvisor" },
            "rootfs": self.rootfs,
            "command": ["/counter"],
            "port": 8080,
            "readiness": { "httpGet": { "path": "/healthz" }, "timeout": "30s" },
        });
        proto::ActivateRequest {
            actor: Some(self.key()),
            epoch,
            worker: format!("{NODE}-{}", self.number),
            template: template.to_string(),
            snapshot: snapshot.into(),
            deadline_ms: DEADLINE_MS,
            ..Default::default()
        }
    }

    /// Asks what is to be asked next, of an actor that is as [`Actor::prepare`] left it.
    pub(crate) fn request(&mut self, operation: Operation) -> Request {
        let had = self.epoch;
        let wakes = operation.wakes();
        if wakes {
            self.epoch += 1;
        }
        if operation == Operation::Freeze {
            self.term += 1;
        }
        self.made += 1;
        let new = format!("{}-s{}-{}", self.places.name, self.made, self.epoch);
        let from = self.snapshot().unwrap_or_default().to_owned();
        self.places.snapshot =
            if wakes || operation == Operation::Delete { from.clone() } else { new.clone() };
        Request {
            operation,
            key: self.key(),
            activate: self.activation(self.epoch, &from),
            had: if operation == Operation::Start { 0 } else { had },
            term: self.term,
            new,
            store: operation == Operation::Upload,
        }
    }

    async fn do_now(&mut self, client: &Client, operation: Operation) -> Result<(), String> {
        let request = self.request(operation);
        let new = request.new.clone();
        match perform(client, request).await?? {
            Told::Serves => {
                let found = self.seen(client).await?.activation;
                self.endpoint = Some(found.ok_or("it serves, and is not there")?.endpoint);
                // A thaw has no need of it, a cold start has nothing to compare.
                self.ask().await?;
            }
            Told::Frozen => {}
            Told::Committed => {
                let memory = self.memory.clone().ok_or("it was never asked")?;
                self.last = Some((new, memory));
                self.tidy(client).await?;
            }
            Told::Deleted => (self.memory, self.last) = (None, None),
        }
        Ok(())
    }

    /// Older snapshots go, as the control plane has them deleted.
    async fn tidy(&self, client: &Client) -> Result<(), String> {
        let keep = self.snapshot().map(str::to_owned).into_iter().collect();
        let (actor, epoch) = (Some(self.key()), self.epoch);
        let request = proto::DeleteSnapshotsRequest { actor, keep, everything: false, epoch };
        let deleted = client.clone().delete_snapshots(request).await;
        deleted.map(drop).map_err(|status| format!("delete snapshots: {}", told(&status)))
    }

    /// From its sleep, or from nothing, to where the operation begins.
    pub(crate) async fn prepare(
        &mut self,
        client: &Client,
        operation: Operation,
    ) -> Result<(), String> {
        use Operation::*;
        let way: &[Operation] = match (operation, self.last.is_some()) {
            (Start, true) => &[Wake, Delete],
            (Start, false) => &[],
            (_, false) => &[Start, Suspend],
            (_, true) => &[],
        };
        let there: &[Operation] = match operation {
            Start | Wake => &[],
            Fetch => &[Wake, Upload],
            Freeze | Suspend | Upload | Delete => &[Wake],
            Thaw | SuspendFrozen => &[Wake, Freeze],
        };
        for operation in way.iter().chain(there) {
            let done = self.do_now(client, *operation).await;
            done.map_err(|why| format!("{operation:?}, with nothing killed: {why}"))?;
        }
        Ok(())
    }

    /// What there is of it.
    pub(crate) async fn seen(&self, client: &Client) -> Result<Seen, String> {
        let key = self.key();
        let is = |actor: &Option<proto::ActorKey>| actor.as_ref() == Some(&key);
        let inventory = inventory(client).await?;
        let local = inventory.snapshots.into_iter().filter(|s| is(&s.actor)).map(|s| s.id);
        let folder = self.places.stored("x", "y");
        let stored = crate::harness::leaks::names(folder.parent().expect("it has one"));
        let stored = stored.into_iter().filter_map(|n| Some(n.strip_suffix(".snapshot")?.into()));
        let snapshots = local.chain(stored).collect();
        let epoch = inventory.epochs.into_iter().find(|e| is(&e.actor)).map_or(0, |e| e.epoch);
        let activation = inventory.activations.into_iter().find(|a| is(&a.actor));
        let activation = activation.map(|a| crate::judge::Activation {
            epoch: a.epoch,
            endpoint: a.endpoint,
            serving: a.serving,
            frozen: a.frozen,
        });
        Ok(Seen { activation, snapshots, epoch })
    }

    /// After a kill, and when there is an agent again: what it is, and that it has its memory. It sleeps then, or is nothing.
    pub(crate) async fn recover(
        &mut self,
        client: &Client,
        request: &Request,
        told: Result<Told, String>,
        hit: Hit,
    ) -> Result<Verdict, String> {
        if hit.killed {
            self.settle(client).await?;
        }
        let case = Case {
            operation: request.operation,
            victim: hit.victim,
            hit: hit.hit,
            killed: hit.killed,
            told,
            had: request.had,
            asked: request.activate.epoch,
            last: self.snapshot().map(str::to_owned),
            new: request.new.clone(),
            seen: self.seen(client).await?,
        };
        let verdict = judge(&case).map_err(|why| format!("{why}\n{case:#?}"))?;
        let proved = self.prove(client, request.operation, &verdict).await;
        // See node/src/runtime/criu.rs.
        let saves = matches!(
            request.operation,
            Operation::Suspend | Operation::SuspendFrozen | Operation::Upload
        );
        let maimed = hit.victim == Victim::Programs && self.is_criu() && saves;
        let proved = match (proved, &verdict) {
            (Err(why), Verdict::Serves(_)) if maimed => self.start_over(client, why).await,
            (proved, _) => proved,
        };
        proved.map_err(|why| format!("{verdict:?}: {why}\n{case:#?}"))?;
        Ok(verdict)
    }

    async fn prove(
        &mut self,
        client: &Client,
        operation: Operation,
        verdict: &Verdict,
    ) -> Result<(), String> {
        match verdict {
            Verdict::Serves(activation) => {
                self.endpoint = Some(activation.endpoint.clone());
                if activation.frozen {
                    self.do_now(client, Operation::Thaw).await?;
                } else {
                    self.ask().await?;
                }
            }
            Verdict::New(id) => {
                let memory = self.memory.clone().ok_or("it was never asked")?;
                self.last = Some((id.clone(), memory));
                self.do_now(client, Operation::Wake).await?;
            }
            Verdict::Last(_) => {
                self.memory = self.last.as_ref().map(|(_, memory)| memory.clone());
                self.do_now(client, Operation::Wake).await?;
            }
            Verdict::Nothing if operation == Operation::Delete => {
                self.do_now(client, Operation::Delete).await?;
                let left = self.seen(client).await?;
                if left != Seen::default() {
                    return Err(format!("it was deleted: {left:?}"));
                }
                return Ok(());
            }
            Verdict::Nothing => {
                (self.memory, self.last) = (None, None);
                return Ok(());
            }
        }
        if self.epoch > 1 {
            let late = self.activation(self.epoch - 1, self.snapshot().unwrap_or_default());
            match client.clone().activate(late).await {
                Err(status) if status.code() == Code::FailedPrecondition => {}
                other => return Err(format!("a lower epoch was not refused: {other:?}")),
            }
        }
        self.do_now(client, Operation::Suspend).await
    }

    /// It serves, but what criu left in it when it was killed keeps the next one from saving it.
    async fn start_over(&mut self, client: &Client, why: String) -> Result<(), String> {
        if !why.contains("criu dump failed") {
            return Err(why);
        }
        self.ask().await?;
        let reference = proto::ActivationRef {
            actor: Some(self.key()),
            epoch: self.epoch,
            term: self.term,
            ..Default::default()
        };
        client.clone().destroy(reference).await.map_err(|status| told(&status))?;
        self.memory = self.last.as_ref().map(|(_, memory)| memory.clone());
        self.do_now(client, Operation::Wake).await?;
        self.do_now(client, Operation::Suspend).await
    }

    /// The death of one process of a sandbox may be the end of it a moment later.
    async fn settle(&self, client: &Client) -> Result<(), String> {
        let end = Instant::now() + NOTICED;
        while let Some(found) = self.seen(client).await?.activation.filter(|found| !found.frozen) {
            match request(&found.endpoint, "/healthz").await {
                Ok(_) => return Ok(()),
                Err(why) if Instant::now() > end => return Err(why),
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
        Ok(())
    }

    /// One more request: it must have in its memory what it had.
    async fn ask(&mut self) -> Result<(), String> {
        let endpoint = self.endpoint.as_ref().ok_or("it has no endpoint")?;
        let answer = request(endpoint, "/").await?;
        let Count { nonce, count, .. } = answer.json();
        let now = Memory { nonce, count };
        if let Some(Memory { nonce, count }) = self.memory.clone() {
            let right = Memory { nonce, count: count + 1 };
            if now != right {
                return Err(format!("it remembers {now:?}, and should {right:?}"));
            }
        }
        self.memory = Some(now);
        Ok(())
    }
}

/// What an actor answers.
async fn request(endpoint: &str, path: &str) -> Result<Answer, String> {
    let address = endpoint.parse().map_err(|_| format!("{endpoint:?} is no address"))?;
    let client = client::Client::new(address);
    let request = hyper::Request::get(client.uri(path));
    let answer = client.try_send(request.header("host", "torture"), "").await?;
    if answer.status == 200 { Ok(answer) } else { Err(format!("it answers {answer:?}")) }
}

/// Asks, and waits for the answer. That there is none is worse than any.
pub(crate) async fn perform(
    client: &Client,
    request: Request,
) -> Result<Result<Told, String>, String> {
    let stuck = format!("{:?} is stuck: no answer within {STUCK:?}", request.operation);
    timeout(STUCK, ask_agent(client.clone(), request)).await.map_err(|_| stuck)
}

async fn ask_agent(mut client: Client, request: Request) -> Result<Told, String> {
    let Request { operation, key, activate, term, new, store, .. } = request;
    let epoch = activate.epoch;
    let reference =
        proto::ActivationRef { actor: Some(key.clone()), epoch, term, ..Default::default() };
    let failed = |status: tonic::Status| told(&status);
    match operation {
        Operation::Start | Operation::Wake | Operation::Fetch => {
            client.activate(activate).await.map_err(failed)?;
            Ok(Told::Serves)
        }
        Operation::Freeze => {
            client.freeze(reference).await.map_err(failed)?;
            Ok(Told::Frozen)
        }
        Operation::Thaw => match client.resume(reference).await.map_err(failed)?.into_inner() {
            proto::ResumeReply { resumed: true } => Ok(Told::Serves),
            proto::ResumeReply { resumed: false } => Err("there is none to be thawed".into()),
        },
        Operation::Suspend | Operation::SuspendFrozen | Operation::Upload => {
            let request = proto::SuspendRequest {
                actor: Some(key.clone()),
                epoch,
                snapshot: new.clone(),
                deadline_ms: DEADLINE_MS,
                store_after_ms: store.then_some(0),
                ..Default::default()
            };
            match client.suspend(request).await.map_err(failed)?.into_inner().outcome {
                Some(Outcome::Committed(_)) => {}
                other => {
                    return Err(format!("it was resumed, and nobody asked for that: {other:?}"));
                }
            }
            if store {
                // Until it is named nobody but the node may know of it. The agent may be dead by then.
                let keep = [activate.snapshot, new.clone()].into_iter().filter(|id| !id.is_empty());
                let (actor, keep) = (Some(key), keep.collect());
                let request =
                    proto::DeleteSnapshotsRequest { actor, keep, everything: false, epoch };
                let _ = client.delete_snapshots(request).await;
            }
            // It leaves the node when it is in the store.
            while let (true, Ok(inventory)) = (store, inventory(&client).await) {
                if !inventory.snapshots.iter().any(|snapshot| snapshot.id == new) {
                    break;
                }
                sleep(Duration::from_millis(5)).await;
            }
            Ok(Told::Committed)
        }
        Operation::Delete => {
            client.destroy(reference).await.map_err(failed)?;
            let (actor, keep, everything) = (Some(key), Vec::new(), true);
            let request = proto::DeleteSnapshotsRequest { actor, keep, everything, epoch };
            client.delete_snapshots(request).await.map_err(failed)?;
            Ok(Told::Deleted)
        }
    }
}
