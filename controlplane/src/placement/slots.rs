//! Nodes' slots, the pools they belong to, and which of them a wake may use.

use std::collections::BTreeMap;

use reveille_api::{ActorKey, Epoch};

use super::{DEFAULT_POOL, Inner, Occupant, Request, Status};
use crate::lifecycle::Place;

/// The slots of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSlots {
    /// It can be asked for activations.
    pub ready: bool,
    /// How many slots it has.
    pub workers: u32,
    /// For pools to select it by.
    pub labels: BTreeMap<String, String>,
    /// Names of the runtimes it has.
    pub runtimes: Vec<String>,
    /// It can freeze.
    pub freezes: bool,
    /// It has the store.
    pub store: bool,
}

/// One worker, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Where it is.
    pub place: Place,
    /// Its pool; nothing when no pool wants it.
    pub pool: Option<String>,
    /// Its node is ready.
    pub ready: bool,
    /// Who has it.
    pub occupant: Option<(ActorKey, Epoch, Status)>,
}

/// One worker and the pool it belongs to; nothing when no pool wants it.
#[derive(Debug)]
pub(super) struct Slot {
    place: Place,
    pool: Option<String>,
}

impl Inner {
    /// After a node or the pools have changed: asked for with every wake, and then not made anew.
    pub(super) fn divide(&mut self) {
        let divided =
            self.nodes.iter().map(|(node, slots)| (node.clone(), self.pooled(node, slots)));
        self.slots = divided.collect();
    }

    /// Workers of a node with the pools they belong to.
    fn pooled(&self, node: &str, slots: &NodeSlots) -> Vec<Slot> {
        let mut pools = Vec::new();
        if self.pools.is_empty() {
            pools = vec![Some(DEFAULT_POOL); slots.workers as usize];
        }
        for (name, spec) in &self.pools {
            if spec.node_selector.matches(&slots.labels) {
                pools.extend(vec![Some(name.as_str()); spec.workers_per_node as usize]);
            }
        }
        pools.resize(slots.workers as usize, None);
        let slot = |(index, pool): (usize, Option<&str>)| Slot {
            place: Place { node: node.to_owned(), worker: format!("{node}-{index}") },
            pool: pool.map(str::to_owned),
        };
        pools.into_iter().enumerate().map(slot).collect()
    }

    fn slots_of(&self, node: &str) -> &[Slot] {
        self.slots.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    /// Workers this wake may use, free or not, grouped by node.
    pub(super) fn suitable(&self, request: &Request) -> Vec<(&str, Vec<&Place>)> {
        let mut suitable = Vec::new();
        for (node, slots) in &self.nodes {
            let home = request.node.as_ref().is_none_or(|n| n == node);
            let wanted = home || request.anywhere && slots.store;
            if !slots.ready
                || !wanted
                || request.avoid.contains(node)
                || !slots.runtimes.iter().any(|r| r == request.runtime)
            {
                continue;
            }
            // Slots of one pool lie side by side.
            let of_pool = |pool: &Option<String>| {
                let Some(pool) = pool else { return false };
                let labels = self.pools.get(pool).map_or(&slots.labels, |spec| &spec.labels);
                request.selector.matches(labels)
            };
            let pools = self.slots_of(node).chunk_by(|a, b| a.pool == b.pool);
            let pools = pools.filter(|pool| pool.first().is_some_and(|slot| of_pool(&slot.pool)));
            let workers: Vec<_> = pools.flatten().map(|slot| &slot.place).collect();
            if !workers.is_empty() {
                suitable.push((node.as_str(), workers));
            }
        }
        suitable
    }

    /// True when some worker of a ready node has no occupant, whoever may use it.
    pub(super) fn any_free(&self) -> bool {
        let mut ready = self.nodes.iter().filter(|(_, slots)| slots.ready);
        ready.any(|(node, _)| {
            let mut slots = self.slots_of(node).iter().filter(|slot| slot.pool.is_some());
            slots.any(|slot| !self.occupants.contains_key(&slot.place.worker))
        })
    }

    /// A free worker, on the node that has the snapshot, else on the node with the most of them: the one free for longest, because its node needs a moment
    /// to make a worker ready again.
    pub(super) fn free_for(&self, request: &Request) -> Option<Place> {
        let free = self.suitable(request).into_iter().map(|(node, mut workers)| {
            workers.retain(|place| !self.occupants.contains_key(&place.worker));
            (request.node.as_deref() == Some(node) && !workers.is_empty(), workers)
        });
        // The first of equals, as `max_by_key` would not choose.
        let best = free.rev().max_by_key(|(home, workers)| (*home, workers.len()));
        best?
            .1
            .into_iter()
            .min_by_key(|place| self.freed.get(&place.worker).copied().unwrap_or(0))
            .cloned()
    }

    pub(super) fn explain(&self, request: &Request) -> String {
        if let Some(node) = request.node.as_ref().filter(|_| !request.anywhere)
            && !self.nodes.get(node).is_some_and(|slots| slots.ready)
        {
            return format!("its snapshot is on node {node}, which is not ready");
        }
        if !self.nodes.values().any(|slots| slots.ready) {
            return "no node is ready".into();
        }
        let suitable: Vec<_> = self.suitable(request).into_iter().flat_map(|(_, w)| w).collect();
        let labels = &request.selector.match_labels;
        if suitable.is_empty() {
            return format!("no ready worker with runtime {} matches {labels:?}", request.runtime);
        }
        let used = suitable.iter().filter(|p| self.occupants.contains_key(&p.worker)).count();
        match request.node.as_ref().filter(|_| !request.anywhere) {
            Some(node) => format!("{used} of {} workers in use on {node}", suitable.len()),
            None => format!("{used} of {} workers in use", suitable.len()),
        }
    }

    pub(super) fn workers(&self) -> Vec<WorkerView> {
        let mut views = Vec::new();
        for (node, slots) in &self.nodes {
            for Slot { place, pool } in self.slots_of(node) {
                let occupant = self.occupants.get(&place.worker);
                let occupant = occupant.map(|o| (o.actor.clone(), o.epoch, o.status));
                let (place, pool) = (place.clone(), pool.clone());
                views.push(WorkerView { place, pool, ready: slots.ready, occupant });
            }
            // Kept by a node that has fewer workers now, until their actors leave them.
            let known = |o: &&Occupant| self.slots_of(node).iter().any(|s| s.place == o.place);
            let there = self.occupants.values().filter(|o| o.place.node == *node);
            let mut beyond: Vec<_> = there.filter(|o| !known(o)).collect();
            beyond.sort_by(|a, b| a.place.worker.cmp(&b.place.worker));
            views.extend(beyond.into_iter().map(|o| WorkerView {
                place: o.place.clone(),
                pool: None,
                ready: slots.ready,
                occupant: Some((o.actor.clone(), o.epoch, o.status)),
            }));
        }
        views
    }
}
