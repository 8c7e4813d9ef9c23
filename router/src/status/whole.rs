//! The whole fleet, as the control plane tells it: plain data for the page.

use reveille_api::{
    metrics::Label,
    proto::{self, ActorState, OverviewReply, WakeKind, wake_under_way::Stage},
};
use serde::Serialize;

use super::{ms, overview::Told};

/// What is known of the fleet, and since when.
#[derive(Debug, Serialize)]
pub(super) struct Whole {
    /// How old it is.
    pub(super) age_ms: u64,
    /// Why the control plane gives nothing newer.
    pub(super) unanswered: Option<String>,
    #[serde(flatten)]
    pub(super) known: Option<Known>,
}

#[derive(Debug, Serialize)]
pub(super) struct Known {
    pub(super) control_plane_up_ms: u64,
    /// Nothing is woken any more.
    pub(super) draining: bool,
    /// All that are registered, by state.
    pub(super) actors_by_state: Vec<Count>,
    pub(super) workers_by_state: Vec<Count>,
    pub(super) requests_in_flight: u64,
    pub(super) wakes: Vec<Wake>,
    pub(super) waking: u32,
    /// Of those, without a worker yet.
    pub(super) waiting_for_worker: u32,
    pub(super) active: Vec<Active>,
    pub(super) active_count: u32,
    pub(super) nodes: Vec<Node>,
    pub(super) routers: Vec<Peer>,
}

#[derive(Debug, Serialize)]
pub(super) struct Count {
    pub(super) state: &'static str,
    pub(super) count: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Wake {
    pub(super) actor: String,
    /// "place", "start" or "thaw".
    pub(super) phase: &'static str,
    pub(super) kind: &'static str,
    pub(super) worker: String,
    /// In this phase.
    pub(super) for_ms: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Active {
    pub(super) actor: String,
    pub(super) state: &'static str,
    pub(super) epoch: u64,
    pub(super) worker: String,
    pub(super) in_flight: u32,
    pub(super) requests_per_second: f64,
    /// Nothing while requests are in flight, and of one that was never used.
    pub(super) idle_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) ready: bool,
    pub(super) workers: u32,
    pub(super) workers_used: u32,
    pub(super) snapshot_bytes: u64,
    pub(super) disk_free_bytes: u64,
    pub(super) last_seen_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) connected: bool,
    pub(super) bindings: u32,
}

impl From<Told> for Whole {
    fn from(told: Told) -> Self {
        let Told { overview, age, failed } = told;
        let known = overview.map(|overview| Known::of(&overview));
        Self { age_ms: ms(age), unanswered: failed, known }
    }
}

impl Known {
    /// Ages are by the control plane's own clock.
    fn of(overview: &OverviewReply) -> Self {
        let ago = |unix_ms: u64| overview.unix_ms.saturating_sub(unix_ms);
        let key = |key: &Option<proto::ActorKey>| {
            key.as_ref().map(|key| format!("{}/{}", key.namespace, key.name)).unwrap_or_default()
        };
        let count = |state: ActorState| {
            let found = overview.actors.iter().find(|count| count.state() == state);
            Count { state: state.name(), count: found.map_or(0, |found| found.count) }
        };
        let wake = |wake: &proto::WakeUnderWay| Wake {
            actor: key(&wake.actor),
            phase: match wake.stage() {
                Stage::Unspecified => "unknown",
                Stage::Place => "place",
                Stage::Start => "start",
                Stage::Thaw => "thaw",
            },
            kind: WakeKind::try_from(wake.kind).unwrap_or_default().value(),
            worker: wake.worker.clone(),
            for_ms: ago(wake.since_unix_ms),
        };
        let active = |active: &proto::ActiveActor| Active {
            actor: key(&active.actor),
            state: active.state().name(),
            epoch: active.epoch,
            worker: active.worker.clone(),
            in_flight: active.in_flight,
            requests_per_second: (active.rate * 10.0).round() / 10.0,
            idle_ms: (active.in_flight == 0 && active.last_active_unix_ms > 0)
                .then(|| ago(active.last_active_unix_ms)),
        };
        let node = |node: &proto::Node| Node {
            name: node.name.clone(),
            ready: node.ready,
            workers: node.workers,
            workers_used: node.workers_used,
            snapshot_bytes: node.snapshot_bytes,
            disk_free_bytes: node.disk_free_bytes,
            last_seen_ms: (node.last_seen_unix_ms > 0).then(|| ago(node.last_seen_unix_ms)),
        };
        let peer = |router: &proto::RouterView| Peer {
            name: router.router.clone(),
            connected: router.connected,
            bindings: router.bindings,
        };
        Self {
            control_plane_up_ms: ago(overview.started_unix_ms),
            draining: overview.draining,
            actors_by_state: ActorState::IN_ORDER.into_iter().map(count).collect(),
            workers_by_state: workers(&overview.workers.unwrap_or_default()),
            requests_in_flight: overview.in_flight,
            wakes: overview.wakes.iter().map(wake).collect(),
            waking: overview.wake_count,
            waiting_for_worker: overview.wakes_waiting,
            active: overview.active.iter().map(active).collect(),
            active_count: overview.active_count,
            nodes: overview.nodes.iter().map(node).collect(),
            routers: overview.routers.iter().map(peer).collect(),
        }
    }

    /// Of the workers that somebody can be placed on, how many are in use; and how many there are.
    pub(super) fn workers(&self) -> (u64, u64) {
        let of = |states: &[&str]| -> u64 {
            let these = self.workers_by_state.iter().filter(|count| states.contains(&count.state));
            these.map(|count| count.count).sum()
        };
        let used = of(&["Serving", "Starting", "Leaving", "Cleaning"]);
        (used, used + of(&["Free"]))
    }
}

fn workers(counts: &proto::WorkerCounts) -> Vec<Count> {
    let states = [
        ("Serving", counts.serving),
        ("Starting", counts.starting),
        ("Leaving", counts.leaving),
        ("Cleaning", counts.cleaning),
        ("Free", counts.free),
        ("Away", counts.away),
        ("Unpooled", counts.unpooled),
    ];
    let count = |(state, count): (&'static str, u32)| Count { state, count: u64::from(count) };
    states.into_iter().map(count).collect()
}
