//! The ext_proc filter: one message out (some request headers), one back (where the actor is).

use envoy_types::pb::envoy::{
    config::{
        common::mutation_rules::v3::HeaderMutationRules,
        core::v3::{GrpcService, grpc_service},
    },
    extensions::filters::http::ext_proc::v3::{
        ExternalProcessor, HeaderForwardingRules, MetadataOptions, ProcessingMode,
        metadata_options::MetadataNamespaces,
        processing_mode::{BodySendMode, HeaderSendMode},
    },
    r#type::{
        matcher::v3::{ListStringMatcher, RegexMatcher, StringMatcher, string_matcher},
        v3::{HttpStatus, StatusCode},
    },
};
use reveille_api::{Ladder, Reason};

use super::names;
use crate::proto::{boolean, duration};

/// All that the router learns of a request. Credentials and cookies stay in Envoy, and the message is small.
const FORWARDED: &[&str] =
    &[":authority", ":method", "accept", "content-type", "upgrade", "traceparent"];

/// Headers that an immediate response may set: Envoy applies the rules to these too. No request header may be
/// changed: disallowing all leaves exactly these, which mean nothing in a request.
const ANSWER_HEADERS: &str = "^(x-reveille-.*|content-type|retry-after|proxy-status|cache-control|allow|www-authenticate|grpc-.*)$";

pub(super) fn filter(ladder: &Ladder) -> ExternalProcessor {
    ExternalProcessor {
        grpc_service: Some(GrpcService {
            target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(
                grpc_service::EnvoyGrpc {
                    cluster_name: names::ROUTER.into(),
                    skip_envoy_headers: true,
                    ..Default::default()
                },
            )),
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
        message_timeout: duration(ladder.ext_proc()),
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
                patterns: FORWARDED.iter().copied().map(exact).collect(),
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
        emit_client_span: boolean(false),
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
