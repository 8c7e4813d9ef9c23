//! A store that tells how long it takes.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use super::{Batch, Collection, Error, Record, Store};
use crate::metrics::{Metrics, Operation};

/// Around another one.
pub struct Measured {
    inner: Arc<dyn Store>,
    metrics: Metrics,
}

impl Measured {
    /// Around this one.
    pub fn new(inner: Arc<dyn Store>, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }

    fn measure<T>(
        &self,
        operation: Operation,
        run: impl FnOnce(&dyn Store) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let outcome = run(&*self.inner);
        self.metrics.stored(operation, begun.elapsed(), outcome.is_err());
        outcome
    }
}

impl Store for Measured {
    fn get(&self, collection: Collection, key: &str) -> Result<Option<Record>, Error> {
        self.measure(Operation::Get, |store| store.get(collection, key))
    }

    fn list(&self, collection: Collection, prefix: &str) -> Result<Vec<(String, Record)>, Error> {
        self.measure(Operation::List, |store| store.list(collection, prefix))
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'static, Result<(), Error>> {
        let (begun, metrics) = (Instant::now(), self.metrics.clone());
        // Queued by the call itself.
        let commit = self.inner.commit(batch);
        async move {
            let outcome = commit.await;
            let conflict = matches!(outcome, Err(Error::Conflict { .. }));
            if conflict {
                metrics.store_conflicts.inc();
            }
            metrics.stored(Operation::Commit, begun.elapsed(), outcome.is_err() && !conflict);
            outcome
        }
        .boxed()
    }

    fn failed(&self) -> BoxFuture<'static, Error> {
        self.inner.failed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Expect, conformance, memory::MemoryStore};

    #[tokio::test]
    async fn it_conforms_as_the_one_inside_does_and_counts() {
        let metrics = Metrics::default();
        let made = metrics.clone();
        conformance::run(move || {
            Arc::new(Measured::new(Arc::new(MemoryStore::default()), made.clone()))
        })
        .await;
        let text = metrics.encode();
        let zero = "reveille_controlplane_store_seconds_count{operation=\"commit\"} 0\n";
        assert!(!text.contains(zero), "{text}");
    }

    #[tokio::test]
    async fn a_commit_that_finds_something_else_is_a_conflict_and_no_failure() {
        let metrics = Metrics::default();
        let store = Measured::new(Arc::new(MemoryStore::default()), metrics.clone());
        let put = || Batch::default().put(Collection::Pools, "a", Expect::Absent, 0, Vec::new());
        store.commit(put()).await.unwrap();
        store.commit(put()).await.unwrap_err();
        let text = metrics.encode();
        for line in ["store_conflicts_total 1", "store_failures_total{operation=\"commit\"} 0"] {
            assert!(text.contains(&format!("reveille_controlplane_{line}\n")), "{text}");
        }
    }
}
