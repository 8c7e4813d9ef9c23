//! Records as people see them.

use std::collections::BTreeMap;

use reveille_api::proto;

use crate::{
    census,
    clock::{millis, unix_ms},
    fleet::Fleet,
    lifecycle::{self, Phase, Rest, State, Storage},
    record::{ActorRecord, EventRecord, TemplateRecord},
};

pub(super) fn actor(fleet: &Fleet, record: &ActorRecord) -> proto::Actor {
    let life = &record.life;
    let (reason, message) = why(life);
    let place = life.place();
    let used = fleet.routers.seen(&record.key);
    let last_active = used.map(|(_, moment)| {
        let ago = fleet.clock.now().since(moment);
        unix_ms().saturating_sub(millis(ago))
    });
    proto::Actor {
        actor: Some((&record.key).into()),
        template: record.template.clone(),
        state: census::state(life).into(),
        reason,
        message,
        epoch: life.epoch.0,
        worker: place.map(|place| place.worker.clone()).unwrap_or_default(),
        node: place.map(|place| place.node.clone()).unwrap_or_default(),
        endpoint: life.activation().map(|a| a.endpoint.clone()).unwrap_or_default(),
        snapshot: life.snapshot.as_ref().map(|s| s.id.clone()).unwrap_or_default(),
        snapshot_unix_ms: life.snapshot.as_ref().map_or(0, |s| s.created_unix_ms),
        last_active_unix_ms: last_active.unwrap_or(0).max(record.last_active_unix_ms),
        created_unix_ms: record.created_unix_ms,
        in_flight: used.map_or(0, |(in_flight, _)| in_flight),
        restarts: life.losses,
        last_wake: record.last_wake.as_ref().map(|wake| proto::LastWake {
            unix_ms: wake.unix_ms,
            kind: proto::WakeKind::from(wake.kind).into(),
            phases: Some(wake.phases.into()),
            asked: wake.asked.as_ref().map(proto::Asked::from),
        }),
        snapshot_storage: life.snapshot.as_ref().map(storage).unwrap_or_default().into(),
        snapshot_image: life.snapshot.as_ref().map(|s| s.image.clone()).unwrap_or_default(),
        previous_snapshot: life.previous.as_ref().map(|s| s.id.clone()).unwrap_or_default(),
    }
}

/// Reason and message of states that have a why.
fn why(life: &lifecycle::Actor) -> (String, String) {
    match &life.state {
        State::Rest(Rest::Failed(failed)) => {
            (failed.reason.name().to_owned(), failed.message.clone())
        }
        State::Rest(Rest::Lost(lost)) => {
            let reason = reveille_api::Reason::ActorLost.name();
            let next = match &life.snapshot {
                Some(snapshot) => format!("the next wake restores {}", snapshot.id),
                None => "there is no snapshot to restore".to_owned(),
            };
            (reason.to_owned(), format!("{}; {next}", lost.message))
        }
        State::Waking(_) if life.phase() == Phase::Placing => {
            (String::new(), "waits for a worker".to_owned())
        }
        State::Deleting(_) => (String::new(), "is being deleted".to_owned()),
        _ => (String::new(), String::new()),
    }
}

pub(super) fn snapshots(fleet: &Fleet, record: &ActorRecord) -> Vec<proto::SnapshotView> {
    let life = &record.life;
    let view = |snapshot: &lifecycle::Snapshot, current| proto::SnapshotView {
        snapshot: Some(proto::Snapshot {
            actor: Some((&record.key).into()),
            id: snapshot.id.clone(),
            epoch: snapshot.epoch.0,
            bytes: snapshot.bytes,
            created_unix_ms: snapshot.created_unix_ms,
            runtime: snapshot.runtime.clone(),
            runtime_version: snapshot.runtime_version.clone(),
            node: snapshot.node.clone(),
            storage: storage(snapshot).into(),
            image: snapshot.image.clone(),
        }),
        current,
        upload: fleet.nodes.upload(&snapshot.node, &record.key, &snapshot.id).map(
            |(done_bytes, total_bytes)| proto::Upload {
                done_bytes,
                total_bytes,
                ..Default::default()
            },
        ),
    };
    let current = life.snapshot.iter().map(|snapshot| view(snapshot, true));
    current.chain(life.previous.iter().map(|snapshot| view(snapshot, false))).collect()
}

fn storage(snapshot: &lifecycle::Snapshot) -> proto::Storage {
    match snapshot.storage {
        Storage::Node => proto::Storage::Node,
        Storage::Waiting => proto::Storage::Waiting,
        Storage::Stored => proto::Storage::Stored,
    }
}

pub(super) fn template(record: &TemplateRecord, actors: u32) -> proto::Template {
    proto::Template {
        namespace: record.namespace.clone(),
        name: record.name.clone(),
        generation: record.generation,
        spec: serde_json::to_string(&record.spec).unwrap_or_default(),
        created_unix_ms: record.created_unix_ms,
        actors,
    }
}

pub(super) fn workers(fleet: &Fleet) -> Vec<proto::Worker> {
    let views = fleet.placement.workers().into_iter();
    views
        .map(|view| proto::Worker {
            name: view.place.worker,
            node: view.place.node,
            pool: view.pool.unwrap_or_default(),
            ready: view.ready,
            activation: view.occupant.map(|(actor, epoch, _)| proto::ActivationRef {
                actor: Some((&actor).into()),
                epoch: epoch.0,
                term: 0,
                ..Default::default()
            }),
        })
        .collect()
}

pub(super) fn nodes(fleet: &Fleet) -> Vec<proto::Node> {
    let mut used: BTreeMap<String, u32> = BTreeMap::new();
    for view in fleet.placement.workers().into_iter().filter(|view| view.occupant.is_some()) {
        *used.entry(view.place.node).or_default() += 1;
    }
    fleet.nodes.list(&used)
}

pub(super) fn pools(fleet: &Fleet) -> Vec<proto::Pool> {
    let workers = fleet.placement.workers();
    let of = |name: &str| {
        let mine = workers.iter().filter(|view| view.pool.as_deref() == Some(name));
        let (all, used) = (mine.clone().count(), mine.filter(|v| v.occupant.is_some()).count());
        (all as u32, used as u32)
    };
    let mut pools = fleet.placement.pools();
    if pools.is_empty() {
        // The built-in one; its labels are those of each node.
        let spec = reveille_api::manifest::WorkerPoolSpec {
            labels: BTreeMap::new(),
            node_selector: Default::default(),
            workers_per_node: 0,
        };
        pools.insert(crate::placement::DEFAULT_POOL.to_owned(), spec);
    }
    let view = |(name, spec): (String, reveille_api::manifest::WorkerPoolSpec)| {
        let (workers, used) = of(&name);
        let spec = serde_json::to_string(&spec).unwrap_or_default();
        proto::Pool { name, spec, workers, used }
    };
    pools.into_iter().map(view).collect()
}

pub(super) fn event(record: &EventRecord) -> proto::Event {
    proto::Event {
        sequence: record.sequence,
        unix_ms: record.unix_ms,
        actor: Some((&record.actor).into()),
        epoch: record.epoch,
        kind: record.kind.clone(),
        reason: record.reason.clone(),
        message: record.message.clone(),
    }
}
