//! What the status page shows, as plain data.

use std::{net::SocketAddr, time::Duration};

use reveille_api::{ActorKey, Epoch};
use reveille_envoy::ads::{self, Fleet};
use serde::Serialize;

use crate::{answer, binding::Protocol, router::Router};

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

fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

impl View {
    pub(super) fn of(router: &Router, fleet: &Fleet, unready: Option<&'static str>) -> Self {
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
            woken_by: answer::kind_name(binding.woken_by),
            in_flight: binding.activation.in_flight(),
            idle_ms: binding.activation.idle_ms(),
        })
        .collect();
    bindings.sort_by(|a, b| b.in_flight.cmp(&a.in_flight).then_with(|| a.actor.cmp(&b.actor)));
    bindings
}
