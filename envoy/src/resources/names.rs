//! The names that the router and Envoy must agree on.
//!
//! The router answers the `request_headers` message of each ext_proc stream with one of:
//!
//! | outcome | `ProcessingResponse` |
//! | --- | --- |
//! | go on to an `http1` actor | `request_headers` without mutations; `dynamic_metadata` [`METADATA`] with [`ENDPOINT`] |
//! | go on to an `h2c` actor | the same, with [`PROTOCOL`] = [`H2C`] and `clear_route_cache: true` and an empty `header_mutation` in the `CommonResponse`: the route was chosen before the answer came, and without a mutation Envoy does not choose again |
//! | go on after a wait | the same as either, with [`WAKE`], [`SERVER_TIMING`] and the route chosen again |
//! | refuse | `immediate_response`, with the header [`REASON_HEADER`], its body and `content-type`; for a gRPC caller also `grpc_status` |
//!
//! and keeps the stream open: its end is the end of the request. Only when the activation is gone the router ends it first,
//! with the error [`GONE`]; Envoy then ends the request. When the actor's answer has trailers, a
//! `response_trailers` message follows and must be answered by an empty `response_trailers`.
//! A request that could not be connected to that endpoint comes a second time, by [`AGAIN`]: with [`FAILED_HEADER`] and the
//! `x-request-id` of the first time, whose stream is still open.
//!
//! Header mutations are ignored, but for these headers of an immediate response: `x-reveille-*`, `content-type`,
//! `retry-after`, `proxy-status`, `cache-control`, `allow`, `www-authenticate`, `grpc-*`.

/// Cluster of actors that speak HTTP/1.1. The default.
pub const ACTORS_HTTP1: &str = "actors-http1";
/// Cluster of actors that speak HTTP/2 with prior knowledge.
pub const ACTORS_H2C: &str = "actors-h2c";
/// Cluster and internal listener by which a request comes back that could not be connected to its actor.
pub const AGAIN: &str = "again";
/// Cluster of the routers' ext_proc servers, in the bootstrap: each Envoy has an order of its own.
pub const ROUTER: &str = "router";
/// The log of answers that are not the actor's, and that of wakes, as the router is told of them.
pub const ANSWER_LOG: &str = "answers";
/// See [`ANSWER_LOG`].
pub const WAKE_LOG: &str = "wakes";
/// Cluster of the collector of traces.
pub const COLLECTOR: &str = "collector";
/// Cluster of the routers' ADS servers and logs, in the bootstrap.
pub const XDS: &str = "xds";
/// The HTTPS listener.
pub const HTTPS: &str = "https";
/// The secret with the certificate of the HTTPS listener.
pub const CERTIFICATE: &str = "https";
/// The HTTP listener, its route configuration and the statistics of both listeners.
pub const LISTENER: &str = "http";

/// Namespace of the router's dynamic metadata. Nothing else is taken from its answers.
pub const METADATA: &str = "reveille";
/// Key: where the actor is, "address:port". A string.
pub const ENDPOINT: &str = "endpoint";
/// Key: [`H2C`], or absent for HTTP/1.1.
pub const PROTOCOL: &str = "protocol";
/// Value of [`PROTOCOL`].
pub const H2C: &str = "h2c";
/// Key, optional: becomes [`WAKE_HEADER`] of the answer. Set on requests that waited for a wake.
pub const WAKE: &str = "wake";
/// Key, together with [`WAKE`]: the phases of the wait, as `Server-Timing` has them. Envoy adds its own and puts them into a
/// [`SERVER_TIMING_HEADER`] after the actor's own.
pub const SERVER_TIMING: &str = "server_timing";
/// Key, together with [`WAKE`]: there for the request that began the wake. Envoy tells the router when the answer to it began.
pub const FIRST: &str = "first";

/// Key, optional: becomes the `sec-websocket-accept` of an answer over HTTP/2, whose server says none (RFC 8441): a client of
/// HTTP/1.1 waits for it.
pub const WEBSOCKET_ACCEPT: &str = "websocket_accept";
/// Key: the [`REASON_HEADER`] of an answer that came by [`AGAIN`]. Set by Envoy itself.
pub const REASON: &str = "reason";

/// Message of the error, code `ABORTED`, that the router ends a stream with when the activation its request is at is no
/// more.
pub const GONE: &str = "activation_gone";

/// Why a request was refused. On every answer that is not the actor's, never on one that is.
pub const REASON_HEADER: &str = "x-reveille-reason";
/// How the actor was woken for this request. Never from the actor.
pub const WAKE_HEADER: &str = "x-reveille-wake";
/// The endpoint that could not be connected to, on requests that come by [`AGAIN`]. It reaches no actor.
pub const FAILED_HEADER: &str = "x-reveille-failed";
/// What Envoy calls a request by, whatever the client called it.
pub const REQUEST_ID_HEADER: &str = "x-request-id";
/// What the request waited for.
pub const SERVER_TIMING_HEADER: &str = "server-timing";
/// Headers with this prefix are Reveille's: removed from what clients send.
pub const HEADER_PREFIX: &str = "x-reveille-";

/// The value of a key of [`METADATA`] in one of Envoy's formats; nothing where the router has not set it.
pub(super) fn metadata(key: &str) -> String {
    format!("%DYNAMIC_METADATA({METADATA}:{key})%")
}
