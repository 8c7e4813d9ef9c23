//! `reveille controlplane`.

use std::{net::SocketAddr, path::PathBuf};

use reveille_api::net::{self, Address};
use reveille_controlplane::Timings;

use super::{Common, LadderArgs, Role, Stop, role_error};
use crate::{
    client::{DEFAULT_DATA_DIR, control_socket},
    error::Result,
    tls,
};

const EXAMPLES: &str = "\
Examples:
  reveille controlplane --data-dir /var/lib/reveille --tcp 127.0.0.1:8082
  reveille controlplane --tcp 0.0.0.0:8082 \\
    --tls-cert certs/controlplane.pem --tls-key certs/controlplane.key --tls-ca certs/ca.pem

Over a Unix socket root and the user of this process may do everything. By TCP with a certificate each caller may do
what its role does, and nobody else anything. By TCP without one, programs on this machine that show the token are
served, as clients.";

/// Run the control plane: actor records, wake and suspend, placement, idle policy
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Data directory; the store is kept in control
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Where clients, routers and node agents are served [default: run/control.sock in the data directory]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<Address>,
    /// Where they are served by TLS too; without a certificate: loopback, and clients with the token only
    #[arg(long, value_name = "IP:PORT")]
    tcp: Option<SocketAddr>,
    /// The token for --tcp; made if it is missing [default: run/token in the data directory]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Metrics and probes: IP:PORT or unix:/path [default: not served]
    #[arg(long, value_name = "ADDRESS")]
    status: Option<Address>,
    /// Wakes that a namespace may begin in a minute, as many of them at once; 0 is no limit
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    wake_budget: u32,
    #[command(flatten)]
    ladder: LadderArgs,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    tls: tls::Args,
}

impl Role for Args {
    const PART: &'static str = "controlplane";

    fn common(&self) -> &Common {
        &self.common
    }

    fn page(&self) -> Option<Address> {
        self.status.clone()
    }

    fn unprivileged(&self) -> Option<Vec<PathBuf>> {
        let listen = self.listen();
        let mut paths = super::paths(&[&listen]);
        paths.extend(self.status.iter().flat_map(|status| super::paths(&[status])));
        paths.extend(self.tls.paths());
        paths.extend([self.store().join("reveille.redb"), self.token_file()]);
        Some(paths)
    }

    fn check(self) -> Result {
        self.config()?.check().map_err(|error| role_error(Self::PART)(&error))
    }

    async fn serve(self, stop: Stop) -> Result {
        let config = self.config()?;
        let wrong = role_error(Self::PART);
        let app = config.build().await.map_err(|error| wrong(&error))?;
        app.run(stop.token).await.map_err(|error| wrong(&error))
    }
}

impl Args {
    fn config(self) -> Result<reveille_controlplane::Config> {
        Ok(reveille_controlplane::Config {
            data_dir: self.store(),
            transport: self.tls.transport(net::Role::ControlPlane, None)?,
            listen: self.listen(),
            tcp: self.tcp.map(Address::Tcp),
            token_file: self.token_file(),
            status: self.status,
            ladder: self.ladder.checked()?,
            wake_budget: self.wake_budget,
            timings: Timings::default(),
        })
    }

    fn store(&self) -> PathBuf {
        self.data_dir.join("control")
    }

    fn listen(&self) -> Address {
        self.listen.clone().unwrap_or_else(|| control_socket(&self.data_dir))
    }

    fn token_file(&self) -> PathBuf {
        self.token_file.clone().unwrap_or_else(|| self.data_dir.join("run/token"))
    }
}
