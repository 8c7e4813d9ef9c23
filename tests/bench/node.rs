//! A node agent that does nothing: each activation serves at once, somewhere.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use anyhow::Result;
use futures::stream::BoxStream;
use reveille_api::{
    net::Address,
    proto::{
        ActivateReply, ActivateRequest, ActivationRef, DeleteSnapshotsReply,
        DeleteSnapshotsRequest, DestroyReply, FreezeReply, GetInventoryRequest, Heartbeat,
        Inventory, LogChunk, LogsRequest, NodeReport, Register, Registered, ResumeReply, Runtime,
        Snapshot, SuspendReply, SuspendRequest,
        node_agent_server::{NodeAgent, NodeAgentServer},
        node_command::Command,
        node_report::Report,
        nodes_client::NodesClient,
        suspend_reply::Outcome,
    },
    task,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, transport::Server};

const RUNTIME: &str = "gvisor";

/// It serves and reports until it is dropped.
pub(crate) struct Node(#[expect(dead_code, reason = "its drop is the end")] JoinSet<()>);

impl Node {
    /// Registers this many workers.
    pub(crate) async fn start(dir: &Path, control_plane: &Address, workers: u32) -> Result<Self> {
        let address = Address::Unix(dir.join("node.sock"));
        let incoming = address.listen().await?.incoming();
        let mut tasks = JoinSet::new();
        task::spawn(&mut tasks, "node agent", async move {
            let server = Server::builder().add_service(NodeAgentServer::new(Agent::default()));
            server.serve_with_incoming(incoming).await.expect("it serves");
        });
        let register = Report::Register(Register {
            node: "n".into(),
            instance: "i".into(),
            address: address.to_string(),
            workers,
            runtimes: vec![Runtime { name: RUNTIME.into(), version: "0".into() }],
            ..Default::default()
        });
        let (reports, stream) = mpsc::channel(1);
        reports.send(NodeReport { report: Some(register) }).await?;
        let mut nodes = NodesClient::new(control_plane.channel());
        let mut commands = nodes.session(ReceiverStream::new(stream)).await?.into_inner();
        let command = commands.message().await?.and_then(|command| command.command);
        let Some(Command::Registered(Registered { heartbeat_ms })) = command else {
            anyhow::bail!("not registered: {command:?}");
        };
        task::spawn(&mut tasks, "heartbeats", async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(heartbeat_ms));
            loop {
                ticks.tick().await;
                let beat = Report::Heartbeat(Heartbeat::default());
                if reports.send(NodeReport { report: Some(beat) }).await.is_err() {
                    return;
                }
                // The session lasts as long as somebody reads it.
                let _ = &commands;
            }
        });
        Ok(Self(tasks))
    }
}

#[derive(Default)]
struct Agent {
    activations: AtomicU32,
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl NodeAgent for Agent {
    type LogsStream = BoxStream<'static, Result<LogChunk, Status>>;

    async fn activate(&self, _: Request<ActivateRequest>) -> Reply<ActivateReply> {
        let [_, a, b, c] = self.activations.fetch_add(1, Relaxed).to_be_bytes();
        let endpoint = format!("10.{a}.{b}.{c}:8080");
        Ok(Response::new(ActivateReply { endpoint, ..Default::default() }))
    }

    async fn suspend(&self, request: Request<SuspendRequest>) -> Reply<SuspendReply> {
        let SuspendRequest { actor, epoch, snapshot, .. } = request.into_inner();
        let (id, runtime) = (snapshot, RUNTIME.into());
        let taken = Snapshot { actor, id, epoch, runtime, ..Default::default() };
        Ok(Response::new(SuspendReply { outcome: Some(Outcome::Committed(taken)) }))
    }

    async fn freeze(&self, _: Request<ActivationRef>) -> Reply<FreezeReply> {
        Err(Status::unimplemented("it has no processes"))
    }

    async fn resume(&self, _: Request<ActivationRef>) -> Reply<ResumeReply> {
        Ok(Response::new(ResumeReply { resumed: true }))
    }

    async fn destroy(&self, _: Request<ActivationRef>) -> Reply<DestroyReply> {
        Ok(Response::new(DestroyReply {}))
    }

    async fn get_inventory(&self, _: Request<GetInventoryRequest>) -> Reply<Inventory> {
        Ok(Response::new(Inventory::default()))
    }

    async fn logs(&self, _: Request<LogsRequest>) -> Reply<Self::LogsStream> {
        Err(Status::unimplemented("nothing is said"))
    }

    async fn delete_snapshots(
        &self,
        _: Request<DeleteSnapshotsRequest>,
    ) -> Reply<DeleteSnapshotsReply> {
        Ok(Response::new(DeleteSnapshotsReply {}))
    }
}
