//! What goes on, as `reveille top` shows it.

use reveille_api::proto::{self, ActorState, wake_under_way::Stage};
use serde::Serialize;

use super::{actor::wake_name, machine::NodeView, some};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OverviewView {
    /// By state, only those that some actor is in.
    pub(crate) actors: Vec<Count>,
    pub(crate) workers: Workers,
    pub(crate) in_flight: u64,
    /// Actors that are not at rest.
    pub(crate) active_count: u32,
    /// The busiest of them.
    pub(crate) active: Vec<Active>,
    pub(crate) wake_count: u32,
    pub(crate) wakes_waiting: u32,
    /// The oldest of them.
    pub(crate) wakes: Vec<Wake>,
    pub(crate) nodes: Vec<NodeView>,
    pub(crate) draining: bool,
}

#[derive(Serialize)]
pub(crate) struct Count {
    pub(crate) state: &'static str,
    pub(crate) count: u64,
}

#[derive(Serialize)]
pub(crate) struct Workers {
    pub(crate) serving: u32,
    pub(crate) starting: u32,
    pub(crate) leaving: u32,
    pub(crate) cleaning: u32,
    pub(crate) free: u32,
    pub(crate) away: u32,
    /// In no pool.
    pub(crate) unpooled: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Active {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) in_flight: u32,
    pub(crate) requests_per_second: f64,
    /// Nothing while requests are in flight, and of one that was never used.
    pub(crate) idle_ms: Option<u64>,
    /// In this state.
    pub(crate) for_ms: u64,
    pub(crate) epoch: u64,
    pub(crate) worker: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Wake {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// "Place", "Start" or "Thaw".
    pub(crate) phase: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) worker: Option<String>,
    /// In this phase.
    pub(crate) for_ms: u64,
}

impl From<proto::OverviewReply> for OverviewView {
    fn from(reply: proto::OverviewReply) -> Self {
        // By the control plane's own clock.
        let now = reply.unix_ms;
        let ago = |unix_ms: u64| now.saturating_sub(unix_ms);
        let workers = reply.workers.unwrap_or_default();
        Self {
            actors: ActorState::IN_ORDER
                .into_iter()
                .filter_map(|state| count(state, &reply.actors))
                .collect(),
            workers: Workers {
                serving: workers.serving,
                starting: workers.starting,
                leaving: workers.leaving,
                cleaning: workers.cleaning,
                free: workers.free,
                away: workers.away,
                unpooled: workers.unpooled,
            },
            in_flight: reply.in_flight,
            active_count: reply.active_count,
            active: reply.active.into_iter().map(|active| of(active, ago)).collect(),
            wake_count: reply.wake_count,
            wakes_waiting: reply.wakes_waiting,
            wakes: reply.wakes.into_iter().map(|wake| under_way(wake, ago)).collect(),
            nodes: reply.nodes.into_iter().map(NodeView::from).collect(),
            draining: reply.draining,
        }
    }
}

fn count(state: ActorState, counts: &[proto::StateCount]) -> Option<Count> {
    let found = counts.iter().find(|count| count.state() == state)?;
    Some(Count { state: state.name(), count: found.count })
}

fn of(active: proto::ActiveActor, ago: impl Fn(u64) -> u64) -> Active {
    let state = active.state().name();
    let key = active.actor.unwrap_or_default();
    Active {
        namespace: key.namespace,
        name: key.name,
        state,
        in_flight: active.in_flight,
        requests_per_second: (active.rate * 10.0).round() / 10.0,
        idle_ms: (active.in_flight == 0 && active.last_active_unix_ms > 0)
            .then(|| ago(active.last_active_unix_ms)),
        for_ms: ago(active.since_unix_ms),
        epoch: active.epoch,
        worker: some(active.worker),
    }
}

fn under_way(wake: proto::WakeUnderWay, ago: impl Fn(u64) -> u64) -> Wake {
    let (phase, kind) = (wake.stage(), wake.kind());
    let key = wake.actor.unwrap_or_default();
    Wake {
        namespace: key.namespace,
        name: key.name,
        phase: match phase {
            Stage::Unspecified => "Unknown",
            Stage::Place => "Place",
            Stage::Start => "Start",
            Stage::Thaw => "Thaw",
        },
        kind: wake_name(kind),
        worker: some(wake.worker),
        for_ms: ago(wake.since_unix_ms),
    }
}
