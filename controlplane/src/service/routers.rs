//! `Routers`: one session for each router, and the wakes of their requests.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use reveille_api::{
    ActorKey, Epoch, Failure, Reason,
    net::{Role, named},
    proto::{
        self, RouterCommand, RouterReport, WakeReply, WakeRequest, router_command::Command,
        router_report::Report, routers_server::Routers,
    },
    trace::{Kind, Span},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::{
    clock::millis,
    fleet::{Fleet, Origin},
    lifecycle::Asker,
    routers::COMMANDS,
};

/// How long a wake waits for its router's session, which begins at the same time.
const SESSION: Duration = Duration::from_secs(2);

/// The service.
#[derive(Clone)]
pub struct RoutersService {
    fleet: Arc<Fleet>,
    /// Of this control plane; changes with every start.
    instance: Arc<str>,
}

impl RoutersService {
    /// For these actors.
    pub fn new(fleet: Arc<Fleet>) -> Self {
        Self { fleet, instance: uuid::Uuid::now_v7().to_string().into() }
    }
}

#[tonic::async_trait]
impl Routers for RoutersService {
    type SessionStream = BoxStream<'static, Result<RouterCommand, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<RouterReport>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (commands, stream) = mpsc::channel(COMMANDS);
        let welcome = proto::Welcome {
            control_plane_instance: self.instance.to_string(),
            report_interval_ms: millis(self.fleet.timings.report),
        };
        let welcome = RouterCommand { command: Some(Command::Welcome(welcome)) };
        let (failed, failure) = mpsc::channel(1);
        let fleet = Arc::clone(&self.fleet);
        let (_, peer, reports) = request.into_parts();
        self.fleet.tasks.spawn("router session", async move {
            if let Err(status) = serve(&fleet, peer, reports, welcome, commands).await {
                let _ = failed.send(status).await;
            }
        });
        // The stream ends when the registry drops its end, or with the failure of the other direction.
        let commands = ReceiverStream::new(stream).map(Ok);
        let failure = ReceiverStream::new(failure).map(Err);
        Ok(Response::new(Box::pin(commands.chain(failure))))
    }

    async fn wake(&self, request: Request<WakeRequest>) -> Result<Response<WakeReply>, Status> {
        let (_, peer, request) = request.into_parts();
        let WakeRequest { actor, router_instance, traceparent, doubted_epoch, request_id } =
            request;
        let key = ActorKey::try_from(actor)?;
        let mut span = Span::after(traceparent.parse().ok(), "Routers/Wake", Kind::Server).of(&key);
        if !self.fleet.routers.present(&router_instance, SESSION).await {
            let message = "this router process has no session; it says Hello first";
            return Err(Failure::new(Reason::ControlPlaneUnavailable, message).into());
        }
        // Gone in the meantime, it gets no binding anyhow.
        if let Some(router) = self.fleet.routers.router_of(&router_instance) {
            named(&peer, Role::Router, &router)?;
        }
        if doubted_epoch > 0 {
            self.fleet.doubt(&key, Epoch(doubted_epoch)).await?;
        }
        let (router, traceparent) = (Some(router_instance.as_str()), span.traceparent());
        let origin = Origin { router, traceparent, request_id: &request_id };
        let served = self.fleet.wake(&key, Asker::Traffic, origin).await;
        let served = served.inspect_err(|failure| span.fail(failure.reason))?;
        if let Some(wake) = served.joined {
            span.link(wake);
        }
        Ok(Response::new(WakeReply {
            binding: Some(served.binding),
            policy: Some(served.policy),
            phases: Some(served.phases.into()),
        }))
    }
}

/// Until the stream breaks. Dropping `commands` ends the other direction.
async fn serve(
    fleet: &Arc<Fleet>,
    peer: Extensions,
    mut reports: Streaming<RouterReport>,
    welcome: RouterCommand,
    commands: mpsc::Sender<RouterCommand>,
) -> Result<(), Status> {
    let first = reports.message().await?.and_then(|report| report.report);
    let Some(Report::Hello(hello)) = first else {
        return Err(Status::invalid_argument("the first report must be Hello"));
    };
    if hello.router.is_empty() || hello.instance.is_empty() {
        return Err(Status::invalid_argument("Hello names the router and its instance"));
    }
    named(&peer, Role::Router, &hello.router)?;
    if !fleet.routers.admits(&hello).await {
        tracing::warn!(router = hello.router, "a second router of this name is refused");
        let message = format!(
            "the router name {} is in use by another process: give this one another --name, or end that one",
            hello.router
        );
        return Err(Status::already_exists(message));
    }
    // Before anything that the registry has to say.
    let _ = commands.try_send(welcome);
    let (session, over) = fleet.routers.connect(&hello, commands);
    tracing::info!(router = hello.router, instance = hello.instance, "a router is connected");
    let listening = listen(fleet, &hello.router, session, reports);
    let ended = tokio::select! {
        ended = listening => ended,
        () = over.cancelled() => Ok(()),
    };
    fleet.routers.disconnect(&hello.router, session);
    tracing::info!(router = hello.router, "a router's session has ended");
    ended
}

async fn listen(
    fleet: &Fleet,
    router: &str,
    session: u64,
    mut reports: Streaming<RouterReport>,
) -> Result<(), Status> {
    while let Some(report) = reports.message().await? {
        fleet.routers.heard(router, session);
        match report.report {
            Some(Report::Held(held)) => fleet.routers.held(router, &held),
            Some(Report::Activity(activity)) => fleet.routers.activity(router, &activity),
            Some(Report::RevokeAck(ack)) => fleet.routers.acknowledge(router, &ack),
            Some(Report::Hello(_)) => {
                return Err(Status::invalid_argument("Hello comes once, first"));
            }
            None => {}
        }
    }
    Ok(())
}
