//! Types on top of a [`Store`]: JSON in an envelope that names its schema.

use std::sync::Arc;

use futures::future::BoxFuture;
use reveille_api::{ActorKey, Epoch};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Batch, Collection, Error, Expect, Record, Store};
use crate::record::{
    ActorRecord, EventRecord, PoolRecord, RouterRecord, TemplateRecord, Tombstone,
};

/// Of the JSON below. A reader refuses a higher one.
const SCHEMA: u32 = 1;

/// A commit under way.
pub type Commit = BoxFuture<'static, Result<(), Error>>;

#[derive(Deserialize)]
struct Envelope<T> {
    record: T,
}

#[derive(Deserialize)]
struct Header {
    schema: u32,
}

#[derive(Serialize)]
struct EnvelopeRef<'a, T> {
    schema: u32,
    record: &'a T,
}

/// A record with what compare-and-set needs.
#[derive(Clone, Debug)]
pub struct Stored<T> {
    /// Its content.
    pub value: T,
    /// What a write of it must expect.
    pub expect: Expect,
}

/// The records of the control plane.
#[derive(Clone)]
pub struct Records {
    store: Arc<dyn Store>,
}

impl Records {
    /// On top of this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Ends when the store can take no more commits.
    pub fn failed(&self) -> BoxFuture<'static, Error> {
        self.store.failed()
    }

    fn get<T: DeserializeOwned>(
        &self,
        collection: Collection,
        key: &str,
    ) -> Result<Option<Stored<T>>, Error> {
        let Some(record) = self.store.get(collection, key)? else { return Ok(None) };
        let expect = Expect::At { version: record.version, epoch: record.epoch };
        Ok(Some(Stored { value: decode(collection, key, &record)?, expect }))
    }

    fn list<T: DeserializeOwned>(
        &self,
        collection: Collection,
        prefix: &str,
    ) -> Result<Vec<T>, Error> {
        let records = self.store.list(collection, prefix)?;
        records.iter().map(|(key, record)| decode(collection, key, record)).collect()
    }

    /// One actor.
    pub fn actor(&self, key: &ActorKey) -> Result<Option<Stored<ActorRecord>>, Error> {
        self.get(Collection::Actors, &key.to_string())
    }

    /// The actors of a namespace, or all of them when it is empty, by name.
    pub fn actors(&self, namespace: &str) -> Result<Vec<ActorRecord>, Error> {
        self.list(Collection::Actors, &prefix(namespace))
    }

    /// Actors that are not at rest.
    pub fn active(&self) -> Result<Vec<ActorKey>, Error> {
        let keys = self.store.list(Collection::Active, "")?;
        Ok(keys.into_iter().filter_map(|(key, _)| key.parse().ok()).collect())
    }

    /// Creates an actor that does not exist. It goes on counting epochs where one of its name has stopped.
    pub fn create_actor(&self, mut record: ActorRecord) -> Result<Commit, Error> {
        let key = record.key.to_string();
        let mut batch = Batch::default();
        if let Some(tomb) = self.store.get(Collection::Tombstones, &key)? {
            record.life.epoch = Epoch(tomb.epoch);
            let expect = Expect::At { version: tomb.version, epoch: tomb.epoch };
            batch = batch.delete(Collection::Tombstones, &*key, expect);
        }
        let epoch = record.life.epoch.0;
        let value = encode(&record);
        Ok(self.store.commit(batch.put(Collection::Actors, key, Expect::Absent, epoch, value)))
    }

    /// Changes an actor.
    pub fn put_actor(&self, record: &ActorRecord, expect: Expect) -> Commit {
        let key = record.key.to_string();
        let stored = ActorRecord { life: record.life.stored(), ..record.clone() };
        let epoch = stored.life.epoch.0;
        let batch = Batch::default().put(Collection::Actors, &*key, expect, epoch, encode(&stored));
        let any = Expect::Anything;
        self.store.commit(if stored.life.phase().is_rest() {
            batch.delete(Collection::Active, key, any)
        } else {
            batch.put(Collection::Active, key, any, epoch, Vec::new())
        })
    }

    /// Removes an actor and remembers its epoch.
    pub fn remove_actor(&self, record: &ActorRecord, expect: Expect, now_unix_ms: u64) -> Commit {
        let key = record.key.to_string();
        let tomb = encode(&Tombstone { deleted_unix_ms: now_unix_ms });
        let any = Expect::Anything;
        self.store.commit(
            Batch::default()
                .delete(Collection::Actors, &*key, expect)
                .delete(Collection::Active, &*key, any)
                .put(Collection::Tombstones, key, any, record.life.epoch.0, tomb),
        )
    }

    /// Forgets deleted actors whose nodes have long forgotten them too.
    pub async fn forget_deleted_before(&self, unix_ms: u64) -> Result<(), Error> {
        let mut batch = Batch::default();
        for (key, record) in self.store.list(Collection::Tombstones, "")? {
            let tomb: Tombstone = decode(Collection::Tombstones, &key, &record)?;
            if tomb.deleted_unix_ms < unix_ms {
                // Not one that was made anew meanwhile.
                let expect = Expect::At { version: record.version, epoch: record.epoch };
                batch = batch.delete(Collection::Tombstones, key, expect);
            }
        }
        self.store.commit(batch).await
    }

    /// The templates of a namespace, or all of them when it is empty.
    pub fn templates(&self, namespace: &str) -> Result<Vec<TemplateRecord>, Error> {
        self.list(Collection::Templates, &prefix(namespace))
    }

    /// Writes a template; its one writer keeps the order.
    pub fn put_template(&self, record: &TemplateRecord) -> Commit {
        let key = format!("{}/{}", record.namespace, record.name);
        let (any, value) = (Expect::Anything, encode(record));
        self.store.commit(Batch::default().put(Collection::Templates, key, any, 0, value))
    }

    /// Removes a template.
    pub fn remove_template(&self, namespace: &str, name: &str) -> Commit {
        let key = format!("{namespace}/{name}");
        self.store.commit(Batch::default().delete(Collection::Templates, key, Expect::Anything))
    }

    /// Every worker pool.
    pub fn pools(&self) -> Result<Vec<PoolRecord>, Error> {
        self.list(Collection::Pools, "")
    }

    /// Writes a worker pool.
    pub fn put_pool(&self, record: &PoolRecord) -> Commit {
        let (any, value) = (Expect::Anything, encode(record));
        self.store.commit(Batch::default().put(Collection::Pools, &*record.name, any, 0, value))
    }

    /// Routers that may hold bindings.
    pub fn routers(&self) -> Result<Vec<RouterRecord>, Error> {
        self.list(Collection::Routers, "")
    }

    /// Remembers a router.
    pub fn put_router(&self, record: &RouterRecord) -> Commit {
        let (any, value) = (Expect::Anything, encode(record));
        self.store.commit(Batch::default().put(Collection::Routers, &*record.router, any, 0, value))
    }

    /// Forgets a router.
    pub fn remove_router(&self, router: &str) -> Commit {
        let any = Expect::Anything;
        self.store.commit(Batch::default().delete(Collection::Routers, router, any))
    }

    /// The last events, in order: of one actor, or of all.
    pub fn events(&self, actor: Option<&ActorKey>) -> Result<Vec<EventRecord>, Error> {
        let mut events: Vec<EventRecord> = match actor {
            None => self.list(Collection::Events, "")?,
            Some(key) => self.list(Collection::ActorEvents, &format!("{key}/"))?,
        };
        events.sort_by_key(|event| event.sequence);
        Ok(events)
    }

    /// Appends events; only the last `ring` of all and the last `per_actor` of each actor are kept.
    pub fn append_events(
        &self,
        events: &[EventRecord],
        ring: u64,
        per_actor: usize,
    ) -> Result<Commit, Error> {
        let mut batch = Batch::default();
        let any = Expect::Anything;
        for event in events {
            let value = encode(event);
            let slot = format!("{:08}", event.sequence % ring);
            batch = batch.put(Collection::Events, slot, any, 0, value.clone());
            let prefix = format!("{}/", event.actor);
            let kept = self.store.list(Collection::ActorEvents, &prefix)?;
            let drop = (kept.len() + 1).saturating_sub(per_actor);
            for (key, _) in kept.into_iter().take(drop) {
                batch = batch.delete(Collection::ActorEvents, key, any);
            }
            let key = format!("{prefix}{:020}", event.sequence);
            batch = batch.put(Collection::ActorEvents, key, any, 0, value);
        }
        Ok(self.store.commit(batch))
    }

    /// Forgets the events of a deleted actor; the common ring keeps its own.
    pub fn forget_events(&self, actor: &ActorKey) -> Result<Commit, Error> {
        let mut batch = Batch::default();
        for (key, _) in self.store.list(Collection::ActorEvents, &format!("{actor}/"))? {
            batch = batch.delete(Collection::ActorEvents, key, Expect::Anything);
        }
        Ok(self.store.commit(batch))
    }
}

fn prefix(namespace: &str) -> String {
    if namespace.is_empty() { String::new() } else { format!("{namespace}/") }
}

/// Our own types have string keys only, so that they always have a JSON form.
fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(&EnvelopeRef { schema: SCHEMA, record }).unwrap_or_default()
}

fn decode<T: DeserializeOwned>(
    collection: Collection,
    key: &str,
    record: &Record,
) -> Result<T, Error> {
    let unreadable = |why: String| Error::Unreadable { collection, key: key.into(), why };
    let header: Header =
        serde_json::from_slice(&record.value).map_err(|e| unreadable(e.to_string()))?;
    if header.schema > SCHEMA {
        let why = format!("a newer reveille wrote it (schema {})", header.schema);
        return Err(unreadable(why));
    }
    let envelope: Envelope<T> =
        serde_json::from_slice(&record.value).map_err(|e| unreadable(e.to_string()))?;
    Ok(envelope.record)
}
