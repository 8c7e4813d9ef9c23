//! `reveille envoy dump`: what each Envoy has.

use std::{net::SocketAddr, path::PathBuf};

use reveille_api::net::Address;
use reveille_envoy::supervisor::dump::{self, Dump, Listener};

use crate::{
    client::DEFAULT_DATA_DIR,
    error::{Error, Result},
    output::{self, Format, Table},
};

const EXAMPLES: &str = "\
Examples:
  reveille envoy dump
  reveille envoy dump --admin 127.0.0.1:9901 -o json
  reveille envoy dump --admin unix:/var/lib/e1/run/envoy/admin.sock --admin unix:/var/lib/e2/run/envoy/admin.sock

What the routers were told by all of them (accepted and refused versions) is on the routers' /statusz.";

/// Where Envoy's admin page is under `up`.
const ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 9901);

/// Show what each Envoy has: listeners, routes, clusters and their versions
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Admin address of an Envoy: IP:PORT or unix:/path; may be given more than once [default: the socket in the data directory,
    /// else 127.0.0.1:9901]
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    admin: Vec<Address>,
    /// Data directory of the Envoy
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    #[arg(env = "REVEILLE_DATA_DIR", hide_env_values = true)]
    data_dir: PathBuf,
    #[command(flatten)]
    output: output::Args,
}

impl Args {
    pub(crate) async fn run(self) -> Result {
        let mut dumps = Vec::new();
        for at in self.at() {
            let found = dump::dump(&at).await;
            dumps.push(found.map_err(|error| {
                Error::because("is Envoy running there? (--admin and --data-dir say where)", &error)
            })?);
        }
        output::print(&match self.output.output {
            Some(Format::Json) => output::json(&serde_json::json!({ "items": dumps }))?,
            Some(Format::Yaml) => output::yaml(&serde_json::json!({ "items": dumps }))?,
            Some(Format::Name) => dumps.iter().map(|dump| format!("{}\n", dump.node)).collect(),
            None | Some(Format::Wide) => dumps.iter().map(page).collect::<Vec<_>>().join("\n"),
        })
    }

    fn at(&self) -> Vec<Address> {
        if !self.admin.is_empty() {
            return self.admin.clone();
        }
        let socket = self.data_dir.join("run/envoy/admin.sock");
        match socket.exists() {
            true => vec![Address::Unix(socket)],
            false => vec![Address::Tcp(SocketAddr::from(ADMIN))],
        }
    }
}

fn page(dump: &Dump) -> String {
    let mut listeners = Table::new(&["LISTENER", "ADDRESS", "TLS", "VERSION", "FILTERS"]);
    let mut routes = Table::new(&["LISTENER", "ROUTE", "CLUSTERS, AS THEY ARE TRIED"]);
    for listener in &dump.listeners {
        let Listener { name, addresses, version, tls, filters, .. } = listener;
        let address = match addresses.as_slice() {
            [] => "inside only".to_owned(),
            some => some.join(", "),
        };
        let tls = if *tls { "yes" } else { "no" }.to_owned();
        listeners.row([name.clone(), address, tls, version.clone(), filters.join(", ")]);
        for route in &listener.routes {
            routes.row([name.clone(), route.when.clone(), route.clusters.join(", ")]);
        }
    }
    let mut clusters = Table::new(&["CLUSTER", "KIND", "VERSION", "ENDPOINTS"]);
    for cluster in &dump.clusters {
        let endpoints = cluster.endpoints.iter().map(|endpoint| match endpoint.healthy {
            true => endpoint.address.clone(),
            false => format!("{} (does not serve)", endpoint.address),
        });
        let endpoints = endpoints.collect::<Vec<_>>().join(", ");
        let version = match cluster.version.as_str() {
            "" => "bootstrap".to_owned(),
            version => version.to_owned(),
        };
        clusters.row([cluster.name.clone(), cluster.kind.clone(), version, endpoints]);
    }
    let mut page = format!("Envoy {}: {}, {}\n\n", dump.node, dump.version, dump.state);
    page += &format!("{listeners}\n{routes}\n{clusters}");
    if !dump.secrets.is_empty() {
        let mut secrets = Table::new(&["SECRET", "VERSION"]);
        for secret in &dump.secrets {
            secrets.row([secret.name.clone(), secret.version.clone()]);
        }
        page += &format!("\n{secrets}");
    }
    let of_listeners = dump.listeners.iter().map(|l| ("listener", &l.name, &l.refused));
    let of_clusters = dump.clusters.iter().map(|c| ("cluster", &c.name, &c.refused));
    for (kind, name, refused) in of_listeners.chain(of_clusters) {
        if let Some(why) = refused {
            page += &format!("\nrefused: {kind} {name}: {why}\n");
        }
    }
    page
}
