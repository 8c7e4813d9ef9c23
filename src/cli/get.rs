//! `reveille get`: lists objects, or shows one.

use clap::ValueEnum;
use reveille_api::proto::{ActorKey, ListRequest};

use crate::{
    client::{self, Control},
    error::{Error, Result},
    output::{
        self, Format, View,
        view::{ActorView, NodeView, PoolView, RouterView, SnapshotView, TemplateView, WorkerView},
    },
};

const EXAMPLES: &str = "\
Examples:
  reveille get actors -A
  reveille get actor counter -n demo -o json
  reveille get workers -o wide
  reveille get actors -A -o name | xargs -n1 reveille suspend actor";

/// List objects, or show one
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Kind of object; singular and short names work too
    #[arg(value_name = "KIND")]
    kind: Kind,
    /// Only this one: name or namespace/name. With snapshots also an actor's name
    name: Option<String>,
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

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Kind {
    #[value(aliases = ["actor", "act", "a"])]
    Actors,
    #[value(aliases = ["worker", "wk", "w"])]
    Workers,
    #[value(aliases = ["node", "no"])]
    Nodes,
    #[value(aliases = ["template", "tmpl", "tpl", "actortemplate", "actortemplates"])]
    Templates,
    #[value(aliases = ["snapshot", "snap", "snaps"])]
    Snapshots,
    #[value(aliases = ["pool", "workerpool", "workerpools", "wp"])]
    Pools,
    #[value(aliases = ["router", "rt"])]
    Routers,
}

impl Args {
    pub(crate) async fn run(self) -> Result {
        // A name that cannot be one is told without a server.
        self.key()?;
        let mut control = self.server.connect().await?;
        match self.kind {
            Kind::Actors => self.actors(&mut control).await,
            Kind::Snapshots => self.snapshots(&mut control).await,
            Kind::Templates => {
                let reply = control.list_templates(self.request()?).await?.into_inner();
                self.show(reply.items.into_iter().map(TemplateView::from).collect())
            }
            Kind::Pools => {
                let reply = control.list_pools(ListRequest::default()).await?.into_inner();
                self.show(reply.items.into_iter().map(PoolView::from).collect())
            }
            Kind::Workers => {
                let reply = control.list_workers(ListRequest::default()).await?.into_inner();
                self.show(reply.items.into_iter().map(WorkerView::from).collect())
            }
            Kind::Nodes => {
                let reply = control.list_nodes(ListRequest::default()).await?.into_inner();
                self.show(reply.items.into_iter().map(NodeView::from).collect())
            }
            Kind::Routers => {
                let reply = control.list_routers(ListRequest::default()).await?.into_inner();
                self.show(reply.items.into_iter().map(RouterView::from).collect())
            }
        }
    }

    async fn actors(&self, control: &mut Control) -> Result {
        if let Some(key) = self.key()? {
            let actor = control.get_actor(key).await?.into_inner();
            return output::one(&ActorView::from(actor), self.output.output);
        }
        let reply = control.list_actors(self.request()?).await?.into_inner();
        self.show(reply.items.into_iter().map(ActorView::from).collect())
    }

    /// By its own name a snapshot, by an actor's name all of that actor.
    async fn snapshots(&self, control: &mut Control) -> Result {
        let reply = control.list_snapshots(self.request()?).await?.into_inner();
        let all: Vec<_> = reply.items.into_iter().map(SnapshotView::from).collect();
        let Some(wanted) = &self.name else { return self.show(all) };
        let wanted = wanted.rsplit('/').next().unwrap_or_default();
        let (of_actor, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|s| s.actor == wanted);
        if of_actor.is_empty() {
            return self.show(rest);
        }
        output::list(&of_actor, self.output.output, false, "")
    }

    fn key(&self) -> Result<Option<ActorKey>> {
        match (self.kind, &self.name) {
            (Kind::Actors, Some(name)) => self.namespace.key(name).map(Some),
            _ => Ok(None),
        }
    }

    fn request(&self) -> Result<ListRequest> {
        let namespace = match &self.name {
            Some(name) => match name.split_once('/') {
                Some((namespace, _)) => namespace,
                None => &self.namespace.namespace,
            },
            None if self.all_namespaces => "",
            None => &self.namespace.namespace,
        };
        Ok(ListRequest { namespace: namespace.into() })
    }

    fn show<T: View>(&self, items: Vec<T>) -> Result {
        let format: Option<Format> = self.output.output;
        let Some(wanted) = &self.name else {
            let nothing = match (T::NAMESPACED, self.all_namespaces) {
                (true, false) => format!(
                    "No {}s in namespace {} (-A shows all namespaces).",
                    T::KIND,
                    self.namespace.namespace
                ),
                _ => format!("No {}s.", T::KIND),
            };
            return output::list(&items, format, self.all_namespaces, &nothing);
        };
        let is_it = |item: &&T| {
            let name = item.name();
            name == *wanted
                || T::NAMESPACED && name.split_once('/').is_some_and(|(_, n)| n == wanted)
        };
        match items.iter().find(is_it) {
            Some(item) => output::one(item, format),
            None => Err(Error::failed(format!("{} {wanted:?} not found", T::KIND))),
        }
    }
}
