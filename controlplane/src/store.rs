//! Durable records with compare-and-set.
//!
//! A record is bytes under a key in a [`Collection`], with a *version* that grows with every write and the *epoch* of
//! what it describes. A [`Batch`] of writes is applied as a whole or not at all, and each write says what it
//! expects to find ([`Expect`]): a writer that lost its turn learns it from [`Error::Conflict`], never by overwriting.
//!
//! [`redb::RedbStore`] keeps them in one file; [`memory::MemoryStore`] in memory, for tests. Both run
//! the same `conformance` suite; so will every further one. [`records::Records`] puts types on top.

use std::fmt;

use futures::future::BoxFuture;

pub mod measured;
pub mod memory;
pub mod records;
pub mod redb;

#[cfg(test)]
mod conformance;

/// A table of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Collection {
    /// One record for each actor, by `namespace/name`.
    Actors,
    /// Actors that are not at rest, by `namespace/name`: what a start must look at.
    Active,
    /// Last epoch of deleted actors, by `namespace/name`.
    Tombstones,
    /// Templates, by `namespace/name`.
    Templates,
    /// Worker pools, by name.
    Pools,
    /// Routers that may hold bindings, by name.
    Routers,
    /// The last events of all actors: a ring, by slot.
    Events,
    /// The last events of each actor, by `namespace/name/sequence`.
    ActorEvents,
}

impl Collection {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Actors,
        Self::Active,
        Self::Tombstones,
        Self::Templates,
        Self::Pools,
        Self::Routers,
        Self::Events,
        Self::ActorEvents,
    ];

    /// The table's name on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Actors => "actors",
            Self::Active => "active",
            Self::Tombstones => "tombstones",
            Self::Templates => "templates",
            Self::Pools => "pools",
            Self::Routers => "routers",
            Self::Events => "events",
            Self::ActorEvents => "actor_events",
        }
    }
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// 1 for the first write of a key, then one more with each.
    pub version: u64,
    /// Epoch of what it describes; 0 where there is none.
    pub epoch: u64,
    /// The content.
    pub value: Vec<u8>,
}

/// What a write expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No record.
    Absent,
    /// A record of exactly this version and epoch.
    At {
        /// Its version.
        version: u64,
        /// Its epoch.
        epoch: u64,
    },
    /// Whatever is there.
    Anything,
}

impl Expect {
    /// True when `found` is what was expected.
    pub fn holds(self, found: Option<(u64, u64)>) -> bool {
        match self {
            Self::Anything => true,
            Self::Absent => found.is_none(),
            Self::At { version, epoch } => found == Some((version, epoch)),
        }
    }
}

/// One write of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub collection: Collection,
    /// Which record.
    pub key: String,
    /// What must be there.
    pub expect: Expect,
    /// What is there afterwards: epoch and content, or nothing.
    pub put: Option<(u64, Vec<u8>)>,
}

/// Writes that happen together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In order.
    pub writes: Vec<Write>,
}

impl Batch {
    /// Adds a write of a record.
    #[must_use]
    pub fn put(
        mut self,
        collection: Collection,
        key: impl Into<String>,
        expect: Expect,
        epoch: u64,
        value: Vec<u8>,
    ) -> Self {
        self.writes.push(Write { collection, key: key.into(), expect, put: Some((epoch, value)) });
        self
    }

    /// Adds a removal.
    #[must_use]
    pub fn delete(
        mut self,
        collection: Collection,
        key: impl Into<String>,
        expect: Expect,
    ) -> Self {
        self.writes.push(Write { collection, key: key.into(), expect, put: None });
        self
    }
}

/// Why a store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A write did not find what it expected: nothing of its batch was written.
    #[error("{collection} {key}: expected {expect:?}, found {found:?} (version, epoch)")]
    Conflict {
        /// Where.
        collection: Collection,
        /// Which record.
        key: String,
        /// What the write expected.
        expect: Expect,
        /// Version and epoch of what was there.
        found: Option<(u64, u64)>,
    },
    /// A record that this version cannot read.
    #[error("{collection} {key}: cannot be read: {why}")]
    Unreadable {
        /// Where.
        collection: Collection,
        /// Which record.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// The disk or the database failed. Whether the batch was written is unknown until it is opened again.
    #[error("{operation} failed: {why}")]
    Failed {
        /// What was done.
        operation: &'static str,
        /// What the database said.
        why: String,
    },
    /// The writer has ended after a failure or at shutdown.
    #[error("the store is closed")]
    Closed,
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Durable records. Reads see the last commit; a commit has happened, for ever, when its future says so.
///
/// Commits are applied in the order in which [`Store::commit`] was *called*, so a writer may call it again
/// before the first has been acknowledged.
pub trait Store: Send + Sync + 'static {
    /// One record.
    fn get(&self, collection: Collection, key: &str) -> Result<Option<Record>, Error>;

    /// The records whose keys begin with `prefix`, by key.
    fn list(&self, collection: Collection, prefix: &str) -> Result<Vec<(String, Record)>, Error>;

    /// Applies a batch.
    fn commit(&self, batch: Batch) -> BoxFuture<'static, Result<(), Error>>;

    /// Ends when the store can take no more commits, with the reason.
    fn failed(&self) -> BoxFuture<'static, Error>;
}
