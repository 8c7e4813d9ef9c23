//! `reveille explain`: why an actor is as it is, and what a request would meet.

use super::actor::ActorOnly;
use crate::{
    client,
    error::Result,
    output::{self, view::ExplanationView},
};

const EXAMPLES: &str = "\
Examples:
  reveille explain actor counter -n demo
  reveille explain actor demo/counter -o json";

/// Say why an actor is in its state, who woke it, why it does not sleep, and what a request would meet now
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Kind of object
    #[arg(value_name = "KIND")]
    _kind: ActorOnly,
    /// name or namespace/name
    name: String,
    #[command(flatten)]
    namespace: client::Namespace,
    /// How to print; text when not given
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<output::Data>,
    #[command(flatten)]
    server: client::Args,
}

impl Args {
    pub(crate) async fn run(self) -> Result {
        let key = self.namespace.key(&self.name)?;
        let mut control = self.server.connect().await?;
        let explanation = control.explain_actor(key).await?.into_inner();
        let view = ExplanationView::from(explanation);
        output::page(&view, self.output, ExplanationView::page)
    }
}
