//! What the status page shows, as plain data.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use reveille_api::{ActorKey, Epoch, Reason, metrics::Label};
use reveille_envoy::ads::{self, Fleet};
use serde::Serialize;

use super::{ms, overview::Told, whole::Whole};
use crate::{
    answer,
    binding::Protocol,
    recent::{End, Entry},
    router::Router,
};

/// Rows of each list.
const ROWS: usize = 100;

#[derive(Debug, Serialize)]
pub(super) struct View {
    pub(super) router: String,
    pub(super) instance: String,
    pub(super) uptime_ms: u64,
    /// Why it is not ready, when it is not.
    pub(super) unready: Option<&'static str>,
    pub(super) control_plane: Option<ControlPlane>,
    pub(super) in_flight: i64,
    pub(super) parked: usize,
    pub(super) parking_capacity: usize,
    pub(super) limits: Limits,
    /// The last that waited, were refused here, or lost their actor; the newest first.
    pub(super) requests: Vec<Request>,
    /// Actors bound, waking or draining.
    pub(super) actors: usize,
    pub(super) bound: i64,
    /// The busiest of some of them.
    pub(super) bindings: Vec<Bound>,
    pub(super) waking: usize,
    pub(super) wakes: Vec<Waking>,
    pub(super) revoking: usize,
    pub(super) revokes: Vec<Revoking>,
    pub(super) envoy: ads::View,
    pub(super) fleet: Whole,
}

/// What holds requests back.
#[derive(Debug, Serialize)]
pub(super) struct Limits {
    pub(super) parked_per_namespace: usize,
    pub(super) parked_per_actor: usize,
    pub(super) park_ms: u64,
    pub(super) wake_ms: u64,
}

/// A request that did not simply go on, or several that are alike.
#[derive(Debug, Serialize)]
pub(super) struct Request {
    pub(super) age_ms: u64,
    pub(super) actor: Option<String>,
    /// "woken", "refused", "left" or "cut".
    pub(super) end: &'static str,
    /// How it was woken, or why it was refused.
    pub(super) reason: &'static str,
    pub(super) held_us: u64,
    /// Where its wait went, in microseconds; `park` is what the wake does not explain.
    pub(super) phases: Option<BTreeMap<&'static str, u64>>,
    pub(super) request_id: Option<String>,
    pub(super) times: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct ControlPlane {
    pub(super) instance: String,
    pub(super) for_ms: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Bound {
    pub(super) actor: ActorKey,
    pub(super) epoch: Epoch,
    pub(super) term: u64,
    pub(super) endpoint: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) woken_by: &'static str,
    pub(super) in_flight: u32,
    pub(super) idle_ms: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Waking {
    pub(super) actor: ActorKey,
    pub(super) age_ms: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Revoking {
    pub(super) actor: ActorKey,
    pub(super) epoch: Epoch,
    pub(super) term: u64,
    pub(super) age_ms: u64,
}

impl View {
    pub(super) fn of(
        router: &Router,
        fleet: &Fleet,
        unready: Option<&'static str>,
        told: Told,
    ) -> Self {
        let session = router.session.up();
        let wakes = router.wakes.oldest(ROWS);
        let revokes = router.revokes.oldest(ROWS);
        Self {
            router: router.name.clone(),
            instance: router.instance.clone(),
            uptime_ms: router.uptime_ms(),
            unready,
            control_plane: session.map(|(instance, up)| ControlPlane { instance, for_ms: ms(up) }),
            in_flight: router.metrics.in_flight.get(),
            parked: router.table.parking().taken(),
            parking_capacity: router.table.parking().capacity(),
            limits: Limits {
                parked_per_namespace: router.table.parking().share(),
                parked_per_actor: router.table.parked_per_actor(),
                park_ms: ms(router.ladder.park()),
                wake_ms: ms(router.ladder.wake()),
            },
            requests: router.recent.newest().into_iter().map(Request::from).collect(),
            actors: router.table.len(),
            bound: router.metrics.bindings.get(),
            bindings: bindings(router),
            waking: router.wakes.len(),
            wakes: wakes
                .into_iter()
                .map(|(actor, age)| Waking { actor, age_ms: ms(age) })
                .collect(),
            revoking: router.revokes.len(),
            revokes: revokes
                .into_iter()
                .map(|((actor, version), age)| Revoking {
                    actor,
                    epoch: version.epoch,
                    term: version.term,
                    age_ms: ms(age),
                })
                .collect(),
            envoy: fleet.view().as_ref().clone(),
            fleet: told.into(),
        }
    }
}

fn bindings(router: &Router) -> Vec<Bound> {
    let bindings = router.table.bindings(ROWS);
    let mut bindings: Vec<_> = bindings
        .iter()
        .map(|binding| Bound {
            actor: binding.activation.actor().clone(),
            epoch: binding.activation.epoch(),
            term: binding.term,
            endpoint: binding.endpoint,
            protocol: binding.protocol,
            woken_by: binding.woken_by.value(),
            in_flight: binding.activation.in_flight(),
            idle_ms: binding.activation.idle_ms(),
        })
        .collect();
    bindings.sort_by(|a, b| b.in_flight.cmp(&a.in_flight).then_with(|| a.actor.cmp(&b.actor)));
    bindings
}

impl From<Entry> for Request {
    fn from(entry: Entry) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map(ms).unwrap_or_default();
        let (end, reason) = match entry.end {
            End::Woken(kind, _) => ("woken", kind.value()),
            End::Refused(reason) => ("refused", reason.name()),
            End::Left => ("left", "the caller left"),
            End::Cut => ("cut", Reason::UpstreamReset.name()),
        };
        let phases = match entry.end {
            End::Woken(_, phases) => Some(answer::waited(entry.held, &phases).into()),
            _ => None,
        };
        Self {
            age_ms: now.saturating_sub(entry.unix_ms),
            actor: entry.actor.map(|actor| actor.to_string()),
            end,
            reason,
            held_us: entry.held.as_micros() as u64,
            phases,
            request_id: entry.id.map(|id| id.to_string()),
            times: entry.times,
        }
    }
}
