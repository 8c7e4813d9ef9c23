//! The bootstrap: who this Envoy is, where its routers are, where its admin interface listens.
//!
//! The routers are here and not among the dynamic resources because each Envoy has an order of its own for them.

use std::{collections::HashMap, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::{
            bootstrap::v3::{
                Admin, Bootstrap, LayeredRuntime, RuntimeLayer, Watchdog, Watchdogs,
                bootstrap::{DynamicResources, StaticResources},
                runtime_layer,
            },
            core::v3::{
                self as core, AggregatedConfigSource, ApiConfigSource, ApiVersion, BackoffStrategy,
                ConfigSource, GrpcService, Node, RetryPolicy, api_config_source::ApiType,
                config_source, grpc_service,
            },
            overload::v3::{OverloadManager, ResourceMonitor, resource_monitor},
        },
        extensions::bootstrap::internal_listener::v3::InternalListener,
        extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig,
    },
    google::protobuf::{Struct, Value, value},
};
use prost::Message;
use reveille_api::net::Address;

use crate::{
    proto::{address, any, duration},
    resources::{grpc_cluster, names},
};

/// Streams to a router that are not for requests: ADS, and a log for each thread.
const STREAMS: u32 = 1024;
/// `node.cluster` of every Envoy.
const CLUSTER: &str = "reveille";
/// Envoy tries to reach a lost ADS server again after the first, growing to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A thread of Envoy that did not come round for so long is counted.
const WATCHDOG: Duration = Duration::from_secs(4);

/// How long a span may wait until it is sent.
const SPANS_WAIT: Duration = Duration::from_secs(1);

/// What the bootstrap is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Names this Envoy in the fleet.
    pub node_id: String,
    /// The ADS servers: the first one that serves.
    pub xds: Vec<Address>,
    /// The routers: the first one that serves.
    pub routers: Vec<Address>,
    /// Requests that may wait for the routers at a time.
    pub max_requests: u32,
    /// The protocol to speak to it.
    pub protocol: Protocol,
    /// The admin interface: loopback or a Unix socket. It can do anything, to anybody who reaches it.
    pub admin: Option<Address>,
    /// Connections of clients at a time; more are refused.
    pub max_connections: u32,
}

/// The two forms of xDS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Only what changed is sent.
    #[default]
    Delta,
    /// All resources of a type are sent whenever one changed.
    StateOfTheWorld,
}

/// Makes the bootstrap; written as binary protobuf (a `.pb` file), Envoy's `-c` takes it.
pub fn encode(config: &Config) -> Vec<u8> {
    build(config).encode_to_vec()
}

fn build(config: &Config) -> Bootstrap {
    Bootstrap {
        node: Some(Node {
            id: config.node_id.clone(),
            cluster: CLUSTER.into(),
            ..Default::default()
        }),
        static_resources: Some(StaticResources {
            clusters: vec![
                grpc_cluster(names::XDS, &config.xds, STREAMS),
                grpc_cluster(names::ROUTER, &config.routers, config.max_requests),
            ],
            ..Default::default()
        }),
        dynamic_resources: Some(DynamicResources {
            ads_config: Some(ads(config.protocol)),
            cds_config: Some(over_ads()),
            lds_config: Some(over_ads()),
            ..Default::default()
        }),
        // For requests that come a second time.
        bootstrap_extensions: vec![core::TypedExtensionConfig {
            name: "envoy.bootstrap.internal_listener".into(),
            typed_config: Some(any(&InternalListener::default())),
        }],
        admin: config.admin.as_ref().map(|at| Admin {
            address: Some(address(at)),
            // Otherwise a flood of clients would lock out the one who must stop it.
            ignore_global_conn_limit: true,
            ..Default::default()
        }),
        overload_manager: Some(connection_limit(config.max_connections)),
        watchdogs: Some(Watchdogs {
            main_thread_watchdog: Some(watchdog()),
            worker_watchdog: Some(watchdog()),
        }),
        layered_runtime: Some(LayeredRuntime {
            layers: vec![RuntimeLayer {
                name: "static".into(),
                layer_specifier: Some(runtime_layer::LayerSpecifier::StaticLayer(runtime())),
            }],
        }),
        ..Default::default()
    }
}

/// Spans wait for so long at most, where there are any; Envoy's default is five seconds.
fn runtime() -> Struct {
    let kind = Some(value::Kind::NumberValue(SPANS_WAIT.as_millis() as f64));
    let flush = ("tracing.opentelemetry.flush_interval_ms".to_owned(), Value { kind });
    Struct { fields: HashMap::from([flush]) }
}

/// It only counts. At Envoy's default of 200 ms each of its threads wakes ten times a second to say that it lives: most of
/// what a machine without traffic does.
fn watchdog() -> Watchdog {
    Watchdog {
        miss_timeout: duration(WATCHDOG),
        megamiss_timeout: duration(5 * WATCHDOG),
        ..Default::default()
    }
}

fn ads(protocol: Protocol) -> ApiConfigSource {
    let api_type = match protocol {
        Protocol::Delta => ApiType::DeltaGrpc,
        Protocol::StateOfTheWorld => ApiType::Grpc,
    };
    let retry = RetryPolicy {
        retry_back_off: Some(BackoffStrategy {
            base_interval: duration(RETRY.0),
            max_interval: duration(RETRY.1),
        }),
        ..Default::default()
    };
    let target = grpc_service::TargetSpecifier::EnvoyGrpc(grpc_service::EnvoyGrpc {
        cluster_name: names::XDS.into(),
        retry_policy: Some(retry),
        ..Default::default()
    });
    ApiConfigSource {
        api_type: api_type.into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_services: vec![GrpcService { target_specifier: Some(target), ..Default::default() }],
        set_node_on_first_message_only: true,
        ..Default::default()
    }
}

/// Without an initial fetch timeout: an Envoy without a configuration is not ready, however long it takes.
fn over_ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(
            AggregatedConfigSource::default(),
        )),
        initial_fetch_timeout: duration(Duration::ZERO),
        resource_api_version: ApiVersion::V3.into(),
        ..Default::default()
    }
}

fn connection_limit(max: u32) -> OverloadManager {
    let config = DownstreamConnectionsConfig { max_active_downstream_connections: max.into() };
    OverloadManager {
        resource_monitors: vec![ResourceMonitor {
            name: "envoy.resource_monitors.global_downstream_max_connections".into(),
            config_type: Some(resource_monitor::ConfigType::TypedConfig(any(&config))),
        }],
        ..Default::default()
    }
}
