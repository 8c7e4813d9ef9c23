//! Puts the control plane together, serves it, and takes it down in order.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use futures::Stream;
use reveille_api::{
    Ladder, metrics as pages,
    net::{Address, Authorize, ListenError, Listener, Role},
    proto::{
        self, control_server::ControlServer, names_server::NamesServer, nodes_server::NodesServer,
        overview_server::OverviewServer, routers_server::RoutersServer,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    transport::{Server, server::Connected},
};
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};
use tower::util::MapRequestLayer;

use crate::{
    budget::Budget,
    catalog::Catalog,
    clock::{Clock, unix_ms},
    config::{Config, Timings},
    events::Events,
    fleet::{Fleet, Parts},
    metrics::Metrics,
    nodes::{Dial, GrpcAgent, Nodes},
    page::Page,
    routers::Routers,
    service::{
        control::ControlService, names::NamesService, nodes::NodesService,
        overview::OverviewService, routers::RoutersService,
    },
    store::{
        self,
        measured::Measured,
        records::Records,
        redb::{OpenError, RedbStore},
    },
    tasks::Tasks,
};

mod token;

use token::Token;

/// Deleted actors are remembered for so long.
const TOMBSTONES: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often to look for those that may be forgotten.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Largest message from a node agent: an inventory may be long.
const MAX_MESSAGE: usize = 64 << 20;
/// Finds peers that vanished without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// File of the store in the data directory.
const STORE: &str = "reveille.redb";

/// The control plane cannot start. One line that says what to do; its source has the rest.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store cannot be read.
    #[error("the store in {} cannot be read", path.display())]
    Read {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: store::Error,
    },
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The token file cannot be read or made.
    #[error("token file {}", path.display())]
    Token {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An address that was bound cannot be told.
    #[error("the bound address is unknown")]
    Bound(#[source] std::io::Error),
}

/// The control plane cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing can be stored any more; what is on disk is whole.
    #[error("the store has failed; restart the control plane once the disk is well")]
    Store(#[source] store::Error),
    /// A listener has ended.
    #[error("a server has ended")]
    Serve(#[source] tonic::transport::Error),
}

/// Where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addrs {
    /// Everything.
    pub listen: Address,
    /// Everything with certificates; for programs with the token without.
    pub tcp: Option<Address>,
    /// Metrics and probes.
    pub status: Option<Address>,
}

/// A control plane that is ready to serve.
pub struct App {
    fleet: Arc<Fleet>,
    records: Records,
    listener: Listener,
    tcp: Option<(Listener, Access)>,
    status: Option<Listener>,
    addrs: Addrs,
}

/// Whom a TCP address is for.
enum Access {
    /// Every part and program, by its certificate.
    Certified,
    /// Programs, by the token.
    Programs(Token),
}

impl Config {
    /// What can be known to be wrong before anything is opened.
    pub fn check(&self) -> Result<(), BuildError> {
        self.transport.listenable(&self.listen)?;
        match &self.tcp {
            Some(address) if self.transport.identity().is_some() => {
                self.transport.listenable(address)?;
            }
            Some(address) => address.listenable()?,
            None => {}
        }
        Ok(self.status.as_ref().map_or(Ok(()), pages::listenable)?)
    }

    /// Opens the store, picks up what was under way, and binds the addresses. Serves nothing yet.
    pub async fn build(self) -> Result<App, BuildError> {
        let dial = GrpcAgent::dial(self.transport.clone());
        self.build_with(dial).await
    }

    /// As [`Config::build`], with another way to call node agents.
    pub async fn build_with(self, dial: Dial) -> Result<App, BuildError> {
        self.check()?;
        let store = RedbStore::open(&self.data_dir.join(STORE))?;
        let metrics = Metrics::default();
        let records = Records::new(Arc::new(Measured::new(Arc::new(store), metrics.clone())));
        // Before the listeners: whoever calls finds everything known.
        let read = |source| BuildError::Read { path: self.data_dir.clone(), source };
        let budget = self.wake_budget;
        let start = start(self.ladder, self.timings, budget, records.clone(), metrics, dial);
        let fleet = start.await.map_err(read)?;
        let listener = self.transport.listen(&self.listen).await?;
        let tcp = match &self.tcp {
            Some(address) => Some(self.listen_tcp(address).await?),
            None => None,
        };
        let status = match &self.status {
            Some(address) => Some(pages::listen(address).await?),
            None => None,
        };
        let bound = |listener: &Listener| listener.address().map_err(BuildError::Bound);
        let addrs = Addrs {
            listen: bound(&listener)?,
            tcp: tcp.as_ref().map(|(listener, _)| bound(listener)).transpose()?,
            status: status.as_ref().map(bound).transpose()?,
        };
        Ok(App { fleet, records, listener, tcp, status, addrs })
    }

    /// TLS if there is a certificate; plain, on loopback and for who has the token, only if there is none.
    async fn listen_tcp(&self, address: &Address) -> Result<(Listener, Access), BuildError> {
        if self.transport.identity().is_some() {
            return Ok((self.transport.listen(address).await?, Access::Certified));
        }
        let listener = address.listen().await?;
        let token = Token::read_or_make(&self.token_file)
            .map_err(|source| BuildError::Token { path: self.token_file.clone(), source })?;
        Ok((listener, Access::Programs(token)))
    }
}

async fn start(
    ladder: Ladder,
    timings: Timings,
    wake_budget: u32,
    records: Records,
    metrics: Metrics,
    dial: Dial,
) -> Result<Arc<Fleet>, store::Error> {
    let clock = Clock::default();
    let tasks = Tasks::default();
    forget_deleted(&records).await?;
    tasks.spawn("tombstones", forget_daily(records.clone()));
    let (events, log) = Events::open(records.clone())?;
    tasks.spawn("event log", log.run());
    Fleet::start(Parts {
        catalog: Catalog::open(records.clone(), events.clone(), ladder)?,
        nodes: Nodes::new(dial, clock, timings),
        routers: Routers::open(records.clone(), clock, timings)?,
        metrics,
        budget: Budget::new(wake_budget, clock),
        records,
        events,
        tasks,
        clock,
        timings,
    })
    .await
}

async fn forget_deleted(records: &Records) -> Result<(), store::Error> {
    let horizon = unix_ms().saturating_sub(crate::clock::millis(TOMBSTONES));
    records.forget_deleted_before(horizon).await
}

/// Never ends.
async fn forget_daily(records: Records) {
    loop {
        tokio::time::sleep(DAY).await;
        if let Err(error) = forget_deleted(&records).await {
            tracing::warn!(%error, "deleted actors are not forgotten yet");
        }
    }
}

impl App {
    /// Where it listens.
    pub fn addrs(&self) -> &Addrs {
        &self.addrs
    }

    /// Serves until `shutdown`, then finishes the calls under way and stops. Running actors stay as they are.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { fleet, records, listener, tcp, status, .. } = self;
        let stop = CancellationToken::new();
        let (health, servers) = serve(&fleet, listener, tcp, status, &stop);
        let mut servers = servers;
        let outcome = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            error = records.failed() => Err(Error::Store(error)),
            Some(ended) = servers.join_next() => ended.unwrap_or(Ok(())),
        };
        for service in SERVICES {
            health.set_service_status(service, ServingStatus::NotServing).await;
        }
        fleet.quiesce(fleet.timings.shutdown).await;
        // Sessions and followers end with the tasks that feed them; then the connections can close.
        stop.cancel();
        fleet.tasks.stop().await;
        fleet.routers.hang_up();
        let closed = async { while servers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(fleet.timings.shutdown, closed).await;
        outcome
    }
}

/// Named by the health service; the empty name is the whole.
const SERVICES: [&str; 6] = [
    "",
    "reveille.v1.Control",
    "reveille.v1.Nodes",
    "reveille.v1.Overview",
    "reveille.v1.Routers",
    "reveille.v1.Names",
];

type Servers = JoinSet<Result<(), Error>>;

fn serve(
    fleet: &Arc<Fleet>,
    listener: Listener,
    tcp: Option<(Listener, Access)>,
    status: Option<Listener>,
    stop: &CancellationToken,
) -> (HealthReporter, Servers) {
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut servers = JoinSet::new();
    let mut serve = |listener: Listener, programs: Option<Token>| {
        let server = answer(fleet, health.clone(), listener.incoming(), programs, stop);
        reveille_api::task::spawn(&mut servers, "serve", async {
            server.await.map_err(Error::Serve)
        });
    };
    serve(listener, None);
    match tcp {
        Some((listener, Access::Certified)) => serve(listener, None),
        Some((listener, Access::Programs(token))) => serve(listener, Some(token)),
        None => {}
    }
    if let Some(listener) = status {
        let routes = pages::routes(Arc::new(Page::new(Arc::clone(fleet))));
        let served = pages::serve(listener, routes, stop.clone());
        reveille_api::task::spawn(&mut servers, "serve status", async {
            served.await;
            Ok(())
        });
    }
    // New services are serving unless said otherwise; these have names of their own.
    let told = reporter.clone();
    fleet.tasks.spawn("health", async move {
        for service in SERVICES {
            told.set_service_status(service, ServingStatus::Serving).await;
        }
    });
    (reporter, servers)
}

/// Everything on one listener; with a token, only what is for programs.
fn answer<I, H, S>(
    fleet: &Arc<Fleet>,
    health: HealthServer<H>,
    incoming: S,
    programs: Option<Token>,
    stop: &CancellationToken,
) -> impl Future<Output = Result<(), tonic::transport::Error>> + Send + use<I, H, S>
where
    S: Stream<Item = io::Result<I>> + Send + 'static,
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    H: Health,
{
    let nodes = NodesServer::new(NodesService::new(Arc::clone(fleet)))
        .max_decoding_message_size(MAX_MESSAGE);
    let routers = RoutersServer::new(RoutersService::new(Arc::clone(fleet)));
    let names = NamesServer::new(NamesService::new(Arc::clone(fleet)));
    let everything = programs.is_none();
    let authorize = Authorize::new(&[Role::Client, Role::Router, Role::Node]);
    let authorize = match programs {
        Some(token) => authorize.or_if(move |headers| token.check(headers)),
        None => authorize,
    };
    Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .layer(counted(&fleet.metrics))
        .layer(authorize)
        .add_service(health)
        .add_optional_service(reflection())
        .add_service(ControlServer::new(ControlService::new(Arc::clone(fleet))))
        .add_service(OverviewServer::new(OverviewService::new(Arc::clone(fleet))))
        .add_optional_service(everything.then_some(routers))
        .add_optional_service(everything.then_some(nodes))
        .add_optional_service(everything.then_some(names))
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned())
}

/// Runs on this store and this network until it is dropped, as a process that is killed.
#[cfg(feature = "simulation")]
pub async fn simulate<I>(
    store: Arc<dyn store::Store>,
    timings: Timings,
    dial: Dial,
    incoming: impl Stream<Item = io::Result<I>> + Send + 'static,
) -> Result<(), Box<dyn std::error::Error>>
where
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (records, metrics) = (Records::new(store), Metrics::default());
    let fleet = start(Ladder::default(), timings, 0, records, metrics, dial).await?;
    let (_, health) = tonic_health::server::health_reporter();
    Ok(answer(&fleet, health, incoming, None, &CancellationToken::new()).await?)
}

fn counted(
    metrics: &Metrics,
) -> MapRequestLayer<impl Fn(http::Request<Body>) -> http::Request<Body> + Clone + use<>> {
    let metrics = metrics.clone();
    MapRequestLayer::new(move |request: http::Request<Body>| {
        metrics.called(request.uri().path());
        request
    })
}

/// The descriptors are made by our own build, so that they can always be read.
fn reflection() -> Option<
    tonic_reflection::server::v1::ServerReflectionServer<
        impl tonic_reflection::server::v1::ServerReflection,
    >,
> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .inspect_err(|error| tracing::error!(%error, "no reflection"))
        .ok()
}

#[cfg(test)]
mod tests;
