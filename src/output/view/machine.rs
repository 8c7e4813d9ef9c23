//! Nodes, workers and routers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use reveille_api::proto;
use serde::Serialize;

use super::{labels, some, text, yes};
use crate::output::{View, age};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkerView {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) pool: Option<String>,
    pub(crate) ready: bool,
    /// `namespace/name`; nothing when free.
    pub(crate) actor: Option<String>,
    pub(crate) epoch: Option<u64>,
}

impl From<proto::Worker> for WorkerView {
    fn from(worker: proto::Worker) -> Self {
        let epoch = worker.activation.as_ref().map(|activation| activation.epoch);
        let actor = worker.activation.and_then(|activation| activation.actor);
        Self {
            name: worker.name,
            node: worker.node,
            pool: some(worker.pool),
            ready: worker.ready,
            actor: actor.map(|key| format!("{}/{}", key.namespace, key.name)),
            epoch,
        }
    }
}

impl View for WorkerView {
    const KIND: &'static str = "worker";
    const COLUMNS: &'static [&'static str] = &["NAME", "POOL", "READY", "ACTOR", "EPOCH", "NODE"];
    const PLAIN: usize = 5;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            text(self.pool.as_ref()),
            yes(self.ready),
            text(self.actor.as_ref()),
            self.epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
            self.node.clone(),
        ]
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeView {
    pub(crate) name: String,
    pub(crate) ready: bool,
    pub(crate) workers: u32,
    pub(crate) workers_used: u32,
    pub(crate) snapshot_bytes: u64,
    pub(crate) disk_free_bytes: u64,
    pub(crate) last_seen: Option<Timestamp>,
    pub(crate) address: String,
    pub(crate) runtimes: Vec<Runtime>,
    pub(crate) labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
pub(crate) struct Runtime {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl From<proto::Node> for NodeView {
    fn from(node: proto::Node) -> Self {
        let runtime = |r: proto::Runtime| Runtime { name: r.name, version: r.version };
        Self {
            name: node.name,
            ready: node.ready,
            workers: node.workers,
            workers_used: node.workers_used,
            snapshot_bytes: node.snapshot_bytes,
            disk_free_bytes: node.disk_free_bytes,
            last_seen: age::at(node.last_seen_unix_ms),
            address: node.address,
            runtimes: node.runtimes.into_iter().map(runtime).collect(),
            labels: node.labels.into_iter().collect(),
        }
    }
}

impl View for NodeView {
    const KIND: &'static str = "node";
    const COLUMNS: &'static [&'static str] = &[
        "NAME",
        "READY",
        "WORKERS",
        "SNAPSHOTS",
        "DISK FREE",
        "LAST SEEN",
        "RUNTIMES",
        "ADDRESS",
        "LABELS",
    ];
    const PLAIN: usize = 6;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        let runtimes = self.runtimes.iter().map(|r| format!("{} {}", r.name, r.version));
        vec![
            self.name.clone(),
            yes(self.ready),
            format!("{}/{}", self.workers_used, self.workers),
            age::bytes(self.snapshot_bytes),
            age::bytes(self.disk_free_bytes),
            age::since(self.last_seen),
            runtimes.collect::<Vec<_>>().join(","),
            self.address.clone(),
            labels(&self.labels),
        ]
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouterView {
    pub(crate) name: String,
    pub(crate) connected: bool,
    pub(crate) bindings: u32,
    pub(crate) instance: String,
}

impl From<proto::RouterView> for RouterView {
    fn from(router: proto::RouterView) -> Self {
        Self {
            name: router.router,
            connected: router.connected,
            bindings: router.bindings,
            instance: router.instance,
        }
    }
}

impl View for RouterView {
    const KIND: &'static str = "router";
    const COLUMNS: &'static [&'static str] = &["NAME", "CONNECTED", "BINDINGS", "INSTANCE"];
    const PLAIN: usize = 3;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            yes(self.connected),
            self.bindings.to_string(),
            self.instance.clone(),
        ]
    }
}
