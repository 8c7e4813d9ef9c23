//! `Control`: what people and programs ask for.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use reveille_api::{
    ActorKey,
    key::check_label,
    manifest::{self, Manifest, Spec},
    proto::{self, control_server::Control},
};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    explain,
    verbs::{self, not_found, store},
    view,
};
use crate::{catalog, driver::Down, fleet::Fleet, lifecycle::Cause, record::EventRecord};

/// Items of a stream that may wait for a slow reader.
const STREAM: usize = 64;

/// The service.
#[derive(Clone)]
pub struct ControlService {
    fleet: Arc<Fleet>,
}

impl ControlService {
    /// For these actors.
    pub fn new(fleet: Arc<Fleet>) -> Self {
        Self { fleet }
    }

    /// A template that no node can run is accepted, since a node that can may still come; but it is said.
    fn lacking(&self, manifest: &Manifest) -> Option<String> {
        let Spec::ActorTemplate(spec) = &manifest.spec else { return None };
        let name = spec.runtime.name();
        self.fleet.nodes.lack(spec.runtime).then(|| {
            format!("no node has the runtime {name}: `reveille doctor` says what it lacks there")
        })
    }

    /// The same of one that no node may run.
    fn forbidden(&self, manifest: &Manifest) -> Option<String> {
        let folder = manifest.rootfs_folder().filter(|folder| self.fleet.nodes.forbid(folder))?;
        let folder = folder.display();
        Some(format!(
            "no node may run from {folder}: start one with --allow-rootfs for it, or choose a folder that is allowed"
        ))
    }

    /// The same of one whose actors no node lets out.
    fn shut_in(&self, manifest: &Manifest) -> Option<String> {
        let mut networks = manifest.egress().iter().map(|egress| egress.cidr);
        let network = networks.find(|network| self.fleet.nodes.shut_in(*network))?;
        Some(format!(
            "no node lets actors reach {network}: start one with --allow-egress for it, or take it out of spec.egress"
        ))
    }

    fn check_namespace(&self, request: &proto::ListRequest) -> Result<(), Status> {
        match request.namespace.as_str() {
            "" => Ok(()),
            namespace => Ok(check_label("namespace", namespace)?),
        }
    }
}

impl From<catalog::Error> for Status {
    fn from(error: catalog::Error) -> Self {
        let message = error.to_string();
        match error {
            catalog::Error::Invalid(_) => Self::invalid_argument(message),
            catalog::Error::NoTemplate { .. } => Self::not_found(message),
            catalog::Error::Exists(_) => Self::already_exists(message),
            catalog::Error::OtherTemplate { .. } | catalog::Error::InUse { .. } => {
                Self::failed_precondition(message)
            }
            catalog::Error::Store(error) => store(error),
        }
    }
}

type Reply<T> = Result<Response<T>, Status>;
type Items<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Control for ControlService {
    type LogsStream = Items<proto::LogChunk>;
    type EventsStream = Items<proto::Event>;
    type DrainStream = Items<proto::DrainProgress>;

    async fn apply(&self, request: Request<proto::ApplyRequest>) -> Reply<proto::ApplyReply> {
        let proto::ApplyRequest { manifest: text, check } = request.into_inner();
        let manifest =
            manifest::parse_one(&text).map_err(|error| Status::invalid_argument(error.message))?;
        let kind = manifest.spec.kind().to_owned();
        let namespace = manifest.namespace().unwrap_or_default().to_owned();
        let name = manifest.metadata.name.clone();
        let impossible =
            [self.lacking(&manifest), self.forbidden(&manifest), self.shut_in(&manifest)];
        if check {
            self.fleet.catalog.check(&manifest)?;
            let (outcome, warnings) = (0, impossible.into_iter().flatten().collect());
            return Ok(Response::new(proto::ApplyReply {
                kind,
                namespace,
                name,
                outcome,
                warnings,
            }));
        }
        let actor = match &manifest.spec {
            manifest::Spec::Actor(_) => ActorKey::new(&namespace, &name).ok(),
            _ => None,
        };
        let (outcome, mut warnings) = self.fleet.catalog.apply(manifest).await?;
        warnings.extend(impossible.into_iter().flatten());
        if kind == "WorkerPool" {
            self.fleet.placement.set_pools(self.fleet.catalog.pools());
        }
        if let Some(actor) = actor.filter(|_| outcome == catalog::Outcome::Created) {
            self.fleet.routers.tell_created(&actor);
        }
        use proto::apply_reply::Outcome;
        let outcome = match outcome {
            catalog::Outcome::Created => Outcome::Created,
            catalog::Outcome::Configured => Outcome::Configured,
            catalog::Outcome::Unchanged => Outcome::Unchanged,
        };
        let outcome = outcome.into();
        Ok(Response::new(proto::ApplyReply { kind, namespace, name, outcome, warnings }))
    }

    async fn create_actor(
        &self,
        request: Request<proto::CreateActorRequest>,
    ) -> Reply<proto::Actor> {
        let proto::CreateActorRequest { actor, template } = request.into_inner();
        let key = key(actor)?;
        check_label("template", &template)?;
        let record = self.fleet.catalog.create(&key, &template).await?;
        self.fleet.routers.tell_created(&key);
        Ok(Response::new(view::actor(&self.fleet, &record)))
    }

    async fn get_actor(&self, request: Request<proto::ActorKey>) -> Reply<proto::Actor> {
        let key = key(Some(request.into_inner()))?;
        verbs::current(&self.fleet, &key).map(Response::new)
    }

    async fn explain_actor(&self, request: Request<proto::ActorKey>) -> Reply<proto::Explanation> {
        let key = key(Some(request.into_inner()))?;
        explain::explain(&self.fleet, &key).await.map(Response::new)
    }

    async fn list_actors(
        &self,
        request: Request<proto::ListRequest>,
    ) -> Reply<proto::ListActorsReply> {
        let request = request.into_inner();
        self.check_namespace(&request)?;
        let records = self.fleet.views(&request.namespace).map_err(store)?;
        let items = records.iter().map(|record| view::actor(&self.fleet, record)).collect();
        Ok(Response::new(proto::ListActorsReply { items }))
    }

    async fn list_templates(
        &self,
        request: Request<proto::ListRequest>,
    ) -> Reply<proto::ListTemplatesReply> {
        let request = request.into_inner();
        self.check_namespace(&request)?;
        let actors = self.fleet.records.actors(&request.namespace).map_err(store)?;
        let templates = self.fleet.catalog.templates(&request.namespace);
        let items = templates.iter().map(|template| {
            let mine = actors.iter().filter(|actor| {
                actor.template == template.name && actor.key.namespace() == template.namespace
            });
            view::template(template, mine.count() as u32)
        });
        Ok(Response::new(proto::ListTemplatesReply { items: items.collect() }))
    }

    async fn list_pools(
        &self,
        _request: Request<proto::ListRequest>,
    ) -> Reply<proto::ListPoolsReply> {
        Ok(Response::new(proto::ListPoolsReply { items: view::pools(&self.fleet) }))
    }

    async fn list_workers(
        &self,
        _request: Request<proto::ListRequest>,
    ) -> Reply<proto::ListWorkersReply> {
        Ok(Response::new(proto::ListWorkersReply { items: view::workers(&self.fleet) }))
    }

    async fn list_nodes(
        &self,
        _request: Request<proto::ListRequest>,
    ) -> Reply<proto::ListNodesReply> {
        Ok(Response::new(proto::ListNodesReply { items: view::nodes(&self.fleet) }))
    }

    async fn list_snapshots(
        &self,
        request: Request<proto::ListRequest>,
    ) -> Reply<proto::ListSnapshotsReply> {
        let request = request.into_inner();
        self.check_namespace(&request)?;
        let records = self.fleet.views(&request.namespace).map_err(store)?;
        let items =
            records.iter().flat_map(|record| view::snapshots(&self.fleet, record)).collect();
        Ok(Response::new(proto::ListSnapshotsReply { items }))
    }

    async fn list_routers(
        &self,
        _request: Request<proto::ListRequest>,
    ) -> Reply<proto::ListRoutersReply> {
        Ok(Response::new(proto::ListRoutersReply { items: self.fleet.routers.list() }))
    }

    async fn wake_actor(&self, request: Request<proto::ActorKey>) -> Reply<proto::Actor> {
        let key = key(Some(request.get_ref().clone()))?;
        let span = verbs::span(&request, "Control/WakeActor", &key);
        verbs::wake(&self.fleet, &key, span).await.map(Response::new)
    }

    async fn suspend_actor(&self, request: Request<proto::ActorKey>) -> Reply<proto::Actor> {
        let key = key(Some(request.get_ref().clone()))?;
        let span = verbs::span(&request, "Control/SuspendActor", &key);
        verbs::down(&self.fleet, &key, Down::Suspend(Cause::User), span).await?;
        verbs::current(&self.fleet, &key).map(Response::new)
    }

    async fn freeze_actor(&self, request: Request<proto::ActorKey>) -> Reply<proto::Actor> {
        let key = key(Some(request.get_ref().clone()))?;
        let span = verbs::span(&request, "Control/FreezeActor", &key);
        let record = self.fleet.view(&key).map_err(store)?.ok_or_else(|| not_found(&key))?;
        // Of one that does not run, or goes down, the machine says so.
        if let Some(place) = record.life.place()
            && !self.fleet.placement.freezes(&place.node)
        {
            let node = &place.node;
            let message = format!("node {node} cannot freeze: suspend it instead");
            return Err(Status::failed_precondition(message));
        }
        verbs::down(&self.fleet, &key, Down::Freeze(Cause::User), span).await?;
        verbs::current(&self.fleet, &key).map(Response::new)
    }

    async fn stop_actor(&self, request: Request<proto::ActorKey>) -> Reply<proto::Actor> {
        let key = key(Some(request.get_ref().clone()))?;
        let span = verbs::span(&request, "Control/StopActor", &key);
        verbs::down(&self.fleet, &key, Down::Stop, span).await?;
        verbs::current(&self.fleet, &key).map(Response::new)
    }

    async fn delete_actor(
        &self,
        request: Request<proto::ActorKey>,
    ) -> Reply<proto::DeleteActorReply> {
        let key = key(Some(request.get_ref().clone()))?;
        let span = verbs::span(&request, "Control/DeleteActor", &key);
        verbs::down(&self.fleet, &key, Down::Delete, span).await?;
        Ok(Response::new(proto::DeleteActorReply {}))
    }

    async fn delete_template(
        &self,
        request: Request<proto::ActorKey>,
    ) -> Reply<proto::DeleteTemplateReply> {
        let proto::ActorKey { namespace, name } = request.into_inner();
        if !self.fleet.catalog.delete_template(&namespace, &name).await? {
            let message = format!("template \"{namespace}/{name}\" does not exist");
            return Err(Status::not_found(message));
        }
        Ok(Response::new(proto::DeleteTemplateReply {}))
    }

    async fn logs(&self, request: Request<proto::LogsRequest>) -> Reply<Self::LogsStream> {
        let request = request.into_inner();
        let key = key(request.actor.clone())?;
        let record = self.fleet.view(&key).map_err(store)?.ok_or_else(|| not_found(&key))?;
        let Some(node) = &record.node else {
            let message = format!("actor {:?} has never run: it has no logs", key.to_string());
            return Err(Status::failed_precondition(message));
        };
        let Some(agent) = self.fleet.nodes.agent(node) else {
            let message = format!("node {node}, which has its logs, is not ready");
            return Err(Status::unavailable(message));
        };
        let chunks = agent.logs(request).await?;
        Ok(Response::new(Box::pin(chunks.take_until(Box::pin(self.fleet.tasks.stopping())))))
    }

    async fn events(&self, request: Request<proto::EventsRequest>) -> Reply<Self::EventsStream> {
        let request = request.into_inner();
        let wanted = Wanted::new(request.actor)?;
        // Followed from before the history is read, so that nothing falls between.
        let following = request.follow.then(|| self.fleet.events.follow());
        let history = self.fleet.events.history(wanted.actor.as_ref()).map_err(store)?;
        let (items, stream) = mpsc::channel(STREAM);
        self.fleet.tasks.spawn("events", async move {
            let mut last = 0;
            for event in history.iter().filter(|event| wanted.wants(event)) {
                last = event.sequence;
                if items.send(Ok(view::event(event))).await.is_err() {
                    return;
                }
            }
            let Some(mut following) = following else { return };
            loop {
                let event = tokio::select! {
                    event = following.recv() => event,
                    () = items.closed() => return,
                };
                match event {
                    Ok(event) if event.sequence > last && wanted.wants(&event) => {
                        if items.send(Ok(view::event(&event))).await.is_err() {
                            return;
                        }
                    }
                    // A slow reader sees a gap in the numbers.
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn drain(&self, request: Request<proto::DrainRequest>) -> Reply<Self::DrainStream> {
        let deadline = Duration::from_millis(request.into_inner().deadline_ms);
        let (progress, stream) = mpsc::channel(STREAM);
        let fleet = Arc::clone(&self.fleet);
        self.fleet.tasks.spawn("drain", verbs::drain(fleet, deadline, progress));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Which events somebody wants.
struct Wanted {
    namespace: String,
    actor: Option<ActorKey>,
}

impl Wanted {
    fn new(actor: Option<proto::ActorKey>) -> Result<Self, Status> {
        let proto::ActorKey { namespace, name } = actor.unwrap_or_default();
        if name.is_empty() {
            return Ok(Self { namespace, actor: None });
        }
        let actor = ActorKey::new(&namespace, &name)?;
        Ok(Self { namespace, actor: Some(actor) })
    }

    fn wants(&self, event: &EventRecord) -> bool {
        match &self.actor {
            Some(actor) => event.actor == *actor,
            None => self.namespace.is_empty() || event.actor.namespace() == self.namespace,
        }
    }
}

/// A bad name is the caller's mistake.
fn key(key: Option<proto::ActorKey>) -> Result<ActorKey, Status> {
    let key = key.ok_or_else(|| Status::invalid_argument("the actor is missing"))?;
    Ok(ActorKey::try_from(key)?)
}
