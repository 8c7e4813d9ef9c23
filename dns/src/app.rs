//! Binds the sockets and runs the server.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use hickory_server::{Server, net::NetError, proto::ProtoError};
use reveille_api::Zone;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::{answer::Records, handler::Handler};

/// A TCP client that asks nothing for so long is cut off.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// Replies that may wait for a slow TCP client.
const TCP_REPLIES: usize = 32;
/// Ports tried for one that is free for both protocols, when the kernel chooses.
const PORT_TRIES: usize = 8;

/// What the server is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to listen on, each for UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The zone to answer for.
    pub zone: Zone,
    /// Addresses of the Envoy front, IPv4 and IPv6.
    pub fronts: Vec<IpAddr>,
    /// How long resolvers may keep an answer.
    pub ttl: Duration,
}

impl Config {
    /// Default of [`Config::ttl`]: short, so that a changed front is soon seen.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(5);
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
    /// An address cannot be bound.
    #[error("cannot listen for DNS on {address}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why the server ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket broke.
    #[error("a DNS socket broke")]
    Socket(#[source] NetError),
    /// Every socket was closed.
    #[error("the DNS sockets were closed")]
    Closed,
}

/// Replaces the addresses of the front while the server runs.
#[derive(Clone)]
pub struct Fronts(Arc<ArcSwap<Records>>);

impl Fronts {
    /// Answers from now on with these addresses.
    pub fn set(&self, fronts: &[IpAddr]) {
        self.0.rcu(|records| records.with_fronts(fronts));
    }
}

/// A server that listens.
pub struct App {
    server: Server<Handler>,
    addrs: Vec<SocketAddr>,
    fronts: Fronts,
}

impl Config {
    /// Binds every address.
    pub async fn build(self) -> Result<App, BuildError> {
        if self.listen.is_empty() {
            return Err(BuildError::NoAddress);
        }
        let mut sockets = Vec::new();
        for address in &self.listen {
            let bound = bind(*address).await;
            sockets.push(bound.map_err(|source| BuildError::Listen { address: *address, source })?);
        }
        let own: Vec<IpAddr> =
            self.listen.iter().map(|a| a.ip()).filter(|ip| !ip.is_unspecified()).collect();
        let ttl = u32::try_from(self.ttl.as_secs()).unwrap_or(u32::MAX);
        let records = Records::new(&self.zone, &self.fronts, &own, ttl, unix_seconds())
            .map_err(|source| BuildError::Domain { domain: self.zone.to_string(), source })?;
        let records = Arc::new(ArcSwap::from_pointee(records));

        let mut server = Server::new(Handler(Arc::clone(&records)));
        let mut addrs = Vec::new();
        for (address, udp, tcp) in sockets {
            server.register_socket(udp);
            server.register_listener(tcp, TCP_IDLE, TCP_REPLIES);
            addrs.push(address);
        }
        Ok(App { server, addrs, fronts: Fronts(records) })
    }
}

impl App {
    /// The addresses really bound, each for UDP and TCP, in the order of [`Config::listen`].
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// A handle to change the fronts with.
    pub fn fronts(&self) -> Fronts {
        self.fronts.clone()
    }

    /// Serves until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        tracing::info!(addresses = ?self.addrs, "dns serves");
        tokio::select! {
            ended = self.server.block_until_done() => match ended {
                Ok(()) => Err(Error::Closed),
                Err(error) => Err(Error::Socket(error)),
            },
            () = shutdown.cancelled() => {
                self.server.shutdown_gracefully().await.map_err(Error::Socket)
            }
        }
    }
}

/// One port for both protocols. When the kernel chooses it, it may be taken for the other one.
async fn bind(address: SocketAddr) -> io::Result<(SocketAddr, UdpSocket, TcpListener)> {
    let tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..tries {
        let udp = UdpSocket::bind(address).await?;
        let bound = udp.local_addr()?;
        match TcpListener::bind(bound).await {
            Ok(tcp) => return Ok((bound, udp, tcp)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The first serial: greater than that of an earlier run.
fn unix_seconds() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() as u32
}
