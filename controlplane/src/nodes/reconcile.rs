//! Compares what is really on a node with the records, when it registers.
//!
//! ```text
//!  who has its workers, by our account ─▶ then its inventory ─▶ Found, Absent, Seen to the actors ─▶ it is ready
//! ```
//!
//! The order matters: an activation that we believed in *before* the node was asked, and that its answer lacks, is gone.
//! One that it has and we do not believe in is destroyed, by the actor's own driver where there is an actor. The
//! drivers hear all this before the node's workers are given to anybody.

use std::{collections::BTreeMap, sync::Arc};

use reveille_api::{ActorKey, Epoch, proto};

use super::Session;
use crate::{
    driver::snapshot,
    fleet::Fleet,
    lifecycle::{Event, Place, Snapshot, Storage},
    placement::{NodeSlots, Status},
};

/// What a node has of one actor.
#[derive(Default)]
pub(super) struct Here {
    pub(super) activation: Option<proto::Activation>,
    pub(super) snapshots: Vec<Snapshot>,
    highest: u64,
}

/// Calls the node, sets the records right, and makes it ready. An error is for the operator: it cannot be called.
pub async fn reconcile(
    fleet: &Arc<Fleet>,
    session: &Session,
    register: &proto::Register,
) -> Result<(), tonic::Status> {
    let node = &session.node;
    let mut believed = fleet.placement.occupants(node);
    // Not those that were only promised a worker.
    believed.retain(|(_, _, epoch)| *epoch > Epoch(0));
    let inventory = session.agent.inventory().await?;
    let here = by_actor(inventory, node);
    for (key, here) in &here {
        settle(fleet, node, key, here).await;
    }
    for (place, key, epoch) in believed {
        let found = here.get(&key).and_then(|here| here.activation.as_ref());
        if found.is_some_and(|found| found.epoch == epoch.0 && found.worker == place.worker) {
            continue;
        }
        let snapshots = here.get(&key).map(|here| here.snapshots.clone()).unwrap_or_default();
        absent(fleet, &place, &key, epoch, snapshots).await;
    }
    if fleet.nodes.ready(session) {
        fleet.placement.node_up(
            node,
            NodeSlots {
                ready: true,
                workers: register.workers,
                labels: register.labels.clone().into_iter().collect(),
                runtimes: register.runtimes.iter().map(|runtime| runtime.name.clone()).collect(),
                freezes: register.freezes,
                store: register.store,
            },
        );
    }
    Ok(())
}

pub(super) fn by_actor(inventory: proto::Inventory, node: &str) -> BTreeMap<ActorKey, Here> {
    let mut actors: BTreeMap<ActorKey, Here> = BTreeMap::new();
    for activation in inventory.activations {
        let Ok(key) = ActorKey::try_from(activation.actor.clone()) else { continue };
        actors.entry(key).or_default().activation = Some(activation);
    }
    for taken in inventory.snapshots {
        let Ok(key) = ActorKey::try_from(taken.actor.clone()) else { continue };
        actors.entry(key).or_default().snapshots.push(snapshot(taken, node));
    }
    for seen in inventory.epochs {
        let Ok(key) = ActorKey::try_from(seen.actor) else { continue };
        actors.entry(key).or_default().highest = seen.epoch;
    }
    actors
}

/// One actor of which the node has something.
async fn settle(fleet: &Arc<Fleet>, node: &str, key: &ActorKey, here: &Here) {
    let record = match fleet.view(key) {
        Ok(Some(record)) => record,
        Ok(None) => return sweep(fleet, node, key, here),
        Err(error) => {
            tracing::error!(actor = %key, %error, "a record cannot be read");
            return;
        }
    };
    if here.highest > record.life.epoch.0 {
        fleet.tell(key, Event::Seen(Epoch(here.highest))).await;
    }
    if let Some(found) = &here.activation {
        let place = Place { node: node.to_owned(), worker: found.worker.clone() };
        let epoch = Epoch(found.epoch);
        let (serving, frozen) = (found.serving, found.frozen);
        // Its worker is not free, whatever becomes of it.
        fleet.placement.occupy(&place, key, epoch, Status::Leaving(None));
        fleet.tell(key, Event::Found { place, epoch, serving, frozen }).await;
    }
    for taken in here.snapshots.iter().filter(|s| s.storage == Storage::Stored) {
        if record.life.lacks_in_store(&taken.id) {
            fleet.tell(key, Event::Stored(taken.id.clone())).await;
        }
    }
    // A snapshot that was being taken when we last heard may be there, without the activation.
    let pending = |id: &str| record.life.needs(id) && !known(&record.life, id);
    if here.activation.is_none() && here.snapshots.iter().any(|s| pending(&s.id)) {
        let (node, epoch) = (node.to_owned(), record.life.epoch);
        let event = Event::Absent { node, epoch, snapshots: here.snapshots.clone() };
        fleet.tell(key, event).await;
    }
    if here.snapshots.iter().any(|snapshot| !record.life.needs(&snapshot.id)) {
        fleet.collect(key, node).await;
    }
}

fn known(life: &crate::lifecycle::Actor, id: &str) -> bool {
    life.snapshot.iter().chain(&life.previous).any(|snapshot| snapshot.id == id)
}

/// What is left of an actor that exists no more.
fn sweep(fleet: &Arc<Fleet>, node: &str, key: &ActorKey, here: &Here) {
    let epoch = Epoch(here.activation.as_ref().map_or(here.highest, |a| a.epoch.max(here.highest)));
    let place = here.activation.as_ref().map(|activation| {
        let place = Place { node: node.to_owned(), worker: activation.worker.clone() };
        fleet.placement.occupy(&place, key, Epoch(activation.epoch), Status::Cleaning);
        place
    });
    let (fleet, node, key) = (Arc::clone(fleet), node.to_owned(), key.clone());
    tracing::info!(actor = %key, node, "leftovers of a deleted actor are removed");
    fleet.clone().tasks.spawn("sweep", async move {
        if let Some(place) = place {
            let placement = Arc::clone(&fleet.placement);
            fleet.nodes.clean(placement, place, key.clone(), epoch).await;
        }
        // It may have been created anew meanwhile.
        if fleet.view(&key).is_ok_and(|view| view.is_none()) {
            let everything = proto::DeleteSnapshotsRequest {
                actor: Some((&key).into()),
                everything: true,
                epoch: epoch.0,
                ..Default::default()
            };
            let call = fleet.nodes.call(&node, |agent| agent.delete_snapshots(everything.clone()));
            if let Err(refusal) = call.await {
                tracing::warn!(actor = %key, node, ?refusal, "leftovers are not removed yet");
            }
        }
    });
}

/// An activation we believed in is not there.
async fn absent(
    fleet: &Arc<Fleet>,
    place: &Place,
    key: &ActorKey,
    epoch: Epoch,
    snapshots: Vec<Snapshot>,
) {
    let view = fleet.view(key).ok().flatten();
    let holds = view
        .as_ref()
        .is_some_and(|record| record.life.epoch == epoch && record.life.place() == Some(place));
    if !holds {
        // Nobody will give it back any more.
        fleet.placement.free(place, key, epoch);
    }
    if view.is_some() {
        let node = place.node.clone();
        fleet.tell(key, Event::Absent { node, epoch, snapshots }).await;
    }
}
