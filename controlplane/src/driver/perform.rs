//! Carries out what a transition asks for. Nothing here waits: what takes time becomes an errand.

use std::{sync::Arc, task::Poll, time::Duration};

use futures::FutureExt;
use reveille_api::{ActorKey, Epoch, Failure, Reason, manifest::template::Protocol, proto, task};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{Done, Driver, Served, Waiter, new_snapshot};
use crate::{
    clock::millis,
    fleet::Fleet,
    idle,
    lifecycle::{
        Actor, Cause, Effect, Event, Note, Phase, Place, Serving, Snapshot, Source, State,
        StayedUp, Storage,
    },
    nodes::{Agent, call::Refusal},
    placement::{Request, Status},
    record::Phases,
};

/// A failed checkpoint doubles the wait for the next one, this often.
const MAX_DOUBLINGS: u32 = 5;
/// How long an activation or a checkpoint waits for snapshots that are being deleted.
const COLLECT: Duration = Duration::from_secs(5);

/// The first term of the present epoch that a router may still use; nothing when no binding can be valid.
pub(super) fn valid_from(life: &Actor) -> Option<u64> {
    match &life.state {
        // A router may have a binding that we gave out just before a crash.
        State::Waking(_) if life.phase() == Phase::Starting => Some(0),
        State::Running(running) => Some(running.term),
        State::Draining(draining) => Some(draining.term + 1),
        State::Frozen(frozen) => Some(frozen.term + 1),
        State::Checkpointing(checkpointing) => Some(checkpointing.term + 1),
        _ => None,
    }
}

/// As the machine knows snapshots.
pub(crate) fn snapshot(snapshot: proto::Snapshot, node: &str) -> Snapshot {
    let storage = match snapshot.storage() {
        proto::Storage::Node => Storage::Node,
        proto::Storage::Waiting => Storage::Waiting,
        proto::Storage::Stored => Storage::Stored,
    };
    Snapshot {
        id: snapshot.id,
        node: if snapshot.node.is_empty() { node.to_owned() } else { snapshot.node },
        epoch: Epoch(snapshot.epoch),
        bytes: snapshot.bytes,
        created_unix_ms: snapshot.created_unix_ms,
        runtime: snapshot.runtime,
        runtime_version: snapshot.runtime_version,
        image: snapshot.image,
        storage,
    }
}

impl Driver {
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Place(source) => self.place(&source),
            Effect::Activate(epoch, place, source) => self.activate(epoch, place, &source),
            Effect::Drain(epoch, term, cause) => self.drain(epoch, term, cause),
            Effect::Revoke(epoch, term) => {
                self.fleet.metrics.revoked();
                self.fleet.routers.revoke(&self.record.key, epoch, term);
            }
            Effect::Freeze(epoch, term, place) => self.freeze(epoch, term, place),
            Effect::Thaw(epoch, term, place) => self.thaw(epoch, term, place),
            Effect::Suspend(epoch, place, snapshot, cause) => {
                self.suspend(epoch, place, snapshot, cause);
            }
            Effect::Resume(epoch, place) => self.resume(epoch, place),
            Effect::Destroy(epoch, place) => self.destroy(epoch, place),
            Effect::Free(epoch, place) => {
                self.fleet.placement.free(&place, &self.record.key, epoch);
            }
            Effect::Collect(node) => self.collect(node),
            Effect::Purge => self.purge(),
            // Done by the step itself, after everything else.
            Effect::Remove => {}
            Effect::Serve(serving) => self.serve(serving),
            Effect::Refuse(failure) => {
                self.spans.failed(failure.reason);
                self.fleet.metrics.wake_failed(failure.reason);
                if failure.reason == Reason::WakeTimeout {
                    let most = Instant::now() + self.template.spec.wake.timeout / 2;
                    self.wakes.refuse_early(&failure, most);
                } else {
                    self.wakes.refuse(&failure);
                }
            }
            Effect::StayedUp(why) => self.stayed_up(&why),
            Effect::Note(note) => {
                let note = match note {
                    Note::Woke(activation)
                        if activation.source == Source::Cold && self.timers.cloned =>
                    {
                        Note::Cloned(activation)
                    }
                    note => note,
                };
                self.fleet.metrics.note(&note);
                self.fleet.events.note(&self.record.key, self.record.life.epoch, &note);
            }
        }
    }

    fn place(&mut self, source: &Source) {
        self.refresh_for_wake();
        let request = Request {
            avoid: self.unfit.clone(),
            ..Request::new(&self.record.key, &self.template.spec, source)
        };
        self.request = Some(request.clone());
        let placement = Arc::clone(&self.fleet.placement);
        task::spawn(&mut self.errands, "place", async move {
            match placement.request(request).await {
                Some(grant) => Done::Placed(grant),
                None => {
                    let failure = Failure::new(Reason::NoCapacity, "too many wakes are waiting");
                    Done::Event(Event::NotPlaced(failure))
                }
            }
        });
    }

    fn refresh_for_wake(&mut self) {
        let key = &self.record.key;
        if let Some(template) = self.fleet.catalog.template(key.namespace(), &self.record.template)
        {
            self.template = template;
        }
    }

    fn activate(&mut self, epoch: Epoch, place: Place, source: &Source) {
        let limits = super::timers::Limits {
            template: &self.template.spec,
            timings: &self.fleet.timings,
            placed_at: self.placed_at,
            last_waiter: None,
        };
        let until = limits.start();
        let request = proto::ActivateRequest {
            actor: Some((&self.record.key).into()),
            epoch: epoch.0,
            worker: place.worker,
            template: serde_json::to_string(&self.template.spec).unwrap_or_default(),
            template_name: self.template.name.clone(),
            snapshot: source.snapshot().map(|s| s.id.clone()).unwrap_or_default(),
            deadline_ms: 0,
            traceparent: self.spans.step(),
        };
        let h2c = self.template.spec.protocol == Protocol::H2c;
        let (nodes, key) = (Arc::clone(&self.fleet.nodes), self.record.key.clone());
        let (placement, wanted) = (Arc::clone(&self.fleet.placement), self.request.clone());
        let collected = self.collected();
        task::spawn(&mut self.errands, "activate", async move {
            collected.await;
            let call = nodes.call(&place.node, |agent| {
                let left = until.saturating_duration_since(Instant::now());
                agent.activate(proto::ActivateRequest {
                    deadline_ms: millis(left).max(1),
                    ..request.clone()
                })
            });
            match call.await {
                Ok(reply) => Done::Activated { epoch, reply, h2c },
                Err(Refusal::Failed(failure)) => {
                    Done::Event(Event::ActivateFailed { epoch, failure })
                }
                Err(Refusal::Unfit(failure)) => {
                    let elsewhere = wanted.is_some_and(|mut request| {
                        request.avoid.insert(place.node.clone());
                        request.anywhere && placement.any_suitable(&request)
                    });
                    if elsewhere {
                        Done::Unfit { epoch, node: place.node, failure }
                    } else {
                        Done::Event(Event::ActivateFailed { epoch, failure })
                    }
                }
                Err(Refusal::NotRunning) => {
                    let failure = Failure::internal("the node knows nothing of it");
                    Done::Event(Event::ActivateFailed { epoch, failure })
                }
                Err(Refusal::Fenced) => {
                    let seen = nodes.highest_epoch(&place.node, &key).await;
                    Done::Event(Event::Fenced { epoch, seen })
                }
            }
        });
    }

    fn drain(&mut self, epoch: Epoch, term: u64, cause: Cause) {
        // Of an idle actor one wants to know whether it is idle, not wait until it is.
        let patience = match cause.basis() {
            Some(_) => Duration::ZERO,
            None => self.template.spec.drain.timeout,
        };
        let (routers, key) = (Arc::clone(&self.fleet.routers), self.record.key.clone());
        let metrics = self.fleet.metrics.clone();
        task::spawn(&mut self.errands, "drain", async move {
            let begun = Instant::now();
            metrics.draining();
            let drained = routers.drain(&key, epoch, term, patience).await;
            metrics.drained(&drained, begun.elapsed());
            Done::Event(Event::Drained {
                epoch,
                term,
                in_flight: drained.in_flight,
                last_active: drained.last_active,
                silent: drained.silent,
                snapshot: new_snapshot(),
            })
        });
    }

    fn suspend(&mut self, epoch: Epoch, place: Place, id: String, cause: Option<Cause>) {
        let idle = &self.template.spec.idle;
        let store_after = idle::store_after(idle, cause, self.fleet.clock.now());
        let request = proto::SuspendRequest {
            actor: Some((&self.record.key).into()),
            epoch: epoch.0,
            snapshot: id.clone(),
            deadline_ms: millis(self.fleet.timings.checkpoint),
            store_after_ms: store_after.map(millis),
            traceparent: self.spans.step(),
        };
        let nodes = Arc::clone(&self.fleet.nodes);
        // What is being deleted was chosen before this snapshot had a name.
        let collected = self.collected();
        let (sent, suspending) = watch::channel(false);
        self.suspending = Some(suspending);
        task::spawn(&mut self.errands, "suspend", async move {
            use proto::suspend_reply::Outcome;
            collected.await;
            let call = nodes.call(&place.node, |agent| {
                let (mut reply, sent) = (agent.suspend(request.clone()), sent.clone());
                async move {
                    let at_once = futures::poll!(&mut reply);
                    sent.send_replace(true);
                    match at_once {
                        Poll::Ready(reply) => reply,
                        Poll::Pending => reply.await,
                    }
                }
                .boxed()
            });
            let failed =
                |message: String| Event::CheckpointFailed { epoch, snapshot: id.clone(), message };
            Done::Event(match call.await {
                Ok(proto::SuspendReply { outcome: Some(Outcome::Committed(taken)) }) => {
                    Event::Committed { epoch, snapshot: snapshot(taken, &place.node) }
                }
                Ok(proto::SuspendReply { outcome: Some(Outcome::Resumed(_)) }) => {
                    Event::Resumed { epoch, snapshot: id.clone() }
                }
                Ok(proto::SuspendReply { outcome: None }) => failed("no outcome was told".into()),
                Err(Refusal::Failed(failure) | Refusal::Unfit(failure)) => failed(failure.message),
                Err(Refusal::Fenced) => failed("the node has seen a later epoch".into()),
                // Neither the process nor its snapshot is there.
                Err(Refusal::NotRunning) => gone(place.node.clone(), epoch),
            })
        });
    }

    fn freeze(&mut self, epoch: Epoch, term: u64, place: Place) {
        let reference = self.reference(epoch, term);
        let nodes = Arc::clone(&self.fleet.nodes);
        task::spawn(&mut self.errands, "freeze", async move {
            let call = nodes.call(&place.node, |agent| agent.freeze(reference.clone())).await;
            let failed = |message: String| Event::FreezeFailed { epoch, message };
            Done::Event(match call {
                Ok(_) => Event::Frozen(epoch),
                Err(Refusal::Failed(failure) | Refusal::Unfit(failure)) => failed(failure.message),
                Err(Refusal::Fenced) => failed("the node has seen a later epoch".into()),
                Err(Refusal::NotRunning) => gone(place.node, epoch),
            })
        });
    }

    fn thaw(&mut self, epoch: Epoch, term: u64, place: Place) {
        let reference = self.reference(epoch, term);
        let nodes = Arc::clone(&self.fleet.nodes);
        task::spawn(&mut self.errands, "thaw", async move {
            let call = nodes.call(&place.node, |agent| agent.resume(reference.clone())).await;
            Done::Event(match call {
                Ok(proto::ResumeReply { resumed: true }) => Event::Thawed(epoch),
                // One that could not be thawed was destroyed.
                Ok(_) | Err(_) => gone(place.node, epoch),
            })
        });
    }

    fn reference(&self, epoch: Epoch, term: u64) -> proto::ActivationRef {
        let (actor, traceparent) = (Some((&self.record.key).into()), self.spans.step());
        proto::ActivationRef { actor, epoch: epoch.0, term, traceparent }
    }

    /// Only asks, once the suspend has been sent: how it ends is told by the reply of the suspend. A resume that
    /// overtakes it on the way calls nothing off, and the snapshot is still committed.
    fn resume(&mut self, epoch: Epoch, place: Place) {
        let reference = self.reference(epoch, 0);
        let nodes = Arc::clone(&self.fleet.nodes);
        let suspending = self.suspending.clone();
        task::spawn(&mut self.errands, "resume", async move {
            if let Some(mut sent) = suspending {
                // An error says that the suspend has been answered already.
                let _ = sent.wait_for(|sent| *sent).await;
            }
            let _ = nodes.call(&place.node, |agent| agent.resume(reference.clone())).await;
            Done::Nothing
        });
    }

    fn destroy(&mut self, epoch: Epoch, place: Place) {
        let key = self.record.key.clone();
        let fleet = &self.fleet;
        fleet.placement.occupy(&place, &key, epoch, Status::Cleaning);
        let deleting = self.record.life.phase() == Phase::Deleting;
        let last = self.record.life.epoch;
        let fleet = Arc::clone(fleet);
        self.fleet.tasks.spawn("clean", async move {
            let (placement, node) = (Arc::clone(&fleet.placement), place.node.clone());
            fleet.nodes.clean(placement, place, key.clone(), epoch).await;
            // A node that is told to destroy remembers the epoch: of a deleted actor it shall remember nothing.
            if deleting && let Err(refusal) = delete_everything(&fleet, &node, &key, last).await {
                tracing::warn!(actor = %key, node, ?refusal, "a node keeps a deleted actor");
            }
        });
    }

    /// Deletes the actor's snapshots on a node that it needs no more. Not tried again here: what is left over goes
    /// when the node registers the next time.
    pub(super) fn collect(&mut self, node: String) {
        // A snapshot that is being made is not known to be needed yet.
        if self.record.life.phase() == Phase::Checkpointing {
            return;
        }
        let Some(agent) = self.fleet.nodes.agent(&node) else { return };
        let call = agent.delete_snapshots(proto::DeleteSnapshotsRequest {
            actor: Some((&self.record.key).into()),
            keep: self.record.life.needed().into_iter().map(str::to_owned).collect(),
            everything: false,
            epoch: self.record.life.epoch.0,
        });
        let key = self.record.key.clone();
        task::spawn(&mut self.collecting, "collect", async move {
            match tokio::time::timeout(COLLECT, call).await {
                Ok(Ok(_)) => {}
                Ok(Err(status)) => {
                    let why = status.message();
                    tracing::warn!(actor = %key, node, why, "old snapshots are not deleted yet");
                }
                Err(_) => tracing::warn!(actor = %key, node, "deleting old snapshots takes long"),
            }
        });
    }

    /// Takes over the deletions under way, and ends when they have.
    fn collected(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let mut collecting = std::mem::take(&mut self.collecting);
        async move {
            let all = async { while collecting.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(COLLECT, all).await;
        }
    }

    /// Goes on after the record is gone: a node that is busy with a checkpoint takes longer than deletion waits.
    fn purge(&mut self) {
        let (key, epoch) = (self.record.key.clone(), self.record.life.epoch);
        let life = &self.record.life;
        let mut nodes: Vec<String> =
            life.snapshot.iter().chain(&life.previous).map(|s| s.node.clone()).collect();
        nodes.extend(life.place().map(|place| place.node.clone()));
        nodes.extend(self.record.node.clone());
        // What is in the store any node of it can delete.
        if life.snapshot.iter().chain(&life.previous).any(|s| s.storage == Storage::Stored) {
            nodes.extend(self.fleet.placement.with_store());
        }
        nodes.sort();
        nodes.dedup();
        // A node that is away finds out when it registers: nothing there is of an actor that exists.
        nodes.retain(|node| self.fleet.nodes.agent(node).is_some());
        let fleet = Arc::clone(&self.fleet);
        let patience = fleet.timings.checkpoint * 2;
        let (done, purged) = oneshot::channel();
        self.fleet.tasks.spawn("purge", async move {
            let all = nodes.iter().map(|node| purge_node(&fleet, node, &key, epoch));
            match tokio::time::timeout(patience, futures::future::join_all(all)).await {
                // Nobody may be waiting any more.
                Ok(_) => drop(done.send(())),
                // What is left goes when the node registers the next time.
                Err(_) => tracing::warn!(actor = %key, "a node keeps a deleted actor for long"),
            }
        });
        task::spawn(&mut self.errands, "purge", async move {
            match purged.await {
                Ok(()) => Done::Event(Event::Purged),
                Err(_) => Done::Nothing,
            }
        });
    }

    fn serve(&mut self, serving: Serving) {
        let State::Running(running) = &self.record.life.state else { return };
        let (term, activation) = (running.term, running.activation.clone());
        let key = self.record.key.clone();
        let epoch = self.record.life.epoch;
        // One that was thawed to be suspended is no more used than before.
        if serving != Serving::Thawed || !self.wakes.is_empty() {
            self.fleet.routers.touch(&key);
        }
        let (kind, phases) = match (serving, &self.record.last_wake) {
            (Serving::Woken | Serving::Thawed, Some(wake)) => {
                self.fleet.metrics.woken(wake);
                self.fleet.pace.note(&key, &self.record.template, wake);
                self.timers.idle = None;
                (wake.kind.into(), wake.phases)
            }
            // Nothing was placed or restored: there are no phases.
            (Serving::Resumed, _) => (proto::WakeKind::Resumed, Phases::default()),
            _ => (proto::WakeKind::None, Phases::default()),
        };
        let protocol = if activation.h2c { Protocol::H2c } else { Protocol::Http1 };
        let served = Served {
            binding: proto::Binding {
                actor: Some((&key).into()),
                epoch: epoch.0,
                term,
                endpoint: activation.endpoint,
                protocol: proto::Protocol::from(protocol).into(),
                woken_by: kind.into(),
            },
            policy: self.policy(),
            phases,
            joined: None,
        };
        for Waiter { router, traceparent, answer, .. } in self.wakes.take() {
            // Known as a holder before it hears of the binding, so that no revoke misses it.
            let known =
                router.is_none_or(|instance| self.fleet.routers.hold(&instance, &key, epoch, term));
            let joined = self.spans.joined(traceparent);
            let served = Served { joined, ..served.clone() };
            let outcome = if known { Ok(served) } else { Err(no_session()) };
            let _ = answer.send(outcome);
        }
    }

    pub(super) fn policy(&self) -> proto::ActorPolicy {
        let wake = &self.template.spec.wake;
        proto::ActorPolicy {
            actor: Some((&self.record.key).into()),
            max_parked: wake.max_parked,
            concurrency: wake.concurrency,
            park_ms: millis(wake.park),
            wake_ms: millis(wake.timeout),
            page: wake.page,
        }
    }

    fn stayed_up(&mut self, why: &StayedUp) {
        let wait = match why {
            StayedUp::CheckpointFailed(_) | StayedUp::FreezeFailed(_) => {
                let doublings = self.checkpoint_failures.min(MAX_DOUBLINGS);
                self.checkpoint_failures += 1;
                self.fleet.timings.retry * 2u32.pow(doublings)
            }
            // A router that does not answer must not be asked in a tight circle.
            StayedUp::InUse => self.fleet.timings.ack,
            StayedUp::Lost(_) => Duration::ZERO,
        };
        let not_before = self.fleet.clock.now().plus(wait);
        self.not_before = Some(self.not_before.unwrap_or_default().max(not_before));
        self.downs.stayed_up(why);
    }
}

/// The node has no such activation, and no snapshot that was asked for.
fn gone(node: String, epoch: Epoch) -> Event {
    Event::Absent { node, epoch, snapshots: Vec::new() }
}

async fn purge_node(fleet: &Fleet, node: &str, key: &ActorKey, epoch: Epoch) {
    let reference = proto::ActivationRef {
        actor: Some(key.into()),
        epoch: epoch.0,
        term: 0,
        ..Default::default()
    };
    let destroyed = fleet.nodes.call(node, |agent| agent.destroy(reference.clone())).await;
    let deleted = delete_everything(fleet, node, key, epoch).await;
    if let (Err(refusal), _) | (_, Err(refusal)) = (destroyed.map(drop), deleted) {
        tracing::warn!(actor = %key, node, ?refusal, "a node keeps something of a deleted actor");
    }
}

/// What a node has of a deleted actor besides an activation.
async fn delete_everything(
    fleet: &Fleet,
    node: &str,
    key: &ActorKey,
    epoch: Epoch,
) -> Result<(), Refusal> {
    let everything = proto::DeleteSnapshotsRequest {
        actor: Some(key.into()),
        everything: true,
        epoch: epoch.0,
        ..Default::default()
    };
    let delete = |agent: Arc<dyn Agent>| {
        // It may have been created anew meanwhile; asked before each try.
        if is_going(fleet, key) {
            agent.delete_snapshots(everything.clone())
        } else {
            async { Ok(proto::DeleteSnapshotsReply {}) }.boxed()
        }
    };
    fleet.nodes.call(node, delete).await.map(drop)
}

/// True until there is another actor of this name.
fn is_going(fleet: &Fleet, key: &ActorKey) -> bool {
    fleet.view(key).is_ok_and(|view| view.is_none_or(|r| r.life.phase() == Phase::Deleting))
}

fn no_session() -> Failure {
    let message = "this router process has no session with the control plane";
    Failure::new(Reason::ControlPlaneUnavailable, message)
}
