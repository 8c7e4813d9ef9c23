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

use std::{net::SocketAddr, path::PathBuf};

use envoy_types::pb::envoy::config::{cluster::v3::Cluster, listener::v3::Listener};
use reveille_api::Ladder;

/// What the resources are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients reach Envoy: plain HTTP/1.1, HTTP/1.0 and HTTP/2 with prior knowledge on each.
    pub listen: Vec<SocketAddr>,
    /// Timeouts and circuit breakers.
    pub ladder: Ladder,
    /// Where requests are logged.
    pub access_log: AccessLog,
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
    pub fn new(listen: Vec<SocketAddr>) -> Self {
        Self { listen, ladder: Ladder::default(), access_log: AccessLog::Stdout }
    }
}

/// A configuration that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is nothing to listen on.
    #[error("Envoy needs at least one address to listen on")]
    NoAddress,
}

/// Everything Envoy gets over ADS.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// Upstreams: the actors. The routers are known from the bootstrap.
    pub clusters: Vec<Cluster>,
    /// Listeners, with their routes inline.
    pub listeners: Vec<Listener>,
}

/// Makes the resources.
pub fn build(config: &Config) -> Result<Resources, Error> {
    if config.listen.is_empty() {
        return Err(Error::NoAddress);
    }
    Ok(Resources {
        clusters: vec![
            cluster::actors(names::ACTORS_HTTP1, config),
            cluster::actors(names::ACTORS_H2C, config),
        ],
        listeners: vec![listener::http(config)],
    })
}

pub(crate) use cluster::grpc as grpc_cluster;
