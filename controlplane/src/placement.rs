//! Who gets which worker.
//!
//! ```text
//!  request() ─▶ queue: by turns over namespaces, first come first served within one ─▶ Grant ─▶ occupy()
//!      free worker? at once                                                     dropped? free again
//!  free() ◀── the node has confirmed that the activation is gone
//! ```
//!
//! A worker is a slot of a node. Pools take slots of the nodes they select, in the order of their names; without any pool
//! all slots are of a built-in one, `default`, with their node's labels. A wake may use a worker whose pool has the
//! labels its template selects, on a node that has its runtime, and, when it restores, that has its snapshot; if that is in
//! the store, another node's when none is free there.
//! While wakes wait, [`pressure`] has the least recently used idle actor suspended.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reveille_api::{
    ActorKey, Epoch,
    manifest::{ActorTemplateSpec, Selector, WorkerPoolSpec},
};
use tokio::sync::{Notify, oneshot};

use crate::{
    clock::Moment,
    lifecycle::{Place, Source, Storage},
};

pub mod pressure;
mod slots;
#[cfg(test)]
mod tests;

use slots::Slot;
pub use slots::{NodeSlots, WorkerView};

/// The pool of every worker while no pool object exists.
pub const DEFAULT_POOL: &str = "default";
/// Wakes that may wait for a worker.
const QUEUE: usize = 20_000;

/// What a wake needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Who.
    pub actor: ActorKey,
    /// The runtime that can run it.
    pub runtime: &'static str,
    /// Labels its worker's pool must have.
    pub selector: Selector,
    /// The node that has its snapshot.
    pub node: Option<String>,
    /// That snapshot is in the store: other nodes that have it can restore it when the first is full or not ready.
    pub anywhere: bool,
    /// Nodes that cannot restore it.
    pub avoid: BTreeSet<String>,
}

impl Request {
    /// Of an actor of this template, woken from `source`.
    pub fn new(actor: &ActorKey, spec: &ActorTemplateSpec, source: &Source) -> Self {
        Self {
            actor: actor.clone(),
            runtime: spec.runtime.name(),
            selector: spec.worker_selector.clone(),
            node: source.snapshot().map(|snapshot| snapshot.node.clone()),
            anywhere: source.snapshot().is_some_and(|s| s.storage == Storage::Stored),
            avoid: BTreeSet::new(),
        }
    }
}

/// What a worker is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Promised to a wake.
    Reserved,
    /// An activation is being made.
    Starting,
    /// One serves. It may be suspended for another's sake from then on, if at all.
    Serving(Option<Moment>),
    /// One goes away; if that does not begin until then, it serves.
    Leaving(Option<Moment>),
    /// The node has not confirmed yet that it is gone.
    Cleaning,
}

#[derive(Clone, Debug)]
struct Occupant {
    place: Place,
    actor: ActorKey,
    epoch: Epoch,
    status: Status,
}

struct Waiting {
    request: Request,
    grant: oneshot::Sender<Grant>,
}

/// Every worker, and every wake that waits for one.
#[derive(Default)]
pub struct Placement {
    inner: Mutex<Inner>,
    /// A wake waits and no worker is free.
    short: Notify,
}

#[derive(Default)]
struct Inner {
    pools: BTreeMap<String, WorkerPoolSpec>,
    nodes: BTreeMap<String, NodeSlots>,
    /// By node: its workers, as the pools divide them.
    slots: BTreeMap<String, Vec<Slot>>,
    /// By worker, also of nodes that are away.
    occupants: HashMap<String, Occupant>,
    /// One queue for each namespace; the first one's turn is next.
    queues: VecDeque<(String, VecDeque<Waiting>)>,
    /// When a worker was last freed, as a count of all that were.
    freed: HashMap<String, u64>,
    frees: u64,
    /// No worker was unoccupied when somebody last looked, and none has come free or been added since.
    full: bool,
}

/// A worker promised to a wake. Dropped, it is free again; [`Grant::take`] keeps it.
#[must_use]
pub struct Grant {
    place: Option<Place>,
    actor: ActorKey,
    placement: Arc<Placement>,
}

impl Grant {
    /// The worker.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Keeps the worker: from now on it is freed by [`Placement::free`].
    pub fn take(mut self) -> Option<Place> {
        self.place.take()
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.placement
                .free_if(&place, |o| o.actor == self.actor && o.status == Status::Reserved);
        }
    }
}

impl Placement {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a worker. Whoever stops waiting leaves the queue. Nothing when the queue is full.
    pub async fn request(self: &Arc<Self>, request: Request) -> Option<Grant> {
        let (grant, granted) = oneshot::channel();
        {
            let mut inner = self.inner();
            if inner.waiting() >= QUEUE {
                inner.forget_gone();
            }
            if inner.waiting() >= QUEUE {
                return None;
            }
            let namespace = request.actor.namespace().to_owned();
            let waiting = Waiting { request, grant };
            match inner.queues.iter_mut().find(|(name, _)| *name == namespace) {
                Some((_, queue)) => queue.push_back(waiting),
                None => inner.queues.push_back((namespace, VecDeque::from([waiting]))),
            }
        }
        self.pump();
        granted.await.ok()
    }

    /// Gives free workers to those who wait.
    fn pump(self: &Arc<Self>) {
        loop {
            let (grants, short) = self.inner().assign(self);
            if grants.is_empty() {
                if short {
                    self.short.notify_one();
                }
                return;
            }
            // Outside the lock: a grant that nobody takes comes back by its drop.
            for (waiting, grant) in grants {
                let _ = waiting.grant.send(grant);
            }
        }
    }

    /// An activation has this worker.
    pub fn occupy(&self, place: &Place, actor: &ActorKey, epoch: Epoch, status: Status) {
        let occupant = Occupant { place: place.clone(), actor: actor.clone(), epoch, status };
        let mut inner = self.inner();
        let held = inner.occupants.get(&place.worker);
        // What one activation leaves behind is not forgotten because the next is announced early.
        if held.is_none_or(|o| o.actor == *actor && o.epoch <= epoch) {
            inner.occupants.insert(place.worker.clone(), occupant);
        }
    }

    /// The activation, and every earlier one of the actor there, is gone.
    pub fn free(self: &Arc<Self>, place: &Place, actor: &ActorKey, epoch: Epoch) {
        self.free_if(place, |o| o.actor == *actor && o.epoch <= epoch);
    }

    fn free_if(self: &Arc<Self>, place: &Place, gone: impl Fn(&Occupant) -> bool) {
        let mut inner = self.inner();
        if inner.occupants.get(&place.worker).is_some_and(gone) {
            inner.occupants.remove(&place.worker);
            inner.frees += 1;
            inner.full = false;
            let nth = inner.frees;
            inner.freed.insert(place.worker.clone(), nth);
            drop(inner);
            self.pump();
        }
    }

    /// Replaces the pools.
    pub fn set_pools(self: &Arc<Self>, pools: BTreeMap<String, WorkerPoolSpec>) {
        {
            let mut inner = self.inner();
            (inner.pools, inner.full) = (pools, false);
            inner.divide();
        }
        self.pump();
    }

    /// A node is ready.
    pub fn node_up(self: &Arc<Self>, node: &str, slots: NodeSlots) {
        {
            let mut inner = self.inner();
            inner.nodes.insert(node.to_owned(), slots);
            inner.divide();
            inner.full = false;
        }
        self.pump();
    }

    /// True when this node can freeze actors. Of one that is away, what it said last.
    pub fn freezes(&self, node: &str) -> bool {
        self.inner().nodes.get(node).is_some_and(|slots| slots.freezes)
    }

    /// A node is not ready.
    pub fn node_down(&self, node: &str) {
        if let Some(slots) = self.inner().nodes.get_mut(node) {
            slots.ready = false;
        }
    }

    /// Who has workers of this node.
    pub fn occupants(&self, node: &str) -> Vec<(Place, ActorKey, Epoch)> {
        let inner = self.inner();
        let there = inner.occupants.values().filter(|o| o.place.node == node);
        there.map(|o| (o.place.clone(), o.actor.clone(), o.epoch)).collect()
    }

    /// A worker that is free for this wake now. It may be another one's in the next moment.
    pub fn free_for(&self, request: &Request) -> Option<Place> {
        self.inner().free_for(request)
    }

    /// Why this wake has no worker, for the operator.
    pub fn explain(&self, request: &Request) -> String {
        self.inner().explain(request)
    }

    /// A ready node that has the store.
    pub fn with_store(&self) -> Option<String> {
        let inner = self.inner();
        let mut nodes = inner.nodes.iter().filter(|(_, slots)| slots.ready && slots.store);
        nodes.next().map(|(name, _)| name.clone())
    }

    /// True when some ready node may have it.
    pub fn any_suitable(&self, request: &Request) -> bool {
        !self.inner().suitable(request).is_empty()
    }

    /// Every worker, by name.
    pub fn workers(&self) -> Vec<WorkerView> {
        self.inner().workers()
    }

    /// The pools.
    pub fn pools(&self) -> BTreeMap<String, WorkerPoolSpec> {
        self.inner().pools.clone()
    }

    /// Wakes that wait for a worker.
    pub fn waiting(&self) -> usize {
        self.inner().waiting()
    }
}

impl Inner {
    fn waiting(&self) -> usize {
        self.queues.iter().map(|(_, queue)| queue.len()).sum()
    }

    /// Those who stopped waiting leave.
    fn forget_gone(&mut self) {
        for (_, queue) in &mut self.queues {
            queue.retain(|waiting| !waiting.grant.is_closed());
        }
        self.queues.retain(|(_, queue)| !queue.is_empty());
    }

    /// Reserves free workers. True when somebody still waits.
    fn assign(&mut self, placement: &Arc<Placement>) -> (Vec<(Waiting, Grant)>, bool) {
        let mut grants = Vec::new();
        while let Some((waiting, place)) = self.assign_one() {
            let actor = waiting.request.actor.clone();
            let occupant = Occupant {
                place: place.clone(),
                actor: actor.clone(),
                epoch: Epoch(0),
                status: Status::Reserved,
            };
            self.occupants.insert(place.worker.clone(), occupant);
            let placement = Arc::clone(placement);
            grants.push((waiting, Grant { place: Some(place), actor, placement }));
        }
        (grants, self.waiting() > 0)
    }

    /// The next wake, by turns, for which a worker is free.
    fn assign_one(&mut self) -> Option<(Waiting, Place)> {
        // Most of the time there is none, and then those who wait must not be gone through for each that joins them.
        self.full = self.full || !self.any_free();
        if self.full {
            return None;
        }
        self.forget_gone();
        let (turn, at, place) = self.queues.iter().enumerate().find_map(|(turn, (_, queue))| {
            let found = queue
                .iter()
                .enumerate()
                .find_map(|(at, waiting)| Some((at, self.free_for(&waiting.request)?)));
            found.map(|(at, place)| (turn, at, place))
        })?;
        let (namespace, mut queue) = self.queues.remove(turn)?;
        let waiting = queue.remove(at)?;
        if !queue.is_empty() {
            self.queues.push_back((namespace, queue));
        }
        Some((waiting, place))
    }
}
