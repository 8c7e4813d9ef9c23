//! Actors, their snapshots and events.

use jiff::Timestamp;
use reveille_api::proto::{self, Storage, WakeKind};
use serde::Serialize;

use super::{some, text, yes};
use crate::output::{View, age};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ActorView {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) template: String,
    pub(crate) state: &'static str,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) epoch: u64,
    pub(crate) worker: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) snapshot: Option<String>,
    pub(crate) snapshot_time: Option<Timestamp>,
    /// "Node", "Waiting" or "Stored".
    pub(crate) snapshot_storage: Option<&'static str>,
    /// By name and digest, if it is of one.
    pub(crate) snapshot_image: Option<String>,
    pub(crate) previous_snapshot: Option<String>,
    pub(crate) last_active: Option<Timestamp>,
    pub(crate) in_flight: u32,
    pub(crate) restarts: u64,
    pub(crate) created: Option<Timestamp>,
    pub(crate) last_wake: Option<LastWake>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LastWake {
    pub(crate) time: Option<Timestamp>,
    pub(crate) kind: &'static str,
    pub(crate) place_us: u64,
    pub(crate) fetch_us: u64,
    pub(crate) restore_us: u64,
    pub(crate) ready_us: u64,
    pub(crate) total_us: u64,
    pub(crate) asked: Option<Asked>,
}

/// Who was the first to want a wake.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asked {
    /// "Request" or "User".
    pub(crate) by: &'static str,
    pub(crate) router: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) traceparent: Option<String>,
}

impl From<proto::Asked> for Asked {
    fn from(asked: proto::Asked) -> Self {
        Self {
            by: if asked.user { "User" } else { "Request" },
            router: some(asked.router),
            request_id: some(asked.request_id),
            traceparent: some(asked.traceparent),
        }
    }
}

fn storage_name(storage: Storage) -> &'static str {
    match storage {
        Storage::Node => "Node",
        Storage::Waiting => "Waiting",
        Storage::Stored => "Stored",
    }
}

pub(super) fn wake_name(kind: WakeKind) -> &'static str {
    match kind {
        WakeKind::Unspecified => "Unknown",
        WakeKind::None => "None",
        WakeKind::ColdStart => "ColdStart",
        WakeKind::Cloned => "Cloned",
        WakeKind::Restored => "Restored",
        WakeKind::PreviousSnapshot => "PreviousSnapshot",
        WakeKind::ColdStartAfterFailure => "ColdStartAfterFailure",
        WakeKind::Thawed => "Thawed",
        WakeKind::Resumed => "Resumed",
    }
}

impl From<proto::Actor> for ActorView {
    fn from(actor: proto::Actor) -> Self {
        let state = actor.state().name();
        let storage = storage_name(actor.snapshot_storage());
        let key = actor.actor.unwrap_or_default();
        Self {
            namespace: key.namespace,
            name: key.name,
            template: actor.template,
            state,
            reason: some(actor.reason),
            message: some(actor.message),
            epoch: actor.epoch,
            worker: some(actor.worker),
            node: some(actor.node),
            endpoint: some(actor.endpoint),
            snapshot_storage: (!actor.snapshot.is_empty()).then_some(storage),
            snapshot: some(actor.snapshot),
            snapshot_image: some(actor.snapshot_image),
            snapshot_time: age::at(actor.snapshot_unix_ms),
            previous_snapshot: some(actor.previous_snapshot),
            last_active: age::at(actor.last_active_unix_ms),
            in_flight: actor.in_flight,
            restarts: actor.restarts,
            created: age::at(actor.created_unix_ms),
            last_wake: actor.last_wake.map(LastWake::from),
        }
    }
}

impl From<proto::LastWake> for LastWake {
    fn from(wake: proto::LastWake) -> Self {
        let kind = wake_name(wake.kind());
        let phases = wake.phases.unwrap_or_default();
        Self {
            time: age::at(wake.unix_ms),
            kind,
            place_us: phases.place_us,
            fetch_us: phases.fetch_us,
            restore_us: phases.restore_us,
            ready_us: phases.ready_us,
            total_us: phases.total_us,
            asked: wake.asked.map(Asked::from),
        }
    }
}

impl View for ActorView {
    const KIND: &'static str = "actor";
    const COLUMNS: &'static [&'static str] = &[
        "NAMESPACE",
        "NAME",
        "TEMPLATE",
        "STATE",
        "EPOCH",
        "WORKER",
        "LAST ACTIVE",
        "AGE",
        "ENDPOINT",
        "SNAPSHOT",
        "SNAPSHOT AGE",
        "IN FLIGHT",
        "LAST WAKE",
        "REASON",
    ];
    const PLAIN: usize = 8;
    const NAMESPACED: bool = true;

    fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn cells(&self) -> Vec<String> {
        let wake = self.last_wake.as_ref();
        vec![
            self.namespace.clone(),
            self.name.clone(),
            self.template.clone(),
            self.state.into(),
            self.epoch.to_string(),
            text(self.worker.as_ref()),
            age::since(self.last_active),
            age::since(self.created),
            text(self.endpoint.as_ref()),
            text(self.snapshot.as_ref()),
            age::since(self.snapshot_time),
            self.in_flight.to_string(),
            wake.map(|w| format!("{} {}", w.kind, age::micros(w.total_us))).unwrap_or_default(),
            text(self.reason.as_ref()),
        ]
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SnapshotView {
    pub(crate) namespace: String,
    pub(crate) actor: String,
    pub(crate) name: String,
    pub(crate) current: bool,
    pub(crate) epoch: u64,
    pub(crate) bytes: u64,
    /// "Node", "Waiting" or "Stored".
    pub(crate) storage: &'static str,
    /// Bytes that are in the store, while it is on its way there.
    pub(crate) uploaded: Option<u64>,
    pub(crate) upload_total: Option<u64>,
    pub(crate) created: Option<Timestamp>,
    pub(crate) node: Option<String>,
    pub(crate) runtime: Option<String>,
    pub(crate) runtime_version: Option<String>,
    /// By name and digest, if it is of one.
    pub(crate) image: Option<String>,
}

impl From<proto::SnapshotView> for SnapshotView {
    fn from(view: proto::SnapshotView) -> Self {
        let snapshot = view.snapshot.unwrap_or_default();
        let storage = storage_name(snapshot.storage());
        let key = snapshot.actor.unwrap_or_default();
        Self {
            namespace: key.namespace,
            actor: key.name,
            name: snapshot.id,
            current: view.current,
            epoch: snapshot.epoch,
            bytes: snapshot.bytes,
            storage,
            uploaded: view.upload.as_ref().map(|upload| upload.done_bytes),
            upload_total: view.upload.map(|upload| upload.total_bytes),
            created: age::at(snapshot.created_unix_ms),
            node: some(snapshot.node),
            runtime: some(snapshot.runtime),
            runtime_version: some(snapshot.runtime_version),
            image: some(snapshot.image),
        }
    }
}

impl View for SnapshotView {
    const KIND: &'static str = "snapshot";
    const COLUMNS: &'static [&'static str] = &[
        "NAMESPACE",
        "NAME",
        "ACTOR",
        "CURRENT",
        "EPOCH",
        "SIZE",
        "STORE",
        "AGE",
        "NODE",
        "RUNTIME",
        "VERSION",
        "IMAGE",
    ];
    const PLAIN: usize = 8;
    const NAMESPACED: bool = true;

    fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn cells(&self) -> Vec<String> {
        let store = match (self.uploaded, self.upload_total) {
            (Some(done), Some(total)) if total > 0 => format!("{}%", 100 * done / total),
            _ => self.storage.to_owned(),
        };
        vec![
            self.namespace.clone(),
            self.name.clone(),
            self.actor.clone(),
            yes(self.current),
            self.epoch.to_string(),
            age::bytes(self.bytes),
            store,
            age::since(self.created),
            text(self.node.as_ref()),
            text(self.runtime.as_ref()),
            text(self.runtime_version.as_ref()),
            text(self.image.as_ref()),
        ]
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventView {
    pub(crate) sequence: u64,
    pub(crate) time: Option<Timestamp>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) epoch: u64,
    pub(crate) kind: String,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
}

impl From<proto::Event> for EventView {
    fn from(event: proto::Event) -> Self {
        let key = event.actor.unwrap_or_default();
        Self {
            sequence: event.sequence,
            time: age::at(event.unix_ms),
            namespace: key.namespace,
            name: key.name,
            epoch: event.epoch,
            kind: event.kind,
            reason: some(event.reason),
            message: some(event.message),
        }
    }
}

impl View for EventView {
    const KIND: &'static str = "event";
    const COLUMNS: &'static [&'static str] =
        &["AGE", "ACTOR", "EPOCH", "KIND", "REASON", "MESSAGE", "TIME", "SEQUENCE"];
    const PLAIN: usize = 6;

    fn name(&self) -> String {
        self.sequence.to_string()
    }

    fn cells(&self) -> Vec<String> {
        vec![
            age::since(self.time),
            format!("{}/{}", self.namespace, self.name),
            self.epoch.to_string(),
            self.kind.clone(),
            text(self.reason.as_ref()),
            text(self.message.as_ref()),
            self.time.map(|time| time.to_string()).unwrap_or_default(),
            self.sequence.to_string(),
        ]
    }
}
