//! `reveille top`: what is running now, busiest first.

use std::time::Duration;

use reveille_api::proto::ListRequest;

use crate::{
    client::{self, Control},
    error::{Error, Result},
    output::{
        self, Table, age,
        view::{ActorView, NodeView},
    },
};

/// Clears the screen and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

const EXAMPLES: &str = "\
Examples:
  reveille top
  reveille top --watch --interval 1s";

/// Show workers in use and the busiest actors
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only this namespace
    #[arg(short, long, value_name = "NAMESPACE", default_value = "", hide_default_value = true)]
    namespace: String,
    /// Show it again and again until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// How often, with --watch
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Actors shown at most
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    server: client::Args,
}

impl Args {
    pub(crate) async fn run(self) -> Result {
        if self.interval.is_zero() {
            return Err(Error::usage("--interval 0s: must be longer than nothing"));
        }
        let mut control = self.server.connect().await?;
        if !self.watch {
            return output::print(&self.page(&mut control).await?);
        }
        let mut tick = tokio::time::interval(self.interval);
        loop {
            tick.tick().await;
            let page = self.page(&mut control).await?;
            output::print(&format!("{CLEAR}{page}"))?;
        }
    }

    async fn page(&self, control: &mut Control) -> Result<String> {
        let nodes = control.list_nodes(ListRequest::default()).await?.into_inner().items;
        let request = ListRequest { namespace: self.namespace.clone() };
        let actors = control.list_actors(request).await?.into_inner().items;
        let nodes: Vec<_> = nodes.into_iter().map(NodeView::from).collect();
        let mut actors: Vec<_> = actors.into_iter().map(ActorView::from).collect();
        let awake = actors.iter().filter(|actor| actor.worker.is_some()).count();
        let in_flight: u64 = actors.iter().map(|actor| u64::from(actor.in_flight)).sum();

        let used: u32 = nodes.iter().map(|node| node.workers_used).sum();
        let workers: u32 = nodes.iter().map(|node| node.workers).sum();
        let snapshots: u64 = nodes.iter().map(|node| node.snapshot_bytes).sum();
        let head = format!(
            "Actors: {} ({awake} on a worker)   In flight: {in_flight}   Workers: {used}/{workers}   \
             Nodes: {}/{} ready   Snapshots: {}\n\n",
            actors.len(),
            nodes.iter().filter(|node| node.ready).count(),
            nodes.len(),
            age::bytes(snapshots),
        );
        actors.sort_by_key(|actor| {
            (
                actor.worker.is_none(),
                u32::MAX - actor.in_flight,
                actor.last_active.map(|t| -t.as_millisecond()).unwrap_or(i64::MAX),
            )
        });
        let mut table =
            Table::new(&["ACTOR", "STATE", "IN FLIGHT", "LAST ACTIVE", "EPOCH", "WORKER"]);
        for actor in actors.into_iter().take(self.limit) {
            table.row([
                format!("{}/{}", actor.namespace, actor.name),
                actor.state.into(),
                actor.in_flight.to_string(),
                age::since(actor.last_active),
                actor.epoch.to_string(),
                actor.worker.unwrap_or_default(),
            ]);
        }
        Ok(head + &table.to_string())
    }
}
