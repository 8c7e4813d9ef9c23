//! [`Images`]: the OCI images that actors of this node run from, in layers.
//!
//! ```text
//!  <root>/layers/.tmp-…/          a layer being unpacked ─▶ whole and synced ─▶ rename
//!  <root>/layers/<diff id>/       a layer; never written again, shared by all images that have it
//!  <root>/images/<digest>.json    an image: its layers, and how it wants to run; written when all of them are there
//!  <root>/mounts/                 what every root directory must have for something to be mounted there; lies over all layers
//! ```
//!
//! Whatever dies whenever: a layer is whole or not there, and so is an image. What is neither is removed at start.
//!
//! A wake mounts nothing here: it is told the layers, and its runtime mounts an overlay of them in the mount namespace
//! of its [launcher](crate::runtime), for as long as it takes to make the sandbox. So no mount is left by anybody's death.
//!
//! | who wants an image | is told it by | and it comes from |
//! | --- | --- | --- |
//! | a cold start of a tag or a digest | the first resolution for this template, as long as the image is here | the registry |
//! | a cold start of a layout | its `index.json` now | the layout |
//! | a restore | the digest in the snapshot's manifest | here; if it has gone, where it came from, by digest |
//!
//! An image leaves when they are together larger than the limit and no activation and no snapshot of this node has it,
//! the longest unused first.

mod archive;
mod document;
mod layout;
mod process;
mod pull;
mod registry;
mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use reveille_api::manifest::template::Rootfs;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub(crate) use document::Digest;
pub(crate) use process::Process;
pub(crate) use pull::Pulls;
pub(crate) use registry::Registries;

use crate::{
    files::{self, Durability},
    runtime::IDENTITY,
    snapshots::unix_ms,
};

const TEMPORARY: &str = ".tmp-";
const RECORD: &str = ".json";
const MOUNTS: &str = "mounts";

/// See the module.
#[derive(Debug)]
pub(crate) struct Images {
    root: PathBuf,
    limit: u64,
    drafts: AtomicU64,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    images: BTreeMap<Digest, Entry>,
    /// Bytes of each layer that is there.
    layers: BTreeMap<Digest, u64>,
    /// Pulls under way: what no image has yet may be theirs.
    pulling: u32,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    /// When an actor last started from it, in milliseconds since 1970.
    used: u64,
    /// Held by those who run from it.
    in_use: Arc<()>,
}

/// Which image exactly, and where it came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pin {
    /// Of the manifest for this platform.
    pub(crate) digest: Digest,
    pub(crate) source: Rootfs,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = &self.digest;
        match &self.source {
            Rootfs::Image(name) => {
                write!(f, "{}@{digest}", name.split('@').next().unwrap_or(name))
            }
            Rootfs::OciLayout(dir) | Rootfs::Directory(dir) => {
                write!(f, "{}@{digest}", dir.display())
            }
        }
    }
}

/// An image as it is on the disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    pin: Pin,
    /// The uppermost first.
    layers: Vec<Layer>,
    process: Process,
    /// Templates, by their hash, whose tag was found to be this.
    templates: BTreeSet<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layer {
    diff_id: Digest,
    bytes: u64,
}

/// An image that is here. It stays as long as this is held.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) pin: Pin,
    /// Of an overlay, the uppermost first.
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) process: Process,
    _in_use: Arc<()>,
}

/// Why an image is not here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It is what it is: to try again is of no use.
    #[error("{0}")]
    Bad(String),
    /// Where it comes from does not answer, or not to us.
    #[error("{0}")]
    Away(String),
    /// It could not be kept.
    #[error("{0}")]
    Disk(String),
}

impl Error {
    fn bad(why: impl Into<String>) -> Self {
        Self::Bad(why.into())
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull {
            return Self::Disk(
                "no space left on the node's disk: free some, or lower --image-cache".into(),
            );
        }
        Self::Disk(format!("the node's disk: {error}"))
    }
}

impl From<Errno> for Error {
    fn from(error: Errno) -> Self {
        io::Error::from(error).into()
    }
}

impl Images {
    /// Reads what is there, and removes what belongs to no image.
    pub(crate) fn open(root: &Path, limit: u64) -> io::Result<Self> {
        for dir in ["layers", "images"] {
            files::create_private_dir(&root.join(dir))?;
        }
        // As in any other root directory: it is what actors see.
        let mounts = root.join(MOUNTS).join(IDENTITY.trim_start_matches('/'));
        DirBuilder::new().recursive(true).mode(0o755).create(mounts)?;
        let (root, drafts) = (root.to_owned(), AtomicU64::new(0));
        let images = Self { root, limit, drafts, index: Mutex::default() };
        let mut index = Index::default();
        for name in files::names(&images.root.join("images"))? {
            let path = images.root.join("images").join(&name);
            let record = files::read_json::<Record>(&path).ok().flatten();
            let whole = |record: &Record| {
                record.layers.iter().all(|layer| images.layer(&layer.diff_id).is_dir())
            };
            match record.filter(whole) {
                Some(record) if name == format!("{}{RECORD}", record.pin.digest.hex()) => {
                    let modified = fs::metadata(&path)?.mtime();
                    index.add(record, u64::try_from(modified).unwrap_or(0) * 1000);
                }
                _ => {
                    tracing::warn!(name, "an image that is not whole is removed");
                    files::remove(&path)?;
                }
            }
        }
        let known: BTreeSet<_> = index.layers.keys().map(Digest::hex).collect();
        for name in files::names(&images.root.join("layers"))? {
            if !known.contains(name.as_str()) {
                files::remove(&images.root.join("layers").join(name))?;
            }
        }
        *images.lock() = index;
        Ok(images)
    }

    /// The layer over all others.
    pub(crate) fn mounts(&self) -> PathBuf {
        self.root.join(MOUNTS)
    }

    /// The image of this digest.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Image> {
        let mut index = self.lock();
        let entry = index.images.get_mut(digest)?;
        entry.used = unix_ms();
        Some(self.image(entry))
    }

    /// What a template's tag was found to be.
    pub(crate) fn resolved(&self, template: &str) -> Option<Image> {
        let mut index = self.lock();
        let mut images = index.images.values_mut();
        let entry = images.find(|entry| entry.record.templates.contains(template))?;
        entry.used = unix_ms();
        Some(self.image(entry))
    }

    /// Remembers that. Blocks.
    fn resolve(&self, digest: &Digest, template: &str) -> io::Result<()> {
        let mut index = self.lock();
        let Some(entry) = index.images.get_mut(digest) else { return Ok(()) };
        if entry.record.templates.insert(template.into()) {
            self.write(&entry.record)?;
        }
        Ok(())
    }

    /// Takes in an image all of whose layers are there. Blocks.
    fn add(&self, record: Record) -> io::Result<Image> {
        let mut index = self.lock();
        let digest = record.pin.digest.clone();
        // Another pull may have been faster, and its image is held already.
        if !index.images.contains_key(&digest) {
            self.write(&record)?;
            index.add(record, unix_ms());
        }
        Ok(self.image(&index.images[&digest]))
    }

    fn write(&self, record: &Record) -> io::Result<()> {
        files::write_json(&self.record(&record.pin.digest), record, Durability::Power)
    }

    fn image(&self, entry: &Entry) -> Image {
        let mut layers = self.paths(&entry.record.layers);
        layers.insert(0, self.mounts());
        let Record { pin, process, .. } = entry.record.clone();
        Image { pin, layers, process, _in_use: entry.in_use.clone() }
    }

    fn paths(&self, layers: &[Layer]) -> Vec<PathBuf> {
        layers.iter().map(|layer| self.layer(&layer.diff_id)).collect()
    }

    /// Bytes of a layer that is there.
    fn has(&self, diff_id: &Digest) -> Option<u64> {
        self.lock().layers.get(diff_id).copied()
    }

    /// Directories for a layer that is being unpacked. Dropped, they are gone.
    fn draft(&self, diff_id: &Digest) -> io::Result<Draft> {
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        let dir = self.root.join("layers").join(format!("{TEMPORARY}{number}-{}", diff_id.hex()));
        files::create_private_dir(&dir.join("root"))?;
        files::create_private_dir(&dir.join("trash"))?;
        Ok(Draft { dir })
    }

    /// The one step after which a layer is there. Its files are synced. Blocks.
    fn keep(&self, draft: Draft, diff_id: &Digest, bytes: u64) -> io::Result<()> {
        match fs::rename(draft.root(), self.layer(diff_id)) {
            // Another pull was faster.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            renamed => renamed?,
        }
        files::sync_dir(&self.root.join("layers"))?;
        self.lock().layers.insert(diff_id.clone(), bytes);
        Ok(())
    }

    /// Removes images that nobody has and that are not `needed`, until no more than the limit is left. Blocks.
    pub(crate) fn evict(&self, needed: impl FnOnce() -> BTreeSet<Digest>) -> io::Result<u32> {
        let mut evicted = 0;
        let mut graves = Vec::new();
        {
            let mut index = self.lock();
            if index.bytes() <= self.limit {
                return Ok(0);
            }
            let needed = needed();
            let free = |(digest, entry): &(&Digest, &Entry)| {
                Arc::strong_count(&entry.in_use) == 1 && !needed.contains(*digest)
            };
            let mut free: Vec<_> = index.images.iter().filter(free).collect();
            free.sort_by_key(|(_, entry)| entry.used);
            let mut victims: Vec<_> = free.into_iter().map(|(digest, _)| digest.clone()).collect();
            victims.reverse();
            loop {
                if index.pulling == 0 {
                    for diff_id in index.unused() {
                        let grave = self.draft(&diff_id)?;
                        fs::rename(self.layer(&diff_id), grave.root())?;
                        index.layers.remove(&diff_id);
                        graves.push(grave);
                    }
                }
                if index.bytes() <= self.limit {
                    break;
                }
                let Some(digest) = victims.pop() else { break };
                files::remove(&self.record(&digest))?;
                index.images.remove(&digest);
                evicted += 1;
            }
        }
        drop(graves);
        Ok(evicted)
    }

    /// Bytes of the disk that all layers take.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes()
    }

    fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    fn record(&self, digest: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}{RECORD}", digest.hex()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn add(&mut self, record: Record, used: u64) {
        self.layers.extend(record.layers.iter().map(|l| (l.diff_id.clone(), l.bytes)));
        let digest = record.pin.digest.clone();
        self.images.insert(digest, Entry { record, used, in_use: Arc::default() });
    }

    fn bytes(&self) -> u64 {
        self.layers.values().sum()
    }

    /// Layers of no image.
    fn unused(&self) -> Vec<Digest> {
        let images = self.images.values().flat_map(|entry| &entry.record.layers);
        let used: BTreeSet<_> = images.map(|layer| &layer.diff_id).collect();
        self.layers.keys().filter(|diff_id| !used.contains(diff_id)).cloned().collect()
    }
}

/// Directories that go when this is dropped.
#[derive(Debug)]
struct Draft {
    dir: PathBuf,
}

impl Draft {
    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    fn trash(&self) -> PathBuf {
        self.dir.join("trash")
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Err(error) = files::remove(&self.dir) {
            tracing::warn!(%error, "what is left of a layer was not removed; the next start will do it");
        }
    }
}

#[cfg(test)]
mod tests;
