//! Verbs about one actor: create, wake, suspend, freeze, stop, delete.

use clap::ValueEnum;
use reveille_api::{
    key::check_label,
    proto::{Actor, CreateActorRequest},
};

use crate::{
    client,
    error::{Error, Result},
    output::{self, age, view::ActorView},
};

/// An actor, named as `actor NAME`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Kind of object
    #[arg(value_name = "KIND")]
    _kind: ActorOnly,
    /// name or namespace/name
    name: String,
    #[command(flatten)]
    namespace: client::Namespace,
    #[command(flatten)]
    output: output::Args,
    #[command(flatten)]
    server: client::Args,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub(super) enum ActorOnly {
    #[value(aliases = ["actors", "act", "a"])]
    Actor,
}

pub(crate) enum Verb {
    Wake,
    Suspend,
    Freeze,
    Stop,
}

impl Args {
    pub(crate) async fn run(self, verb: Verb) -> Result {
        let key = self.namespace.key(&self.name)?;
        let mut control = self.server.connect().await?;
        let actor = match verb {
            Verb::Wake => control.wake_actor(key).await,
            Verb::Suspend => control.suspend_actor(key).await,
            Verb::Freeze => control.freeze_actor(key).await,
            Verb::Stop => control.stop_actor(key).await,
        };
        let actor = ActorView::from(actor?.into_inner());
        let what = match verb {
            Verb::Wake => woken(&actor),
            _ => actor.state.to_lowercase(),
        };
        report(&actor, &what, self.output.output)
    }
}

fn woken(actor: &ActorView) -> String {
    let state = actor.state.to_lowercase();
    match &actor.last_wake {
        Some(wake) => format!(
            "{state} (epoch {}, {} in {})",
            actor.epoch,
            wake.kind,
            age::micros(wake.total_us)
        ),
        None => format!("{state} (epoch {})", actor.epoch),
    }
}

fn report(actor: &ActorView, what: &str, format: Option<output::Format>) -> Result {
    match format {
        Some(_) => output::one(actor, format),
        None => output::print(&format!("actor {}/{} {what}\n", actor.namespace, actor.name)),
    }
}

/// Create an actor; it starts at its first request
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  reveille create actor counter --template counter -n demo")]
pub(crate) struct CreateArgs {
    /// Kind of object
    #[arg(value_name = "KIND")]
    _kind: ActorOnly,
    /// name or namespace/name
    name: String,
    /// Template of the same namespace
    #[arg(short, long, value_name = "TEMPLATE")]
    template: String,
    #[command(flatten)]
    namespace: client::Namespace,
    #[command(flatten)]
    output: output::Args,
    #[command(flatten)]
    server: client::Args,
}

impl CreateArgs {
    pub(crate) async fn run(self) -> Result {
        check_label("template", &self.template).map_err(Error::usage)?;
        let actor = Some(self.namespace.key(&self.name)?);
        let request = CreateActorRequest { actor, template: self.template };
        let mut control = self.server.connect().await?;
        let actor: Actor = control.create_actor(request).await?.into_inner();
        report(&actor.into(), "created", self.output.output)
    }
}

/// Delete an actor with its snapshots, or a template without actors
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  reveille delete actor demo/counter\n  reveille delete template demo/counter"
)]
pub(crate) struct DeleteArgs {
    /// Kind of object
    #[arg(value_name = "KIND")]
    kind: Deletable,
    /// name or namespace/name
    name: String,
    #[command(flatten)]
    namespace: client::Namespace,
    #[command(flatten)]
    server: client::Args,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Deletable {
    #[value(aliases = ["actors", "act", "a"])]
    Actor,
    #[value(aliases = ["templates", "tmpl", "tpl", "actortemplate"])]
    Template,
}

impl DeleteArgs {
    pub(crate) async fn run(self) -> Result {
        let key = self.namespace.key(&self.name)?;
        let name = key.name.clone();
        let mut control = self.server.connect().await?;
        let kind = match self.kind {
            Deletable::Actor => {
                control.delete_actor(key).await?;
                "actor"
            }
            Deletable::Template => {
                control.delete_template(key).await?;
                "actortemplate"
            }
        };
        output::print(&format!("{kind}/{name} deleted\n"))
    }
}
