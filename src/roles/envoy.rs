//! `reveille envoy`: Envoy under supervision.

mod dump;

use std::{
    net::SocketAddr,
    num::NonZero,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;
use reveille_api::{
    Ladder,
    net::{self, Address},
};
use reveille_envoy::{bootstrap::Protocol, supervisor, tls::Config as Tls};

use super::{Common, Role, Stop, role_error};
use crate::{
    cli,
    client::DEFAULT_DATA_DIR,
    error::{Error, Result},
    tls, tools,
};

const EXAMPLES: &str = "\
Examples:
  reveille envoy --router unix:/run/reveille/router.sock --admin 127.0.0.1:9901
  reveille envoy --router r1.example:8090 \\
    --tls-cert certs/envoy.pem --tls-key certs/envoy.key --tls-ca certs/ca.pem
  reveille envoy --router r1.example:8090 --router r2.example:8090 --status 0.0.0.0:8084 --tls-cert …

With several routers the first one that serves is used; each is asked for its health twice a second.

SIGTERM: it is not ready any more (--status) and serves for --grace, until load balancers have noticed; then it waits
for requests in flight, up to --drain, and stops listening. A second SIGTERM leaves two seconds.";

/// Run Envoy, configured by the router, and start it again when it dies
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Data directory; Envoy's bootstrap is kept in run/envoy
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// The router: unix:/path, or IP:PORT or name:port with TLS; may be given more than once, the one to be used first
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    #[arg(default_value = "unix:/var/lib/reveille/run/router.sock")]
    router: Vec<Address>,
    /// Envoy's binary [default: .deps/bin/envoy here or above, else in PATH]
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// Envoy's admin page, loopback only [default: a socket in the data directory]
    #[arg(long, value_name = "IP:PORT")]
    admin: Option<SocketAddr>,
    /// Metrics, and probes for load balancers: IP:PORT or unix:/path [default: not served]
    #[arg(long, value_name = "ADDRESS")]
    status: Option<Address>,
    /// Name of this Envoy among all
    #[arg(long, value_name = "NAME", default_value = "envoy")]
    name: String,
    /// Worker threads of Envoy [default: one for each CPU]
    #[arg(long, value_name = "COUNT")]
    concurrency: Option<NonZero<usize>>,
    /// Connections of clients at a time; more are refused
    #[arg(long, value_name = "COUNT", default_value_t = 50_000)]
    max_connections: u32,
    /// Form of xDS
    #[arg(long, value_name = "FORM", default_value = "delta")]
    xds: Xds,
    /// Envoy's own log: trace, debug, info, warning, error, critical or off
    #[arg(long, value_name = "LEVEL", default_value = "warning")]
    envoy_log: String,
    /// Requests that may wait for the routers at a time; as the routers' own
    #[arg(long, value_name = "COUNT", default_value_t = Ladder::default().max_requests())]
    max_requests: u32,
    /// How long a stop serves on while it says that it is not ready: the time in which load balancers notice
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// How long a stop then waits for requests in flight
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    drain: Duration,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    tls: tls::Args,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    Dump(dump::Args),
}

impl Args {
    pub(crate) fn run(mut self) -> Result {
        match self.verb.take() {
            Some(Verb::Dump(args)) => cli::client(args.run()),
            None => super::run(self),
        }
    }

    fn config(self) -> Result<supervisor::Config> {
        let binary = tools::find("envoy", self.envoy.as_deref()).map_err(Error::failed)?;
        let dir = self.data_dir.join(Path::new("run/envoy"));
        let transport = self.tls.transport(net::Role::Envoy, None)?;
        let tls = self.tls.files()?.zip(transport.identity());
        let tls = tls.map(|(files, identity)| Tls { files, identity: (*identity).clone() });
        Ok(supervisor::Config {
            tls,
            node_id: self.name,
            protocol: self.xds.into(),
            admin: self.admin,
            concurrency: self.concurrency,
            status: self.status,
            grace: self.grace,
            drain: self.drain,
            max_requests: self.max_requests,
            log_level: self.envoy_log,
            max_connections: self.max_connections,
            ..supervisor::Config::new(binary, dir, self.router)
        })
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Xds {
    Delta,
    Sotw,
}

impl From<Xds> for Protocol {
    fn from(xds: Xds) -> Self {
        match xds {
            Xds::Delta => Self::Delta,
            Xds::Sotw => Self::StateOfTheWorld,
        }
    }
}

impl Role for Args {
    const PART: &'static str = "envoy";

    fn common(&self) -> &Common {
        &self.common
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn page(&self) -> Option<Address> {
        self.status.clone()
    }

    fn unprivileged(&self) -> Option<Vec<PathBuf>> {
        let mut paths = super::paths(&self.router.iter().chain(&self.status).collect::<Vec<_>>());
        paths.extend(self.tls.paths());
        paths.push(self.data_dir.join("run/envoy"));
        paths.extend(tools::find("envoy", self.envoy.as_deref()).ok());
        Some(paths)
    }

    fn check(self) -> Result {
        self.config()?.check().map_err(|error| role_error(Self::PART)(&error))
    }

    async fn serve(self, stop: Stop) -> Result {
        let config = self.config()?;
        let wrong = role_error(Self::PART);
        let app = config.build().await.map_err(|error| wrong(&error))?;
        app.hurried_by(stop.hurry).run(stop.token).await.map_err(|error| wrong(&error))
    }
}
