//! [`Store`]: snapshots that every node of the cluster can fetch, in an object store.
//!
//! ```text
//!  <namespace>/<name>/<id>.snapshot       manifest and digests of the chunks; written last, so it is whole or not there
//!  <namespace>/<name>/<id>.intent         the same while it is uploaded: its chunks are not swept
//!  <namespace>/_chunks/<2 digits>/<name>  a chunk, compressed; whoever has the same one in this namespace shares it
//!  <namespace>/_sweep                     chunks that nobody refers to are being removed: uploads wait
//! ```
//!
//! On a node a snapshot is plain image files, so that a wake reads them as they are. Chunks exist only here, and on the
//! way. No name of one namespace says anything about another: nothing is shared between them, and with keys
//! ([`codec`]) not even equal contents have equal names.
//!
//! | who | and | is kept right by |
//! | --- | --- | --- |
//! | an upload that finds a chunk there | a sweep that is about to delete it | intent, then a look for `_sweep`; `_sweep`, then a look for intents: one of them sees the other |
//! | two uploads of one chunk | | same name, same contents |
//! | an upload that dies | its next try | everything is done again; what is there already is not sent again |

mod codec;
mod fetch;
mod sweep;
mod upload;

use std::{env, fmt, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    ObjectStore, ObjectStoreExt, ObjectStoreScheme, RetryConfig, local::LocalFileSystem,
    path::Path, prefix::PrefixStore,
};
use reveille_api::{ActorKey, Epoch};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use url::Url;

pub(crate) use codec::KeysError;
pub(crate) use fetch::{Runtime, fetch};
pub(crate) use upload::{Progress, upload};

use crate::{
    files,
    metrics::{Request, StoreMetrics},
    snapshots::{
        chunks::{self, Digest},
        is_id,
        manifest::{self, Manifest},
    },
};
use codec::{Codec, Keys};

const SNAPSHOT: &str = ".snapshot";
const INTENT: &str = ".intent";
/// No actor can have this name.
const CHUNKS: &str = "_chunks";
const SWEEP: &str = "_sweep";
/// Requests of one upload or fetch that are under way at a time.
const REQUESTS: usize = 16;
/// How long a request is repeated before its failure is told.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of a manifest with its digests, unpacked: of a snapshot of half a terabyte.
const LARGEST_MANIFEST: usize = 256 << 20;

/// See the module.
#[derive(Clone)]
pub(crate) struct Store {
    objects: Arc<dyn ObjectStore>,
    keys: Keys,
    /// For people.
    shown: Arc<str>,
    metrics: StoreMetrics,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.shown).finish()
    }
}

/// Why a store cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the store {0:?} is no URL: write file:///dir, s3://bucket/path, gs://… or az://…")]
    Url(String),
    #[error(
        "credentials and options do not belong into the store's URL: set AWS_…, GOOGLE_… or AZURE_… variables"
    )]
    Credentials,
    #[error("the store {url}: {source}")]
    Unusable { url: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// Why a snapshot did not come or go.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("it is not in the store")]
    Absent,
    #[error("its copy in the store is damaged: {0}")]
    Corrupt(String),
    #[error("its copy in the store does not fit: {0}")]
    Unfit(String),
    #[error("the store: {what}: {source}")]
    Store { what: String, source: object_store::Error },
    #[error("{0}")]
    Keys(#[from] KeysError),
    #[error("its files on this node: {0}")]
    Local(#[from] std::io::Error),
    /// Not to be tried again.
    #[error("its files on this node are damaged: {0}")]
    Damaged(String),
}

/// What the store has of a snapshot besides the chunks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    manifest: Manifest,
    /// Of the files of the manifest, in their order.
    chunks: Vec<Vec<Digest>>,
}

impl Store {
    /// Opens the store at a URL; credentials are in the environment. `keys` is a directory with a key for each namespace.
    pub(crate) fn open(url: &str, keys: Option<PathBuf>) -> Result<Self, OpenError> {
        Self::with(url, keys, variables())
    }

    fn with(
        url: &str,
        keys: Option<PathBuf>,
        variables: Vec<(String, String)>,
    ) -> Result<Self, OpenError> {
        let parsed = Url::parse(url).map_err(|_| OpenError::Url(url.into()))?;
        if !parsed.username().is_empty() || parsed.password().is_some() || parsed.query().is_some()
        {
            return Err(OpenError::Credentials);
        }
        let unusable = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Unusable {
            url: url.into(),
            source,
        };
        let objects: Arc<dyn ObjectStore> = if parsed.scheme() == "file" {
            let dir = parsed.to_file_path().map_err(|()| OpenError::Url(url.into()))?;
            files::create_private_dir(&dir).map_err(|e| unusable(e.into()))?;
            let local = LocalFileSystem::new_with_prefix(dir).map_err(|e| unusable(e.into()))?;
            Arc::new(local.with_fsync(true))
        } else {
            remote(&parsed, variables).map_err(|e| unusable(e.into()))?
        };
        let metrics = StoreMetrics::default();
        Ok(Self { objects, keys: Keys::open(keys)?, shown: url.into(), metrics })
    }

    /// Counted there.
    pub(crate) fn counted_by(self, metrics: &StoreMetrics) -> Self {
        Self { metrics: metrics.clone(), ..self }
    }

    /// One request, measured. What is not there is no failure.
    async fn ask<T>(
        &self,
        request: Request,
        answer: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        let begun = Instant::now();
        let answer = answer.await;
        let absent = matches!(answer, Err(object_store::Error::NotFound { .. }));
        self.metrics.asked(request, begun.elapsed(), answer.is_err() && !absent);
        answer
    }

    /// True when a snapshot is whole there.
    pub(crate) async fn has(&self, actor: &ActorKey, id: &str) -> Result<bool, Error> {
        self.exists(&file(actor, id, SNAPSHOT)).await
    }

    /// Deletes an actor's snapshots of lower epochs but those in `keep`, and what is left of their uploads. Their chunks are
    /// swept later.
    pub(crate) async fn delete(
        &self,
        actor: &ActorKey,
        below: Epoch,
        keep: &[String],
    ) -> Result<(), Error> {
        let codec = self.keys.of(actor.namespace())?;
        for path in self.list(&folder(actor)).await? {
            let name = path.filename().unwrap_or_default();
            let id = name.strip_suffix(SNAPSHOT).or_else(|| name.strip_suffix(INTENT));
            let Some(id) = id.filter(|id| is_id(id) && !keep.iter().any(|kept| kept == id)) else {
                continue;
            };
            match self.contents(&codec, &path, actor, id).await {
                Ok(found) if found.manifest.epoch >= below => continue,
                // One that cannot be read is of no use, but perhaps to somebody who has another key.
                Err(Error::Corrupt(why)) => {
                    tracing::warn!(%actor, snapshot = id, why, "a snapshot in the store is left there");
                    continue;
                }
                Err(Error::Absent) => continue,
                Err(error) => return Err(error),
                Ok(_) => self.remove(&path).await?,
            }
        }
        Ok(())
    }

    /// Removes what there is of one.
    pub(crate) async fn forget(&self, actor: &ActorKey, id: &str) -> Result<(), Error> {
        self.remove(&file(actor, id, SNAPSHOT)).await?;
        self.remove(&file(actor, id, INTENT)).await
    }

    async fn contents(
        &self,
        codec: &Codec,
        path: &Path,
        actor: &ActorKey,
        id: &str,
    ) -> Result<Contents, Error> {
        let sealed = self.get(path).await?.ok_or(Error::Absent)?;
        let bytes = codec.open_checked(path.as_ref(), &sealed, LARGEST_MANIFEST);
        let bytes = bytes.map_err(Error::Corrupt)?;
        let contents: Contents = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Corrupt(format!("its manifest is not valid: {error}")))?;
        contents.check(actor, id).map_err(Error::Corrupt)?;
        Ok(contents)
    }

    async fn exists(&self, path: &Path) -> Result<bool, Error> {
        match self.ask(Request::Head, self.objects.head(path)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(failed(path, source)),
        }
    }

    async fn get(&self, path: &Path) -> Result<Option<Bytes>, Error> {
        let got = async { self.objects.get(path).await?.bytes().await };
        match self.ask(Request::Get, got).await {
            Ok(bytes) => {
                self.metrics.received.inc_by(bytes.len() as u64);
                Ok(Some(bytes))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed(path, source)),
        }
    }

    async fn put(&self, path: &Path, bytes: Vec<u8>) -> Result<(), Error> {
        let length = bytes.len() as u64;
        let put = self.ask(Request::Put, self.objects.put(path, bytes.into())).await;
        put.map_err(|source| failed(path, source))?;
        self.metrics.sent.inc_by(length);
        Ok(())
    }

    async fn remove(&self, path: &Path) -> Result<(), Error> {
        match self.ask(Request::Delete, self.objects.delete(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(failed(path, source)),
        }
    }

    async fn list(&self, folder: &Path) -> Result<Vec<Path>, Error> {
        let listed = self.objects.list(Some(folder)).map_ok(|meta| meta.location).try_collect();
        self.ask(Request::List, listed).await.map_err(|source| failed(folder, source))
    }
}

impl Contents {
    /// What a manifest says is not believed: names become paths, sizes become files.
    fn check(&self, actor: &ActorKey, id: &str) -> Result<(), String> {
        let Manifest { version, files, .. } = &self.manifest;
        if *version != manifest::VERSION {
            return Err(format!("its manifest has version {version}, not {}", manifest::VERSION));
        }
        if self.manifest.actor != *actor || self.manifest.id != id {
            let (id, actor) = (&self.manifest.id, &self.manifest.actor);
            return Err(format!("its manifest is that of {id} of {actor}"));
        }
        if files.is_empty() || files.len() != self.chunks.len() {
            return Err("its manifest lists other files than chunks".into());
        }
        for (at, (file, digests)) in files.iter().zip(&self.chunks).enumerate() {
            let name = &file.name;
            let again = files[..at].iter().any(|other| other.name == *name);
            if !is_id(name) || name.ends_with(".json") || again {
                return Err(format!("{name:?} is no name of an image file"));
            }
            if chunks::count(file.size) != digests.len() as u64
                || chunks::of_file(digests) != file.blake3
            {
                return Err(format!("{name} is not what its chunks are"));
            }
        }
        Ok(())
    }
}

/// What the environment says of clouds, as it is in their documentation.
fn variables() -> Vec<(String, String)> {
    let ours = |name: &str| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|p| name.starts_with(p));
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| ours(name))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect()
}

/// A store of a cloud, or of one that speaks like it.
fn remote(
    url: &Url,
    variables: Vec<(String, String)>,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    // For its HTTP client; an error says that somebody has chosen one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let retry = RetryConfig { retry_timeout: PATIENCE, ..RetryConfig::default() };
    macro_rules! build {
        ($builder:ty) => {{
            let builder = <$builder>::new().with_url(url.as_str()).with_retry(retry);
            let known =
                variables.into_iter().filter_map(|(name, value)| Some((name.parse().ok()?, value)));
            known
                .fold(builder, |builder, (name, value)| builder.with_config(name, value))
                .build()?
        }};
    }
    let (scheme, path) = ObjectStoreScheme::parse(url)?;
    Ok(match scheme {
        ObjectStoreScheme::AmazonS3 => {
            Arc::new(PrefixStore::new(build!(object_store::aws::AmazonS3Builder), path))
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            Arc::new(PrefixStore::new(build!(object_store::gcp::GoogleCloudStorageBuilder), path))
        }
        ObjectStoreScheme::MicrosoftAzure => {
            Arc::new(PrefixStore::new(build!(object_store::azure::MicrosoftAzureBuilder), path))
        }
        _ => {
            let source =
                "write file:///dir, s3://bucket/path, gs://bucket/path or az://container/path";
            return Err(object_store::Error::NotSupported { source: source.into() });
        }
    })
}

fn failed(path: &Path, source: object_store::Error) -> Error {
    Error::Store { what: path.to_string(), source }
}

fn folder(actor: &ActorKey) -> Path {
    Path::from_iter([actor.namespace(), actor.name()])
}

fn file(actor: &ActorKey, id: &str, kind: &str) -> Path {
    folder(actor).join(format!("{id}{kind}"))
}

fn chunk(namespace: &str, name: &str) -> Path {
    Path::from_iter([namespace, CHUNKS, &name[..2], name])
}

#[cfg(test)]
mod tests;
