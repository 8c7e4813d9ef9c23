//! The `NodeAgent` service: reads requests and hands them to the actors' drivers.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream::BoxStream};
use reveille_api::{
    ActorKey, Epoch, Failure, Stay,
    manifest::template::ActorTemplateSpec,
    proto::{self, node_agent_server::NodeAgent, suspend_reply::Outcome},
    trace::{Kind, Span},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    actor::{Activate, Command, Deletion, Suspend, Suspended},
    actors::Actors,
    core::OpError,
    snapshots::is_id,
    uploads,
};

/// See the module.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) actors: Arc<Actors>,
    /// Ends the streams that would never end.
    pub(crate) stop: CancellationToken,
}

impl Service {
    /// The stay that a call belongs to, if that is not over.
    fn stay<T>(&self, request: &Request<T>) -> Result<Stay, Status> {
        let stay = Stay::quoted(request.metadata())?;
        self.actors.core().newest.hear(stay).map_err(OpError::from)?;
        Ok(stay)
    }
}

fn activation(reference: proto::ActivationRef) -> Result<(ActorKey, Epoch), Failure> {
    Ok((ActorKey::try_from(reference.actor)?, Epoch(reference.epoch)))
}

fn span(traceparent: &str, name: &'static str, actor: &ActorKey) -> Span {
    Span::after(traceparent.parse().ok(), name, Kind::Server).of(actor)
}

/// That is how long it takes, and what it comes to.
async fn traced<T>(
    mut span: Span,
    operation: impl Future<Output = Result<T, OpError>>,
) -> Result<T, OpError> {
    let outcome = operation.await;
    outcome.inspect_err(|error| span.set("reveille.outcome", error))
}

fn snapshot_id(id: String) -> Result<String, OpError> {
    if is_id(&id) {
        return Ok(id);
    }
    Err(OpError::Invalid(format!(
        "{id:?} cannot name a snapshot: use letters, digits, '-', '_', '.'"
    )))
}

fn activate(request: proto::ActivateRequest) -> Result<Activate, OpError> {
    let template: ActorTemplateSpec = serde_json::from_str(&request.template)?;
    let snapshot = match request.snapshot {
        empty if empty.is_empty() => None,
        id => Some(snapshot_id(id)?),
    };
    Ok(Activate {
        epoch: Epoch(request.epoch),
        worker: request.worker,
        template: Arc::new(template),
        template_name: request.template_name,
        digest: blake3::hash(request.template.as_bytes()).to_hex().to_string(),
        snapshot,
        deadline: Duration::from_millis(request.deadline_ms),
        traceparent: request.traceparent.parse().ok(),
    })
}

#[tonic::async_trait]
impl NodeAgent for Service {
    async fn activate(
        &self,
        request: Request<proto::ActivateRequest>,
    ) -> Result<Response<proto::ActivateReply>, Status> {
        let stay = self.stay(&request)?;
        let mut request = request.into_inner();
        let actor = ActorKey::try_from(request.actor.take())?;
        let request = activate(request)?;
        let activated = self
            .actors
            .submit(&actor, Some(stay), |reply| Command::Activate(request, reply))
            .await?;
        Ok(Response::new(activated.into()))
    }

    async fn suspend(
        &self,
        request: Request<proto::SuspendRequest>,
    ) -> Result<Response<proto::SuspendReply>, Status> {
        let stay = self.stay(&request)?;
        let request = request.into_inner();
        let actor = ActorKey::try_from(request.actor)?;
        let span = span(&request.traceparent, "NodeAgent/Suspend", &actor);
        let request = Suspend {
            epoch: Epoch(request.epoch),
            snapshot: snapshot_id(request.snapshot)?,
            deadline: Duration::from_millis(request.deadline_ms),
            store_after: request.store_after_ms.map(Duration::from_millis),
        };
        let command = |reply| Command::Suspend(request, reply);
        let suspended = traced(span, self.actors.submit(&actor, Some(stay), command)).await?;
        let outcome = match suspended {
            Suspended::Committed(snapshot) => Outcome::Committed(snapshot),
            Suspended::Resumed => Outcome::Resumed(proto::Resumed {}),
        };
        Ok(Response::new(proto::SuspendReply { outcome: Some(outcome) }))
    }

    async fn freeze(
        &self,
        request: Request<proto::ActivationRef>,
    ) -> Result<Response<proto::FreezeReply>, Status> {
        let stay = self.stay(&request)?;
        let mut request = request.into_inner();
        let term = request.term;
        let traceparent = std::mem::take(&mut request.traceparent);
        let (actor, epoch) = activation(request)?;
        let span = span(&traceparent, "NodeAgent/Freeze", &actor);
        let command = |reply| Command::Freeze(epoch, term, reply);
        traced(span, self.actors.submit(&actor, Some(stay), command)).await?;
        Ok(Response::new(proto::FreezeReply {}))
    }

    async fn resume(
        &self,
        request: Request<proto::ActivationRef>,
    ) -> Result<Response<proto::ResumeReply>, Status> {
        let stay = self.stay(&request)?;
        let mut request = request.into_inner();
        let term = request.term;
        let traceparent = std::mem::take(&mut request.traceparent);
        let (actor, epoch) = activation(request)?;
        let span = span(&traceparent, "NodeAgent/Resume", &actor);
        let command = |reply| Command::Resume(epoch, term, reply);
        let resumed = traced(span, self.actors.submit(&actor, Some(stay), command)).await?;
        Ok(Response::new(proto::ResumeReply { resumed }))
    }

    async fn destroy(
        &self,
        request: Request<proto::ActivationRef>,
    ) -> Result<Response<proto::DestroyReply>, Status> {
        let stay = self.stay(&request)?;
        let (actor, epoch) = activation(request.into_inner())?;
        self.actors.submit(&actor, Some(stay), |reply| Command::Destroy(epoch, reply)).await?;
        Ok(Response::new(proto::DestroyReply {}))
    }

    async fn get_inventory(
        &self,
        request: Request<proto::GetInventoryRequest>,
    ) -> Result<Response<proto::Inventory>, Status> {
        self.stay(&request)?;
        let inventory = self.actors.inventory();
        if self.actors.core().snapshots.tell() {
            uploads::make_room(self.actors.core());
        }
        Ok(Response::new(inventory))
    }

    type LogsStream = BoxStream<'static, Result<proto::LogChunk, Status>>;

    async fn logs(
        &self,
        request: Request<proto::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let actor = ActorKey::try_from(request.actor)?;
        let chunks = self.actors.core().logs.read(&actor, request.tail, request.follow);
        let chunks = chunks.map(|chunk| match chunk {
            Ok(data) => Ok(proto::LogChunk { data }),
            Err(error) => Err(Status::internal(format!("the log cannot be read: {error}"))),
        });
        Ok(Response::new(until(chunks, self.stop.clone()).boxed()))
    }

    async fn delete_snapshots(
        &self,
        request: Request<proto::DeleteSnapshotsRequest>,
    ) -> Result<Response<proto::DeleteSnapshotsReply>, Status> {
        let stay = self.stay(&request)?;
        let proto::DeleteSnapshotsRequest { actor, keep, everything, epoch } = request.into_inner();
        let actor = ActorKey::try_from(actor)?;
        let deletion = Deletion { epoch: Epoch(epoch), keep, everything };
        let command = |reply| Command::DeleteSnapshots(deletion, reply);
        self.actors.submit(&actor, Some(stay), command).await?;
        Ok(Response::new(proto::DeleteSnapshotsReply {}))
    }
}

fn until<S: Stream>(stream: S, stop: CancellationToken) -> impl Stream<Item = S::Item> {
    stream.take_until(async move { stop.cancelled().await })
}
