//! `reveille router`.

use std::{
    net::SocketAddr,
    num::NonZero,
    path::{Path, PathBuf},
    time::Duration,
};

use reveille_api::{
    Ladder, Zone,
    metrics::{Label, Other},
    net::{self, Address},
};
use reveille_envoy::certificate::Files;
use reveille_router::Https;

use super::{Common, LadderArgs, Role, Stop, explain::explain, role_error};
use crate::{
    cli,
    error::{Error, Result},
    output::Format,
    telemetry, tls,
};

const EXAMPLES: &str = "\
Examples:
  reveille router --explain-timeouts
  reveille router --listen unix:/run/reveille/router.sock --control-plane unix:/run/reveille/control.sock
  reveille router --name r1 --listen 0.0.0.0:8090 --control-plane control.example:8082 \\
    --tls-cert certs/router-r1.pem --tls-key certs/router-r1.key --tls-ca certs/ca.pem

Several routers of one control plane have names of their own and are otherwise started with the same flags; each Envoy
is told all of them (reveille envoy --router A --router B).

SIGTERM: it is not ready any more and serves for --grace, until Envoys have noticed; then it waits for what is in
flight or parked, up to --drain. A second SIGTERM leaves two seconds.";

/// Threads of Envoy that one of the router's keeps busy: of a warm request's processor time Envoy has about four parts in five.
const ENVOY_THREADS: usize = 4;
/// Value of `--access-log` that means standard output.
pub(crate) const STDOUT: &str = "-";

/// Run the router: ExtProc and xDS server of Envoy, parking, bindings
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where Envoy reaches the router: unix:/path, or IP:PORT with TLS
    #[arg(long, value_name = "ADDRESS", default_value = "unix:/var/lib/reveille/run/router.sock")]
    listen: Address,
    /// The control plane: unix:/path, or IP:PORT or name:port with TLS
    #[arg(long, value_name = "ADDRESS", default_value = "unix:/var/lib/reveille/run/control.sock")]
    control_plane: Address,
    /// Domain of the actors
    #[arg(long, value_name = "DOMAIN", default_value = "actors.internal")]
    domain: Zone,
    /// Where Envoy is to serve HTTP; may be given more than once
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',', default_value = "0.0.0.0:8080")]
    http: Vec<SocketAddr>,
    /// Where Envoy is to serve HTTPS; may be given more than once
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',', requires_all = ["https_cert", "https_key"])]
    https: Vec<SocketAddr>,
    /// Certificate for --https, with those that it needs; PEM, read again when it changes
    #[arg(long, value_name = "FILE", requires = "https")]
    https_cert: Option<PathBuf>,
    /// Private key of --https-cert; PEM
    #[arg(long, value_name = "FILE", requires = "https")]
    https_key: Option<PathBuf>,
    /// Status page, metrics and probes
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8081")]
    status: SocketAddr,
    /// Part on this machine for which --status speaks too, in its metrics and readiness: PART=ADDRESS, its --status; may be given
    /// more than once
    #[arg(long, value_name = "PART=ADDRESS", value_delimiter = ',')]
    metrics_of: Vec<Other>,
    /// Name of this router: it stays over restarts, and no other router has it
    #[arg(long, value_name = "NAME", default_value = "router")]
    name: String,
    /// File for Envoy's access log; - is Envoy's standard output
    #[arg(long, value_name = "FILE", default_value = STDOUT)]
    access_log: PathBuf,
    /// Most of the parking places that one namespace may take, and of those one actor, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=100))]
    namespace_share: u8,
    /// How long a stop serves on while it says that it is not ready: the time in which Envoys notice; 0s when
    /// there is no other router
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// How long a stop then waits for requests in flight or parked [default: as --park]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    drain: Option<Duration>,
    /// A request on which nothing moves for so long is ended: upstream_timeout where the actor has not answered yet
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    stream_idle: Duration,
    /// Print every timeout and limit, and what it must stand above; then end
    #[arg(long)]
    explain_timeouts: bool,
    /// How to print --explain-timeouts; a table when not given
    #[arg(short, long, value_name = "FORMAT", requires = "explain_timeouts")]
    output: Option<Format>,
    #[command(flatten)]
    ladder: LadderArgs,
    #[command(flatten)]
    traces: telemetry::TraceArgs,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    tls: tls::Args,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        match self.explain_timeouts {
            true => explain(&self.checked()?, self.output),
            false => super::run(self),
        }
    }

    /// From the config file each of them may come alone.
    fn https(&self) -> Result<Option<Https>> {
        match (self.https.as_slice(), &self.https_cert, &self.https_key) {
            ([], None, None) => Ok(None),
            ([_, ..], Some(certificate), Some(key)) => {
                let files = Files { certificate: certificate.clone(), key: key.clone() };
                Ok(Some(Https { listen: self.https.clone(), files }))
            }
            _ => Err(Error::usage("--https, --https-cert and --https-key: give all three or none")),
        }
    }

    fn config(self) -> Result<reveille_router::Config> {
        // By TCP, Envoy is on a machine that we do not see.
        if self.listen.is_unix() && !self.access_log.parent().is_none_or(is_folder) {
            let path = self.access_log.display();
            return Err(Error::usage(format!("--access-log {path}: there is no such folder")));
        }
        for (n, other) in self.metrics_of.iter().enumerate() {
            if self.metrics_of[..n].iter().any(|earlier| earlier.part == other.part) {
                let part = other.part.value();
                return Err(Error::usage(format!("--metrics-of {part}=…: give each part once")));
            }
        }
        let ladder = self.checked()?;
        let https = self.https()?;
        Ok(reveille_router::Config {
            transport: self.tls.transport(net::Role::Router, Some(&self.name))?,
            listen: self.listen,
            status: self.status,
            others: self.metrics_of,
            control_plane: self.control_plane,
            zone: self.domain,
            ladder,
            router: self.name,
            http: self.http,
            https,
            access_log: Some(self.access_log).filter(|path| path != Path::new(STDOUT)),
            traces: self.traces.traces(&self.common.telemetry)?,
            namespace_share: self.namespace_share,
        })
    }

    fn checked(&self) -> Result<Ladder> {
        let ladder = self.ladder.checked()?;
        let drain = self.drain.unwrap_or(ladder.drain());
        ladder
            .with_drain(drain)
            .and_then(|ladder| ladder.with_grace(self.grace))
            .and_then(|ladder| ladder.with_stream_idle(self.stream_idle))
            .map_err(|error| Error::usage(format!("--drain, --grace, --stream-idle: {error}")))
    }
}

impl Role for Args {
    const PART: &'static str = "router";

    fn common(&self) -> &Common {
        &self.common
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn page(&self) -> Option<Address> {
        Some(Address::Tcp(self.status))
    }

    fn unprivileged(&self) -> Option<Vec<PathBuf>> {
        let mut paths = super::paths(&[&self.listen, &self.control_plane]);
        paths.extend(self.metrics_of.iter().flat_map(|other| super::paths(&[&other.address])));
        paths.extend(self.tls.paths());
        paths.extend(self.https_cert.iter().chain(&self.https_key).cloned());
        Some(paths)
    }

    /// One keeps four of Envoy's busy, and with no more than it needs a request wakes one thread instead of handing itself
    /// from one to another.
    fn threads(&self) -> Option<NonZero<usize>> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        NonZero::new(cores.div_ceil(ENVOY_THREADS))
    }

    fn check(self) -> Result {
        let config = self.config()?;
        config.check().map_err(|error| role_error(Self::PART)(&error))?;
        let Some(https) = config.https else { return Ok(()) };
        let wrong =
            |error: &dyn std::error::Error| Error::because("--https-cert, --https-key", error);
        cli::client(async { https.files.read().await.map(drop).map_err(|error| wrong(&error)) })
    }

    async fn serve(self, stop: Stop) -> Result {
        let config = self.config()?;
        let wrong = role_error(Self::PART);
        let app = config.build().await.map_err(|error| wrong(&error))?;
        app.hurried_by(stop.hurry)
            .leaving_by(stop.leaving)
            .run(stop.token)
            .await
            .map_err(|error| wrong(&error))
    }
}

/// The empty path is the folder a bare name is in.
fn is_folder(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.is_dir()
}
