//! The logs of answers that are not the actor's own, and of wakes, for [`crate::answers`].

use std::time::Duration;

use envoy_types::pb::envoy::{
    config::{
        accesslog::v3::{
            AccessLog, AccessLogFilter, AndFilter, ComparisonFilter, ExtensionFilter,
            GrpcStatusFilter, MetadataFilter, OrFilter, StatusCodeFilter, access_log,
            access_log_filter::FilterSpecifier, comparison_filter, extension_filter,
            grpc_status_filter,
        },
        core::v3::{ApiVersion, GrpcService, RuntimeUInt32, grpc_service},
    },
    extensions::access_loggers::{
        filters::cel::v3::ExpressionFilter,
        grpc::v3::{CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig},
    },
    r#type::matcher::v3::value_matcher::MatchPattern,
};

use super::{names, route};
use crate::proto::{any, boolean, duration, uint32};

/// It is sent at once: the timer of each of Envoy's threads has nothing to do, and is to wake nobody.
const FLUSH: Duration = Duration::from_secs(60);

pub(super) fn answer_log() -> AccessLog {
    let asked = vec![names::REASON_HEADER.into()];
    let and = AndFilter {
        // In this order: an expression costs more than a comparison, and most answers are a success.
        filters: vec![no_success(), has_reason()],
    };
    log(names::ANSWER_LOG, filter(FilterSpecifier::AndFilter(and)), asked)
}

/// Of each wake the request that began it. For all others it is a look at a map without that key.
pub(super) fn wake_log() -> AccessLog {
    let first = route::said(names::FIRST, MatchPattern::PresentMatch(true));
    let matcher = MetadataFilter { matcher: Some(first), match_if_key_not_found: boolean(false) };
    log(names::WAKE_LOG, filter(FilterSpecifier::MetadataFilter(matcher)), Vec::new())
}

fn log(name: &str, filter: AccessLogFilter, response_headers: Vec<String>) -> AccessLog {
    let router = grpc_service::EnvoyGrpc { cluster_name: names::XDS.into(), ..Default::default() };
    let config = HttpGrpcAccessLogConfig {
        common_config: Some(CommonGrpcAccessLogConfig {
            log_name: name.into(),
            grpc_service: Some(GrpcService {
                target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(router)),
                ..Default::default()
            }),
            transport_api_version: ApiVersion::V3.into(),
            buffer_flush_interval: duration(FLUSH),
            buffer_size_bytes: uint32(0),
            ..Default::default()
        }),
        additional_response_headers_to_log: response_headers,
        ..Default::default()
    };
    AccessLog {
        name: name.into(),
        filter: Some(filter),
        config_type: Some(access_log::ConfigType::TypedConfig(any(&config))),
    }
}

/// By HTTP, or by gRPC, whose failures have the status 200.
fn no_success() -> AccessLogFilter {
    let status = StatusCodeFilter {
        comparison: Some(ComparisonFilter {
            op: comparison_filter::Op::Ge.into(),
            value: Some(RuntimeUInt32 {
                default_value: 400,
                runtime_key: "reveille.answers.status".into(),
            }),
        }),
    };
    use grpc_status_filter::Status;
    // Unknown is what no status at all counts as.
    let statuses = vec![Status::Ok.into(), Status::Unknown.into()];
    let grpc = GrpcStatusFilter { statuses, exclude: true };
    filter(FilterSpecifier::OrFilter(OrFilter {
        filters: vec![
            filter(FilterSpecifier::StatusCodeFilter(status)),
            filter(FilterSpecifier::GrpcStatusFilter(grpc)),
        ],
    }))
}

fn has_reason() -> AccessLogFilter {
    let expression = format!("'{}' in response.headers", names::REASON_HEADER);
    let config = ExpressionFilter { expression, ..Default::default() };
    filter(FilterSpecifier::ExtensionFilter(ExtensionFilter {
        name: "envoy.access_loggers.extension_filters.cel".into(),
        config_type: Some(extension_filter::ConfigType::TypedConfig(any(&config))),
    }))
}

fn filter(specifier: FilterSpecifier) -> AccessLogFilter {
    AccessLogFilter { filter_specifier: Some(specifier) }
}
