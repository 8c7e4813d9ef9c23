//! `Overview`: what goes on now, for people.

use std::sync::Arc;

use reveille_api::{
    key::check_label,
    proto::{
        self, OverviewReply, OverviewRequest, overview_server::Overview, wake_under_way::Stage,
    },
};
use tonic::{Request, Response, Status};

use super::view;
use crate::{
    census,
    clock::{millis, unix_ms},
    fleet::Fleet,
    lifecycle::{Phase, State},
    metrics::Work,
    record::{ActorRecord, WokenBy},
    routers::Load,
};

/// Rows at the most.
const ROWS: usize = 500;

/// The service.
#[derive(Clone)]
pub struct OverviewService {
    fleet: Arc<Fleet>,
}

impl OverviewService {
    /// Of these actors.
    pub fn new(fleet: Arc<Fleet>) -> Self {
        Self { fleet }
    }
}

#[tonic::async_trait]
impl Overview for OverviewService {
    async fn get(
        &self,
        request: Request<OverviewRequest>,
    ) -> Result<Response<OverviewReply>, Status> {
        let OverviewRequest { namespace, rows } = request.into_inner();
        if !namespace.is_empty() {
            check_label("namespace", &namespace)?;
        }
        let rows = (rows as usize).min(ROWS);
        Ok(Response::new(overview(&self.fleet, &namespace, rows)))
    }
}

pub(crate) fn overview(fleet: &Fleet, namespace: &str, rows: usize) -> OverviewReply {
    let awake = fleet.awake(namespace);
    let keys: Vec<_> = awake.iter().map(|record| &record.key).collect();
    let load = fleet.routers.load(&keys);
    let in_flight = load.iter().map(|load| u64::from(load.in_flight)).sum();
    let mut active: Vec<_> = awake.iter().zip(load).collect();
    // In thousandths of a request: floats have no order.
    let rank = |load: &Load| (load.in_flight, (load.rate * 1_000.0) as u64, load.last_active);
    active.sort_by(|a, b| rank(&b.1).cmp(&rank(&a.1)).then_with(|| a.0.key.cmp(&b.0.key)));
    let mut wakes: Vec<_> = awake.iter().filter_map(|record| wake(record)).collect();
    wakes.sort_by_key(|wake| wake.since_unix_ms);
    let waiting = wakes.iter().filter(|wake| wake.stage() == Stage::Place).count();
    let count =
        |(state, count): (proto::ActorState, u64)| proto::StateCount { state: state.into(), count };
    OverviewReply {
        unix_ms: unix_ms(),
        started_unix_ms: fleet.started_unix_ms,
        draining: fleet.is_draining(),
        actors: fleet.catalog.census().counts(namespace).into_iter().map(count).collect(),
        workers: Some(workers(fleet)),
        active_count: active.len() as u32,
        active: active.iter().take(rows).map(|(record, load)| actor(fleet, record, load)).collect(),
        in_flight,
        wake_count: wakes.len() as u32,
        wakes_waiting: waiting as u32,
        wakes: wakes.into_iter().take(rows).collect(),
        nodes: view::nodes(fleet),
        routers: fleet.routers.list(),
    }
}

fn actor(fleet: &Fleet, record: &ActorRecord, load: &Load) -> proto::ActiveActor {
    let life = &record.life;
    let used = load
        .last_active
        .map(|moment| unix_ms().saturating_sub(millis(fleet.clock.now().since(moment))));
    proto::ActiveActor {
        actor: Some((&record.key).into()),
        state: census::state(life).into(),
        epoch: life.epoch.0,
        worker: life.place().map(|place| place.worker.clone()).unwrap_or_default(),
        in_flight: load.in_flight,
        rate: load.rate,
        last_active_unix_ms: used.unwrap_or(0).max(record.last_active_unix_ms),
        since_unix_ms: record.since_unix_ms,
    }
}

fn wake(record: &ActorRecord) -> Option<proto::WakeUnderWay> {
    let (stage, kind) = match (record.life.phase(), &record.life.state) {
        (Phase::Placing, State::Waking(waking)) => (Stage::Place, WokenBy::from(&waking.source)),
        (Phase::Starting, State::Waking(waking)) => (Stage::Start, WokenBy::from(&waking.source)),
        (Phase::Thawing, _) => (Stage::Thaw, WokenBy::Thawed),
        _ => return None,
    };
    Some(proto::WakeUnderWay {
        actor: Some((&record.key).into()),
        stage: stage.into(),
        kind: proto::WakeKind::from(kind).into(),
        worker: record.life.place().map(|place| place.worker.clone()).unwrap_or_default(),
        since_unix_ms: record.since_unix_ms,
    })
}

fn workers(fleet: &Fleet) -> proto::WorkerCounts {
    let mut counts = proto::WorkerCounts::default();
    for worker in fleet.placement.workers() {
        let count = match Work::of(&worker) {
            Work::Free => &mut counts.free,
            Work::Reserved | Work::Starting => &mut counts.starting,
            Work::Serving => &mut counts.serving,
            Work::Leaving => &mut counts.leaving,
            Work::Cleaning => &mut counts.cleaning,
            Work::Away => &mut counts.away,
            Work::Unpooled => &mut counts.unpooled,
        };
        *count += 1;
    }
    counts
}
