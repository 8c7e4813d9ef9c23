//! [`Snapshots`]: the images of sleeping actors on this node's disk.
//!
//! ```text
//!  <root>/<namespace>/<name>/.tmp-…-<id>/ image files ─▶ hashed ─▶ manifest.json ─▶ all of it synced
//!         └─ rename, sync of the directory = commit
//!  <root>/<namespace>/<name>/<id>/        a snapshot; never written again
//!         └─ rename = deleted
//!  <root>/<namespace>/<name>/.del-<id>/   being removed
//! ```
//!
//! Whatever dies whenever: there is the whole snapshot or none. The manifest is written last, but it may be on the disk
//! before the files it lists: what makes a snapshot is the rename, and nothing is renamed before every sync is done. Names with a dot in front are removed at start, when no
//! program of the agent before can write there any more.
//!
//! Before a restore every file is compared with the manifest. Hashing is left out for files whose [`Stamp`] is the
//! one this very process saw when it hashed them.
//!
//! Where there is a [store](crate::store), `upload.json` beside the manifest says whether a snapshot is in it too. One
//! that is may be evicted from the disk; a wake then fetches it.

mod ahead;
pub(crate) mod chunks;
pub(crate) mod manifest;
mod writeback;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use reveille_api::{ActorKey, Epoch, proto};
use serde::{Deserialize, Serialize};

use crate::{
    files::{self, Durability},
    images::{self, Pin},
};
use ahead::Ahead;
use manifest::{FileEntry, Machine, Manifest, Stamp};

/// A disk with less than this left was full for what was to be written.
const NEARLY_NOTHING: u64 = 1 << 20;
const DRAFT: &str = ".tmp-";
const DELETED: &str = ".del-";
const UPLOAD: &str = "upload.json";

/// The snapshots of this node.
#[derive(Debug)]
pub(crate) struct Snapshots {
    root: PathBuf,
    machine: Machine,
    /// There is a store.
    stores: bool,
    drafts: AtomicU64,
    /// Somebody was told of all that is here since this process has begun.
    listed: AtomicBool,
    index: Mutex<BTreeMap<(ActorKey, String), Entry>>,
}

#[derive(Debug)]
struct Entry {
    manifest: Manifest,
    /// What this process saw when it hashed the files, in their order.
    hashed: Option<Vec<Stamp>>,
    upload: Upload,
    /// Bytes of the disk.
    disk: u64,
    /// When it was last written or restored, in milliseconds since 1970.
    used: u64,
    /// The control plane may hold it for the actor's latest: it has named it, or was told of all that is here. Until then
    /// what is only in the store would not be found.
    known: bool,
    /// Held by those who read its files.
    in_use: Arc<()>,
}

/// Whether a snapshot is in the store, or is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Upload {
    /// It stays on this node.
    Never,
    /// Not before then, in milliseconds since 1970.
    Due(u64),
    Stored,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// Bytes of the disk.
    pub(crate) disk: u64,
}

/// A snapshot that is whole and fits. It is not evicted while this is held.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) dir: PathBuf,
    /// What it must be restored on, if that is not a directory.
    pub(crate) image: Option<Pin>,
    _in_use: Arc<()>,
}

/// Why a snapshot cannot be restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("snapshot {id} is damaged: it is not on this node")]
    Absent { id: String },
    #[error("snapshot {id} is damaged: {why}")]
    Corrupt { id: String, why: String },
    #[error("snapshot {id} does not fit: {why}")]
    Unfit { id: String, why: String },
}

/// What is known of a snapshot when it is begun.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) actor: ActorKey,
    pub(crate) epoch: Epoch,
    pub(crate) template: String,
    pub(crate) runtime: String,
    pub(crate) runtime_version: String,
    pub(crate) image: Option<Pin>,
    pub(crate) upload: Upload,
}

/// A snapshot being written. Dropped uncommitted, it is gone.
#[derive(Debug)]
pub(crate) struct Draft {
    dir: PathBuf,
    target: PathBuf,
    id: String,
    committed: bool,
    ahead: Option<Ahead>,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.committed {
            let _ = files::remove(&self.dir);
        }
    }
}

impl Draft {
    /// Where the runtime writes its files.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Hashes what the runtime writes from now on while it writes: of files that it writes [in order](ahead).
    pub(crate) fn follow(&mut self, in_order: impl Fn(&str) -> bool + Send + Sync + 'static) {
        // Without it all is done at the end.
        self.ahead = Ahead::begin(&self.dir, Arc::new(in_order)).ok();
    }

    /// Why a runtime could not write it. On a full disk that is mostly not what the runtime says, or it cannot say it.
    pub(crate) fn why_not_written(&self, said: &str) -> String {
        let left = rustix::fs::statvfs(&self.dir).map(|disk| disk.f_bavail * disk.f_frsize);
        if left.is_ok_and(|left| left < NEARLY_NOTHING) {
            let dir = self.dir.parent().unwrap_or(&self.dir).display();
            return format!(
                "no space left on the disk of {dir}: free some, or delete actors that are not needed ({said})"
            );
        }
        said.into()
    }
}

/// A draft that only needs its name.
#[derive(Debug)]
pub(crate) struct Sealed {
    draft: Draft,
    manifest: Manifest,
    stamps: Vec<Stamp>,
    upload: Upload,
}

impl Snapshots {
    /// Reads what is there.
    pub(crate) fn open(root: &Path, stores: bool) -> io::Result<Self> {
        let mut index = BTreeMap::new();
        for namespace in files::names(root)? {
            for name in files::names(&root.join(&namespace))? {
                let dir = root.join(&namespace).join(&name);
                let Ok(actor) = ActorKey::new(&namespace, &name) else { continue };
                for id in files::names(&dir)? {
                    let path = dir.join(&id);
                    if is_unfinished(&id) {
                        continue;
                    }
                    match read_manifest(&path) {
                        Ok(manifest) => {
                            let upload = files::read_json(&path.join(UPLOAD))?;
                            let upload = upload.unwrap_or(Upload::Never);
                            let mut entry = Entry::new(manifest, None, upload, &path);
                            entry.used = entry.manifest.created_unix_ms;
                            entry.known = true;
                            index.insert((actor.clone(), id), entry);
                        }
                        // Kept: it may be of use to somebody, and a wake from it says what is wrong.
                        Err(why) => {
                            tracing::error!(%actor, snapshot = id, why, "a damaged snapshot")
                        }
                    }
                }
            }
        }
        let (machine, drafts) = (Machine::detect()?, AtomicU64::new(0));
        Ok(Self {
            root: root.into(),
            machine,
            stores,
            drafts,
            listed: AtomicBool::new(false),
            index: Mutex::new(index),
        })
    }

    /// Removes what an agent that died was writing or deleting. Its programs have ended: one of them would write on, or make
    /// the directory again.
    pub(crate) fn remove_unfinished(&self) -> io::Result<()> {
        for namespace in files::names(&self.root)? {
            for name in files::names(&self.root.join(&namespace))? {
                let dir = self.root.join(&namespace).join(&name);
                for id in files::names(&dir)?.iter().filter(|id| is_unfinished(id)) {
                    files::remove(&dir.join(id))?;
                }
            }
        }
        Ok(())
    }

    /// Begins a snapshot.
    pub(crate) fn begin(&self, actor: &ActorKey, id: &str) -> io::Result<Draft> {
        let parent = self.dir(actor);
        // A draft that was given up may still be hashed: two of one name do not share a directory.
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("{DRAFT}{number}-{id}"));
        files::create_private_dir(&dir)?;
        let target = parent.join(id);
        Ok(Draft { dir, target, id: id.into(), committed: false, ahead: None })
    }

    /// Syncs and hashes what the runtime wrote, and writes the manifest. Blocks.
    pub(crate) fn seal(&self, mut draft: Draft, origin: Origin) -> io::Result<Sealed> {
        let mut names = files::names(&draft.dir)?;
        names.sort_unstable();
        if names.is_empty() {
            return Err(io::Error::other("the runtime wrote no image"));
        }
        let mut known = draft.ahead.take().map(Ahead::finish).unwrap_or_default();
        let manifest = |files| Manifest {
            version: manifest::VERSION,
            id: draft.id.clone(),
            actor: origin.actor,
            epoch: origin.epoch,
            template: origin.template,
            created_unix_ms: unix_ms(),
            runtime: origin.runtime,
            runtime_version: origin.runtime_version,
            machine: self.machine.clone(),
            image: origin.image,
            files,
        };
        let (dir, upload) = (&draft.dir, origin.upload);
        let sealed = chunks::hash_and_sync(dir, &names, &mut known, |hashed| {
            let (files, stamps) = hashed.into_iter().map(|file| (file.entry, file.stamp)).unzip();
            let manifest = manifest(files);
            write_manifest(dir, &manifest, upload)?;
            Ok((manifest, stamps))
        });
        let (manifest, stamps) = sealed?;
        files::sync_dir(dir)?;
        Ok(Sealed { draft, manifest, stamps, upload })
    }

    /// As [`Snapshots::seal`], for files that were fetched and compared with this manifest.
    pub(crate) fn seal_fetched(&self, draft: Draft, manifest: Manifest) -> io::Result<Sealed> {
        let mut stamps = Vec::new();
        for file in &manifest.files {
            let path = draft.dir.join(&file.name);
            fs::File::open(&path)?.sync_all()?;
            stamps.push(Stamp::of(&path)?);
        }
        write_manifest(&draft.dir, &manifest, Upload::Stored)?;
        files::sync_dir(&draft.dir)?;
        Ok(Sealed { draft, manifest, stamps, upload: Upload::Stored })
    }

    /// The one step after which the snapshot exists. It is not evicted while what this returns is held. Blocks for as long
    /// as a sync takes.
    pub(crate) fn commit(&self, mut sealed: Sealed) -> io::Result<Arc<()>> {
        fs::rename(&sealed.draft.dir, &sealed.draft.target)?;
        sealed.draft.committed = true;
        let parent = sealed.draft.target.parent().unwrap_or(&self.root);
        if let Err(error) = files::sync_dir(parent) {
            // It may or may not survive a power loss: then it is better not there at all.
            let _ = files::remove(&sealed.draft.target);
            return Err(error);
        }
        let Sealed { draft, manifest, stamps, upload } = sealed;
        let key = (manifest.actor.clone(), manifest.id.clone());
        let entry = Entry::new(manifest, Some(stamps), upload, &draft.target);
        let in_use = entry.in_use.clone();
        self.lock().insert(key, entry);
        Ok(in_use)
    }

    /// The manifest of a snapshot that is there.
    pub(crate) fn get(&self, actor: &ActorKey, id: &str) -> Option<Manifest> {
        self.lock().get(&(actor.clone(), id.to_owned())).map(|entry| entry.manifest.clone())
    }

    /// Checks that a snapshot is whole and fits. Returns where it is. Blocks; quick unless it must hash.
    pub(crate) fn verify(
        &self,
        actor: &ActorKey,
        id: &str,
        runtime: &str,
        version: &str,
    ) -> Result<Image, Unusable> {
        let corrupt = |why: String| Unusable::Corrupt { id: id.into(), why };
        if !is_id(id) {
            return Err(corrupt("that is no name of a snapshot".into()));
        }
        let dir = self.dir(actor).join(id);
        let key = (actor.clone(), id.to_owned());
        // First of all: from here on it is not evicted.
        let in_use = self.lock().get_mut(&key).map(|entry| {
            entry.used = unix_ms();
            entry.known = true;
            entry.in_use.clone()
        });
        if !dir.exists() {
            return Err(Unusable::Absent { id: id.into() });
        }
        let manifest = read_manifest(&dir).map_err(corrupt)?;
        if manifest.actor != *actor || manifest.id != id {
            let what = format!("its manifest is that of {} of {}", manifest.id, manifest.actor);
            return Err(corrupt(what));
        }
        let stamps = manifest.files.iter().map(|file| check_size(&dir, file));
        let stamps = stamps.collect::<Result<Vec<_>, _>>().map_err(corrupt)?;
        let known = self.lock().get(&key).is_some_and(|entry| {
            entry.manifest == manifest && entry.hashed.as_ref() == Some(&stamps)
        });
        if !known {
            let names: Vec<_> = manifest.files.iter().map(|file| file.name.clone()).collect();
            let hashed = chunks::hash_all(&dir, &names);
            let hashed = hashed.map_err(|e| corrupt(e.to_string()))?;
            let mut both = hashed.iter().zip(&manifest.files);
            if let Some((found, _)) = both.find(|(found, wanted)| found.entry != **wanted) {
                return Err(corrupt(format!("{} has other contents", found.entry.name)));
            }
            if let Some(entry) = self.lock().get_mut(&key) {
                entry.manifest = manifest.clone();
                entry.hashed = Some(hashed.into_iter().map(|file| file.stamp).collect());
            }
        }
        self.check_fit(&manifest, runtime, version)
            .map_err(|why| Unusable::Unfit { id: id.into(), why })?;
        Ok(Image { dir, image: manifest.image, _in_use: in_use.unwrap_or_default() })
    }

    /// Why a snapshot cannot be restored here.
    pub(crate) fn check_fit(
        &self,
        manifest: &Manifest,
        runtime: &str,
        version: &str,
    ) -> Result<(), String> {
        if (manifest.runtime.as_str(), manifest.runtime_version.as_str()) != (runtime, version) {
            return Err(format!(
                "it was taken by {} {}, this node has {runtime} {version}",
                manifest.runtime, manifest.runtime_version
            ));
        }
        let missing = manifest.machine.missing_on(&self.machine);
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!("it was taken on a CPU with {}, which this one lacks", missing.join(", ")))
    }

    /// Deletes an actor's snapshots of lower epochs but those in `keep`. Blocks.
    pub(crate) fn delete(&self, actor: &ActorKey, below: Epoch, keep: &[String]) -> io::Result<()> {
        for id in keep {
            if let Some(entry) = self.lock().get_mut(&(actor.clone(), id.clone())) {
                entry.known = true;
            }
        }
        let dir = self.dir(actor);
        let newer = |id: &str| self.get(actor, id).is_some_and(|found| found.epoch >= below);
        let goes = |id: &&String| is_id(id) && !keep.contains(id) && !newer(id);
        for id in files::names(&dir)?.iter().filter(goes) {
            let grave = dir.join(format!("{DELETED}{id}"));
            files::remove(&grave)?;
            {
                let mut index = self.lock();
                match fs::rename(dir.join(id), &grave) {
                    // Evicted since it was found.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    renamed => renamed?,
                }
                index.remove(&(actor.clone(), id.clone()));
            }
            files::remove(&grave)?;
        }
        Ok(())
    }

    /// Removes the directory of an actor that has no snapshots.
    pub(crate) fn forget(&self, actor: &ActorKey) {
        let _ = fs::remove_dir(self.dir(actor));
    }

    /// Images that snapshots here are restored on.
    pub(crate) fn images(&self) -> BTreeSet<images::Digest> {
        let index = self.lock();
        let images = index.values().filter_map(|entry| entry.manifest.image.as_ref());
        images.map(|pin| pin.digest.clone()).collect()
    }

    /// All that is here is being told. True when it is the first time.
    pub(crate) fn tell(&self) -> bool {
        !self.listed.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn list(&self, node: &str) -> Vec<proto::Snapshot> {
        self.lock().values().map(|entry| self.view(entry, node)).collect()
    }

    /// Those that nobody has used since then, in milliseconds since 1970.
    pub(crate) fn unused(&self, since: u64) -> Vec<(ActorKey, String)> {
        let index = self.lock();
        let idle = index.iter().filter(|(_, entry)| entry.used < since);
        idle.map(|(key, _)| key.clone()).collect()
    }

    /// As others see a snapshot.
    pub(crate) fn told(&self, actor: &ActorKey, id: &str, node: &str) -> Option<proto::Snapshot> {
        let index = self.lock();
        index.get(&(actor.clone(), id.to_owned())).map(|entry| self.view(entry, node))
    }

    /// Where a snapshot's files are, for one who reads them. They may be deleted meanwhile.
    pub(crate) fn files(&self, actor: &ActorKey, id: &str) -> Option<(PathBuf, Manifest)> {
        Some((self.dir(actor).join(id), self.get(actor, id)?))
    }

    /// Those that are to be uploaded, with the time from which.
    pub(crate) fn to_upload(&self) -> Vec<(ActorKey, String, u64)> {
        let index = self.lock();
        let due = index.iter().filter_map(|((actor, id), entry)| match entry.upload {
            Upload::Due(from) => Some((actor.clone(), id.clone(), from)),
            Upload::Never | Upload::Stored => None,
        });
        due.collect()
    }

    /// It is in the store. False when it is not here any more. Blocks.
    pub(crate) fn stored(&self, actor: &ActorKey, id: &str) -> io::Result<bool> {
        let key = (actor.clone(), id.to_owned());
        let Some(_in_use) = self.lock().get(&key).map(|entry| entry.in_use.clone()) else {
            return Ok(false);
        };
        // Whoever asks what is here must not wait for the disk.
        let path = self.dir(actor).join(id).join(UPLOAD);
        let written = files::write_json(&path, &Upload::Stored, Durability::Power);
        let mut index = self.lock();
        let Some(entry) = index.get_mut(&key) else { return Ok(false) };
        written?;
        entry.upload = Upload::Stored;
        Ok(true)
    }

    /// Removes those that are in the store too, that the control plane knows of and nobody uses, the longest unused first,
    /// until no more than `limit` bytes of the disk are left. Blocks.
    pub(crate) fn evict(&self, limit: u64) -> io::Result<u32> {
        if !self.listed.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let mut graves = Vec::new();
        {
            let mut index = self.lock();
            let mut disk: u64 = index.values().map(|entry| entry.disk).sum();
            let free = |entry: &Entry| {
                let unused = Arc::strong_count(&entry.in_use) == 1;
                entry.upload == Upload::Stored && entry.known && unused
            };
            let mut known: Vec<_> = index.iter().filter(|(_, entry)| free(entry)).collect();
            known.sort_by_key(|(_, entry)| entry.used);
            let mut victims = Vec::new();
            for (key, entry) in known {
                if disk <= limit {
                    break;
                }
                disk = disk.saturating_sub(entry.disk);
                victims.push(key.clone());
            }
            for (actor, id) in victims {
                let dir = self.dir(&actor);
                let grave = dir.join(format!("{DELETED}{id}"));
                files::remove(&grave)?;
                fs::rename(dir.join(&id), &grave)?;
                index.remove(&(actor, id));
                graves.push(grave);
            }
        }
        graves.iter().try_for_each(|grave| files::remove(grave))?;
        Ok(graves.len() as u32)
    }

    fn view(&self, entry: &Entry, node: &str) -> proto::Snapshot {
        let storage = match entry.upload {
            Upload::Stored => proto::Storage::Stored,
            _ if self.stores => proto::Storage::Waiting,
            _ => proto::Storage::Node,
        };
        proto::Snapshot { storage: storage.into(), ..to_proto(&entry.manifest, node) }
    }

    /// All snapshots.
    pub(crate) fn held(&self) -> Held {
        self.lock().values().fold(Held::default(), |held, entry| Held {
            count: held.count + 1,
            bytes: held.bytes + bytes(&entry.manifest),
            disk: held.disk + entry.disk,
        })
    }

    /// Free bytes of the file system they are on.
    pub(crate) fn free(&self) -> io::Result<u64> {
        let fs = rustix::fs::statvfs(&self.root)?;
        Ok(fs.f_bavail * fs.f_frsize)
    }

    fn dir(&self, actor: &ActorKey) -> PathBuf {
        self.root.join(actor.namespace()).join(actor.name())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(ActorKey, String), Entry>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(manifest: Manifest, hashed: Option<Vec<Stamp>>, upload: Upload, dir: &Path) -> Self {
        let names = manifest.files.iter().map(|file| dir.join(&file.name));
        let disk = names.filter_map(|path| fs::symlink_metadata(path).ok());
        let disk = disk.map(|file| file.blocks() * 512).sum();
        let (used, in_use) = (unix_ms(), Arc::default());
        Self { manifest, hashed, upload, disk, used, known: false, in_use }
    }
}

fn is_unfinished(name: &str) -> bool {
    name.starts_with(DRAFT) || name.starts_with(DELETED)
}

/// The manifest comes last. Both are on the disk when this returns, their names only when the directory is synced. The
/// syncs are under way together: a journal takes them at once.
fn write_manifest(dir: &Path, manifest: &Manifest, upload: Upload) -> io::Result<()> {
    let sync = files::write_new(&dir.join(UPLOAD), &upload)?;
    let last = files::write_new(&dir.join(manifest::FILE), manifest)?;
    std::thread::scope(|scope| {
        let syncing = scope.spawn(move || sync.sync_all());
        last.sync_all()?;
        syncing.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    })
}

fn to_proto(manifest: &Manifest, node: &str) -> proto::Snapshot {
    proto::Snapshot {
        actor: Some((&manifest.actor).into()),
        id: manifest.id.clone(),
        epoch: manifest.epoch.0,
        bytes: bytes(manifest),
        created_unix_ms: manifest.created_unix_ms,
        runtime: manifest.runtime.clone(),
        runtime_version: manifest.runtime_version.clone(),
        node: node.into(),
        storage: proto::Storage::Node.into(),
        image: manifest.image.as_ref().map(Pin::to_string).unwrap_or_default(),
    }
}

/// True for what may name a snapshot: a plain file name that is not hidden.
pub(crate) fn is_id(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=128).contains(&id.len()) && !id.starts_with('.') && id.bytes().all(plain)
}

fn bytes(manifest: &Manifest) -> u64 {
    manifest.files.iter().map(|file| file.size).sum()
}

fn read_manifest(dir: &Path) -> Result<Manifest, String> {
    let path = dir.join(manifest::FILE);
    let read = files::read_json::<serde_json::Value>(&path);
    let value = match read {
        Ok(Some(value)) => value,
        Ok(None) => return Err("its manifest is missing".into()),
        Err(error) => return Err(format!("its manifest cannot be read: {error}")),
    };
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(manifest::VERSION.into()) {
        return Err(format!("its manifest has version {version:?}, not {}", manifest::VERSION));
    }
    serde_json::from_value(value).map_err(|error| format!("its manifest is not valid: {error}"))
}

fn check_size(dir: &Path, file: &FileEntry) -> Result<Stamp, String> {
    if !is_id(&file.name) {
        return Err(format!("{:?} is no name of an image file", file.name));
    }
    let stamp = Stamp::of(&dir.join(&file.name)).map_err(|e| format!("{}: {e}", file.name))?;
    if stamp.size() != file.size {
        return Err(format!("{} has {} bytes, not {}", file.name, stamp.size(), file.size));
    }
    Ok(stamp)
}

pub(crate) fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}

#[cfg(test)]
mod tests;
