//! Makes room while wakes wait for workers.
//!
//! For each wake that waits, and for which no suitable worker is already on its way to be free, the least
//! recently used actor on a suitable worker is suspended: if nothing is in flight, if it was not used just now, and if its
//! template does not keep it warm. As with idle time, the decision carries the activity it is based on, and newer
//! activity cancels it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use reveille_api::{ActorKey, Epoch};

use super::{Inner, Placement, Status};
use crate::{
    clock::{Clock, Moment},
    config::Timings,
    lifecycle::Cause,
    routers::{Routers, Use},
};

/// While wakes wait, how often to look for actors that have become idle.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long a suspend may take to begin.
const BEGIN: Duration = Duration::from_secs(5);

/// An actor to be suspended for another one's sake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Who.
    pub actor: ActorKey,
    /// Which activation.
    pub epoch: Epoch,
    /// Why, with the activity it was decided on.
    pub cause: Cause,
}

/// Looks for victims while wakes wait, and gives them to `suspend`. Never ends.
pub async fn relieve(
    placement: Arc<Placement>,
    routers: Arc<Routers>,
    clock: Clock,
    timings: Timings,
    suspend: impl Fn(Victim),
) {
    loop {
        if placement.waiting() == 0 {
            placement.short.notified().await;
        }
        let now = clock.now();
        let idle = |actor: &ActorKey| match routers.usage(actor) {
            Use::Quiet(since) if now.since(since) >= timings.preempt_idle => Some(since),
            _ => None,
        };
        for victim in placement.victims(now, idle) {
            suspend(victim);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

impl Placement {
    /// Chooses, and counts on them to leave. `idle` tells since when an actor is unused, if it is.
    pub(super) fn victims(
        &self,
        now: Moment,
        idle: impl Fn(&ActorKey) -> Option<Moment>,
    ) -> Vec<Victim> {
        self.inner().victims(now, idle)
    }
}

impl Inner {
    fn victims(&mut self, now: Moment, idle: impl Fn(&ActorKey) -> Option<Moment>) -> Vec<Victim> {
        self.forget_gone();
        // Workers that some waiting wake already counts on.
        let mut counted: HashSet<String> = HashSet::new();
        let mut victims = Vec::new();
        let waiting = self.queues.iter().flat_map(|(_, queue)| queue);
        for waiting in waiting {
            let suitable = self.suitable(&waiting.request);
            let workers = suitable.into_iter().flat_map(|(_, workers)| workers);
            let occupied: Vec<_> = workers
                .filter(|place| !counted.contains(&place.worker))
                .filter_map(|place| self.occupants.get(&place.worker))
                .collect();
            let on_its_way = occupied.iter().find(|occupant| match occupant.status {
                Status::Cleaning | Status::Leaving(None) => true,
                Status::Leaving(Some(until)) => until > now,
                _ => false,
            });
            if let Some(occupant) = on_its_way {
                counted.insert(occupant.place.worker.clone());
                continue;
            }
            let idlest = occupied
                .iter()
                .filter(|occupant| match occupant.status {
                    Status::Serving(Some(from)) => from <= now,
                    Status::Leaving(Some(until)) => until <= now,
                    _ => false,
                })
                .filter_map(|occupant| Some((idle(&occupant.actor)?, *occupant)))
                .min_by_key(|(since, _)| *since);
            if let Some((since, occupant)) = idlest {
                counted.insert(occupant.place.worker.clone());
                victims.push((
                    occupant.place.worker.clone(),
                    Victim {
                        actor: occupant.actor.clone(),
                        epoch: occupant.epoch,
                        cause: Cause::Pressure(since),
                    },
                ));
            }
        }
        let mark = |(worker, victim): (String, Victim)| {
            if let Some(occupant) = self.occupants.get_mut(&worker) {
                occupant.status = Status::Leaving(Some(now.plus(BEGIN)));
            }
            victim
        };
        victims.into_iter().map(mark).collect()
    }
}
