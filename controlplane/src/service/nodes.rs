//! `Nodes`: one session for each node agent.

use std::{sync::Arc, time::Duration};

use futures::stream::BoxStream;
use reveille_api::{
    key::check_label,
    net::{Address, Peer, Role, named},
    proto::{
        self, NodeCommand, NodeReport, node_command::Command, node_report::Report,
        nodes_server::Nodes,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::{
    clock::millis,
    fleet::Fleet,
    nodes::{Refused, Session, reconcile::reconcile},
};

/// Heartbeats that may be missing.
const MISSED: u32 = 3;
/// Between two tries to call a node that has registered.
const RETRY: Duration = Duration::from_millis(500);

type Commands = mpsc::Sender<Result<NodeCommand, Status>>;

/// The service.
#[derive(Clone)]
pub struct NodesService {
    fleet: Arc<Fleet>,
}

impl NodesService {
    /// For these actors.
    pub fn new(fleet: Arc<Fleet>) -> Self {
        Self { fleet }
    }
}

#[tonic::async_trait]
impl Nodes for NodesService {
    type SessionStream = BoxStream<'static, Result<NodeCommand, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<NodeReport>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (commands, stream) = mpsc::channel(8);
        let fleet = Arc::clone(&self.fleet);
        let (_, peer, reports) = request.into_parts();
        self.fleet.tasks.spawn("node session", async move {
            if let Err(status) = Box::pin(serve(fleet, peer, reports, &commands)).await {
                let _ = commands.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Until the stream breaks or the node falls silent.
async fn serve(
    fleet: Arc<Fleet>,
    peer: Extensions,
    mut reports: Streaming<NodeReport>,
    commands: &Commands,
) -> Result<(), Status> {
    let first = reports.message().await?.and_then(|report| report.report);
    let Some(Report::Register(register)) = first else {
        return Err(Status::invalid_argument("the first report must be Register"));
    };
    check_label("node", &register.node)?;
    named(&peer, Role::Node, &register.node)?;
    // Somebody else's machine must not make us talk to a socket of this one.
    let local = register.address.parse().is_ok_and(|address: Address| address.is_unix());
    if local && peer.get::<Peer>() != Some(&Peer::Local) {
        let message = "a node that comes by TCP is called by TCP: give it a --listen IP:PORT";
        return Err(Status::invalid_argument(message));
    }
    let session = fleet.nodes.join(register.clone()).map_err(|refused| {
        tracing::warn!(node = register.node, address = register.address, %refused, "an agent is refused");
        match refused {
            Refused::Address(why) => Status::invalid_argument(why),
            Refused::InUse { .. } => Status::already_exists(refused.to_string()),
        }
    })?;
    let heartbeat = fleet.timings.heartbeat;
    let registered = proto::Registered { heartbeat_ms: millis(heartbeat) };
    let command = NodeCommand { command: Some(Command::Registered(registered)) };
    let _ = commands.send(Ok(command)).await;
    tracing::info!(node = register.node, workers = register.workers, "a node has registered");
    let ended = tokio::select! {
        ended = listen(&fleet, &session, reports, heartbeat * MISSED) => ended,
        never = join(&fleet, &session, &register) => match never {},
    };
    if fleet.nodes.leave(&session) {
        fleet.placement.node_down(&session.node);
        tracing::warn!(node = session.node, "a node's session has ended");
    }
    ended
}

/// Makes the node ready, however often it takes; then has nothing more to do.
async fn join(
    fleet: &Arc<Fleet>,
    session: &Session,
    register: &proto::Register,
) -> std::convert::Infallible {
    while let Err(status) = reconcile(fleet, session, register).await {
        let (node, address, why) = (&session.node, &register.address, status.message());
        tracing::warn!(node, address, why, "a node cannot be called");
        tokio::time::sleep(RETRY).await;
    }
    std::future::pending().await
}

async fn listen(
    fleet: &Arc<Fleet>,
    session: &Session,
    mut reports: Streaming<NodeReport>,
    silence: Duration,
) -> Result<(), Status> {
    loop {
        let report = match tokio::time::timeout(silence, reports.message()).await {
            Ok(report) => report?,
            Err(_) => return Err(Status::deadline_exceeded("no heartbeat")),
        };
        let Some(report) = report else { return Ok(()) };
        match report.report {
            Some(Report::Heartbeat(heartbeat)) => {
                let goes_on = fleet.nodes.heartbeat(session, heartbeat);
                if !goes_on {
                    return Err(Status::aborted("this node has registered anew"));
                }
            }
            Some(Report::Exited(exited)) => tell_exited(fleet, &session.node, exited).await,
            Some(Report::Stored(stored)) => tell_stored(fleet, stored).await,
            Some(Report::Register(_)) => {
                return Err(Status::invalid_argument("Register comes once, first"));
            }
            None => {}
        }
    }
}

async fn tell_stored(fleet: &Arc<Fleet>, stored: proto::Stored) {
    let Ok(key) = reveille_api::ActorKey::try_from(stored.actor) else { return };
    let needs = |record: Arc<crate::record::ActorRecord>| record.life.needs(&stored.snapshot);
    if fleet.view(&key).is_ok_and(|view| view.is_some_and(needs)) {
        fleet.tell(&key, crate::lifecycle::Event::Stored(stored.snapshot)).await;
    }
}

async fn tell_exited(fleet: &Arc<Fleet>, node: &str, exited: proto::Exited) {
    let Ok(key) = reveille_api::ActorKey::try_from(exited.actor) else { return };
    // Of an actor that exists no more, nothing is left to do.
    if fleet.view(&key).is_ok_and(|view| view.is_some()) {
        let epoch = reveille_api::Epoch(exited.epoch);
        let (node, message) = (node.to_owned(), exited.message);
        fleet.tell(&key, crate::lifecycle::Event::Exited { node, epoch, message }).await;
    }
}
