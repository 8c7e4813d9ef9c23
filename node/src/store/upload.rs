//! A snapshot of this node into the store: intent, chunks that are not there yet, manifest.

use std::{
    collections::BTreeMap,
    fs::File,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{StreamExt, TryStreamExt, stream};
use reveille_api::ActorKey;

use super::{Codec, Contents, Error, INTENT, REQUESTS, SNAPSHOT, Store, chunk, file};
use crate::{
    files,
    snapshots::{
        chunks::{self, CHUNK, Digest},
        manifest::Manifest,
    },
};

/// How far an upload is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    sent: AtomicU64,
}

impl Progress {
    /// Bytes that are in the store, and all of them.
    pub(crate) fn get(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// Bytes that were sent: not what was there already, and compressed.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// Where the contents of a chunk are.
#[derive(Clone, Copy)]
struct Source {
    file: usize,
    index: u64,
}

/// Uploads a snapshot. Whenever this ends, the next try goes on from what is in the store by then.
pub(crate) async fn upload(
    store: &Store,
    (dir, manifest): (PathBuf, Manifest),
    progress: &Progress,
) -> Result<(), Error> {
    let (actor, id) = (manifest.actor.clone(), manifest.id.clone());
    if store.has(&actor, &id).await? {
        return Ok(());
    }
    let codec = store.keys.of(actor.namespace())?;
    let names: Vec<_> = manifest.files.iter().map(|file| file.name.clone()).collect();
    let (from, to_hash) = (dir.clone(), names.clone());
    let hashed = files::blocking(move || chunks::hash_all(&from, &to_hash)).await?;
    let mut both = hashed.iter().zip(&manifest.files);
    if let Some((found, _)) = both.find(|(found, wanted)| found.entry != **wanted) {
        return Err(Error::Damaged(format!("{} has other contents", found.entry.name)));
    }
    let sizes: Vec<_> = manifest.files.iter().map(|file| file.size).collect();
    let contents =
        Contents { manifest, chunks: hashed.into_iter().map(|file| file.chunks).collect() };
    let wanted = sources(&contents.chunks);
    let total = wanted.values().map(|source| length(sizes[source.file], source.index)).sum();
    progress.total.store(total, Ordering::Relaxed);

    let text = serde_json::to_vec(&contents).map_err(std::io::Error::from)?;
    let intent = file(&actor, &id, INTENT);
    store.put(&intent, codec.seal_checked(intent.as_ref(), &text)?).await?;
    // One whose writer has died deletes nothing.
    let _over = store.no_sweep(actor.namespace()).await?;

    let opened = names.iter().map(|name| File::open(dir.join(name)).map(Arc::new));
    let opened = opened.collect::<std::io::Result<Vec<_>>>()?;
    let sends = wanted.into_iter().map(|(digest, source)| {
        let part = Part {
            store,
            codec: &codec,
            actor: &actor,
            file: opened[source.file].clone(),
            size: sizes[source.file],
        };
        async move {
            let sent = part.send(digest, source.index).await?;
            progress.sent.fetch_add(sent, Ordering::Relaxed);
            progress.done.fetch_add(length(part.size, source.index), Ordering::Relaxed);
            Ok::<_, Error>(())
        }
    });
    stream::iter(sends).buffer_unordered(REQUESTS).try_collect::<()>().await?;

    let whole = file(&actor, &id, SNAPSHOT);
    // Somebody may have taken it for one that is given up.
    if !store.exists(&intent).await? {
        return Err(Error::Corrupt("its upload took too long and was swept".into()));
    }
    store.put(&whole, codec.seal_checked(whole.as_ref(), &text)?).await?;
    store.remove(&intent).await
}

struct Part<'a> {
    store: &'a Store,
    codec: &'a Codec,
    actor: &'a ActorKey,
    file: Arc<File>,
    size: u64,
}

impl Part<'_> {
    /// Bytes that were sent: none if the chunk is there already.
    async fn send(&self, digest: Digest, index: u64) -> Result<u64, Error> {
        let path = chunk(self.actor.namespace(), &self.codec.name(&digest));
        if self.store.exists(&path).await? {
            return Ok(0);
        }
        let (file, size, codec) = (self.file.clone(), self.size, self.codec.clone());
        let place = path.to_string();
        let sealed = files::blocking(move || {
            let mut buffer = Vec::new();
            let bytes = chunks::read(&file, index, size, &mut buffer)?;
            let same = Digest::of(bytes) == digest;
            same.then(|| codec.seal(&place, bytes)).transpose()
        });
        let changed = || Error::Damaged("they changed meanwhile".into());
        let sealed = sealed.await?.ok_or_else(changed)?;
        let sent = sealed.len() as u64;
        self.store.put(&path, sealed).await?;
        Ok(sent)
    }
}

/// Each chunk once, wherever it is.
fn sources(files: &[Vec<Digest>]) -> BTreeMap<Digest, Source> {
    let mut sources = BTreeMap::new();
    for (file, chunks) in files.iter().enumerate() {
        for (index, digest) in chunks.iter().enumerate().filter(|(_, d)| **d != Digest::ZEROS) {
            sources.entry(*digest).or_insert(Source { file, index: index as u64 });
        }
    }
    sources
}

fn length(size: u64, index: u64) -> u64 {
    (CHUNK as u64).min(size - index * CHUNK as u64)
}
