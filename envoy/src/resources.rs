//! What Envoy is told to do, as typed values: one HTTP listener and the clusters it needs.
//!
//! ```text
//!  client ─▶ listener "http" ─▶ header_mutation ─▶ ext_proc ─▶ router ─▶ cluster "actors-http1" ─▶ actor
//!                               (x-reveille-*      │  ▲                    or    "actors-h2c"
//!                                removed)          ▼  │ metadata: endpoint, protocol, wake
//!                                            cluster "router"
//! ```
//!
//! [`build`] is deterministic: the same [`Config`] gives the same bytes in every process, because the version
//! of a resource is the hash of its bytes.

mod access_log;
mod cluster;
mod ext_proc;
mod listener;
mod local_reply;
pub mod names;
mod route;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use envoy_types::pb::envoy::config::{cluster::v3::Cluster, listener::v3::Listener};
use reveille_api::{Ladder, net::Address};

/// What the resources are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients reach Envoy: plain HTTP/1.1, HTTP/1.0 and HTTP/2 with prior knowledge on each.
    pub listen: Vec<SocketAddr>,
    /// Timeouts and circuit breakers.
    pub ladder: Ladder,
    /// The router's ext_proc server.
    pub router: Address,
    /// Where requests are logged.
    pub access_log: AccessLog,
    /// A stream on which nothing moves for so long is ended: a WebSocket or an event stream must say
    /// something this often. There is no limit on a stream's length.
    pub stream_idle: Duration,
    /// Limit of one connection attempt to an actor. An endpoint that does not serve refuses at once, so only a
    /// lost machine is waited for; but a thousand requests released by one wake can overrun the actor's queue,
    /// and a first packet dropped there is sent again after 1 s and 3 s.
    pub connect: Duration,
}

/// Where requests are logged, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Envoy's standard output.
    Stdout,
    /// Appended to a file, which Envoy reopens on SIGUSR1.
    File(PathBuf),
}

impl Config {
    /// The defaults of the design, for these addresses.
    pub fn new(listen: Vec<SocketAddr>, router: Address) -> Self {
        Self {
            listen,
            ladder: Ladder::default(),
            router,
            access_log: AccessLog::Stdout,
            stream_idle: Duration::from_secs(60 * 60),
            connect: Duration::from_secs(5),
        }
    }
}

/// A configuration that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is nothing to listen on.
    #[error("Envoy needs at least one address to listen on")]
    NoAddress,
    /// Envoy would end parked requests.
    #[error(
        "the stream idle timeout ({idle:?}) must be greater than Envoy's ext_proc timeout ({ext_proc:?}), \
         which is the park budget and a margin: raise the first or lower the park budget"
    )]
    IdleTooShort {
        /// [`Config::stream_idle`].
        idle: Duration,
        /// [`Ladder::ext_proc`].
        ext_proc: Duration,
    },
}

/// Everything Envoy gets over ADS.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// Upstreams: the router and the actors.
    pub clusters: Vec<Cluster>,
    /// Listeners, with their routes inline.
    pub listeners: Vec<Listener>,
}

/// Makes the resources.
pub fn build(config: &Config) -> Result<Resources, Error> {
    if config.listen.is_empty() {
        return Err(Error::NoAddress);
    }
    if config.stream_idle <= config.ladder.ext_proc() {
        let ext_proc = config.ladder.ext_proc();
        return Err(Error::IdleTooShort { idle: config.stream_idle, ext_proc });
    }
    Ok(Resources {
        clusters: vec![
            cluster::actors(names::ACTORS_HTTP1, config),
            cluster::actors(names::ACTORS_H2C, config),
            cluster::grpc(names::ROUTER, &config.router, config.ladder.max_requests()),
        ],
        listeners: vec![listener::http(config)],
    })
}

pub(crate) use cluster::grpc as grpc_cluster;
