//! A second way for a request that could not be connected to its actor.
//!
//! ```text
//!  client ─▶ listener "http" ─▶ ext_proc ─▶ 1st try: cluster "actors-…" ──▶ ✗ no connection
//!                                           2nd try: cluster "again" ─┐
//!            ┌──────────── x-reveille-failed: the endpoint ───────────┘
//!            ▼
//!            listener "again" ─▶ ext_proc ─▶ the only try: cluster "actors-…" ──▶ actor
//! ```
//!
//! Envoy tries again only after `connect-failure`: no connection was made, so not a byte has reached an actor. The second
//! try goes through the router, which gives that endpoint out no more and holds the request like any other whose actor sleeps.
//! A connection that was made and broke is no such failure: that request is not repeated.
//!
//! What the body of a request had Envoy read by then it keeps, up to the listener's buffer; a larger one is not repeated.
//! Nothing of this is in the way of a request whose first try is connected, but for the cluster's choice by the number of the try.

use std::time::Duration;

use envoy_types::pb::{
    envoy::{
        config::{
            common::mutation_rules::v3::{HeaderMutation as Mutation, header_mutation::Action},
            core::v3::{
                DataSource, HeaderValue, HeaderValueOption, TypedExtensionConfig, data_source,
                header_value_option::HeaderAppendAction,
            },
            route::v3::{
                ClusterSpecifierPlugin, RetryPolicy, retry_policy::RetryBackOff,
                route_action::ClusterSpecifier,
            },
        },
        extensions::filters::{
            http::{
                header_mutation::v3::{HeaderMutation, Mutations},
                lua::v3::Lua,
                upstream_codec::v3::UpstreamCodec,
            },
            network::http_connection_manager::v3::HttpFilter,
        },
    },
    google::protobuf::UInt32Value,
};

use super::{listener::http_filter, names};
use crate::proto::{any, duration, uint32};

/// The shortest that Envoy can wait.
const AT_ONCE: Duration = Duration::from_millis(1);

/// First the actors' cluster, then [`names::AGAIN`].
pub(super) fn first(cluster: &str) -> ClusterSpecifier {
    let group = |name: &str| PriorityGroup {
        name: name.into(),
        clusters: vec![ClusterWeight { cluster_name: name.into(), weight: uint32(1) }],
    };
    let specifier = PriorityGroupClusterSpecifier {
        priority_groups: vec![group(cluster), group(names::AGAIN)],
    };
    ClusterSpecifier::InlineClusterSpecifierPlugin(ClusterSpecifierPlugin {
        extension: Some(TypedExtensionConfig {
            name: "by-try".into(),
            typed_config: Some(any(&specifier)),
        }),
        is_optional: false,
    })
}

pub(super) fn once() -> RetryPolicy {
    RetryPolicy {
        retry_on: "connect-failure".into(),
        num_retries: uint32(1),
        retry_back_off: Some(RetryBackOff {
            base_interval: duration(AT_ONCE),
            max_interval: duration(AT_ONCE),
        }),
        refresh_cluster_on_retry: true,
        ..Default::default()
    }
}

/// Filters of the second try: the router is told what failed, and what it says passes the removal of what actors must not say.
pub(super) fn upstream_filters() -> Vec<HttpFilter> {
    let failed = HeaderValueOption {
        header: Some(HeaderValue {
            key: names::FAILED_HEADER.into(),
            value: format!("%DYNAMIC_METADATA({}:{})%", names::METADATA, names::ENDPOINT),
            ..Default::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    };
    let tell = HeaderMutation {
        mutations: Some(Mutations {
            request_mutations: vec![Mutation { action: Some(Action::Append(failed)) }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let keep = Lua {
        default_source_code: Some(DataSource {
            specifier: Some(data_source::Specifier::InlineString(keep())),
            ..Default::default()
        }),
        ..Default::default()
    };
    vec![
        http_filter("envoy.filters.http.header_mutation", &tell),
        http_filter("envoy.filters.http.lua", &keep),
        http_filter("envoy.filters.http.upstream_codec", &UpstreamCodec::default()),
    ]
}

/// No other filter of those that a cluster may have puts a header of an answer into metadata.
fn keep() -> String {
    let kept = [(names::REASON_HEADER, names::REASON), (names::WAKE_HEADER, names::WAKE)];
    let kept = kept.map(|(header, key)| {
        format!(
            "  v = answer:headers():get('{header}')\n  \
             if v ~= nil then answer:streamInfo():dynamicMetadata():set('{}', '{key}', v) end\n",
            names::METADATA
        )
    });
    format!("function envoy_on_response(answer)\n  local v\n{}end\n", kept.concat())
}

/// `envoy.extensions.router.cluster_specifiers.priority_group.v3`, of Envoy 1.40.
#[derive(Clone, PartialEq, prost::Message)]
struct PriorityGroupClusterSpecifier {
    #[prost(message, repeated, tag = "1")]
    priority_groups: Vec<PriorityGroup>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PriorityGroup {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    clusters: Vec<ClusterWeight>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ClusterWeight {
    #[prost(string, tag = "1")]
    cluster_name: String,
    #[prost(message, optional, tag = "2")]
    weight: Option<UInt32Value>,
}

impl prost::Name for PriorityGroupClusterSpecifier {
    const NAME: &'static str = "PriorityGroupClusterSpecifier";
    const PACKAGE: &'static str = "envoy.extensions.router.cluster_specifiers.priority_group.v3";

    fn type_url() -> String {
        format!("type.googleapis.com/{}", Self::full_name())
    }
}
