//! From [`Config`] to a running router, and to its orderly end.
//!
//! ```text
//!  shutdown ─▶ not ready; serves whoever still comes, for the grace in which Envoys notice
//!           ─▶ nothing in flight, nothing parked (or the drain deadline passed)
//!           ─▶ configuration streams and listeners end ─▶ wakes, drains and the session end
//! ```

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use reveille_api::{
    Ladder, Zone,
    metrics::{Other, Registry, Watched},
    net::{Address, Authorize, Expected, ListenError, Listener, NoTls, Role, Transport},
    task,
};
use reveille_envoy::{
    ads::{AdsServer, Fleet},
    answers::{Ended, RequestLog},
    certificate,
    resources::{self, AccessLog, Resources, Traces},
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Server;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    acks::Acks,
    activation::Clock,
    again::Again,
    bounded::Bounded,
    ext_proc::ExtProc,
    metrics::Metrics,
    parking::Parking,
    policy::{Policies, Policy},
    progress::Progress,
    recent::Recent,
    router::Router,
    session,
    status::{self, Status},
    table::Table,
    vigil::Vigil,
};

/// Requests that may wait for one actor whose template is not known yet: the template's default.
const MAX_PARKED: usize = 1_000;
/// Flow-control window of a connection from Envoy: every parked request's message at once.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Finds Envoys that vanished without a word: what they had in flight would keep actors awake for ever.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Wakes whose spans are remembered.
const RECORDED_MOST: usize = 4_096;
/// Health checks and configuration streams, above the requests.
const EXTRA_STREAMS: u32 = 1_024;
/// How often a drain looks whether it is done.
const LOOK: Duration = Duration::from_millis(20);
/// What is in flight gets no more than this when the stop is hurried.
const HURRIED: Duration = Duration::from_secs(2);
/// What servers and tasks get to end in once they were told to.
const GRACE: Duration = Duration::from_secs(1);

/// How a router is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our certificate, if Envoy or the control plane is on the other side of TCP.
    pub transport: Transport,
    /// Where Envoy reaches it: ExtProc, ADS and health in one gRPC server.
    pub listen: Address,
    /// Status page, metrics and probes.
    pub status: SocketAddr,
    /// Parts on this machine whose series `/metrics` has too.
    pub others: Vec<Other>,
    /// Where it reaches the control plane.
    pub control_plane: Address,
    /// The actors' domain.
    pub zone: Zone,
    /// Timeouts and limits.
    pub ladder: Ladder,
    /// This router's name; it stays over restarts and no other router has it.
    pub router: String,
    /// Where Envoy listens for clients.
    pub http: Vec<SocketAddr>,
    /// Where Envoy serves the same over TLS.
    pub https: Option<Https>,
    /// Envoy's access log; its standard output when there is none.
    pub access_log: Option<PathBuf>,
    /// Where Envoy sends its spans, and of how many requests.
    pub traces: Option<Traces>,
    /// The part of the parking places that one namespace may take, and of those one actor, in percent.
    pub namespace_share: u8,
}

/// HTTPS of Envoy.
#[derive(Clone, Debug)]
pub struct Https {
    /// Where.
    pub listen: Vec<SocketAddr>,
    /// Its certificate, which is read again whenever it changes.
    pub files: certificate::Files,
}

/// Why a router could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The control plane cannot be reached safely.
    #[error(transparent)]
    ControlPlane(#[from] NoTls),
    /// Not a share.
    #[error("the namespace share of the parking places is {0} %: write 1 to 100")]
    Share(u8),
    /// The gRPC address is taken or not ours.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The status address is taken or not ours.
    #[error("cannot listen on {address} for the status page")]
    Status {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not tell where we listen.
    #[error("cannot tell where the router listens")]
    Address(#[source] io::Error),
    /// Nobody could connect.
    #[error("there is no certificate for HTTPS")]
    Certificate(#[from] certificate::Error),
    /// Envoy would be told something that makes no sense.
    #[error(transparent)]
    Envoy(#[from] resources::Error),
}

/// Why a router ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The gRPC server failed.
    #[error("the gRPC server failed")]
    Grpc(#[from] tonic::transport::Error),
    /// A part that never ends did.
    #[error("{0} ended")]
    Ended(&'static str),
    /// A part panicked.
    #[error("a task failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Where a router listens, with the ports the kernel chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addrs {
    /// ExtProc, ADS and health.
    pub grpc: Address,
    /// Status page, metrics and probes.
    pub status: SocketAddr,
}

/// A router that is bound and not yet running.
#[derive(Debug)]
pub struct App {
    router: Arc<Router>,
    registry: Registry,
    fleet: Fleet,
    others: Vec<Other>,
    addrs: Addrs,
    grpc: Listener,
    status: TcpListener,
    envoy: resources::Config,
    resources: Resources,
    certificate: Option<certificate::Files>,
    hurry: CancellationToken,
    leaving: Option<CancellationToken>,
}

impl Config {
    /// What can be known to be wrong before anything is opened.
    pub fn check(&self) -> Result<(), BuildError> {
        self.transport.reachable(&self.control_plane)?;
        self.transport.listenable(&self.listen)?;
        match self.namespace_share {
            1..=100 => Ok(()),
            share => Err(BuildError::Share(share)),
        }
    }

    /// Checks everything and binds the listeners. Nothing runs yet.
    pub async fn build(self) -> Result<App, BuildError> {
        self.check()?;
        let control_plane = Expected::any(Role::ControlPlane);
        let control_plane = self.transport.channel(&self.control_plane, control_plane)?;
        let share = usize::from(self.namespace_share);
        let grpc = self.transport.listen(&self.listen).await?;
        let addrs_grpc = grpc.address().map_err(BuildError::Address)?;
        let status = TcpListener::bind(self.status)
            .await
            .map_err(|source| BuildError::Status { address: self.status, source })?;
        let status_addr = status.local_addr().map_err(BuildError::Address)?;
        let mut envoy = resources::Config::new(self.http);
        envoy.ladder = self.ladder;
        envoy.traces = self.traces;
        if let Some(path) = self.access_log {
            envoy.access_log = AccessLog::File(path);
        }
        let certificate = self.https.as_ref().map(|https| https.files.clone());
        if let Some(Https { listen, files }) = self.https {
            envoy.https = Some(resources::Https { listen, certificate: files.read().await? });
        }
        let resources = resources::build(&envoy)?;
        let (mut registry, fleet) = (Registry::default(), Fleet::default());
        register(&fleet, &mut registry);
        let parts = Parts { name: self.router, zone: self.zone, ladder: self.ladder, share };
        let router = parts.assemble(control_plane, &mut registry);
        let addrs = Addrs { grpc: addrs_grpc, status: status_addr };
        Ok(App {
            router,
            registry,
            fleet,
            others: self.others,
            addrs,
            grpc,
            status,
            envoy,
            resources,
            certificate,
            hurry: CancellationToken::new(),
            leaving: None,
        })
    }
}

/// What a [`Router`] is made of.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) zone: Zone,
    pub(crate) ladder: Ladder,
    /// In percent.
    pub(crate) share: usize,
}

impl Parts {
    pub(crate) fn assemble(
        self,
        control_plane: tonic::transport::Channel,
        registry: &mut Registry,
    ) -> Arc<Router> {
        let metrics = Metrics::new(registry);
        let capacity = self.ladder.max_parked() as usize;
        metrics.parking_places.set(capacity as i64);
        let share = (capacity * self.share / 100).max(1);
        let actor_share = (share * self.share / 100).max(1);
        let parking = Parking::new(capacity, share, metrics.parked.clone());
        let policy = Policy {
            max_parked: MAX_PARKED,
            concurrency: 0,
            park: self.ladder.park(),
            wake: self.ladder.wake(),
            page: false,
        };
        let policies = Policies::new(policy, actor_share);
        let table = Table::new(parking, policies, Clock::start(), metrics.clone());
        Arc::new(Router {
            name: self.name,
            instance: Uuid::now_v7().to_string(),
            zone: self.zone,
            ladder: self.ladder,
            table: Arc::new(table),
            metrics,
            control_plane,
            session: session::State::default(),
            vigil: Vigil::default(),
            acks: Acks::default(),
            again: Again::default(),
            wakes: Progress::default(),
            recent: Recent::default(),
            recorded: Mutex::new(Bounded::new(RECORDED_MOST)),
            revokes: Progress::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            started: Instant::now(),
        })
    }
}

impl App {
    /// Where it listens.
    pub fn addrs(&self) -> &Addrs {
        &self.addrs
    }

    /// With a token that hurries a shutdown: no grace, and little time for what is in flight.
    #[must_use]
    pub fn hurried_by(mut self, hurry: CancellationToken) -> Self {
        self.hurry = hurry;
        self
    }

    /// With a token at which it says that it is not ready, and nothing else: a shutdown will come. The shutdown cancels
    /// it too.
    #[must_use]
    pub fn leaving_by(mut self, leaving: CancellationToken) -> Self {
        self.leaving = Some(leaving);
        self
    }

    #[cfg(test)]
    pub(crate) fn router(&self) -> Arc<Router> {
        Arc::clone(&self.router)
    }

    /// Serves until `shutdown`, then drains; or until something fails.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let leaving = self.leaving.unwrap_or_else(|| shutdown.child_token());
        let Self { router, registry, fleet, others, addrs, grpc, status, hurry, .. } = self;
        let Self { envoy, resources, certificate, .. } = self;
        // Held here: the streams of its receivers end when it is dropped.
        let (resources, watch) = watch::channel(Arc::new(resources));
        let ads = AdsServer::new(watch, fleet.clone()).until(router.stop.clone()).into_service();
        let counted = router.metrics.clone();
        let count = move |ended| match ended {
            Ended::Answered(reason) => counted.answered(reason),
            Ended::Woke(kind, took) => counted.first_byte(kind, took),
        };
        let ended = RequestLog::new(count, router.stop.clone());
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("", ServingStatus::NotServing).await;
        let server = limits(&router.ladder)
            .layer(Authorize::new(&[Role::Envoy]))
            .add_service(ExtProc::new(Arc::clone(&router)))
            .add_service(ads)
            .add_service(ended.into_service())
            .add_service(health_service);
        let stop = router.stop.clone();
        let server = server.serve_with_incoming_shutdown(grpc.incoming(), stop.cancelled_owned());
        let page = Status::new(Arc::clone(&router), registry, others, fleet, leaving.clone());
        let status = Listener::Tcp(status, None);
        let served = status::serve(status, Arc::clone(&page), router.stop.clone());
        let session = session::keep(Arc::clone(&router));

        let mut parts = JoinSet::new();
        task::spawn(&mut parts, "grpc", async {
            server.await.map(|()| "the gRPC server").map_err(Error::Grpc)
        });
        task::spawn(&mut parts, "status", async {
            served.await;
            Ok("the status server")
        });
        task::spawn(&mut parts, "session", async {
            session.await;
            Ok("the session with the control plane")
        });
        info!(grpc = %addrs.grpc, status = %addrs.status, router = router.name, "router runs");

        let ended = tokio::select! {
            () = tell(&health, &page, &leaving, &shutdown) => Ok(()),
            never = renew(certificate, envoy, &resources) => match never {},
            Some(ended) = parts.join_next() => {
                ended.map_err(Error::from).flatten().and_then(|part| Err(Error::Ended(part)))
            }
        };
        if ended.is_ok() {
            info!(grace = ?router.ladder.grace(), "not ready any more");
            let _ = hurry.run_until_cancelled(sleep(router.ladder.grace())).await;
            drained(&router, &hurry).await;
        }
        router.stop.cancel();
        router.tasks.close();
        let joined = async {
            while parts.join_next().await.is_some() {}
            router.tasks.wait().await;
        };
        if timeout(GRACE, joined).await.is_err() {
            parts.shutdown().await;
        }
        info!("router ended");
        ended
    }
}

/// Where its series are, all of them.
fn register(fleet: &Fleet, registry: &mut Registry) {
    fleet.register(registry.sub_registry_with_prefix("reveille_router"));
}

/// Every series of a router, as it is at the start.
pub fn series() -> Registry {
    let mut registry = Registry::default();
    register(&Fleet::default(), &mut registry);
    Metrics::new(&mut registry);
    registry
}

/// Of the server that Envoys connect to.
fn limits(ladder: &Ladder) -> Server {
    Server::builder()
        .max_concurrent_streams(ladder.max_requests().saturating_add(EXTRA_STREAMS))
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        // Envoy resets a stream for each client that leaves: no sign of an attack.
        .http2_max_pending_accept_reset_streams(Some(ladder.max_requests() as usize))
        .http2_max_local_error_reset_streams(Some(usize::MAX))
}

/// Runs on this network until it is dropped, as a process that is killed. Configures no Envoy and has no page.
#[cfg(feature = "simulation")]
pub async fn simulate<I>(
    name: &str,
    zone: Zone,
    ladder: Ladder,
    control_plane: tonic::transport::Channel,
    incoming: impl futures::Stream<Item = io::Result<I>>,
) -> Result<(), Error>
where
    I: tokio::io::AsyncRead
        + tokio::io::AsyncWrite
        + tonic::transport::server::Connected
        + Unpin
        + Send
        + 'static,
{
    let parts = Parts { name: name.to_owned(), zone, ladder, share: 100 };
    let router = parts.assemble(control_plane, &mut Registry::default());
    let server = limits(&ladder)
        .layer(Authorize::new(&[Role::Envoy]))
        .add_service(ExtProc::new(Arc::clone(&router)));
    tokio::select! {
        ended = server.serve_with_incoming(incoming) => Ok(ended?),
        () = session::keep(router) => Err(Error::Ended("the session with the control plane")),
    }
}

/// Gives Envoy every new certificate.
async fn renew(
    files: Option<certificate::Files>,
    config: resources::Config,
    resources: &watch::Sender<Arc<Resources>>,
) -> Infallible {
    let (Some(files), Some(https)) = (files, &config.https) else {
        return std::future::pending().await;
    };
    let new = |certificate| {
        let https = Some(resources::Https { certificate, ..https.clone() });
        match resources::build(&resources::Config { https, ..config.clone() }) {
            Ok(new) => drop(resources.send_replace(Arc::new(new))),
            Err(error) => warn!(%error, "Envoy is not told of the new certificate"),
        }
    };
    files.follow(https.certificate.clone(), new).await
}

/// Tells by gRPC what `/readyz` tells, until a shutdown begins.
async fn tell(
    health: &HealthReporter,
    page: &Status,
    leaving: &CancellationToken,
    shutdown: &CancellationToken,
) {
    let set = async |status| health.set_service_status("", status).await;
    let ready = async {
        let mut ticks = interval(LOOK);
        while page.unready().is_some() {
            ticks.tick().await;
        }
    };
    if leaving.run_until_cancelled(ready).await.is_some() {
        set(ServingStatus::Serving).await;
    }
    leaving.cancelled().await;
    set(ServingStatus::NotServing).await;
    shutdown.cancelled().await;
}

/// Returns when nothing is in flight and nobody waits, or when the deadline has passed.
async fn drained(router: &Router, hurry: &CancellationToken) {
    let left = || (router.metrics.in_flight.get(), router.table.parking().taken());
    info!(in_flight = left().0, parked = left().1, "draining");
    let look = async {
        let mut ticks = interval(LOOK);
        while left() != (0, 0) {
            ticks.tick().await;
        }
    };
    let hurried = async {
        hurry.cancelled().await;
        sleep(HURRIED).await;
    };
    tokio::select! {
        () = look => {}
        _ = timeout(router.ladder.drain(), hurried) => {
            let (in_flight, parked) = left();
            warn!(in_flight, parked, "the drain deadline passed");
        }
    }
}
