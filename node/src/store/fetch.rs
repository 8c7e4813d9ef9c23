//! A snapshot from the store onto this node: plain files, each chunk of them compared with its digest.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use reveille_api::ActorKey;

use super::{Codec, Contents, Error, REQUESTS, SNAPSHOT, Store, chunk, file};
use crate::{
    files,
    snapshots::{
        Snapshots,
        chunks::{CHUNK, Digest},
    },
};

/// What is to be able to restore it.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// Where the bytes of a chunk go.
type Places = Vec<(Arc<File>, u64)>;

/// Fetches a snapshot. Until all of it is there and checked, nothing of it is. It is not evicted while what this returns is
/// held.
pub(crate) async fn fetch(
    store: &Store,
    snapshots: &Arc<Snapshots>,
    actor: &ActorKey,
    id: &str,
    runtime: &Runtime,
) -> Result<Arc<()>, Error> {
    let codec = store.keys.of(actor.namespace())?;
    let Contents { manifest, chunks } =
        store.contents(&codec, &file(actor, id, SNAPSHOT), actor, id).await?;
    snapshots.check_fit(&manifest, &runtime.name, &runtime.version).map_err(Error::Unfit)?;
    let draft = snapshots.begin(actor, id)?;
    let mut wanted: BTreeMap<Digest, (Places, usize)> = BTreeMap::new();
    for (entry, digests) in manifest.files.iter().zip(chunks) {
        let opened = Arc::new(File::create_new(draft.dir().join(&entry.name))?);
        opened.set_len(entry.size)?;
        for (index, digest) in (0u64..).zip(digests).filter(|(_, d)| *d != Digest::ZEROS) {
            let offset = index * CHUNK as u64;
            let length = (CHUNK as u64).min(entry.size - offset) as usize;
            let (places, _) = wanted.entry(digest).or_insert((Vec::new(), length));
            places.push((opened.clone(), offset));
        }
    }
    let parts = wanted.into_iter().map(|(digest, (places, length))| {
        let codec = codec.clone();
        async move {
            let path = chunk(actor.namespace(), &codec.name(&digest));
            let missing = || Error::Corrupt(format!("{path} is missing"));
            let sealed = store.get(&path).await?.ok_or_else(missing)?;
            let place = path.to_string();
            let written = files::blocking(move || {
                let bytes = match open(&codec, &place, &sealed, &digest, length) {
                    Ok(bytes) => bytes,
                    Err(why) => return Ok(Err(why)),
                };
                places.iter().try_for_each(|(file, offset)| file.write_all_at(&bytes, *offset))?;
                Ok(Ok(()))
            });
            written.await?.map_err(Error::Corrupt)
        }
    });
    stream::iter(parts).buffer_unordered(REQUESTS).try_collect::<()>().await?;
    let snapshots = snapshots.clone();
    let committed = files::blocking(move || {
        let sealed = snapshots.seal_fetched(draft, manifest)?;
        snapshots.commit(sealed)
    });
    Ok(committed.await?)
}

fn open(
    codec: &Codec,
    place: &str,
    sealed: &[u8],
    digest: &Digest,
    length: usize,
) -> Result<Vec<u8>, String> {
    let bytes = codec.open(place, sealed, CHUNK)?;
    if bytes.len() != length || Digest::of(&bytes) != *digest {
        return Err(format!("{place} has other contents"));
    }
    Ok(bytes)
}
