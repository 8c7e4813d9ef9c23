//! What Envoy is told to do, as typed values: an HTTP listener, one for HTTPS, and the clusters they need.
//!
//! ```text
//!  client ─▶ listener "http" ─▶ header_mutation ─▶ ext_proc ─▶ router ─▶ cluster "actors-http1" ─▶ actor
//!                               (x-reveille-*      │  ▲                    or    "actors-h2c"
//!                                removed)          ▼  │ metadata: endpoint, protocol, wake
//!                                            cluster "router"
//! ```
//!
//! A request that cannot be connected to its actor comes back by listener "again" (`again.rs`).
//!
//! [`build`] is deterministic: the same [`Config`] gives the same bytes in every process, because the version
//! of a resource is the hash of its bytes.

mod access_log;
mod again;
mod answer_log;
mod cluster;
mod ext_proc;
mod listener;
mod local_reply;
pub mod names;
mod route;
#[cfg(test)]
mod tests;
mod tls;
mod traces;

use std::{net::SocketAddr, path::PathBuf};

use envoy_types::pb::envoy::{
    config::{cluster::v3::Cluster, listener::v3::Listener},
    extensions::transport_sockets::tls::v3::Secret,
};
use reveille_api::{Ladder, net::Address};

use crate::certificate::Certificate;

/// What the resources are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients reach Envoy: plain HTTP/1.1, HTTP/1.0 and HTTP/2 with prior knowledge on each.
    pub listen: Vec<SocketAddr>,
    /// The same over TLS.
    pub https: Option<Https>,
    /// Timeouts and circuit breakers.
    pub ladder: Ladder,
    /// Where requests are logged.
    pub access_log: AccessLog,
    /// Where their traces go, and of which.
    pub traces: Option<Traces>,
}

/// HTTP/1.1 and HTTP/2 over TLS, by ALPN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Https {
    /// Where clients reach Envoy.
    pub listen: Vec<SocketAddr>,
    /// What Envoy shows them.
    pub certificate: Certificate,
}

/// Envoy's part of the traces: it begins them, and decides which are recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    /// The collector (OTLP by gRPC), reached by each Envoy.
    pub collector: Address,
    /// CAs that its certificate may come from, PEM; without them it is reached without TLS.
    pub roots: Option<Vec<u8>>,
    /// Of a million requests whose client has not decided it, how many are recorded.
    pub per_million: u32,
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
        let (ladder, access_log) = (Ladder::default(), AccessLog::Stdout);
        Self { listen, https: None, ladder, access_log, traces: None }
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
    /// The certificate.
    pub secrets: Vec<Secret>,
}

/// Makes the resources.
pub fn build(config: &Config) -> Result<Resources, Error> {
    let https = config.https.as_ref();
    if config.listen.is_empty() || https.is_some_and(|https| https.listen.is_empty()) {
        return Err(Error::NoAddress);
    }
    Ok(Resources {
        clusters: [
            cluster::actors(names::ACTORS_HTTP1, config),
            cluster::actors(names::ACTORS_H2C, config),
            cluster::again(config),
        ]
        .into_iter()
        .chain(config.traces.as_ref().map(cluster::collector))
        .collect(),
        listeners: [listener::http(config)]
            .into_iter()
            .chain(https.map(|https| listener::https(config, https)))
            .chain([listener::again(config)])
            .collect(),
        secrets: https.map(|https| tls::secret(&https.certificate)).into_iter().collect(),
    })
}

pub(crate) use cluster::grpc as grpc_cluster;
