//! Binds the sockets and runs the server.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use hickory_proto::ProtoError;
use reveille_api::{
    Zone,
    metrics::{self as pages, Registry},
    net::{Address, ListenError, Listener},
    task,
};
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    answer::Records,
    certificate,
    fronts::{self, Follow, Fronts, Source},
    kubernetes,
    limit::RateLimit,
    metrics::Metrics,
    names::{Asker, ControlPlane, Names},
    query_log,
    shared::Shared,
    socket::{self, Datagrams},
    status::Status,
    stream, udp,
};

/// What the pages and the last lines of the query log get to end in; connections get no time.
const LAST: Duration = Duration::from_secs(1);

/// What the server is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to listen on, each for UDP and TCP; `[::]` is IPv6 alone.
    pub listen: Vec<SocketAddr>,
    /// DNS over TLS.
    pub tls: Option<Tls>,
    /// The zone to answer for.
    pub zone: Zone,
    /// Where the addresses of the Envoy front come from.
    pub fronts: Source,
    /// This server's own addresses, for `ns.<domain>`. None: those it listens on, as far as they are told.
    pub name_servers: Vec<IpAddr>,
    /// How long resolvers may keep an answer, in seconds.
    pub ttl: u32,
    /// Replies a second over UDP to each /24 or /56; no limit when there is none.
    pub rate_limit: Option<NonZero<u32>>,
    /// Probes and metrics.
    pub status: Option<Address>,
    /// Where every question is written down; [`crate::STDOUT`] is standard output.
    pub query_log: Option<PathBuf>,
    /// What the control plane is asked about actors; nothing when there is none.
    pub control_plane: Option<ControlPlane>,
    /// How long a stop serves on while it is not ready any more.
    pub grace: Duration,
}

/// DNS over TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Where.
    pub listen: Vec<SocketAddr>,
    /// Its certificate, which is read again when it changes.
    pub files: certificate::Files,
}

impl Config {
    /// Default of [`Config::ttl`]: short, so that a changed front is soon seen.
    pub const DEFAULT_TTL: u32 = 5;

    /// One address and one zone, and the defaults.
    pub fn new(listen: SocketAddr, zone: Zone, fronts: Source) -> Self {
        Self {
            listen: vec![listen],
            tls: None,
            zone,
            fronts,
            name_servers: Vec::new(),
            ttl: Self::DEFAULT_TTL,
            rate_limit: None,
            status: None,
            query_log: None,
            control_plane: None,
            grace: Duration::ZERO,
        }
    }
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No address to listen on.
    #[error("no address to listen on is given")]
    NoAddress,
    /// The domain is longer than names may be.
    #[error("domain {domain} is too long for DNS")]
    Domain {
        /// As configured.
        domain: String,
        /// What the limit is.
        source: ProtoError,
    },
    /// Actors' names would have no address.
    #[error("{0} addresses of the front are given; there must be 1 to {most}", most = fronts::MOST)]
    Fronts(usize),
    /// Nobody can tell the front's addresses.
    #[error(transparent)]
    Kubernetes(#[from] kubernetes::Error),
    /// An address cannot be bound.
    #[error("cannot listen for DNS on {address}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The address of the pages cannot be bound.
    #[error(transparent)]
    Status(#[from] ListenError),
    /// The kernel does not tell where they are.
    #[error("cannot tell where the status page is")]
    Bound(#[source] io::Error),
    /// There is no certificate for DNS over TLS.
    #[error(transparent)]
    Certificate(#[from] certificate::Error),
    /// The query log cannot be opened.
    #[error("cannot write the query log {}", path.display())]
    QueryLog {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why the server ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part that never ends did.
    #[error("a part of the DNS server failed")]
    Task(#[from] JoinError),
}

/// Where a server listens, with the ports the kernel chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addrs {
    /// UDP and TCP, in the order of [`Config::listen`].
    pub dns: Vec<SocketAddr>,
    /// DNS over TLS.
    pub tls: Vec<SocketAddr>,
    /// Probes and metrics.
    pub status: Option<Address>,
}

/// Every series of a server, as it is at the start.
pub fn series() -> Registry {
    let mut registry = Registry::default();
    Metrics::new(&mut registry);
    registry
}

/// A server that listens.
pub struct App {
    shared: Arc<Shared>,
    follow: Follow,
    registry: Registry,
    addrs: Addrs,
    udp: Vec<Datagrams>,
    streams: Vec<(TcpListener, Option<TlsAcceptor>)>,
    status: Option<Listener>,
    query_log: Option<query_log::Writer>,
    asker: Option<Asker>,
    grace: Duration,
    leaving: Option<CancellationToken>,
    hurry: CancellationToken,
}

impl Config {
    /// Checks everything and binds every address.
    pub async fn build(self) -> Result<App, BuildError> {
        if self.listen.is_empty() {
            return Err(BuildError::NoAddress);
        }
        let given = matches!(self.fronts, Source::Given(_));
        let (first, follow) = self.fronts.clone().open().await?;
        if given && !(1..=fronts::MOST).contains(&first.len()) {
            return Err(BuildError::Fronts(first.len()));
        }
        let records = self.records(&first)?;
        let mut addrs = Addrs { dns: Vec::new(), tls: Vec::new(), status: None };
        let (mut udp, mut streams) = (Vec::new(), Vec::new());
        for &address in &self.listen {
            let failed = |source| BuildError::Listen { address, source };
            let (bound, datagrams, listener) = socket::bind(address).map_err(failed)?;
            addrs.dns.push(bound);
            udp.push(datagrams);
            streams.push((listener, None));
        }
        if let Some(Tls { listen, files }) = self.tls {
            let acceptor = TlsAcceptor::from(Arc::new(files.server()?));
            for address in listen {
                let failed = |source| BuildError::Listen { address, source };
                let listener = socket::listen(address).map_err(failed)?;
                addrs.tls.push(listener.local_addr().map_err(failed)?);
                streams.push((listener, Some(acceptor.clone())));
            }
        }
        let mut status = None;
        if let Some(address) = &self.status {
            let listener = pages::listen(address).await?;
            addrs.status = Some(listener.address().map_err(BuildError::Bound)?);
            status = Some(listener);
        }
        let (mut log, mut writer) = (None, None);
        if let Some(path) = self.query_log {
            let opened = query_log::open(&path).await;
            let (sender, receiver) =
                opened.map_err(|source| BuildError::QueryLog { path, source })?;
            (log, writer) = (Some(sender), Some(receiver));
        }
        let (mut names, mut asker) = (None, None);
        if let Some(control_plane) = self.control_plane {
            let (asked, asks) = Names::new(self.zone, control_plane);
            (names, asker) = (Some(asked), Some(asks));
        }
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        metrics.set_fronts(records.fronts());
        let start = Instant::now();
        let shared = Arc::new(Shared {
            records: Arc::new(ArcSwap::from_pointee(records)),
            limit: self.rate_limit.map(|rate| RateLimit::new(rate, start)),
            connections: stream::Connections::default(),
            turn: AtomicUsize::new(0),
            metrics,
            query_log: log,
            names,
        });
        Ok(App {
            shared,
            follow,
            registry,
            addrs,
            udp,
            streams,
            status,
            query_log: writer,
            asker,
            grace: self.grace,
            leaving: None,
            hurry: CancellationToken::new(),
        })
    }

    /// Where others find this server.
    fn own_addresses(&self) -> Vec<IpAddr> {
        let mut own = self.name_servers.clone();
        if own.is_empty() {
            own.extend(self.listen.iter().map(|a| a.ip()).filter(|ip| !ip.is_unspecified()));
            // What another machine cannot reach helps it only where there is nothing else.
            if !own.iter().all(IpAddr::is_loopback) {
                own.retain(|ip| !ip.is_loopback());
            }
        }
        own
    }

    fn records(&self, fronts: &[IpAddr]) -> Result<Records, BuildError> {
        Records::new(&self.zone, fronts, &self.own_addresses(), self.ttl, unix_seconds())
            .map_err(|source| BuildError::Domain { domain: self.zone.to_string(), source })
    }
}

impl App {
    /// The addresses really bound.
    pub fn addrs(&self) -> &Addrs {
        &self.addrs
    }

    /// A handle to change the fronts with.
    pub fn fronts(&self) -> Fronts {
        Fronts(Arc::clone(&self.shared))
    }

    /// With a token that hurries a shutdown: no grace.
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

    /// Serves until `shutdown`, and then for the grace in which whoever asks us notices.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        tracing::info!(addresses = ?self.addrs, "dns serves");
        let fronts = self.fronts();
        let leaving = self.leaving.unwrap_or_else(|| shutdown.child_token());
        let Self { shared, follow, registry, udp, streams, status, query_log, asker, .. } = self;
        let Self { grace, hurry, .. } = self;
        let mut parts: JoinSet<Result<Infallible, Error>> = JoinSet::new();
        for socket in udp {
            let shared = Arc::clone(&shared);
            task::spawn(&mut parts, "dns udp", async { Ok(udp::serve(socket, shared).await) });
        }
        let ending = CancellationToken::new();
        for (listener, tls) in streams {
            let serve = stream::serve(listener, tls, Arc::clone(&shared));
            task::spawn(&mut parts, "dns streams", async { Ok(serve.await) });
        }
        task::spawn(&mut parts, "dns fronts", async { Ok(follow.run(fronts).await) });
        if let (Some(asker), Some(names)) = (asker, shared.names.clone()) {
            let asks = asker.run(names, shared.metrics.clone());
            task::spawn(&mut parts, "dns names", async { Ok(asks.await) });
        }
        let mut servers = JoinSet::new();
        if let Some(listener) = status {
            let shared = Arc::clone(&shared);
            let routes = pages::routes(Arc::new(Status { shared, registry, leaving }));
            let serve = pages::serve(listener, routes, ending.clone());
            task::spawn(&mut servers, "dns status", serve);
        }
        let mut log = JoinSet::new();
        if let Some(writer) = query_log {
            task::spawn(&mut log, "dns query log", writer.run());
        }
        let told = async {
            shutdown.cancelled().await;
            tracing::info!(?grace, "not ready any more");
            let _ = hurry.run_until_cancelled(sleep(grace)).await;
        };
        let ended = tokio::select! {
            () = told => Ok(()),
            Some(ended) = parts.join_next() => match ended {
                Ok(Ok(never)) => match never {},
                Ok(Err(error)) => Err(error),
                Err(error) => Err(error.into()),
            },
            Some(ended) = servers.join_next() => ended.map_err(Error::from),
        };
        ending.cancel();
        parts.shutdown().await;
        // With its last sender the log ends, after its last line.
        drop(shared);
        let finish = async {
            while servers.join_next().await.is_some() {}
            while log.join_next().await.is_some() {}
        };
        let _ = timeout(LAST, finish).await;
        ended
    }
}

/// The first serial: greater than that of an earlier run.
fn unix_seconds() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_found_where_it_was_told_or_listens_and_others_can_reach_it() {
        let own = |listen: &[&str], told: &[&str]| {
            let zone = "actors.localhost".parse().unwrap();
            let mut config =
                Config::new(([127, 0, 0, 1], 53).into(), zone, Source::Given(Vec::new()));
            config.listen = listen.iter().map(|ip| format!("{ip}:53").parse().unwrap()).collect();
            config.name_servers = told.iter().map(|ip| ip.parse().unwrap()).collect();
            let own = config.own_addresses();
            own.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(own(&["0.0.0.0", "[::]"], &[]), "");
        assert_eq!(own(&["127.0.0.1", "192.0.2.53"], &[]), "192.0.2.53");
        assert_eq!(own(&["127.0.0.1", "[::1]"], &[]), "127.0.0.1 ::1");
        assert_eq!(own(&["0.0.0.0"], &["198.51.100.53"]), "198.51.100.53");
    }
}
