//! The embedded store: one `redb` file, written by one thread.
//!
//! ```text
//!  commit() ──▶ queue ──▶ writer thread: take all that wait ─▶ check, apply ─▶ one fsync ─▶ acknowledge
//!  get(), list() ──▶ the last committed state, without waiting for the writer
//! ```
//!
//! Batches that wait while a sync is under way share the next one. A batch whose expectation fails is
//! left out of the transaction and does not disturb the others. When the disk fails, the writer ends and the store is
//! closed: what is on disk decides after the next start.

use std::{
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use ::redb::{
    Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Batch, Collection, Error, Record, Store, Write};

/// Batches that share one sync at most.
const GROUP: usize = 256;
/// Version and epoch stand before the content.
const HEADER: usize = 16;

/// The store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it open.
    #[error("{} is in use by another control plane; stop that one or choose another data directory", .0.display())]
    InUse(PathBuf),
    /// The folder cannot be made.
    #[error("cannot create {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is damaged, or of another version, or the disk failed.
    #[error("cannot open {}: {why}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What the database said.
        why: String,
    },
}

struct Commit {
    batch: Batch,
    done: oneshot::Sender<Result<(), Error>>,
}

/// Records in one file. The queue has no bound of its own: each driver and the event log have at most two
/// commits under way.
pub struct RedbStore {
    database: Arc<Database>,
    queue: Mutex<Option<mpsc::UnboundedSender<Commit>>>,
    failure: watch::Receiver<Option<String>>,
    writer: Option<JoinHandle<()>>,
}

fn table(collection: Collection) -> TableDefinition<'static, &'static str, &'static [u8]> {
    TableDefinition::new(collection.name())
}

fn failed(operation: &'static str) -> impl Fn(::redb::Error) -> Error {
    move |error| Error::Failed { operation, why: error.to_string() }
}

impl RedbStore {
    /// Opens the file, or makes it and its folder. After a crash it is checked and repaired first.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        if let Some(folder) = path.parent() {
            let failed = |source| OpenError::Folder { path: folder.into(), source };
            // Templates hold the actors' environment: nobody else's to read.
            let mut private = std::fs::DirBuilder::new();
            private.recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        let database = Database::create(path).map_err(|error| match error {
            ::redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.into()),
            other => OpenError::Database { path: path.into(), why: other.to_string() },
        })?;
        let database = Arc::new(database);
        make_tables(&database)
            .map_err(|e| OpenError::Database { path: path.into(), why: e.to_string() })?;
        let (queue, commits) = mpsc::unbounded_channel();
        let (tell, failure) = watch::channel(None);
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn({
                let database = Arc::clone(&database);
                move || write_all(&database, commits, &tell)
            })
            .map_err(|source| OpenError::Database { path: path.into(), why: source.to_string() })?;
        Ok(Self { database, queue: Mutex::new(Some(queue)), failure, writer: Some(writer) })
    }
}

/// Lets the writer finish what was queued.
impl Drop for RedbStore {
    fn drop(&mut self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Store for RedbStore {
    fn get(&self, collection: Collection, key: &str) -> Result<Option<Record>, Error> {
        let read = || -> Result<Option<Record>, ::redb::Error> {
            let table = self.database.begin_read()?.open_table(table(collection))?;
            Ok(table.get(key)?.map(|found| decode(found.value())))
        };
        read().map_err(failed("reading the store"))
    }

    fn list(&self, collection: Collection, prefix: &str) -> Result<Vec<(String, Record)>, Error> {
        let read = || -> Result<Vec<(String, Record)>, ::redb::Error> {
            let table = self.database.begin_read()?.open_table(table(collection))?;
            let mut records = Vec::new();
            for entry in table.range(prefix..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                records.push((key.value().to_owned(), decode(value.value())));
            }
            Ok(records)
        };
        read().map_err(failed("listing the store"))
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'static, Result<(), Error>> {
        let (done, acknowledged) = oneshot::channel();
        let commit = Commit { batch, done };
        // Queued here and not in the future, so that the order of calls is the order of commits.
        let queued = match &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(queue) => queue.send(commit).is_ok(),
            None => false,
        };
        async move {
            if !queued {
                return Err(Error::Closed);
            }
            acknowledged.await.unwrap_or(Err(Error::Closed))
        }
        .boxed()
    }

    fn failed(&self) -> BoxFuture<'static, Error> {
        let mut failure = self.failure.clone();
        async move {
            match failure.wait_for(Option::is_some).await {
                Ok(why) => {
                    let why = why.clone().unwrap_or_default();
                    Error::Failed { operation: "writing the store", why }
                }
                Err(_) => Error::Closed,
            }
        }
        .boxed()
    }
}

fn make_tables(database: &Database) -> Result<(), ::redb::Error> {
    let transaction = database.begin_write()?;
    for collection in Collection::ALL {
        transaction.open_table(table(*collection))?;
    }
    transaction.commit()?;
    Ok(())
}

/// The writer thread: ends when the queue is closed and empty, or when the disk fails.
fn write_all(
    database: &Database,
    mut commits: mpsc::UnboundedReceiver<Commit>,
    failure: &watch::Sender<Option<String>>,
) {
    while let Some(first) = commits.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(next) = commits.try_recv()
        {
            group.push(next);
        }
        let batches = group.iter().map(|commit| &commit.batch);
        match write_group(database, batches) {
            Ok(outcomes) => {
                for (commit, outcome) in group.into_iter().zip(outcomes) {
                    let _ = commit.done.send(outcome);
                }
            }
            Err(error) => {
                let why = error.to_string();
                for commit in group {
                    let error = Error::Failed { operation: "writing the store", why: why.clone() };
                    let _ = commit.done.send(Err(error));
                }
                failure.send_replace(Some(why));
                return;
            }
        }
    }
}

/// One transaction, one sync. The outcomes are those of the batches, in order.
fn write_group<'a>(
    database: &Database,
    batches: impl Iterator<Item = &'a Batch>,
) -> Result<Vec<Result<(), Error>>, ::redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate).map_err(|e| {
        ::redb::Error::Corrupted(format!("the database refuses durable commits: {e}"))
    })?;
    let mut outcomes = Vec::new();
    for batch in batches {
        outcomes.push(write_batch(&transaction, batch)?);
    }
    transaction.commit()?;
    Ok(outcomes)
}

fn write_batch(
    transaction: &WriteTransaction,
    batch: &Batch,
) -> Result<Result<(), Error>, ::redb::Error> {
    // Expectations first, and against what earlier writes of the same batch leave behind.
    let mut versions = std::collections::HashMap::new();
    for write in &batch.writes {
        let at = (write.collection, write.key.as_str());
        let found = match versions.get(&at) {
            Some(found) => *found,
            None => header(transaction, write)?,
        };
        if !write.expect.holds(found) {
            let (collection, key) = (write.collection, write.key.clone());
            return Ok(Err(Error::Conflict { collection, key, expect: write.expect, found }));
        }
        let version = found.map_or(0, |(version, _)| version) + 1;
        versions.insert(at, write.put.as_ref().map(|(epoch, _)| (version, *epoch)));
    }
    for write in &batch.writes {
        let found = header(transaction, write)?;
        let mut table = transaction.open_table(table(write.collection))?;
        match &write.put {
            Some((epoch, value)) => {
                let version = found.map_or(0, |(version, _)| version) + 1;
                table.insert(write.key.as_str(), encode(version, *epoch, value).as_slice())?;
            }
            None => drop(table.remove(write.key.as_str())?),
        }
    }
    Ok(Ok(()))
}

/// Version and epoch of a record.
fn header(
    transaction: &WriteTransaction,
    write: &Write,
) -> Result<Option<(u64, u64)>, ::redb::Error> {
    let table = transaction.open_table(table(write.collection))?;
    let found = table.get(write.key.as_str())?;
    Ok(found.map(|found| decode(found.value())).map(|record| (record.version, record.epoch)))
}

fn encode(version: u64, epoch: u64, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + value.len());
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&epoch.to_le_bytes());
    bytes.extend_from_slice(value);
    bytes
}

/// Pages are checksummed by the database: a value that is too short cannot be ours and reads as empty.
fn decode(bytes: &[u8]) -> Record {
    let number = |at: usize| {
        bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
    };
    let value = bytes.get(HEADER..).unwrap_or_default().to_vec();
    Record { version: number(0), epoch: number(8), value }
}

#[cfg(test)]
mod tests;
