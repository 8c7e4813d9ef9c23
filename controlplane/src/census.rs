//! How many actors are in which state, by namespace.
//!
//! Counted once, at the start, and from then on by each actor's driver as the state changes: whoever wants to know never goes
//! through all of them. A driver begins with the state that is stored, and leaves that.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reveille_api::proto::ActorState;

use crate::{
    lifecycle::{Actor, Phase, Storage},
    store::{self, records::Records},
};

/// One for each value of [`ActorState`].
const STATES: usize = 11;

/// For an instant an actor that was just created may have left its first state before it is counted there.
type Counts = [i64; STATES];

/// See the module. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Census(Arc<Mutex<BTreeMap<Box<str>, Counts>>>);

/// The state of an actor, as people are told.
pub fn state(life: &Actor) -> ActorState {
    match life.phase() {
        // It sleeps on its node only, and there is a store that it could be in.
        Phase::Suspended
            if life.snapshot.as_ref().is_some_and(|s| s.storage == Storage::Waiting) =>
        {
            ActorState::Paused
        }
        Phase::Suspended => ActorState::Suspended,
        Phase::Stopped | Phase::Deleting => ActorState::Stopped,
        Phase::Lost => ActorState::Lost,
        Phase::Failed => ActorState::Failed,
        Phase::Placing | Phase::Starting | Phase::Thawing => ActorState::Waking,
        Phase::Running => ActorState::Running,
        Phase::Draining | Phase::Freezing => ActorState::Draining,
        Phase::Frozen => ActorState::Frozen,
        Phase::Checkpointing => ActorState::Checkpointing,
    }
}

impl Census {
    /// Goes through all that are stored.
    pub fn of(records: &Records) -> Result<Self, store::Error> {
        let census = Self::default();
        for record in records.actors("")? {
            census.begins(record.key.namespace(), state(&record.life));
        }
        Ok(census)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Counts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, namespace: &str, state: ActorState, by: i64) {
        let mut all = self.lock();
        let counts = match all.get_mut(namespace) {
            Some(counts) => counts,
            None => all.entry(namespace.into()).or_default(),
        };
        if let Some(count) = counts.get_mut(state as usize) {
            *count += by;
        }
        // Namespaces come and go.
        if counts.iter().all(|count| *count == 0) {
            all.remove(namespace);
        }
    }

    /// There is one more in this state.
    pub fn begins(&self, namespace: &str, state: ActorState) {
        self.change(namespace, state, 1);
    }

    /// One has left this state, for another or for good.
    pub fn ends(&self, namespace: &str, state: ActorState) {
        self.change(namespace, state, -1);
    }

    /// States that some actor of a namespace, or of all when it is empty, is in.
    pub fn counts(&self, namespace: &str) -> Vec<(ActorState, u64)> {
        let mut sum: Counts = Counts::default();
        for (name, counts) in self.lock().iter() {
            if namespace.is_empty() || **name == *namespace {
                sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
        }
        let named = sum.into_iter().zip(0i32..);
        let named = named.filter_map(|(count, state)| {
            Some((ActorState::try_from(state).ok()?, u64::try_from(count).ok()?))
        });
        named.filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        driver::Down,
        lifecycle::Cause,
        testing::{World, eventually},
    };

    #[test]
    fn every_state_has_a_place() {
        assert!(ActorState::try_from(STATES as i32 - 1).is_ok());
        assert!(ActorState::try_from(STATES as i32).is_err());
    }

    /// The same as going through all of them.
    fn agrees(world: &World) -> Result<(), String> {
        let mut all = BTreeMap::new();
        for record in world.fleet.views("").unwrap() {
            *all.entry(state(&record.life)).or_insert(0u64) += 1;
        }
        let counted: BTreeMap<_, _> = world.fleet.catalog.census().counts("").into_iter().collect();
        if counted == all { Ok(()) } else { Err(format!("counted {counted:?}, there are {all:?}")) }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_counted_is_what_there_is_through_churn_failures_a_crash_and_deletion() {
        let mut world = World::new(3, ", wake: {timeout: 2s}, readiness: {timeout: 3s}").await;
        let mut actors = Vec::new();
        for n in 0..12 {
            actors.push(world.create(&format!("a{n}")).await);
        }
        let census = world.fleet.catalog.census().clone();
        assert_eq!(census.counts("demo"), [(ActorState::Suspended, 12)]);
        assert_eq!(census.counts("other"), []);
        for key in &actors[..4] {
            world.wake(key).await.unwrap();
        }
        agrees(&world).unwrap();
        assert!(census.counts("").contains(&(ActorState::Running, 3)), "{:?}", census.counts(""));
        world.fleet.down(&actors[3], Down::Suspend(Cause::User)).await.unwrap().unwrap();
        world.fleet.down(&actors[4], Down::Stop).await.unwrap().unwrap();
        world.node.starts.send_replace(false);
        world.wake(&actors[5]).await.unwrap_err();
        eventually("the counts agree", || agrees(&world)).await;
        world.node.starts.send_replace(true);

        // Twice the same name, and a caller who does not wait for the answer.
        assert!(world.fleet.catalog.create(&actors[0], "t").await.is_err());
        let gone = crate::testing::key("late");
        assert!(futures::poll!(Box::pin(world.fleet.catalog.create(&gone, "t"))).is_pending());
        eventually("it is counted all the same", || agrees(&world)).await;

        for key in &actors[1..6] {
            world.fleet.down(key, Down::Delete).await.unwrap().unwrap();
        }
        eventually("the deleted are gone", || agrees(&world)).await;
        world.crash().await;
        world.node_joins().await;
        eventually("after a start", || agrees(&world)).await;
        assert_eq!(world.fleet.views("").unwrap().len(), 8);
    }
}
