//! [`run`]: snapshots of this node into the store, in the background and for ever; and room on the disk for new ones.
//!
//! ```text
//!  committed ─▶ due at once, or when `suspendAfter` has passed ─▶ uploading ─▶ stored ─▶ told to the control plane
//!                     ▲                                               │            └─▶ may be evicted
//!                     └── backoff ◀───────────────────────────────────┘ failed
//! ```
//!
//! What is due is known from the disk, so a new agent goes on where the one before it ended.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reveille_api::{ActorKey, proto, task};
use tokio::{sync::Notify, task::JoinSet, time::Instant};

use crate::{
    core::Core,
    files,
    metrics::End,
    snapshots::unix_ms,
    store::{self, Progress, Store},
};

/// Uploads under way at a time.
const AT_A_TIME: usize = 2;
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(60);
/// Between two looks at what nobody refers to.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

type Name = (ActorKey, String);

/// What is under way.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    changed: Notify,
    under_way: Mutex<BTreeMap<Name, Arc<Progress>>>,
}

impl Uploads {
    /// There may be something to do.
    pub(crate) fn look(&self) {
        self.changed.notify_one();
    }

    /// How far the uploads are.
    pub(crate) fn list(&self) -> Vec<proto::Upload> {
        let view = |((actor, snapshot), progress): (&Name, &Arc<Progress>)| {
            let (done_bytes, total_bytes) = progress.get();
            let (actor, snapshot) = (Some(actor.into()), snapshot.clone());
            proto::Upload { actor, snapshot, done_bytes, total_bytes }
        };
        self.lock().iter().map(view).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, Arc<Progress>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Failed tries of an upload, and when the next one is.
struct Failures {
    count: u32,
    next: Instant,
}

/// See the module.
pub(crate) async fn run(core: Arc<Core>, store: Store) -> Infallible {
    let mut tasks = JoinSet::new();
    let mut failures: HashMap<Name, Failures> = HashMap::new();
    loop {
        let mut look_again: Option<Instant> = None;
        for (actor, id, from) in core.snapshots.to_upload() {
            let name = (actor, id);
            if core.uploads.lock().contains_key(&name) {
                continue;
            }
            let due = Instant::now() + Duration::from_millis(from.saturating_sub(unix_ms()));
            let due = failures.get(&name).map_or(due, |failed| failed.next.max(due));
            if due > Instant::now() {
                look_again = Some(look_again.map_or(due, |other| other.min(due)));
            } else if tasks.len() < AT_A_TIME {
                let progress = Arc::<Progress>::default();
                core.uploads.lock().insert(name.clone(), progress.clone());
                let (core, store) = (core.clone(), store.clone());
                task::spawn(&mut tasks, "upload", async move {
                    let outcome = upload(&core, &store, &name, &progress).await;
                    core.uploads.lock().remove(&name);
                    core.metrics.uploaded(End::of(&outcome));
                    (name, outcome)
                });
            }
        }
        let later = async {
            match look_again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = core.uploads.changed.notified() => {}
            () = later => {}
            Some(ended) = tasks.join_next() => {
                let Ok((name, outcome)) = ended else { continue };
                if let Err(error) = outcome {
                    let (actor, snapshot) = &name;
                    tracing::warn!(%actor, snapshot, %error, "a snapshot was not uploaded yet");
                    let count = failures.get(&name).map_or(0, |failed| failed.count + 1);
                    let wait = LAST_BACKOFF.min(FIRST_BACKOFF * 2u32.pow(count.min(8)));
                    let wait = wait.mul_f64(rand::random_range(0.5..1.0));
                    failures.insert(name, Failures { count, next: Instant::now() + wait });
                } else {
                    failures.remove(&name);
                }
            }
        }
        // Nothing is remembered of what is not to be uploaded any more.
        if failures.len() > AT_A_TIME {
            let due = core.snapshots.to_upload();
            failures.retain(|name, _| due.iter().any(|(a, id, _)| (a, id) == (&name.0, &name.1)));
        }
    }
}

async fn upload(
    core: &Arc<Core>,
    store: &Store,
    (actor, id): &Name,
    progress: &Progress,
) -> Result<(), store::Error> {
    let Some(files) = core.snapshots.files(actor, id) else { return Ok(()) };
    let begin = Instant::now();
    match store::upload(store, files, progress).await {
        // It was deleted meanwhile.
        Err(_) if core.snapshots.get(actor, id).is_none() => return store.forget(actor, id).await,
        uploaded => uploaded?,
    }
    let marked = {
        let (core, actor, id) = (core.clone(), actor.clone(), id.clone());
        files::blocking(move || core.snapshots.stored(&actor, &id))
    };
    if !marked.await? {
        return store.forget(actor, id).await;
    }
    let (bytes, sent, took) = (progress.get().1, progress.sent(), begin.elapsed());
    tracing::info!(%actor, snapshot = id, bytes, sent, ?took, "a snapshot is in the store");
    core.report_stored(actor, id);
    make_room(core);
    Ok(())
}

/// Keeps to the limit of the disk, as far as what is there is in the store too. Goes on in the background.
pub(crate) fn make_room(core: &Arc<Core>) {
    let Some(limit) = core.snapshot_cache.filter(|_| core.store.is_some()) else { return };
    let evicting = core.clone();
    core.cleanups.spawn(async move {
        match files::blocking(move || evicting.snapshots.evict(limit)).await {
            Ok(0) => {}
            Ok(evicted) => tracing::info!(evicted, "snapshots that are in the store were evicted"),
            Err(error) => tracing::warn!(%error, "snapshots could not be evicted"),
        }
    });
}

/// Sweeps the store, for ever.
pub(crate) async fn sweep(store: Store) -> Infallible {
    loop {
        // Nodes take turns by chance.
        tokio::time::sleep(SWEEP_EVERY.mul_f64(rand::random_range(0.5..1.5))).await;
        let namespaces = match store.namespaces().await {
            Ok(namespaces) => namespaces,
            Err(error) => {
                tracing::warn!(%error, "the store cannot be swept");
                continue;
            }
        };
        for namespace in namespaces {
            match store.sweep(&namespace).await {
                Ok(removed) => tracing::info!(namespace, removed, "the store was swept"),
                Err(error) => tracing::warn!(namespace, %error, "a namespace was not swept"),
            }
        }
    }
}
