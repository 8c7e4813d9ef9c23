//! `reveille describe`: everything about one object, for people.

use clap::ValueEnum;
use reveille_api::proto::{EventsRequest, ListRequest};

use crate::{
    client::{self, Control},
    error::{Error, Result},
    output::{
        self, Table, View, age,
        view::{ActorView, EventView, NodeView, TemplateView, WorkerView},
    },
};

/// Events shown at most.
const EVENTS: usize = 20;

const EXAMPLES: &str = "\
Examples:
  reveille describe actor counter -n demo
  reveille describe node";

/// Show everything about an object, with an actor's last wake by phase and its events
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Kind of object
    #[arg(value_name = "KIND")]
    kind: Kind,
    /// name or namespace/name; all of them when not given
    name: Option<String>,
    #[command(flatten)]
    namespace: client::Namespace,
    #[command(flatten)]
    server: client::Args,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Kind {
    #[value(aliases = ["actors", "act", "a"])]
    Actor,
    #[value(aliases = ["templates", "tmpl", "tpl", "actortemplate"])]
    Template,
    #[value(aliases = ["workers", "wk", "w"])]
    Worker,
    #[value(aliases = ["nodes", "no"])]
    Node,
}

impl Args {
    pub(crate) async fn run(self) -> Result {
        let mut control = self.server.connect().await?;
        let text = match self.kind {
            Kind::Actor => self.actors(&mut control).await?,
            Kind::Template => {
                let reply = control.list_templates(self.request()).await?.into_inner();
                self.each(reply.items.into_iter().map(TemplateView::from))?
            }
            Kind::Worker => {
                let reply = control.list_workers(ListRequest::default()).await?.into_inner();
                self.each(reply.items.into_iter().map(WorkerView::from))?
            }
            Kind::Node => {
                let reply = control.list_nodes(ListRequest::default()).await?.into_inner();
                self.each(reply.items.into_iter().map(NodeView::from))?
            }
        };
        output::print(&text)
    }

    fn request(&self) -> ListRequest {
        let named = self.name.as_ref().and_then(|name| name.split_once('/'));
        let namespace = named.map_or(self.namespace.namespace.as_str(), |(namespace, _)| namespace);
        ListRequest { namespace: namespace.into() }
    }

    async fn actors(&self, control: &mut Control) -> Result<String> {
        let actors = match &self.name {
            Some(name) => vec![control.get_actor(self.namespace.key(name)?).await?.into_inner()],
            None => control.list_actors(self.request()).await?.into_inner().items,
        };
        let mut pages = Vec::new();
        for actor in actors {
            let request = EventsRequest { actor: actor.actor.clone(), follow: false };
            let mut stream = control.events(request).await?.into_inner();
            let mut events = Vec::new();
            while let Some(event) = stream.message().await? {
                events.push(EventView::from(event));
            }
            pages.push(actor_page(&actor.into(), &events)?);
        }
        Ok(pages.join("\n"))
    }

    fn each<T: View>(&self, items: impl Iterator<Item = T>) -> Result<String> {
        let mut pages = Vec::new();
        for item in items {
            let name = item.name();
            let short = name.rsplit('/').next();
            if self.name.as_ref().is_none_or(|wanted| *wanted == name || short == Some(wanted)) {
                pages.push(fields(&item)?);
            }
        }
        match (&self.name, pages.is_empty()) {
            (Some(name), true) => Err(Error::failed(format!("{} {name:?} not found", T::KIND))),
            _ => Ok(pages.join("\n")),
        }
    }
}

fn actor_page(actor: &ActorView, events: &[EventView]) -> Result<String> {
    let none = || "-".to_owned();
    let or = |text: &Option<String>| text.clone().unwrap_or_else(none);
    let ago = |time| match time {
        Some(time) => format!("{time} ({} ago)", age::since(Some(time))),
        None => none(),
    };
    let mut page = vec![
        ("Name", actor.name.clone()),
        ("Namespace", actor.namespace.clone()),
        ("Template", actor.template.clone()),
        ("State", actor.state.to_owned()),
    ];
    page.extend(actor.reason.clone().map(|reason| ("Reason", reason)));
    page.extend(actor.message.clone().map(|message| ("Message", message)));
    page.extend([
        ("Epoch", actor.epoch.to_string()),
        ("Worker", or(&actor.worker)),
        ("Node", or(&actor.node)),
        ("Endpoint", or(&actor.endpoint)),
        ("In flight", actor.in_flight.to_string()),
        ("Last active", ago(actor.last_active)),
        ("Snapshot", or(&actor.snapshot)),
        ("Snapshot taken", ago(actor.snapshot_time)),
        ("Snapshot store", actor.snapshot_storage.map_or_else(none, str::to_owned)),
        ("Previous snapshot", or(&actor.previous_snapshot)),
        ("Restarts", actor.restarts.to_string()),
        ("Created", ago(actor.created)),
    ]);
    page.extend(actor.snapshot_image.clone().map(|image| ("Snapshot image", image)));
    let mut text = aligned(page);
    if let Some(wake) = &actor.last_wake {
        text += &format!("Last wake:  {}, {}\n", wake.kind, ago(wake.time));
        let phases = [
            ("place", wake.place_us),
            ("fetch", wake.fetch_us),
            ("restore", wake.restore_us),
            ("ready", wake.ready_us),
            ("total", wake.total_us),
        ];
        for (phase, us) in phases {
            text += &format!("  {phase:<8} {}\n", age::micros(us));
        }
    }
    if events.is_empty() {
        return Ok(text + "Events:  none\n");
    }
    let mut table = Table::new(&["  AGE", "EPOCH", "KIND", "REASON", "MESSAGE"]);
    for event in &events[events.len().saturating_sub(EVENTS)..] {
        table.row([
            format!("  {}", age::since(event.time)),
            event.epoch.to_string(),
            event.kind.clone(),
            event.reason.clone().unwrap_or_default(),
            event.message.clone().unwrap_or_default(),
        ]);
    }
    Ok(format!("{text}Events:\n{table}"))
}

fn aligned(lines: Vec<(&str, String)>) -> String {
    let width = lines.iter().map(|(key, _)| key.len() + 3).max().unwrap_or(0);
    lines.iter().map(|(key, value)| format!("{:<width$}{value}\n", format!("{key}:"))).collect()
}

/// The fields as YAML: what a person wants of the plainer kinds.
fn fields<T: View>(item: &T) -> Result<String> {
    output::yaml(item)
}
