//! [`Fetches`]: snapshots on their way from the store to this node.
//!
//! One for each, whoever waits for it: a fetch that takes longer than a wake may is not begun anew by the next wake.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use reveille_api::{ActorKey, task};
use tokio::task::JoinSet;

use crate::{
    snapshots::Snapshots,
    store::{self, Runtime, Store},
};

type Outcome = Result<Arc<()>, Arc<store::Error>>;

/// See the module. Dropped, it ends them all.
#[derive(Debug, Default)]
pub(crate) struct Fetches(Mutex<UnderWay>);

#[derive(Debug, Default)]
struct UnderWay {
    fetches: HashMap<(ActorKey, String), Shared<BoxFuture<'static, Outcome>>>,
    tasks: JoinSet<()>,
}

impl Fetches {
    /// Fetches a snapshot, or waits for the fetch that is under way. It is not evicted while what this returns is held.
    pub(crate) async fn fetch(
        &self,
        store: &Store,
        snapshots: &Arc<Snapshots>,
        actor: &ActorKey,
        id: &str,
        runtime: Runtime,
    ) -> Outcome {
        let name = (actor.clone(), id.to_owned());
        let fetch = {
            let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            while under_way.tasks.try_join_next().is_some() {}
            match under_way.fetches.get(&name) {
                Some(fetch) => fetch.clone(),
                None => {
                    let (store, snapshots) = (store.clone(), snapshots.clone());
                    let (actor, id) = name.clone();
                    let fetch = async move {
                        let fetched = store::fetch(&store, &snapshots, &actor, &id, &runtime).await;
                        fetched.map_err(Arc::new)
                    };
                    let fetch = fetch.boxed().shared();
                    let drive = fetch.clone().map(drop);
                    task::spawn(&mut under_way.tasks, "fetch", drive);
                    under_way.fetches.insert(name.clone(), fetch.clone());
                    fetch
                }
            }
        };
        let outcome = fetch.await;
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever comes next wants another one: this one failed, or what it fetched is gone again.
        under_way.fetches.retain(|_, fetch| fetch.peek().is_none());
        outcome
    }
}
