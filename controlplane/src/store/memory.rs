//! A store that forgets: for tests.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt, future::BoxFuture};

use super::{Batch, Collection, Error, Record, Store};

type Tables = BTreeMap<(Collection, String), Record>;

/// Records in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: Mutex<Tables>,
}

impl MemoryStore {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn get(&self, collection: Collection, key: &str) -> Result<Option<Record>, Error> {
        Ok(self.tables().get(&(collection, key.to_owned())).cloned())
    }

    fn list(&self, collection: Collection, prefix: &str) -> Result<Vec<(String, Record)>, Error> {
        let tables = self.tables();
        let from = tables.range((collection, prefix.to_owned())..);
        let of_prefix =
            from.take_while(|((c, key), _)| *c == collection && key.starts_with(prefix));
        Ok(of_prefix.map(|((_, key), record)| (key.clone(), record.clone())).collect())
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'static, Result<(), Error>> {
        let mut tables = self.tables();
        let mut next = BTreeMap::new();
        for write in batch.writes {
            let at = (write.collection, write.key);
            let current = next.get(&at).cloned().unwrap_or_else(|| tables.get(&at).cloned());
            let found = current.as_ref().map(|r: &Record| (r.version, r.epoch));
            if !write.expect.holds(found) {
                let (collection, key) = at;
                let error = Error::Conflict { collection, key, expect: write.expect, found };
                return async { Err(error) }.boxed();
            }
            let version = found.map_or(0, |(version, _)| version) + 1;
            next.insert(at, write.put.map(|(epoch, value)| Record { version, epoch, value }));
        }
        for (at, record) in next {
            match record {
                Some(record) => drop(tables.insert(at, record)),
                None => drop(tables.remove(&at)),
            }
        }
        async { Ok(()) }.boxed()
    }

    fn failed(&self) -> BoxFuture<'static, Error> {
        futures::future::pending().boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::conformance;

    #[tokio::test]
    async fn the_memory_store_conforms() {
        conformance::run(|| Arc::new(MemoryStore::default())).await;
    }
}
