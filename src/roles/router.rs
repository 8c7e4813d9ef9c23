//! `reveille router`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use reveille_api::{
    Zone,
    net::{self, Address},
};

use super::{Common, LadderArgs, Role, Stop, role_error};
use crate::{error::Result, tls};

const EXAMPLES: &str = "\
Examples:
  reveille router --listen unix:/run/reveille/router.sock --control-plane unix:/run/reveille/control.sock
  reveille router --name r1 --listen 0.0.0.0:8090 --advertise r1.example:8090 --control-plane control.example:8082 \\
    --tls-cert certs/router-r1.pem --tls-key certs/router-r1.key --tls-ca certs/ca.pem";

/// Value of `--access-log` that means standard output.
const STDOUT: &str = "-";

/// Run the router: ExtProc and xDS server of Envoy, parking, bindings
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where Envoy reaches the router: unix:/path, or IP:PORT with TLS
    #[arg(long, value_name = "ADDRESS", default_value = "unix:/var/lib/reveille/run/router.sock")]
    listen: Address,
    /// Where Envoy is told to reach it: name:port or IP:PORT [default: --listen]
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<Address>,
    /// The control plane: unix:/path, or IP:PORT or name:port with TLS
    #[arg(long, value_name = "ADDRESS", default_value = "unix:/var/lib/reveille/run/control.sock")]
    control_plane: Address,
    /// Domain of the actors
    #[arg(long, value_name = "DOMAIN", default_value = "actors.internal")]
    domain: Zone,
    /// Where Envoy is to serve HTTP; may be given more than once
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',', default_value = "0.0.0.0:8080")]
    http: Vec<SocketAddr>,
    /// Status page, metrics and probes
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8081")]
    status: SocketAddr,
    /// Name of this router: it stays over restarts, and no other router has it
    #[arg(long, value_name = "NAME", default_value = "router")]
    name: String,
    /// File for Envoy's access log; - is Envoy's standard output
    #[arg(long, value_name = "FILE", default_value = STDOUT)]
    access_log: PathBuf,
    /// Most of the parking places that one namespace may take, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=100))]
    namespace_share: u8,
    /// A request on which nothing moves for so long is ended: upstream_timeout where the actor has not answered yet
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    stream_idle: Duration,
    /// How long a stop waits for requests in flight
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    drain: Duration,
    #[command(flatten)]
    ladder: LadderArgs,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    tls: tls::Args,
}

impl Role for Args {
    fn common(&self) -> &Common {
        &self.common
    }

    fn unprivileged(&self) -> Option<Vec<PathBuf>> {
        let mut paths = super::paths(&[&self.listen, &self.control_plane]);
        paths.extend(self.tls.paths());
        Some(paths)
    }

    async fn serve(self, stop: Stop) -> Result {
        let config = reveille_router::Config {
            transport: self.tls.transport(net::Role::Router, Some(&self.name))?,
            listen: self.listen,
            advertise: self.advertise,
            status: self.status,
            control_plane: self.control_plane,
            zone: self.domain,
            ladder: self.ladder.checked()?,
            router: self.name,
            http: self.http,
            access_log: Some(self.access_log).filter(|path| path != Path::new(STDOUT)),
            namespace_share: self.namespace_share,
            stream_idle: self.stream_idle,
            drain: self.drain,
        };
        let wrong = role_error("router");
        let app = config.build().await.map_err(|error| wrong(&error))?;
        app.run(stop.token).await.map_err(|error| wrong(&error))
    }
}
