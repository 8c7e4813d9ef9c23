//! Envoy's spans: one of a request, one of its way to the actor, sent to the collector by Envoy itself.
//!
//! What the client says in `traceparent` is gone on with, also whether it is recorded; where it says nothing, the ratio decides.
//! The router is told in the metadata of its ext_proc stream, the actor in `traceparent`. Of the URL a span has scheme, host and
//! path: never the query.
//!
//! The ratio is a sampler's of the OpenTelemetry tracer and not Envoy's own `random_sampling`: against that one the client's word
//! does not count, and it knows no less than a ten-thousandth.

use std::time::Duration;

use envoy_types::pb::envoy::{
    config::{
        core::v3::{GrpcService, TypedExtensionConfig, grpc_service},
        trace::v3::{OpenTelemetryConfig, tracing::Http, tracing::http::ConfigType},
    },
    extensions::{
        filters::network::http_connection_manager::v3::http_connection_manager::Tracing,
        tracers::opentelemetry::{
            resource_detectors::v3::EnvironmentResourceDetectorConfig,
            samplers::v3::{ParentBasedSamplerConfig, TraceIdRatioBasedSamplerConfig},
        },
    },
    r#type::{
        tracing::v3::{CustomTag, custom_tag},
        v3::{FractionalPercent, Percent, fractional_percent::DenominatorType},
    },
};
use prost::{Message, Name};

use super::{Traces, names};
use crate::proto::{any, boolean, duration, uint32};

/// `service.name` of every Envoy.
const SERVICE: &str = "reveille-envoy";
/// A collector that takes longer has lost those spans.
const EXPORT: Duration = Duration::from_secs(3);
/// Spans that wait to be sent.
const QUEUE: u32 = 4096;

/// What the spans of requests say beside what Envoy always says.
const TAGS: &[(&str, &str)] = &[
    ("url.path", "%PATH(NQ)%"),
    ("reveille.reason", "%RESP(x-reveille-reason)%"),
    ("reveille.wake", "%DYNAMIC_METADATA(reveille:wake)%"),
];

pub(super) fn tracing(traces: &Traces) -> Tracing {
    let target = grpc_service::TargetSpecifier::EnvoyGrpc(grpc_service::EnvoyGrpc {
        cluster_name: names::COLLECTOR.into(),
        ..Default::default()
    });
    let provider = OpenTelemetryConfig {
        grpc_service: Some(GrpcService {
            target_specifier: Some(target),
            timeout: duration(EXPORT),
            ..Default::default()
        }),
        service_name: SERVICE.into(),
        max_cache_size: uint32(QUEUE),
        sampler: Some(sampler(traces.per_million)),
        // Which of all Envoys it is, its supervisor says.
        resource_detectors: vec![extension(
            "resource_detectors.environment",
            &EnvironmentResourceDetectorConfig {},
        )],
        ..Default::default()
    };
    let tag = |(tag, format): &(&str, &str)| CustomTag {
        tag: (*tag).into(),
        r#type: Some(custom_tag::Type::Value((*format).into())),
    };
    Tracing {
        provider: Some(Http {
            name: "envoy.tracers.opentelemetry".into(),
            config_type: Some(ConfigType::TypedConfig(any(&provider))),
        }),
        // What is above the sampler: everything.
        random_sampling: Some(Percent { value: 100.0 }),
        // Nobody outside asks for more of them by a header of Envoy's own.
        client_sampling: Some(Percent { value: 0.0 }),
        // The path comes without its query, below.
        max_path_tag_length: uint32(0),
        custom_tags: TAGS.iter().map(tag).collect(),
        spawn_upstream_span: boolean(true),
        operation: "%REQ(:method)%".into(),
        upstream_operation: "%REQ(:method)%".into(),
        ..Default::default()
    }
}

fn sampler(per_million: u32) -> TypedExtensionConfig {
    let ratio =
        FractionalPercent { numerator: per_million, denominator: DenominatorType::Million.into() };
    let ratio = TraceIdRatioBasedSamplerConfig { sampling_percentage: Some(ratio) };
    let wrapped_sampler = Some(extension("samplers.trace_id_ratio_based", &ratio));
    extension("samplers.parent_based", &ParentBasedSamplerConfig { wrapped_sampler })
}

fn extension<M: Message + Name>(name: &str, config: &M) -> TypedExtensionConfig {
    TypedExtensionConfig {
        name: format!("envoy.tracers.opentelemetry.{name}"),
        typed_config: Some(any(config)),
    }
}
