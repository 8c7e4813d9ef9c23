//! The listeners: codec, timeouts, filters. That for HTTPS differs by its address and TLS alone; that for second tries has no
//! address, believes what the first one says of the client, and takes out what it said to the router.

use std::{net::SocketAddr, time::Duration};

use envoy_types::pb::envoy::{
    config::{
        common::mutation_rules::v3::{
            HeaderMutation as Mutation,
            header_mutation::{Action, RemoveOnMatch},
        },
        core::v3::{
            CidrRange, Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions,
            TransportSocket,
        },
        listener::v3::{AdditionalAddress, Filter, FilterChain, Listener, filter, listener},
    },
    extensions::filters::{
        http::{
            header_mutation::v3::{HeaderMutation, Mutations},
            router::v3::Router,
        },
        network::http_connection_manager::v3::{
            HttpConnectionManager, HttpFilter,
            http_connection_manager::{
                CodecType, InternalAddressConfig, PathWithEscapedSlashesAction, RouteSpecifier,
                ServerHeaderTransformation, UpgradeConfig,
            },
            http_filter,
        },
    },
    r#type::matcher::v3::{StringMatcher, string_matcher},
};
use prost::{Message, Name};
use reveille_api::net::Address;

use super::{
    Config, Https, access_log, answer_log, cluster, ext_proc, local_reply, names,
    route::{self, Try},
    tls, traces,
};
use crate::proto::{address, any, boolean, duration, uint32};

/// Time to send the headers of a request, all of them.
const HEADERS: Duration = Duration::from_secs(30);
/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A connection without any request is closed after this.
const CONNECTION_IDLE: Duration = Duration::from_secs(15 * 60);
/// Beginnings of the headers that clients must not set. Programs that name headers as CGI does take an underscore for a hyphen.
const REMOVED: &[&str] =
    &[names::HEADER_PREFIX, "x_reveille_", "x-reveille_", "x_reveille-", "x-envoy-"];
/// Requests at a time on one HTTP/2 connection.
const STREAMS: u32 = 1024;

pub(super) fn http(config: &Config) -> Listener {
    listener(names::LISTENER, &config.listen, None, &connection_manager(config))
}

pub(super) fn https(config: &Config, https: &Https) -> Listener {
    listener(names::HTTPS, &https.listen, Some(tls::socket()), &connection_manager(config))
}

pub(super) fn again(config: &Config) -> Listener {
    let manager = HttpConnectionManager {
        stat_prefix: names::AGAIN.into(),
        route_specifier: Some(RouteSpecifier::RouteConfig(route::config(Try::Again))),
        http2_protocol_options: Some(Http2ProtocolOptions { allow_connect: true, ..http2() }),
        http_filters: vec![
            ext_proc_filter(config, &[names::FAILED_HEADER]),
            strip(),
            router_filter(),
        ],
        use_remote_address: boolean(false),
        skip_xff_append: true,
        generate_request_id: boolean(false),
        always_set_request_id_in_response: false,
        // One line for a request.
        access_log: Vec::new(),
        ..connection_manager(config)
    };
    let internal = listener::InternalListenerConfig::default();
    Listener {
        listener_specifier: Some(listener::ListenerSpecifier::InternalListener(internal)),
        ..listener(names::AGAIN, &[], None, &manager)
    }
}

fn listener(
    name: &str,
    listen: &[SocketAddr],
    transport_socket: Option<TransportSocket>,
    manager: &HttpConnectionManager,
) -> Listener {
    let manager = Filter {
        name: "envoy.filters.network.http_connection_manager".into(),
        config_type: Some(filter::ConfigType::TypedConfig(any(manager))),
    };
    let handshake = transport_socket.as_ref().and_then(|_| duration(HANDSHAKE));
    let mut addresses = listen.iter().map(|addr| Some(address(&Address::Tcp(*addr))));
    Listener {
        name: name.into(),
        stat_prefix: name.into(),
        address: addresses.next().flatten(),
        additional_addresses: addresses
            .map(|address| AdditionalAddress { address, ..Default::default() })
            .collect(),
        filter_chains: vec![FilterChain {
            filters: vec![manager],
            transport_socket,
            transport_socket_connect_timeout: handshake,
            ..Default::default()
        }],
        per_connection_buffer_limit_bytes: uint32(cluster::BUFFER),
        ..Default::default()
    }
}

fn connection_manager(config: &Config) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: names::LISTENER.into(),
        codec_type: CodecType::Auto.into(),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: duration(CONNECTION_IDLE),
            ..Default::default()
        }),
        http_protocol_options: Some(Http1ProtocolOptions {
            accept_http_10: true,
            ..cluster::http1()
        }),
        // No WebSockets over HTTP/2 (RFC 8441): they bring no key, which actors of HTTP/1.1 ask for. A client to whom they are
        // not offered makes a connection of HTTP/1.1 for each, which reaches actors of both kinds.
        http2_protocol_options: Some(http2()),
        route_specifier: Some(RouteSpecifier::RouteConfig(route::config(Try::First))),
        http_filters: vec![strip(), ext_proc_filter(config, &[]), router_filter()],
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".into(),
            ..Default::default()
        }],

        // No limit on the length of a request or an answer, only on silence.
        stream_idle_timeout: duration(config.ladder.stream_idle()),
        request_timeout: duration(Duration::ZERO),
        request_headers_timeout: duration(HEADERS),

        // Envoy is the edge: what a client says about where it comes from is not believed.
        use_remote_address: boolean(true),
        internal_address_config: Some(nobody_is_internal()),
        generate_request_id: boolean(true),
        always_set_request_id_in_response: true,

        // The actor sees the request as the client sent it, and the client the actor's answer.
        normalize_path: boolean(false),
        merge_slashes: false,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::KeepUnchanged.into(),
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        proxy_100_continue: true,

        local_reply_config: Some(local_reply::config()),
        access_log: access_log::access_log(&config.access_log)
            .into_iter()
            .chain([answer_log::answer_log(), answer_log::wake_log()])
            .collect(),
        tracing: config.traces.as_ref().map(traces::tracing),
        ..Default::default()
    }
}

fn http2() -> Http2ProtocolOptions {
    Http2ProtocolOptions { max_concurrent_streams: uint32(STREAMS), ..cluster::http2() }
}

/// Requests of "internal" clients may carry headers that tell Envoy to retry, and Envoy takes every private
/// address for internal unless a range is given. No connection comes from this one.
fn nobody_is_internal() -> InternalAddressConfig {
    InternalAddressConfig {
        cidr_ranges: vec![CidrRange {
            address_prefix: "255.255.255.255".into(),
            prefix_len: uint32(32),
        }],
        unix_sockets: false,
    }
}

/// Headers that are ours and not for clients to set, and those that would tell Envoy to retry or to time out.
fn strip() -> HttpFilter {
    let remove = |prefix: &str| Mutation {
        action: Some(Action::RemoveOnMatch(RemoveOnMatch {
            key_matcher: Some(StringMatcher {
                match_pattern: Some(string_matcher::MatchPattern::Prefix(prefix.into())),
                ignore_case: true,
            }),
        })),
    };
    let strip = HeaderMutation {
        mutations: Some(Mutations {
            request_mutations: REMOVED.iter().copied().map(remove).collect(),
            request_trailers_mutations: REMOVED.iter().copied().map(remove).collect(),
            response_trailers_mutations: vec![remove(names::HEADER_PREFIX)],
            ..Default::default()
        }),
        ..Default::default()
    };
    http_filter("envoy.filters.http.header_mutation", &strip)
}

fn ext_proc_filter(config: &Config, more: &[&str]) -> HttpFilter {
    http_filter("envoy.filters.http.ext_proc", &ext_proc::filter(config, more))
}

fn router_filter() -> HttpFilter {
    let router = Router {
        suppress_envoy_headers: true,
        // Nobody reads them, and they cost a little on every request.
        dynamic_stats: boolean(false),
        ..Default::default()
    };
    http_filter("envoy.filters.http.router", &router)
}

pub(super) fn http_filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}
