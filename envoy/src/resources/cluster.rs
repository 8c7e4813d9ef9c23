//! Clusters: the actors, found by metadata; the parts of Reveille, found by address.

use std::{collections::HashMap, time::Duration};

use envoy_types::pb::envoy::{
    config::{
        cluster::v3::{
            CircuitBreakers, Cluster, UpstreamConnectionOptions, circuit_breakers::Thresholds,
            cluster,
        },
        core::v3::{
            self as core, EnvoyInternalAddress, HealthCheck, Http1ProtocolOptions,
            Http2ProtocolOptions, RoutingPriority, TcpKeepalive,
            envoy_internal_address::AddressNameSpecifier,
            health_check::{GrpcHealthCheck, HealthChecker},
        },
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
        },
    },
    extensions::upstreams::http::v3::{
        HttpProtocolOptions,
        http_protocol_options::{
            ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
            explicit_http_config::ProtocolConfig,
        },
    },
    r#type::metadata::v3::{
        MetadataKey,
        metadata_key::{PathSegment, path_segment},
    },
};
use reveille_api::{ladder::HEALTH, net::Address};

use super::{Config, Traces, again, names};
use crate::{
    proto::{address, any, duration, uint32},
    tls,
};

/// An idle connection to an actor is closed after this, in order, so that few are left to be reset when the actor is
/// suspended for idleness: a server whose connections were reset may not survive gVisor's restore.
const ACTOR_IDLE: Duration = Duration::from_secs(2);
/// Endpoints that were not used for so long are forgotten. They are never used again by another activation.
const ACTOR_CLEANUP: Duration = Duration::from_secs(60);
/// Limit of one connection attempt to a part of Reveille.
const PART_CONNECT: Duration = Duration::from_secs(1);
/// Calls to the collector of traces at a time.
const COLLECTOR_CALLS: u32 = 16;
/// What a connection may buffer in each direction: it bounds the memory of a large body, and of a request
/// that is parked.
pub(super) const BUFFER: u32 = 128 * 1024;
/// Window of one HTTP/2 stream, and of a connection.
pub(super) const STREAM_WINDOW: u32 = 128 * 1024;
pub(super) const CONNECTION_WINDOW: u32 = 1024 * 1024;
const PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Actors of one protocol. Each request carries its actor's endpoint in dynamic metadata; connections are
/// pooled by endpoint, and no endpoint is ever used by two activations.
pub(super) fn actors(name: &str, config: &Config) -> Cluster {
    let protocol = match name {
        names::ACTORS_H2C => ProtocolConfig::Http2ProtocolOptions(http2()),
        _ => ProtocolConfig::HttpProtocolOptions(http1()),
    };
    let metadata_key = MetadataKey {
        key: names::METADATA.into(),
        path: vec![PathSegment {
            segment: Some(path_segment::Segment::Key(names::ENDPOINT.into())),
        }],
    };
    Cluster {
        name: name.into(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::OriginalDst.into(),
        )),
        lb_policy: cluster::LbPolicy::ClusterProvided.into(),
        lb_config: Some(cluster::LbConfig::OriginalDstLbConfig(cluster::OriginalDstLbConfig {
            metadata_key: Some(metadata_key),
            ..Default::default()
        })),
        cleanup_interval: duration(ACTOR_CLEANUP),
        connect_timeout: duration(config.ladder.connect()),
        per_connection_buffer_limit_bytes: uint32(BUFFER),
        circuit_breakers: Some(circuit_breakers(config.ladder.max_requests())),
        typed_extension_protocol_options: protocol_options(explicit(protocol), Some(ACTOR_IDLE)),
        upstream_connection_options: Some(UpstreamConnectionOptions {
            tcp_keepalive: Some(TcpKeepalive {
                keepalive_probes: uint32(3),
                keepalive_time: uint32(30),
                keepalive_interval: uint32(10),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Envoy itself, for second tries. They come as the client spoke, so that nothing is lost in between.
pub(super) fn again(config: &Config) -> Cluster {
    let listener = EnvoyInternalAddress {
        address_name_specifier: Some(AddressNameSpecifier::ServerListenerName(names::AGAIN.into())),
        ..Default::default()
    };
    let address =
        core::Address { address: Some(core::address::Address::EnvoyInternalAddress(listener)) };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(
            UseDownstreamHttpConfig {
                http_protocol_options: Some(http1()),
                http2_protocol_options: Some(http2()),
                ..Default::default()
            },
        )),
        http_filters: again::upstream_filters(),
        ..Default::default()
    };
    Cluster {
        name: names::AGAIN.into(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Static.into(),
        )),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: names::AGAIN.into(),
            endpoints: vec![locality(address, 0)],
            ..Default::default()
        }),
        connect_timeout: duration(PART_CONNECT),
        per_connection_buffer_limit_bytes: uint32(BUFFER),
        circuit_breakers: Some(circuit_breakers(config.ladder.max_requests())),
        typed_extension_protocol_options: protocol_options(options, Some(ACTOR_IDLE)),
        ..Default::default()
    }
}

/// Routers, at one address or several: the first one that serves is used. Their streams last as long as what they
/// are for: there is no timeout on them.
///
/// They are all reached by Unix sockets, or all with TLS. Several are asked for their health. One that stops says that
/// it does not serve: its streams go on, new ones go to the next. For a single one there is no other, so nothing would
/// come of asking.
pub(crate) fn grpc(name: &str, at: &[Address], max_requests: u32) -> Cluster {
    // Finds a peer that vanished without a FIN. On a Unix socket there is no such thing, and a ping that
    // comes late on a busy machine would end every stream.
    let remote = at.iter().any(|at| !at.is_unix());
    let connection_keepalive = remote.then(|| core::KeepaliveSettings {
        interval: duration(Duration::from_secs(30)),
        timeout: duration(Duration::from_secs(20)),
        ..Default::default()
    });
    let protocol = Http2ProtocolOptions { connection_keepalive, ..http2() };
    let discovery = match at.iter().any(|at| matches!(at, Address::Name { .. })) {
        true => cluster::DiscoveryType::StrictDns,
        false => cluster::DiscoveryType::Static,
    };
    Cluster {
        name: name.into(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(discovery.into())),
        transport_socket: remote.then(tls::to_router),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.into(),
            endpoints: at
                .iter()
                .zip(0..)
                .map(|(at, priority)| locality(address(at), priority))
                .collect(),
            ..Default::default()
        }),
        health_checks: if at.len() > 1 { vec![health_check()] } else { Vec::new() },
        connect_timeout: duration(PART_CONNECT),
        per_connection_buffer_limit_bytes: uint32(CONNECTION_WINDOW),
        circuit_breakers: Some(circuit_breakers(max_requests)),
        typed_extension_protocol_options: protocol_options(
            explicit(ProtocolConfig::Http2ProtocolOptions(protocol)),
            None,
        ),
        ..Default::default()
    }
}

/// Whoever takes Envoy's spans. What it cannot be told is dropped, so no more than a few calls wait for it.
pub(super) fn collector(traces: &Traces) -> Cluster {
    let at = &traces.collector;
    let discovery = match at {
        Address::Name { .. } => cluster::DiscoveryType::StrictDns,
        Address::Tcp(_) | Address::Unix(_) => cluster::DiscoveryType::Static,
    };
    let protocol = ProtocolConfig::Http2ProtocolOptions(http2());
    Cluster {
        name: names::COLLECTOR.into(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(discovery.into())),
        transport_socket: traces.roots.as_ref().map(|roots| tls::to_outside(at, roots)),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: names::COLLECTOR.into(),
            endpoints: vec![locality(address(at), 0)],
            ..Default::default()
        }),
        connect_timeout: duration(PART_CONNECT),
        circuit_breakers: Some(circuit_breakers(COLLECTOR_CALLS)),
        typed_extension_protocol_options: protocol_options(explicit(protocol), None),
        ..Default::default()
    }
}

fn locality(address: core::Address, priority: u32) -> LocalityLbEndpoints {
    let endpoint = Endpoint { address: Some(address), ..Default::default() };
    let endpoint = LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    };
    LocalityLbEndpoints { lb_endpoints: vec![endpoint], priority, ..Default::default() }
}

fn health_check() -> HealthCheck {
    HealthCheck {
        timeout: duration(HEALTH.timeout),
        interval: duration(HEALTH.interval),
        // A router without requests is asked as often as one that has some.
        no_traffic_interval: duration(HEALTH.interval),
        unhealthy_threshold: uint32(HEALTH.failures),
        healthy_threshold: uint32(1),
        health_checker: Some(HealthChecker::GrpcHealthCheck(GrpcHealthCheck::default())),
        ..Default::default()
    }
}

/// Trailers pass, in both directions.
pub(super) fn http1() -> Http1ProtocolOptions {
    Http1ProtocolOptions { enable_trailers: true, ..Default::default() }
}

pub(super) fn http2() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        initial_stream_window_size: uint32(STREAM_WINDOW),
        initial_connection_window_size: uint32(CONNECTION_WINDOW),
        ..Default::default()
    }
}

fn explicit(protocol: ProtocolConfig) -> HttpProtocolOptions {
    let config = ExplicitHttpConfig { protocol_config: Some(protocol) };
    HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)),
        ..Default::default()
    }
}

/// One entry only: with more, the encoding would depend on the order of a hash map.
fn protocol_options(
    options: HttpProtocolOptions,
    idle: Option<Duration>,
) -> HashMap<String, envoy_types::pb::google::protobuf::Any> {
    let options = HttpProtocolOptions {
        common_http_protocol_options: idle.map(|idle| core::HttpProtocolOptions {
            idle_timeout: duration(idle),
            ..Default::default()
        }),
        ..options
    };
    HashMap::from([(PROTOCOL_OPTIONS.to_owned(), any(&options))])
}

/// Envoy's own default of 1,024 would cap parking without a word.
fn circuit_breakers(max_requests: u32) -> CircuitBreakers {
    let thresholds = |priority: RoutingPriority| Thresholds {
        priority: priority.into(),
        max_connections: uint32(max_requests),
        max_pending_requests: uint32(max_requests),
        max_requests: uint32(max_requests),
        max_retries: uint32(max_requests),
        track_remaining: true,
        ..Default::default()
    };
    CircuitBreakers {
        thresholds: vec![thresholds(RoutingPriority::Default), thresholds(RoutingPriority::High)],
        ..Default::default()
    }
}
