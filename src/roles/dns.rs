//! `reveille dns`.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZero,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Subcommand;
use reveille_api::{
    Zone, metrics,
    net::{self, Address, Expected},
};
use reveille_dns::{ControlPlane, ServiceName, Source, Tls, certificate::Files};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Common, Role, Stop, role_error};
use crate::{
    cli::cluster_dns,
    error::{Error, Result},
    tls,
};

const EXAMPLES: &str = "\
Examples:
  reveille dns --listen 127.0.0.1:8053 --domain actors.localhost --front 127.0.0.1
  dig @127.0.0.1 -p 8053 counter.demo.actors.localhost
  reveille dns --listen 0.0.0.0:53 --front-service reveille-system/envoy --status 0.0.0.0:8085
  reveille dns --front 192.0.2.1 --dot 0.0.0.0:853 --dot-cert dns.pem --dot-key dns.key
  reveille dns install --dry-run                make a cluster's own DNS ask this one: see its --help

SIGTERM: it is not ready any more (--status) and serves for --grace, until load balancers have noticed. A second SIGTERM
ends it at once.";

/// Run the authoritative DNS server of the actor zone; or make a cluster's own DNS ask it
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Address to listen on, UDP and TCP; [::] is IPv6 alone; may be given more than once
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',', default_value = "127.0.0.1:8053")]
    listen: Vec<SocketAddr>,
    /// Address for DNS over TLS; may be given more than once
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',', requires_all = ["dot_cert", "dot_key"])]
    dot: Vec<SocketAddr>,
    /// Certificate for --dot, with those that it needs; PEM, read again when it changes
    #[arg(long, value_name = "FILE", requires = "dot")]
    dot_cert: Option<PathBuf>,
    /// Private key of --dot-cert; PEM
    #[arg(long, value_name = "FILE", requires = "dot")]
    dot_key: Option<PathBuf>,
    /// Domain of the actors
    #[arg(long, value_name = "DOMAIN", default_value = "actors.internal")]
    domain: Zone,
    /// The control plane, for the two flags below: unix:/path, or IP:PORT or name:port with TLS
    #[arg(long, value_name = "ADDRESS")]
    control_plane: Option<Address>,
    /// Answer NXDOMAIN for actors that do not exist, from a few seconds after they were first asked for
    #[arg(long, requires = "control_plane")]
    only_existing: bool,
    /// Begin an actor's wake when its name is asked for. Whoever can ask can wake: for networks that are trusted
    #[arg(long, requires = "control_plane")]
    wake_hint: bool,
    /// Address of the Envoy front, IPv4 or IPv6; may be given more than once [default: 127.0.0.1, when only this machine
    /// can ask]
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    front: Vec<IpAddr>,
    /// File with the addresses of the front, one in a line; what changes in it is answered within a second
    #[arg(long, value_name = "FILE", conflicts_with = "front")]
    front_file: Option<PathBuf>,
    /// Kubernetes Service that is the front: its load balancer's addresses if it has that type, otherwise its cluster IPs; watched
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with_all = ["front", "front_file"])]
    front_service: Option<ServiceName>,
    /// Address of this server, for ns.DOMAIN: where a parent zone delegates the domain; may be given more than once
    /// [default: those of --listen that are no wildcard]
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    name_server: Vec<IpAddr>,
    /// How long resolvers may keep an answer, in whole seconds
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = ttl)]
    ttl: u32,
    /// Replies a second over UDP to one network (/24, /56); above, a client is told to come by TCP; 0 is no limit
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    rate_limit: u32,
    /// Metrics and probes: IP:PORT or unix:/path [default: not served]
    #[arg(long, value_name = "ADDRESS")]
    status: Option<Address>,
    /// File for a line of JSON about each question, to be rotated by copytruncate; - is standard output
    #[arg(long, value_name = "FILE")]
    query_log: Option<PathBuf>,
    /// How long a stop serves on while it says that it is not ready: the time in which whoever sends questions here
    /// notices; 0s when there is no other server
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    grace: Duration,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    tls: tls::Args,
}

#[derive(Subcommand, Debug)]
enum Command {
    Install(cluster_dns::Install),
    Uninstall(cluster_dns::Uninstall),
}

impl Args {
    pub(crate) fn run(self) -> Result {
        match self.command {
            None => super::run(self),
            Some(Command::Install(install)) => crate::cli::client(install.run()),
            Some(Command::Uninstall(uninstall)) => crate::cli::client(uninstall.run()),
        }
    }

    /// From the config file each of them may come alone.
    fn over_tls(&self) -> Result<Option<Tls>> {
        match (self.dot.as_slice(), &self.dot_cert, &self.dot_key) {
            ([], None, None) => Ok(None),
            ([_, ..], Some(certificate), Some(key)) => {
                let files = Files { certificate: certificate.clone(), key: key.clone() };
                Ok(Some(Tls { listen: self.dot.clone(), files }))
            }
            _ => Err(Error::usage("--dot, --dot-cert and --dot-key: give all three or none")),
        }
    }
}

impl Args {
    fn fronts(&self) -> Result<Source> {
        let only_here =
            self.listen.iter().chain(&self.dot).all(|address| address.ip().is_loopback());
        match (&self.front_service, &self.front_file, self.front.as_slice()) {
            (Some(service), _, _) => Ok(Source::Service(service.clone())),
            (None, Some(file), _) => Ok(Source::File(file.clone())),
            (None, None, []) if only_here => Ok(Source::Given(vec![Ipv4Addr::LOCALHOST.into()])),
            (None, None, []) => Err(Error::usage(
                "--listen, --dot: other machines can ask; give --front, --front-file or --front-service too",
            )),
            (None, None, front) => Ok(Source::Given(front.to_vec())),
        }
    }

    fn control_plane(&self) -> Result<Option<ControlPlane>> {
        let Self { only_existing: existing, wake_hint: wake, .. } = *self;
        match &self.control_plane {
            None if existing || wake => {
                Err(Error::usage("--only-existing, --wake-hint: give --control-plane too"))
            }
            Some(address) if existing || wake => {
                let transport = self.tls.transport(net::Role::Dns, None)?;
                let channel = transport.channel(address, Expected::any(net::Role::ControlPlane));
                let channel = channel.map_err(Error::usage)?;
                Ok(Some(ControlPlane { channel, existing, wake }))
            }
            Some(_) => Err(Error::usage("--control-plane: for --only-existing or --wake-hint")),
            None => Ok(None),
        }
    }
}

/// What DNS can say (RFC 2181 §8).
fn ttl(text: &str) -> Result<u32, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let seconds = i32::try_from(time.as_secs()).ok().filter(|_| time.subsec_nanos() == 0);
    let seconds = seconds.ok_or_else(|| format!("write whole seconds, at most {}s", i32::MAX))?;
    Ok(seconds.unsigned_abs())
}

/// Where a cluster is looked for outside of a pod.
fn kubeconfigs() -> Vec<PathBuf> {
    match (env::var_os("KUBECONFIG"), env::var_os("HOME")) {
        (Some(paths), _) => env::split_paths(&paths).collect(),
        (None, Some(home)) => vec![Path::new(&home).join(".kube/config")],
        (None, None) => Vec::new(),
    }
}

/// There may be more connections than the files a process may have where nobody asks for more.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = limit.current, "cannot raise the limit of open files");
    }
}

impl Role for Args {
    const PART: &'static str = "dns";

    fn common(&self) -> &Common {
        &self.common
    }

    fn page(&self) -> Option<Address> {
        self.status.clone()
    }

    fn unprivileged(&self) -> Option<Vec<PathBuf>> {
        let log = self.query_log.iter().filter(|path| *path != Path::new(reveille_dns::STDOUT));
        let files = [&self.dot_cert, &self.dot_key, &self.front_file];
        let mut paths: Vec<_> = files.into_iter().flatten().chain(log).cloned().collect();
        paths.extend(super::paths(&self.control_plane.iter().collect::<Vec<_>>()));
        paths.extend(self.tls.paths());
        paths.extend(self.status.iter().flat_map(|status| super::paths(&[status])));
        if self.front_service.is_some() {
            paths.extend(kubeconfigs());
        }
        Some(paths)
    }

    fn check(self) -> Result {
        let page = self.status.as_ref().map_or(Ok(()), metrics::listenable);
        page.map_err(|error| role_error(Self::PART)(&error))?;
        let _ = (self.over_tls()?, self.fronts()?);
        crate::cli::client(async { self.control_plane().map(drop) })
    }

    async fn serve(self, stop: Stop) -> Result {
        let (tls, control_plane) = (self.over_tls()?, self.control_plane()?);
        let config = reveille_dns::Config {
            fronts: self.fronts()?,
            listen: self.listen,
            tls,
            zone: self.domain,
            name_servers: self.name_server,
            ttl: self.ttl,
            rate_limit: NonZero::new(self.rate_limit),
            status: self.status,
            query_log: self.query_log,
            control_plane,
            grace: self.grace,
        };
        raise_file_limit();
        let wrong = role_error(Self::PART);
        let app = config.build().await.map_err(|error| wrong(&error))?;
        let app = app.leaving_by(stop.leaving).hurried_by(stop.hurry);
        app.run(stop.token).await.map_err(|error| wrong(&error))
    }
}
