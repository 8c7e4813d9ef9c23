//! The agent's session with the control plane: it registers, and then reports for as long as both live.
//!
//! ```text
//!  connecting ──▶ registered: a heartbeat each interval, exits as they happen
//!      ▲                │
//!      └── backoff ◀────┘ the stream ended, or the name is another agent's
//! ```
//!
//! A registration carries the whole inventory, so nothing that happened while there was no session is lost.

use std::{convert::Infallible, sync::Arc, time::Duration};

use reveille_api::{
    net::Address,
    proto::{self, node_command::Command, node_report::Report, nodes_client::NodesClient},
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

use crate::{actors::Actors, runtime::Runtime};

/// Pauses before a new session, at first and at most.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(3);
/// As long as another agent has our name.
const REFUSED: Duration = Duration::from_secs(10);
/// A session that lasted this long is a success.
const STEADY: Duration = Duration::from_secs(10);
/// Until the control plane has named its own.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Reports that may wait for the stream.
const REPORTS: usize = 16;

/// What is said of this node when it registers.
pub(crate) struct Introduction {
    pub(crate) address: Address,
    pub(crate) workers: u32,
    pub(crate) labels: std::collections::HashMap<String, String>,
    /// Of our data directory.
    pub(crate) home: String,
}

/// Whom it registers with.
pub(crate) struct ControlPlane {
    pub(crate) address: Address,
    pub(crate) channel: Channel,
}

/// Keeps a session, for ever.
pub(crate) async fn keep(
    actors: Arc<Actors>,
    control_plane: ControlPlane,
    introduction: Introduction,
    mut reports: mpsc::Receiver<Report>,
) -> Infallible {
    let ControlPlane { address: control_plane, channel } = control_plane;
    let client = NodesClient::new(channel);
    let (mut backoff, mut refused) = (FIRST_BACKOFF, false);
    loop {
        let begin = Instant::now();
        let ended = session(&actors, client.clone(), &introduction, &mut reports).await;
        actors.core().metrics.session_up.set(0);
        if begin.elapsed() >= STEADY {
            backoff = FIRST_BACKOFF;
        }
        let jitter = rand::random_range(0.5..1.0);
        let in_use = ended.as_ref().err().filter(|status| status.code() == Code::AlreadyExists);
        if let Some(status) = in_use {
            if !refused {
                tracing::error!(%control_plane, "{}; asks again now and then", status.message());
            }
            refused = true;
            tokio::time::sleep(REFUSED.mul_f64(jitter)).await;
            continue;
        }
        refused = false;
        let why =
            ended.map_or_else(|status| status.message().to_owned(), |()| "it was closed".into());
        tracing::warn!(%control_plane, why, "no session with the control plane; trying again");
        tokio::time::sleep(backoff.mul_f64(jitter)).await;
        backoff = LAST_BACKOFF.min(2 * backoff);
    }
}

async fn session(
    actors: &Actors,
    mut client: NodesClient<Channel>,
    introduction: &Introduction,
    told: &mut mpsc::Receiver<Report>,
) -> Result<(), Status> {
    let (reports, outgoing) = mpsc::channel(REPORTS);
    let send = async |report| {
        let report = proto::NodeReport { report: Some(report) };
        reports.send(report).await.map_err(|_| Status::unavailable("the stream is closed"))
    };
    send(Report::Register(register(actors, introduction))).await?;
    let mut commands = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.message() => match command? {
                None => return Ok(()),
                Some(proto::NodeCommand { command: Some(Command::Registered(registered)) }) => {
                    tracing::info!(heartbeat_ms = registered.heartbeat_ms, "registered with the control plane");
                    let metrics = &actors.core().metrics;
                    metrics.sessions.inc();
                    metrics.session_up.set(1);
                    let period = Duration::from_millis(registered.heartbeat_ms.max(10));
                    heartbeat = tokio::time::interval(period);
                    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                }
                // Of a control plane that is newer than this agent.
                Some(proto::NodeCommand { command: None }) => {}
            },
            // What cannot be sent any more is answered by the stream's end, which tells why.
            _ = heartbeat.tick(), if !reports.is_closed() => {
                let _ = send(Report::Heartbeat(pulse(actors))).await;
            }
            Some(report) = told.recv(), if !reports.is_closed() => {
                let _ = send(report).await;
            }
        }
    }
}

fn register(actors: &Actors, introduction: &Introduction) -> proto::Register {
    let core = actors.core();
    proto::Register {
        node: core.node.clone(),
        instance: core.instance.clone(),
        address: introduction.address.to_string(),
        workers: introduction.workers,
        labels: introduction.labels.clone(),
        runtimes: core.runtimes.iter().map(introduce).collect(),
        inventory: Some(actors.inventory()),
        stay: core.newest.get().0,
        home: introduction.home.clone(),
        freezes: true,
        store: core.store.is_some(),
        egress: core.egress_allow.iter().map(ToString::to_string).collect(),
        rootfs_folders: core.rootfs_allow.iter().map(|dir| dir.display().to_string()).collect(),
    }
}

fn introduce(runtime: &Arc<dyn Runtime>) -> proto::Runtime {
    proto::Runtime { name: runtime.name().into(), version: runtime.version().into() }
}

fn pulse(actors: &Actors) -> proto::Heartbeat {
    let core = actors.core();
    proto::Heartbeat {
        workers_used: core.slots.used(),
        snapshot_bytes: core.snapshots.held().bytes,
        disk_free_bytes: core.snapshots.free().unwrap_or_default(),
        uploads: core.uploads.list(),
    }
}
