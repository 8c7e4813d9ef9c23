//! `reveille dns install`, `uninstall`: a cluster's own DNS asks ours for the actor zone.

use std::net::{IpAddr, SocketAddr};

use reveille_api::Zone;
use reveille_dns::{
    ServiceName,
    cluster::{Change, Cluster, Servers, Target, Wanted},
};
use similar::TextDiff;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    error::{Error, Result, chain},
    output,
};

const INSTALL_EXAMPLES: &str = "\
Examples:
  reveille dns install --dry-run                               what would be changed
  reveille dns install                                         asks the Service reveille-system/dns
  reveille dns install --server 10.0.0.53 --domain actors.example
  reveille dns install --watch                                 and does it again whenever somebody undoes it

The cluster is that of KUBECONFIG, or the one that this pod runs in. CoreDNS (ConfigMap kube-system/coredns) and NodeLocal
DNS (node-local-dns) get a block of their own in the Corefile, kube-dns gets an entry in stubDomains; whatever else is
there stays as it is. What it may do in a cluster, and no more: deploy/kubernetes/dns-install.yaml.";

const UNINSTALL_EXAMPLES: &str = "\
Examples:
  reveille dns uninstall --dry-run
  reveille dns uninstall --domain actors.example

A process that runs 'reveille dns install --watch' would undo it: end that first.";

/// Make a cluster's own DNS ask this server for the actor zone
#[derive(clap::Args, Debug)]
#[command(after_help = INSTALL_EXAMPLES)]
pub(crate) struct Install {
    #[command(flatten)]
    common: Common,
    /// Service of the DNS server: its cluster IPs are asked
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "reveille-system/dns")]
    service: ServiceName,
    /// Address of the DNS server, instead of a Service; may be given more than once
    #[arg(long, value_name = "IP[:PORT]", value_delimiter = ',', value_parser = server, conflicts_with = "service")]
    server: Vec<SocketAddr>,
    /// Go on, and do it again after each change of the ConfigMaps and of the Service
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
}

/// Take it out of a cluster's own DNS again
#[derive(clap::Args, Debug)]
#[command(after_help = UNINSTALL_EXAMPLES)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args, Debug)]
struct Common {
    /// Domain of the actors
    #[arg(long, value_name = "DOMAIN", env = "REVEILLE_DOMAIN", hide_env_values = true)]
    #[arg(default_value = "actors.internal")]
    domain: Zone,
    /// Where: coredns, node-local-dns, kube-dns; may be given more than once [default: all that are there]
    #[arg(long, value_name = "TARGET", value_delimiter = ',')]
    target: Vec<Target>,
    /// Change nothing, and print what would be changed
    #[arg(long)]
    dry_run: bool,
}

impl Install {
    pub(crate) async fn run(self) -> Result {
        let servers = match self.server.is_empty() {
            true => Servers::Service(self.service),
            false => Servers::Given(self.server),
        };
        let (cluster, dry) = (find().await?, self.common.dry_run);
        let wanted = self.common.wanted(Some(servers));
        if !self.watch {
            return change(&cluster, &wanted, dry).await;
        }
        // A process that is the first one of its container ends by no signal that it does not catch.
        let catch =
            |kind| signal(kind).map_err(|error| Error::because("cannot catch signals", &error));
        let mut terminate = catch(SignalKind::terminate())?;
        let mut interrupt = catch(SignalKind::interrupt())?;
        tracing_subscriber::fmt().with_writer(std::io::stderr).init();
        tokio::select! {
            never = cluster.keep(&wanted) => match never {},
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    }
}

impl Uninstall {
    pub(crate) async fn run(self) -> Result {
        let dry = self.common.dry_run;
        change(&find().await?, &self.common.wanted(None), dry).await
    }
}

impl Common {
    fn wanted(self, servers: Option<Servers>) -> Wanted {
        Wanted { zone: self.domain, servers, targets: self.target }
    }
}

async fn find() -> Result<Cluster> {
    Cluster::find().await.map_err(|error| failed(&error))
}

async fn change(cluster: &Cluster, wanted: &Wanted, dry: bool) -> Result {
    let changes = cluster.change(wanted, dry).await.map_err(|error| failed(&error))?;
    let (mut text, mut wrong) = (String::new(), Vec::new());
    for change in changes {
        match change {
            Ok(change) => text += &told(&change, dry),
            Err(error) => wrong.push(chain(&error)),
        }
    }
    output::print(&text)?;
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Error::failed(format!("dns: {}", wrong.join("; ")))),
    }
}

fn failed(error: &dyn std::error::Error) -> Error {
    Error::because("dns", error)
}

fn told(change: &Change, dry: bool) -> String {
    let Change { target, before, after, changed, restart } = change;
    let done = match (*changed, dry) {
        (false, _) => "unchanged",
        (true, true) => "would be changed",
        (true, false) => "changed",
    };
    let mut text = format!("configmap/{target} {done}\n");
    if dry && before != after {
        let names = (format!("kube-system/{target}"), format!("kube-system/{target}, changed"));
        let diff = TextDiff::from_lines(before, after);
        text += &diff.unified_diff().header(&names.0, &names.1).to_string();
    }
    if *restart {
        let kind = if *target == Target::NodeLocal { "daemonset" } else { "deployment" };
        text += &format!(
            "  its Corefile has no 'reload': restart it (kubectl -n kube-system rollout restart {kind}/{target})\n"
        );
    }
    text
}

fn server(text: &str) -> Result<SocketAddr, String> {
    let ip = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    ip.or_else(|_| text.parse()).map_err(|_| "write IP or IP:PORT".to_owned())
}
