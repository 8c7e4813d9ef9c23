//! Removes chunks that no snapshot of their namespace refers to any more.
//!
//! ```text
//!  sweep   `_sweep` written ─▶ chunks listed ─▶ manifests and intents read ─▶ the others deleted ─▶ `_sweep` removed
//!  upload  intent written ─▶ no `_sweep`? else wait ─▶ chunks looked for, sent ─▶ manifest ─▶ intent removed
//! ```
//!
//! Each writes before it looks, so at least one sees the other: the sweep keeps what the intent names, or the upload begins
//! when the sweep is over. A sweep deletes only for [`LONGEST`] after it wrote its mark; an upload that has seen the same
//! mark for longer knows that its writer is dead. No clocks of two machines are compared. What a manifest names that
//! cannot be read is not known, so nothing of its namespace is swept then.

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, SystemTime},
};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::{PutMode, path::Path};
use reveille_api::ActorKey;
use tokio::time::Instant;

use super::{
    CHUNKS, Codec, Digest, Error, INTENT, REQUESTS, SNAPSHOT, SWEEP, Store, chunk, failed, file,
};
use crate::snapshots::is_id;

/// A sweep ends after this time, done or not.
const LONGEST: Duration = Duration::from_secs(60);
/// And is over for an upload after this one.
const OVER: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(500);
/// An upload that has not come to its end after so long is given up.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// Why no sweep is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sweep {
    None,
    /// Its mark is still there.
    Died,
}

impl Store {
    /// Waits until a sweep that may not have seen our intent is over.
    pub(super) async fn no_sweep(&self, namespace: &str) -> Result<Sweep, Error> {
        let path = mark(namespace);
        let (mut seen, mut since) = (None, Instant::now());
        while let Some(mark) = self.get(&path).await? {
            if seen.as_ref() != Some(&mark) {
                (seen, since) = (Some(mark), Instant::now());
            }
            if since.elapsed() > OVER {
                return Ok(Sweep::Died);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(Sweep::None)
    }

    /// Namespaces that have something in the store.
    pub(crate) async fn namespaces(&self) -> Result<Vec<String>, Error> {
        let listed = self.objects.list_with_delimiter(None).await;
        let listed = listed.map_err(|source| failed(&Path::ROOT, source))?;
        let names = listed.common_prefixes.iter().filter_map(|path| path.filename());
        Ok(names.map(str::to_owned).collect())
    }

    /// See the module. How many chunks were removed.
    pub(crate) async fn sweep(&self, namespace: &str) -> Result<u64, Error> {
        let codec = self.keys.of(namespace)?;
        let path = mark(namespace);
        // Another node's, or what is left of one that died.
        if self.no_sweep(namespace).await? == Sweep::Died {
            self.remove(&path).await?;
        }
        let until = Instant::now() + LONGEST;
        let own = uuid::Uuid::now_v7().to_string();
        let created = self.objects.put_opts(&path, own.into(), PutMode::Create.into()).await;
        match created {
            Ok(_) => {}
            Err(object_store::Error::AlreadyExists { .. }) => return Ok(0),
            Err(source) => return Err(failed(&path, source)),
        }
        let swept = self.sweep_marked(&codec, namespace, until).await;
        self.remove(&path).await?;
        swept
    }

    async fn sweep_marked(
        &self,
        codec: &Codec,
        namespace: &str,
        until: Instant,
    ) -> Result<u64, Error> {
        let chunks = self.list(&Path::from_iter([namespace, CHUNKS])).await?;
        let used = self.used(codec, namespace).await?;
        let unused: Vec<_> = chunks.into_iter().filter(|path| !used.contains(path)).collect();
        let removed = stream::iter(unused).map(|path| async move {
            if Instant::now() >= until {
                return Ok(0);
            }
            match tokio::time::timeout_at(until, self.remove(&path)).await {
                Ok(removed) => removed.map(|()| 1),
                Err(_) => Ok(0),
            }
        });
        removed.buffer_unordered(REQUESTS).try_fold(0, async |sum, n| Ok(sum + n)).await
    }

    /// The chunks that manifests and intents name.
    async fn used(&self, codec: &Codec, namespace: &str) -> Result<HashSet<Path>, Error> {
        // Twice: an upload may end while names are listed, and of its two names the list then has neither.
        let mut snapshots = self.snapshots(namespace).await?;
        snapshots.append(&mut self.snapshots(namespace).await?);
        let mut used = HashSet::new();
        for (actor, id) in snapshots {
            // And here an intent may become a snapshot.
            for kind in [SNAPSHOT, INTENT, SNAPSHOT] {
                let found = self.contents(codec, &file(&actor, &id, kind), &actor, &id).await;
                let contents = match found {
                    Ok(contents) => contents,
                    Err(Error::Absent) => continue,
                    Err(error) => return Err(error),
                };
                let digests = contents.chunks.iter().flatten();
                let kept = digests.filter(|digest| **digest != Digest::ZEROS);
                used.extend(kept.map(|digest| chunk(namespace, &codec.name(digest))));
                break;
            }
        }
        Ok(used)
    }

    /// Snapshots and uploads of a namespace. Uploads that were given up are removed.
    async fn snapshots(&self, namespace: &str) -> Result<BTreeSet<(ActorKey, String)>, Error> {
        let folder = Path::from(namespace);
        let listed = self.objects.list_with_delimiter(Some(&folder)).await;
        let actors = listed.map_err(|source| failed(&folder, source))?.common_prefixes;
        let mut found = BTreeSet::new();
        for folder in actors {
            let actor = folder.filename().and_then(|name| ActorKey::new(namespace, name).ok());
            let Some(actor) = actor else { continue };
            let mut files = self.objects.list(Some(&folder));
            while let Some(meta) = files.next().await {
                let meta = meta.map_err(|source| failed(&folder, source))?;
                let name = meta.location.filename().unwrap_or_default();
                let age = SystemTime::now().duration_since(meta.last_modified.into());
                let id = match (name.strip_suffix(SNAPSHOT), name.strip_suffix(INTENT)) {
                    (None, Some(_)) if age.is_ok_and(|age| age > ABANDONED) => {
                        self.remove(&meta.location).await?;
                        None
                    }
                    (id, intent) => id.or(intent),
                };
                found.extend(id.filter(|id| is_id(id)).map(|id| (actor.clone(), id.to_owned())));
            }
        }
        Ok(found)
    }
}

fn mark(namespace: &str) -> Path {
    Path::from_iter([namespace, SWEEP])
}
