//! The fake node behind a real gRPC server.

use std::{path::Path, pin::Pin, sync::Arc};

use futures::Stream;
use reveille_api::{
    Stay,
    net::Address,
    proto::{node_agent_server::*, *},
};
use tonic::{Request, Response, Status};

use super::*;
use crate::nodes::Agent;

struct Service(Arc<FakeNode>);

impl Service {
    fn of<T>(&self, request: &Request<T>) -> Result<FakeNode, Status> {
        Ok(self.0.of(Stay::quoted(request.metadata())?))
    }
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl NodeAgent for Service {
    type LogsStream = Pin<Box<dyn Stream<Item = Result<LogChunk, Status>> + Send>>;

    async fn activate(&self, request: Request<ActivateRequest>) -> Reply<ActivateReply> {
        self.of(&request)?.activate(request.into_inner()).await.map(Response::new)
    }

    async fn suspend(&self, request: Request<SuspendRequest>) -> Reply<SuspendReply> {
        self.of(&request)?.suspend(request.into_inner()).await.map(Response::new)
    }

    async fn freeze(&self, request: Request<ActivationRef>) -> Reply<FreezeReply> {
        self.of(&request)?.freeze(request.into_inner()).await.map(Response::new)
    }

    async fn resume(&self, request: Request<ActivationRef>) -> Reply<ResumeReply> {
        self.of(&request)?.resume(request.into_inner()).await.map(Response::new)
    }

    async fn destroy(&self, request: Request<ActivationRef>) -> Reply<DestroyReply> {
        self.of(&request)?.destroy(request.into_inner()).await.map(Response::new)
    }

    async fn get_inventory(&self, request: Request<GetInventoryRequest>) -> Reply<Inventory> {
        self.of(&request)?.inventory().await.map(Response::new)
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Reply<Self::LogsStream> {
        let chunks = self.of(&request)?.logs(request.into_inner()).await?;
        Ok(Response::new(chunks as Self::LogsStream))
    }

    async fn delete_snapshots(
        &self,
        request: Request<DeleteSnapshotsRequest>,
    ) -> Reply<DeleteSnapshotsReply> {
        self.of(&request)?.delete_snapshots(request.into_inner()).await.map(Response::new)
    }
}

/// A node agent on a Unix socket.
pub(super) struct Served {
    address: Address,
    node: Arc<FakeNode>,
    _servers: JoinSet<()>,
}

impl Served {
    pub(super) async fn start(folder: &Path, node: Arc<FakeNode>) -> Self {
        let address = Address::Unix(folder.join("node.sock"));
        let incoming = address.listen().await.unwrap().incoming();
        let (mut servers, fake) = (JoinSet::new(), Arc::clone(&node));
        reveille_api::task::spawn(&mut servers, "fake agent", async move {
            let server = Server::builder().add_service(NodeAgentServer::new(Service(node)));
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { address, node: fake, _servers: servers }
    }

    /// The highest stay that a call has quoted.
    pub(super) fn newest(&self) -> Stay {
        self.node.state().newest
    }

    /// Registers, and sends heartbeats until the control plane goes away.
    pub(super) async fn register(&self, control: &Address) {
        let (reports, stream) = mpsc::channel(8);
        let register = Register {
            node: "n1".into(),
            instance: "i1".into(),
            address: self.address.to_string(),
            workers: 2,
            stay: self.node.state().newest.0,
            runtimes: vec![Runtime { name: "gvisor".into(), version: "1".into() }],
            ..Default::default()
        };
        let report = |report| NodeReport { report: Some(report) };
        reports.send(report(node_report::Report::Register(register))).await.unwrap();
        let mut nodes = NodesClient::new(control.channel());
        let mut commands = nodes.session(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let registered = commands.message().await.unwrap().unwrap().command.unwrap();
        let node_command::Command::Registered(Registered { heartbeat_ms }) = registered;
        reveille_api::task::detach("fake heartbeats", async move {
            let beat = || report(node_report::Report::Heartbeat(Heartbeat::default()));
            while reports.send(beat()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(heartbeat_ms)).await;
            }
            drop(commands);
        });
    }
}
