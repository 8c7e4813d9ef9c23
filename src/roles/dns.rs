//! `reveille dns`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use reveille_api::Zone;

use super::{Common, Role, Stop, role_error};
use crate::error::Result;

const EXAMPLES: &str = "\
Example:
  reveille dns --listen 127.0.0.1:8053 --domain actors.localhost --front 127.0.0.1
  dig @127.0.0.1 -p 8053 counter.demo.actors.localhost";

/// Run the authoritative DNS server of the actor zone
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Address to listen on, UDP and TCP; may be given more than once
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',', default_value = "127.0.0.1:8053")]
    listen: Vec<SocketAddr>,
    /// Domain of the actors
    #[arg(long, value_name = "DOMAIN", default_value = "actors.internal")]
    domain: Zone,
    /// Address of the Envoy front, IPv4 or IPv6; may be given more than once
    #[arg(long, value_name = "IP", value_delimiter = ',', default_value = "127.0.0.1")]
    front: Vec<IpAddr>,
    /// How long resolvers may keep an answer
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    ttl: Duration,
    #[command(flatten)]
    common: Common,
}

impl Role for Args {
    fn common(&self) -> &Common {
        &self.common
    }

    fn unprivileged(&self) -> Option<Vec<PathBuf>> {
        Some(Vec::new())
    }

    async fn serve(self, stop: Stop) -> Result {
        let Self { listen, domain, front, ttl, .. } = self;
        let config = reveille_dns::Config { listen, zone: domain, fronts: front, ttl };
        let wrong = role_error("dns");
        let app = config.build().await.map_err(|error| wrong(&error))?;
        app.run(stop.token).await.map_err(|error| wrong(&error))
    }
}
