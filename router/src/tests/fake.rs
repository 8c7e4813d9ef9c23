//! A control plane of which the test decides every word.

use std::{
    io::ErrorKind::ConnectionRefused,
    pin::Pin,
    sync::{Arc, Mutex},
};

use futures::Stream;
use hyper_util::rt::TokioIo;
use reveille_api::{
    Failure, Reason,
    net::{Address, Io},
    proto::{
        OverviewReply, OverviewRequest, Revoke, RouterCommand, RouterReport, WakeReply,
        WakeRequest, Welcome,
        overview_server::{Overview, OverviewServer},
        router_command::Command,
        router_report::Report,
        routers_server::{Routers, RoutersServer},
    },
    task,
};
use tokio::{
    io::DuplexStream,
    runtime::{self, Runtime},
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};

use super::soon;

/// What routers ask of it.
pub(super) struct Fake {
    pub(super) wakes: mpsc::UnboundedReceiver<Wake>,
    pub(super) sessions: mpsc::UnboundedReceiver<Session>,
    pub(super) fleet: Arc<Mutex<Whole>>,
    process: Process,
    /// Connections that it has not taken.
    held: Option<Hung>,
}

type Hung = (
    mpsc::UnboundedReceiver<std::io::Result<DuplexStream>>,
    mpsc::UnboundedSender<std::io::Result<DuplexStream>>,
);

/// What the server runs in.
struct Process {
    _server: JoinSet<()>,
    /// On a socket it has a runtime of its own, so that its connections can be made to end with it.
    runtime: Option<Runtime>,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What it says of the fleet.
#[derive(Default)]
pub(super) struct Whole {
    pub(super) reply: OverviewReply,
    /// So often it was asked.
    pub(super) asked: u32,
}

/// A wake that waits for its reply.
pub(super) struct Wake {
    pub(super) request: WakeRequest,
    reply: oneshot::Sender<Result<WakeReply, Status>>,
}

/// A session. It ends when this is dropped.
pub(super) struct Session {
    reports: mpsc::UnboundedReceiver<Report>,
    commands: mpsc::Sender<Result<RouterCommand, Status>>,
}

impl Wake {
    pub(super) fn reply(self, reply: WakeReply) {
        let _ = self.reply.send(Ok(reply));
    }

    pub(super) fn fail(self, reason: Reason) {
        let secret = "/var/lib/secret: exit status 7";
        let _ = self.reply.send(Err(Failure::new(reason, secret).into()));
    }
}

impl Session {
    pub(super) async fn report(&mut self) -> Report {
        soon("report", self.reports.recv()).await
    }

    /// The next report that is not activity.
    pub(super) async fn word(&mut self) -> Report {
        loop {
            match self.report().await {
                Report::Activity(_) => {}
                report => return report,
            }
        }
    }

    /// Reads Hello and what is held.
    pub(super) async fn greeting(
        &mut self,
    ) -> (reveille_api::proto::Hello, Vec<reveille_api::proto::HeldBinding>) {
        let Report::Hello(hello) = self.report().await else { panic!("no Hello first") };
        let mut bindings = Vec::new();
        loop {
            match self.report().await {
                Report::Held(held) => {
                    bindings.extend(held.bindings);
                    if held.complete {
                        return (hello, bindings);
                    }
                }
                other => panic!("{other:?} before all is told that is held"),
            }
        }
    }

    pub(super) async fn command(&self, command: Command) {
        let command = RouterCommand { command: Some(command) };
        self.commands.send(Ok(command)).await.expect("a session");
    }

    pub(super) async fn welcome(&self) {
        let control_plane_instance = "cp-1".into();
        let welcome = Welcome { control_plane_instance, report_interval_ms: 20 };
        self.command(Command::Welcome(welcome)).await;
    }

    pub(super) async fn revoke(&self, epoch: u64, term: u64, drain_ms: u64) {
        let actor = Some((&super::counter()).into());
        self.command(Command::Revoke(Revoke { actor, epoch, term, drain_ms, gone: false })).await;
    }
}

impl Fake {
    /// On a socket.
    pub(super) async fn listen(address: &Address) -> Self {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let address = address.clone();
        let started = runtime.spawn(async move {
            let listener = address.listen().await.expect("a socket");
            Self::serve::<Io>(listener.incoming())
        });
        let mut fake = started.await.expect("a server");
        fake.process.runtime = Some(runtime);
        fake
    }

    /// Ends it as a kill does: every connection breaks.
    pub(super) async fn kill(mut self) {
        let runtime = self.process.runtime.take();
        tokio::task::spawn_blocking(|| drop(runtime)).await.expect("an end");
    }

    /// In memory: nothing but the clock moves it.
    pub(super) fn in_memory() -> (Self, Channel) {
        let (incoming, channel) = Self::connections();
        (Self::serve(UnboundedReceiverStream::new(incoming)), channel)
    }

    /// The same, but stopped: connections to it stand, and nobody reads them.
    pub(super) fn that_hangs() -> (Self, Channel) {
        let (incoming, channel) = Self::connections();
        let (taken, serve) = mpsc::unbounded_channel();
        let mut fake = Self::serve(UnboundedReceiverStream::new(serve));
        fake.held = Some((incoming, taken));
        (fake, channel)
    }

    /// What hung takes its connections.
    pub(super) fn goes_on(&mut self) {
        let (mut incoming, taken) = self.held.take().expect("it hangs");
        task::detach("connections", async move {
            while let Some(connection) = incoming.recv().await {
                let _ = taken.send(connection);
            }
        });
    }

    fn connections() -> (mpsc::UnboundedReceiver<std::io::Result<DuplexStream>>, Channel) {
        let (connections, incoming) = mpsc::unbounded_channel::<std::io::Result<DuplexStream>>();
        let connector = tower::service_fn(move |_| {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let connected = connections.send(Ok(theirs)).map(|()| TokioIo::new(ours));
            std::future::ready(connected.map_err(|_| std::io::Error::from(ConnectionRefused)))
        });
        let channel = Endpoint::from_static("http://memory").connect_with_connector_lazy(connector);
        (incoming, channel)
    }

    fn serve<I>(incoming: impl Stream<Item = std::io::Result<I>> + Send + 'static) -> Self
    where
        I: tokio::io::AsyncRead
            + tokio::io::AsyncWrite
            + tonic::transport::server::Connected
            + Unpin
            + Send
            + 'static,
    {
        let (wakes_sender, wakes) = mpsc::unbounded_channel();
        let (sessions_sender, sessions) = mpsc::unbounded_channel();
        let service = Service { wakes: wakes_sender, sessions: sessions_sender };
        let fleet: Arc<Mutex<Whole>> = Arc::default();
        let overview = OverviewServer::new(Told(Arc::clone(&fleet)));
        let mut server = JoinSet::new();
        task::spawn(&mut server, "fake control plane", async move {
            let server =
                Server::builder().add_service(RoutersServer::new(service)).add_service(overview);
            server.serve_with_incoming(incoming).await.expect("a server");
        });
        let process = Process { _server: server, runtime: None };
        Self { wakes, sessions, fleet, process, held: None }
    }

    pub(super) async fn wake(&mut self) -> Wake {
        soon("wake", self.wakes.recv()).await
    }

    pub(super) async fn session(&mut self) -> Session {
        soon("session", self.sessions.recv()).await
    }

    /// Answers every session's beginning; the session as it stands.
    pub(super) async fn welcomed(&mut self) -> Session {
        let mut session = self.session().await;
        session.greeting().await;
        session.welcome().await;
        session
    }
}

struct Service {
    wakes: mpsc::UnboundedSender<Wake>,
    sessions: mpsc::UnboundedSender<Session>,
}

struct Told(Arc<Mutex<Whole>>);

#[tonic::async_trait]
impl Overview for Told {
    async fn get(&self, _: Request<OverviewRequest>) -> Result<Response<OverviewReply>, Status> {
        let mut whole = self.0.lock().expect("not poisoned");
        whole.asked += 1;
        Ok(Response::new(whole.reply.clone()))
    }
}

#[tonic::async_trait]
impl Routers for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<RouterCommand, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<RouterReport>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut inbound = request.into_inner();
        let (reports_sender, reports) = mpsc::unbounded_channel();
        let (commands, outbound) = mpsc::channel(16);
        task::detach("reports", async move {
            while let Ok(Some(report)) = inbound.message().await {
                let _ = reports_sender.send(report.report.expect("a report"));
            }
        });
        let _ = self.sessions.send(Session { reports, commands });
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound))))
    }

    async fn wake(&self, request: Request<WakeRequest>) -> Result<Response<WakeReply>, Status> {
        let (reply, told) = oneshot::channel();
        let _ = self.wakes.send(Wake { request: request.into_inner(), reply });
        match told.await {
            Ok(reply) => reply.map(Response::new),
            // Dropped by the test: it never answers.
            Err(_) => std::future::pending().await,
        }
    }
}
