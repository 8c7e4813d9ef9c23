//! The ext_proc filter: one message out (some request headers), one back (where the actor is).

use envoy_types::pb::envoy::{
    config::{
        common::mutation_rules::v3::HeaderMutationRules,
        core::v3::{
            GrpcService, RetryPolicy, grpc_service,
            retry_policy::{RetryPriority, retry_priority},
        },
    },
    extensions::{
        filters::http::ext_proc::v3::{
            ExternalProcessor, HeaderForwardingRules, MetadataOptions, ProcessingMode,
            metadata_options::MetadataNamespaces,
            processing_mode::{BodySendMode, HeaderSendMode},
        },
        retry::priority::previous_priorities::v3::PreviousPrioritiesConfig,
    },
    r#type::{
        matcher::v3::{ListStringMatcher, RegexMatcher, StringMatcher, string_matcher},
        v3::{HttpStatus, StatusCode},
    },
};
use reveille_api::Reason;

use super::{Config, names};
use crate::proto::{any, boolean, duration, uint32};

/// All that the router learns of a request. Credentials and cookies stay in Envoy, and the message is small.
const FORWARDED: &[&str] = &[
    ":authority",
    ":method",
    "accept",
    "content-type",
    "upgrade",
    "traceparent",
    // Of WebSockets only.
    "sec-websocket-key",
    names::REQUEST_ID_HEADER,
];

/// Headers that an immediate response may set: Envoy applies the rules to these too. No request header may be
/// changed: disallowing all leaves exactly these, which mean nothing in a request.
const ANSWER_HEADERS: &str = "^(x-reveille-.*|content-type|retry-after|proxy-status|cache-control|allow|www-authenticate|grpc-.*)$";

/// How often a request is taken to another router that did not answer.
const RETRIES: u32 = 2;

/// `more` headers are forwarded too.
pub(super) fn filter(config: &Config, more: &[&str]) -> ExternalProcessor {
    ExternalProcessor {
        grpc_service: Some(GrpcService {
            target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(
                grpc_service::EnvoyGrpc {
                    cluster_name: names::ROUTER.into(),
                    skip_envoy_headers: true,
                    ..Default::default()
                },
            )),
            retry_policy: Some(on_another_router()),
            ..Default::default()
        }),
        failure_mode_allow: false,
        processing_mode: Some(ProcessingMode {
            request_header_mode: HeaderSendMode::Send.into(),
            request_body_mode: BodySendMode::None.into(),
            request_trailer_mode: HeaderSendMode::Skip.into(),
            response_header_mode: HeaderSendMode::Skip.into(),
            response_body_mode: BodySendMode::None.into(),
            // Not for the trailers: with a phase still to come, Envoy keeps the stream open until the
            // request ends, and its end is how the router counts what is in flight.
            response_trailer_mode: HeaderSendMode::Send.into(),
        }),
        message_timeout: duration(config.ladder.ext_proc()),
        stat_prefix: names::METADATA.into(),
        mutation_rules: Some(HeaderMutationRules {
            disallow_all: boolean(true),
            allow_expression: Some(RegexMatcher {
                regex: ANSWER_HEADERS.into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        forward_rules: Some(HeaderForwardingRules {
            allowed_headers: Some(ListStringMatcher {
                patterns: FORWARDED.iter().chain(more).copied().map(exact).collect(),
            }),
            disallowed_headers: None,
        }),
        metadata_options: Some(MetadataOptions {
            receiving_namespaces: Some(MetadataNamespaces {
                untyped: vec![names::METADATA.into()],
                typed: Vec::new(),
            }),
            ..Default::default()
        }),
        status_on_error: Some(HttpStatus { code: unreachable_status().into() }),
        // Of a span that is not kept Envoy would tell the router that the request is not recorded.
        emit_client_span: boolean(config.traces.is_some()),
        ..Default::default()
    }
}

/// A router that goes away before it has answered has let nothing through: another one is asked. It answers with
/// its first message, so a request that was parked there is parked again at the other one.
fn on_another_router() -> RetryPolicy {
    let previous = PreviousPrioritiesConfig { update_frequency: 1 };
    RetryPolicy {
        retry_on: "connect-failure,refused-stream,reset".into(),
        num_retries: uint32(RETRIES),
        retry_priority: Some(RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".into(),
            config_type: Some(retry_priority::ConfigType::TypedConfig(any(&previous))),
        }),
        ..Default::default()
    }
}

/// What the filter answers when the router cannot be reached, before the local reply gets its shape.
fn unreachable_status() -> StatusCode {
    StatusCode::try_from(i32::from(Reason::ControlPlaneUnavailable.http_status()))
        .unwrap_or(StatusCode::ServiceUnavailable)
}

pub(super) fn exact(value: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::Exact(value.into())),
        ..Default::default()
    }
}
