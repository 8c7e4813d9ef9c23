//! What an Envoy has, as its admin interface tells: not all of it, but what one asks about.

use reveille_api::net::Address;
use serde::Serialize;
use serde_json::Value;

use super::admin::{Admin, Error};

/// One Envoy.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Dump {
    /// Its name in the fleet.
    pub node: String,
    /// Its release.
    pub version: String,
    /// As it says itself: LIVE, DRAINING, …
    pub state: String,
    /// Where it listens.
    pub listeners: Vec<Listener>,
    /// Whom it can reach.
    pub clusters: Vec<Cluster>,
    /// What certificates and keys it has, by name.
    pub secrets: Vec<Secret>,
}

/// A listener, with its routes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// None: reached from inside only.
    pub addresses: Vec<String>,
    /// Version of what is in force.
    pub version: String,
    /// With TLS.
    pub tls: bool,
    /// HTTP filters, in order.
    pub filters: Vec<String>,
    /// In order.
    pub routes: Vec<Route>,
    /// Why its last version was refused, if it was.
    pub refused: Option<String>,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Route {
    /// Which requests take it.
    pub when: String,
    /// Clusters, in the order in which they are tried.
    pub clusters: Vec<String>,
}

/// A cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// How its endpoints are found.
    pub kind: String,
    /// Version of what is in force; empty: from the bootstrap.
    pub version: String,
    /// Those known now.
    pub endpoints: Vec<Endpoint>,
    /// Why its last version was refused, if it was.
    pub refused: Option<String>,
}

/// One endpoint of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Endpoint {
    /// Where.
    pub address: String,
    /// Whether it is used.
    pub healthy: bool,
}

/// A secret, by name only.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// Version of what is in force.
    pub version: String,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
#[error("Envoy's admin interface at {at}")]
pub struct Unreadable {
    at: Address,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Asks the Envoy whose admin interface is there.
pub async fn dump(at: &Address) -> Result<Dump, Unreadable> {
    let admin = Admin::new(at.clone());
    let all = async {
        let server = admin.json("/server_info").await?;
        let config = admin.json("/config_dump").await?;
        let clusters = admin.json("/clusters?format=json").await?;
        Ok(read(&server, &config, &clusters))
    };
    let all: Result<_, Error> = all.await;
    all.map_err(|source| Unreadable { at: at.clone(), source: source.into() })
}

fn read(server: &Value, config: &Value, clusters: &Value) -> Dump {
    let of = |kind: &str| {
        let is = |value: &&Value| text(&value["@type"]).ends_with(kind);
        list(&config["configs"]).find(is).unwrap_or(&Value::Null)
    };
    let secrets = of("v3.SecretsConfigDump");
    let known = of("v3.ClustersConfigDump");
    let fixed = list(&known["static_clusters"]);
    let sent =
        list(&known["dynamic_active_clusters"]).chain(list(&known["dynamic_warming_clusters"]));
    Dump {
        node: text(&server["node"]["id"]),
        // Revision/release/…
        version: text(&server["version"]).split('/').nth(1).unwrap_or_default().into(),
        state: text(&server["state"]),
        listeners: list(&of("v3.ListenersConfigDump")["dynamic_listeners"]).map(listener).collect(),
        clusters: fixed.chain(sent).map(|found| cluster(found, clusters)).collect(),
        secrets: list(&secrets["dynamic_active_secrets"])
            .map(|s| Secret { name: text(&s["name"]), version: text(&s["version_info"]) })
            .collect(),
    }
}

fn listener(found: &Value) -> Listener {
    let state = [&found["active_state"], &found["warming_state"]];
    let state = state.into_iter().find(|state| !state.is_null()).unwrap_or(&Value::Null);
    let config = &state["listener"];
    let more = list(&config["additional_addresses"]).map(|more| &more["address"]);
    let addresses = [&config["address"]].into_iter().chain(more);
    let chains = || list(&config["filter_chains"]);
    let manager = chains().flat_map(|chain| list(&chain["filters"])).next();
    let manager = manager.map_or(&Value::Null, |filter| &filter["typed_config"]);
    let hosts = list(&manager["route_config"]["virtual_hosts"]);
    Listener {
        name: text(&found["name"]),
        addresses: addresses.filter(|address| !address.is_null()).map(address).collect(),
        version: text(&state["version_info"]),
        tls: chains().any(|chain| !chain["transport_socket"].is_null()),
        filters: list(&manager["http_filters"])
            .map(|filter| {
                text(&filter["name"]).trim_start_matches("envoy.filters.http.").to_owned()
            })
            .collect(),
        routes: hosts.flat_map(|host| list(&host["routes"])).map(route).collect(),
        refused: refused(found),
    }
}

fn route(found: &Value) -> Route {
    let conditions = list(&found["match"]["dynamic_metadata"]).map(|condition| {
        let key =
            list(&condition["path"]).map(|step| text(&step["key"])).collect::<Vec<_>>().join(".");
        match text(&condition["value"]["string_match"]["exact"]) {
            is if is.is_empty() => key,
            is => format!("{key}={is}"),
        }
    });
    let when: Vec<_> = [text(&found["match"]["prefix"])].into_iter().chain(conditions).collect();
    let action = &found["route"];
    let tried = &action["inline_cluster_specifier_plugin"]["extension"]["typed_config"];
    let tried = list(&tried["priority_groups"]).map(|group| text(&group["name"]));
    let only = Some(text(&action["cluster"])).filter(|cluster| !cluster.is_empty());
    Route { when: when.join(" "), clusters: only.into_iter().chain(tried).collect() }
}

fn cluster(found: &Value, live: &Value) -> Cluster {
    let config = &found["cluster"];
    let name = text(&config["name"]);
    let hosts = list(&live["cluster_statuses"]).find(|status| text(&status["name"]) == name);
    let hosts = hosts.map_or(&Value::Null, |status| &status["host_statuses"]);
    Cluster {
        kind: match text(&config["type"]) {
            kind if kind.is_empty() => "STATIC".into(),
            kind => kind,
        },
        version: text(&found["version_info"]),
        endpoints: list(hosts)
            .map(|host| Endpoint {
                address: address(&host["address"]),
                healthy: !host["health_status"]["failed_active_health_check"]
                    .as_bool()
                    .unwrap_or_default(),
            })
            .collect(),
        refused: refused(found),
        name,
    }
}

fn refused(found: &Value) -> Option<String> {
    Some(text(&found["error_state"]["details"])).filter(|details| !details.is_empty())
}

fn address(found: &Value) -> String {
    let socket = &found["socket_address"];
    if !socket.is_null() {
        let (ip, port) = (text(&socket["address"]), &socket["port_value"]);
        return if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
    }
    match text(&found["pipe"]["path"]) {
        path if path.is_empty() => text(&found["envoy_internal_address"]["server_listener_name"]),
        path => format!("unix:{path}"),
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
