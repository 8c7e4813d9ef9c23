//! How the control plane calls a node agent.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture, stream::BoxStream};
use reveille_api::{
    Stay,
    net::{Address, Expected, InvalidAddress, Role, Transport},
    proto::{self, node_agent_client::NodeAgentClient},
};
use tonic::{Request, Status, service::interceptor::InterceptedService, transport::Channel};

/// Makes the client for the node of this name at this address. Every call quotes this stay.
pub type Dial = Arc<dyn Fn(&str, &str, Stay) -> Result<Arc<dyn Agent>, String> + Send + Sync>;

/// The answer of a call.
pub type Reply<T> = BoxFuture<'static, Result<T, Status>>;

/// A node agent, as the protos define it.
pub trait Agent: Send + Sync {
    /// Starts or restores an activation.
    fn activate(&self, request: proto::ActivateRequest) -> Reply<proto::ActivateReply>;
    /// Takes a snapshot and ends it.
    fn suspend(&self, request: proto::SuspendRequest) -> Reply<proto::SuspendReply>;
    /// Stops an activation's processes.
    fn freeze(&self, request: proto::ActivationRef) -> Reply<proto::FreezeReply>;
    /// Thaws, or calls a suspend off.
    fn resume(&self, request: proto::ActivationRef) -> Reply<proto::ResumeReply>;
    /// Ends an activation.
    fn destroy(&self, request: proto::ActivationRef) -> Reply<proto::DestroyReply>;
    /// Lists what is there.
    fn inventory(&self) -> Reply<proto::Inventory>;
    /// Deletes snapshots.
    fn delete_snapshots(
        &self,
        request: proto::DeleteSnapshotsRequest,
    ) -> Reply<proto::DeleteSnapshotsReply>;
    /// Output of an actor.
    fn logs(
        &self,
        request: proto::LogsRequest,
    ) -> Reply<BoxStream<'static, Result<proto::LogChunk, Status>>>;
}

/// Calls by gRPC.
#[derive(Clone, Debug)]
pub struct GrpcAgent(NodeAgentClient<InterceptedService<Channel, Stay>>);

impl GrpcAgent {
    /// The [`Dial`] of production: by TCP, only the node itself will do.
    pub fn dial(transport: Transport) -> Dial {
        Arc::new(move |node, address, stay| {
            let address: Address = address.parse().map_err(|e: InvalidAddress| e.to_string())?;
            let channel = transport.channel(&address, Expected::named(Role::Node, node));
            let channel = channel.map_err(|error| error.to_string())?;
            Ok(Arc::new(Self::over(channel, stay)) as Arc<dyn Agent>)
        })
    }

    /// Calls by this channel, each quoting the stay.
    pub fn over(channel: Channel, stay: Stay) -> Self {
        Self(NodeAgentClient::with_interceptor(channel, stay))
    }
}

/// The answer to an inventory, however large, is worth reading.
const MAX_MESSAGE: usize = 64 << 20;
/// A stalled node must not hold a short call for ever.
const SHORT: Duration = Duration::from_secs(30);

macro_rules! call {
    ($self:ident, $method:ident, $request:expr) => {{
        let mut client = $self.0.clone();
        async move { client.$method($request).await.map(tonic::Response::into_inner) }.boxed()
    }};
}

fn short<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(SHORT);
    request
}

impl Agent for GrpcAgent {
    fn activate(&self, request: proto::ActivateRequest) -> Reply<proto::ActivateReply> {
        call!(self, activate, request)
    }

    fn suspend(&self, request: proto::SuspendRequest) -> Reply<proto::SuspendReply> {
        call!(self, suspend, request)
    }

    fn freeze(&self, request: proto::ActivationRef) -> Reply<proto::FreezeReply> {
        call!(self, freeze, short(request))
    }

    fn resume(&self, request: proto::ActivationRef) -> Reply<proto::ResumeReply> {
        call!(self, resume, request)
    }

    fn destroy(&self, request: proto::ActivationRef) -> Reply<proto::DestroyReply> {
        call!(self, destroy, short(request))
    }

    fn inventory(&self) -> Reply<proto::Inventory> {
        let mut client = self.0.clone().max_decoding_message_size(MAX_MESSAGE);
        async move {
            let request = short(proto::GetInventoryRequest {});
            client.get_inventory(request).await.map(tonic::Response::into_inner)
        }
        .boxed()
    }

    fn delete_snapshots(
        &self,
        request: proto::DeleteSnapshotsRequest,
    ) -> Reply<proto::DeleteSnapshotsReply> {
        call!(self, delete_snapshots, short(request))
    }

    fn logs(
        &self,
        request: proto::LogsRequest,
    ) -> Reply<BoxStream<'static, Result<proto::LogChunk, Status>>> {
        let mut client = self.0.clone();
        async move {
            let chunks = client.logs(request).await?.into_inner();
            Ok(Box::pin(chunks) as BoxStream<'static, _>)
        }
        .boxed()
    }
}
