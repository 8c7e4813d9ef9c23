//! `reveille events`: what happened to actors.

use reveille_api::proto::{ActorKey, EventsRequest};

use crate::{
    client,
    error::{Error, Result},
    output::{self, Format, View, view::EventView},
};

const EXAMPLES: &str = "\
Examples:
  reveille events -A
  reveille events demo/counter -f
  reveille events -A -f -o json        one object a line";

/// Print what happened to an actor, or to all of a namespace
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Actor: name or namespace/name; all of the namespace when not given
    name: Option<String>,
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    namespace: client::Namespace,
    /// Every namespace
    #[arg(short = 'A', long, conflicts_with = "name")]
    all_namespaces: bool,
    #[command(flatten)]
    output: output::Args,
    #[command(flatten)]
    server: client::Args,
}

impl Args {
    pub(crate) async fn run(self) -> Result {
        let actor = match (&self.name, self.all_namespaces) {
            (Some(name), _) => self.namespace.key(name)?,
            (None, true) => ActorKey::default(),
            (None, false) => {
                ActorKey { namespace: self.namespace.namespace.clone(), name: String::new() }
            }
        };
        let request = EventsRequest { actor: Some(actor), follow: self.follow };
        let mut control = self.server.connect().await?;
        let mut stream = control.events(request).await?.into_inner();
        let mut all = Vec::new();
        if self.follow && self.output.output.is_none() {
            output::print(HEADS)?;
        }
        while let Some(event) = stream.message().await? {
            let event = EventView::from(event);
            match self.follow {
                true => output::print(&self.line(&event)?)?,
                false => all.push(event),
            }
        }
        if self.follow {
            return Ok(());
        }
        let nothing = match self.name.is_some() || self.all_namespaces {
            true => "No events.".into(),
            false => {
                let namespace = &self.namespace.namespace;
                format!("No events in namespace {namespace} (-A shows all namespaces).")
            }
        };
        output::list(&all, self.output.output, true, &nothing)
    }

    /// One event in one line: how wide a column must be is not known beforehand.
    fn line(&self, event: &EventView) -> Result<String> {
        match self.output.output {
            Some(Format::Json) => Ok(serde_json::to_string(event).map_err(Error::failed)? + "\n"),
            Some(Format::Yaml) => Ok(format!("---\n{}", output::yaml(event)?)),
            Some(Format::Name) => Ok(event.name() + "\n"),
            None | Some(Format::Wide) => {
                let time = event.time.map(|t| t.strftime("%H:%M:%S%.3f").to_string());
                let actor = format!("{}/{}", event.namespace, event.name);
                let reason = event.reason.as_deref().unwrap_or("-");
                Ok(format!(
                    "{:<15}{actor:<27} {:<7} {:<21} {reason:<19} {}\n",
                    time.unwrap_or_default(),
                    event.epoch,
                    event.kind,
                    event.message.as_deref().unwrap_or("-"),
                ))
            }
        }
    }
}

const HEADS: &str = "TIME           ACTOR                       EPOCH   KIND                  REASON              MESSAGE\n";
