//! `reveille logs`: what an actor's processes wrote.

use std::io::Write;

use reveille_api::proto::LogsRequest;

use crate::{client, error::Result};

const EXAMPLES: &str = "\
Examples:
  reveille logs counter -n demo
  reveille logs demo/counter --tail 20 -f";

/// Print what an actor's processes wrote to stdout and stderr
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Actor: name or namespace/name
    name: String,
    /// Go on with what it writes from now on
    #[arg(short, long)]
    follow: bool,
    /// Begin with so many lines from the end; 0 is everything that is kept
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    tail: u32,
    #[command(flatten)]
    namespace: client::Namespace,
    #[command(flatten)]
    server: client::Args,
}

impl Args {
    pub(crate) async fn run(self) -> Result {
        let actor = Some(self.namespace.key(&self.name)?);
        let request = LogsRequest { actor, follow: self.follow, tail: self.tail };
        let mut control = self.server.connect().await?;
        let mut chunks = control.logs(request).await?.into_inner();
        while let Some(chunk) = chunks.message().await? {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&chunk.data)?;
            stdout.flush()?;
        }
        Ok(())
    }
}
