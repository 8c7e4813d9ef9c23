//! The event log: what happened to actors, for people.
//!
//! ```text
//!  drivers ──note()──▶ queue (bounded) ──▶ Log::run: number, store, then show to followers
//! ```
//!
//! One task numbers the events, so that followers see them in order. It is a log and not a journal: the last
//! moments before a crash may be missing from it, never from the actors' records. What the
//! queue cannot take is dropped and leaves a gap in the numbers.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reveille_api::{ActorKey, Epoch};
use tokio::sync::{broadcast, mpsc};

use crate::{
    clock::unix_ms,
    lifecycle::{Cause, Note, Source},
    record::EventRecord,
    store::records::Records,
};

#[cfg(test)]
mod tests;

/// Events kept of all actors.
const RING: u64 = 10_000;
/// Events kept of each actor.
const PER_ACTOR: usize = 50;
/// Events that may wait to be stored.
const QUEUE: usize = 4096;
/// Events that share one commit.
const GROUP: usize = 256;
/// Events a slow follower may be behind before it skips some.
const FOLLOWERS: usize = 1024;

enum Entry {
    Happened(EventRecord),
    Forget(ActorKey),
}

/// Where drivers put events and followers get them. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Entry>,
    followers: broadcast::Sender<Arc<EventRecord>>,
    dropped: Arc<AtomicU64>,
    records: Records,
}

/// The task's half.
pub struct Log {
    entries: mpsc::Receiver<Entry>,
    followers: broadcast::Sender<Arc<EventRecord>>,
    dropped: Arc<AtomicU64>,
    records: Records,
    next: u64,
}

impl Events {
    /// Goes on counting where the stored events end.
    pub fn open(records: Records) -> Result<(Self, Log), crate::store::Error> {
        let last = records.events(None)?.last().map_or(0, |event| event.sequence);
        let (queue, entries) = mpsc::channel(QUEUE);
        let (followers, _) = broadcast::channel(FOLLOWERS);
        let dropped = Arc::new(AtomicU64::new(0));
        let log = Log {
            entries,
            followers: followers.clone(),
            dropped: Arc::clone(&dropped),
            records: records.clone(),
            next: last + 1,
        };
        Ok((Self { queue, followers, dropped, records }, log))
    }

    /// Something happened to an actor.
    pub fn note(&self, actor: &ActorKey, epoch: Epoch, note: &Note) {
        let (kind, reason, message) = render(note);
        tracing::info!(%actor, %epoch, kind, reason, message, "actor");
        let event = EventRecord {
            sequence: 0,
            unix_ms: unix_ms(),
            actor: actor.clone(),
            epoch: epoch.0,
            kind: kind.into(),
            reason: reason.into(),
            message,
        };
        if self.queue.try_send(Entry::Happened(event)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An actor was created.
    pub fn created(&self, actor: &ActorKey, epoch: Epoch, template: &str) {
        let event = EventRecord {
            sequence: 0,
            unix_ms: unix_ms(),
            actor: actor.clone(),
            epoch: epoch.0,
            kind: "Created".into(),
            reason: String::new(),
            message: format!("from template {template}"),
        };
        if self.queue.try_send(Entry::Happened(event)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The actor is gone, and its own history with it. Waits for room: another actor of its name must not inherit it.
    pub async fn forget(&self, actor: &ActorKey) {
        // Without the log's task there is nothing to wait for.
        let _ = self.queue.send(Entry::Forget(actor.clone())).await;
    }

    /// Every event from now on.
    pub fn follow(&self) -> broadcast::Receiver<Arc<EventRecord>> {
        self.followers.subscribe()
    }

    /// The events kept, in order: of one actor, or of all.
    pub fn history(
        &self,
        actor: Option<&ActorKey>,
    ) -> Result<Vec<EventRecord>, crate::store::Error> {
        self.records.events(actor)
    }
}

impl Log {
    /// Stores events until all [`Events`] are dropped.
    pub async fn run(mut self) {
        let mut group = Vec::with_capacity(GROUP);
        while self.entries.recv_many(&mut group, GROUP).await > 0 {
            let mut entries: VecDeque<Entry> = group.drain(..).collect();
            while !entries.is_empty() {
                self.store_some(&mut entries).await;
            }
        }
    }

    /// One commit's worth: events of different actors, up to the first that another one must precede.
    async fn store_some(&mut self, entries: &mut VecDeque<Entry>) {
        let mut events: Vec<EventRecord> = Vec::new();
        while let Some(Entry::Happened(next)) = entries.front() {
            if events.iter().any(|event| event.actor == next.actor) {
                break;
            }
            if let Some(Entry::Happened(mut event)) = entries.pop_front() {
                event.sequence = self.next;
                self.next += 1;
                events.push(event);
            }
        }
        self.next += self.dropped.swap(0, Ordering::Relaxed);
        if events.is_empty() {
            if let Some(Entry::Forget(actor)) = entries.pop_front() {
                self.commit(self.records.forget_events(&actor)).await;
            }
            return;
        }
        self.commit(self.records.append_events(&events, RING, PER_ACTOR)).await;
        for event in events {
            // Nobody may be following.
            let _ = self.followers.send(Arc::new(event));
        }
    }

    async fn commit(&self, commit: Result<crate::store::records::Commit, crate::store::Error>) {
        let outcome = match commit {
            Ok(commit) => commit.await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "events were not stored");
        }
    }
}

/// Kind, reason and message of a note.
fn render(note: &Note) -> (&'static str, &'static str, String) {
    match note {
        Note::WakeStarted { source, place, lost } => {
            ("WakeStarted", "", started(source, &place.worker, *lost))
        }
        Note::Woke(activation) => {
            let kind = match activation.source {
                Source::Cold => "ColdStarted",
                Source::Current(_) => "Restored",
                Source::Previous(_) => "RestoredPrevious",
                Source::ColdAfterFailure => "ColdStartedAfterFailure",
            };
            (kind, "", format!("serves on {}", activation.place.worker))
        }
        Note::Cloned(activation) => {
            ("Cloned", "", format!("serves on {}", activation.place.worker))
        }
        Note::NotCloned(why) => ("NotCloned", "", format!("it started anew: {why}")),
        Note::WakeFailed(failure) => ("WakeFailed", failure.reason.name(), failure.message.clone()),
        Note::RestoreFailed { snapshot, failure, instead } => {
            let next = match instead {
                None => "it is kept, and the next request tries again".to_owned(),
                Some(Source::Previous(s)) => format!("restoring the one before it, {}", s.id),
                Some(_) => "starting anew, as the template allows".to_owned(),
            };
            let message = format!("snapshot {snapshot}: {}; {next}", failure.message);
            ("RestoreFailed", failure.reason.name(), message)
        }
        Note::FreezeStarted(Cause::Idle(_)) => ("IdleFreeze", "", "nobody uses it".into()),
        Note::FreezeStarted(_) => ("FreezeStarted", "", "asked for".into()),
        Note::Frozen => ("Frozen", "", "its processes stand still; traffic thaws them".into()),
        Note::FreezeFailed(message) => {
            ("FreezeFailed", "", format!("it serves on, to be tried again: {message}"))
        }
        Note::Thawed => ("Thawed", "", "its processes go on".into()),
        Note::SuspendStarted(Cause::Pressure(_)) => {
            ("PreemptedForCapacity", "", "another actor needs its worker".into())
        }
        Note::SuspendStarted(Cause::Idle(_)) => ("IdleSuspend", "", "nobody uses it".into()),
        Note::SuspendStarted(Cause::User) => ("SuspendStarted", "", "asked for".into()),
        Note::SuspendStarted(Cause::Shutdown) => {
            ("SuspendStarted", "", "everything is being suspended".into())
        }
        Note::SuspendCancelled => ("SuspendCancelled", "", "it is wanted: it serves on".into()),
        Note::Suspended(s) => ("Suspended", "", format!("snapshot {}, {} bytes", s.id, s.bytes)),
        Note::Stopped => ("Stopped", "", "traffic does not wake it".into()),
        Note::CheckpointFailed(message) => {
            ("CheckpointFailed", "", format!("it serves on, to be tried again: {message}"))
        }
        Note::Lost(message) => ("Lost", "", message.clone()),
        Note::FoundAgain => ("FoundAgain", "", "its node is back, with it still running".into()),
        Note::Stored(id) => ("SnapshotStored", "", format!("{id} is in the store")),
        Note::Elsewhere(failure) => (
            "SnapshotUnfit",
            failure.reason.name(),
            format!("{}; trying another node", failure.message),
        ),
        Note::SnapshotAdopted(id) => {
            ("SnapshotAdopted", "", format!("{id} had been committed before the node fell silent"))
        }
        Note::StaleDestroyed(epoch) => {
            ("StaleDestroyed", "", format!("a leftover of epoch {epoch} was destroyed"))
        }
        Note::Refused(reason) => ("WakeRefused", reason.name(), reason.title().into()),
        Note::DeleteStarted => ("DeleteStarted", "", String::new()),
        Note::Deleted => ("Deleted", "", String::new()),
    }
}

fn started(source: &Source, worker: &str, lost: bool) -> String {
    let age = |created: u64| {
        let age = Duration::from_millis(unix_ms().saturating_sub(created));
        humantime::format_duration(Duration::from_secs(age.as_secs())).to_string()
    };
    match source {
        Source::Cold => format!("cold start on {worker}"),
        Source::ColdAfterFailure => format!("starts anew on {worker}: no snapshot can be used"),
        Source::Current(s) | Source::Previous(s) if lost => format!(
            "restored from a snapshot {} old on {worker}: what happened after it is lost",
            age(s.created_unix_ms)
        ),
        Source::Current(s) | Source::Previous(s) => {
            format!("restores {} ({} old) on {worker}", s.id, age(s.created_unix_ms))
        }
    }
}
