//! [`Goldens`]: snapshots of templates that were booted once, for their actors to start from.
//!
//! ```text
//!  first start of an actor ─▶ nobody's sandbox booted in its place ─▶ ready ─▶ saved, killed ─▶ the actor: a clone
//!  the next ones           ─▶ clones
//! ```
//!
//! One that cannot be made is not tried again by this agent: actors start cold, and their wakes say why.
//!
//! A golden snapshot is that of a template as it is now, of the files of its root directory and of a version of its
//! runtime. Those of the same template from before are removed when it is made, and each that nobody has started from
//! for a [day](UNUSED). They never leave the node and are nobody's: no actor has them, nothing lists them.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reveille_api::{ActorKey, Epoch};

use crate::{
    core::Core,
    files,
    images::Pin,
    runtime::Runtime,
    snapshots::{Draft, Image, Origin, Snapshots, Unusable, Upload},
};

/// What it calls itself.
pub(crate) const NAME: &str = "golden";
const UNUSED: Duration = Duration::from_secs(24 * 3600);
const COLLECT_EVERY: Duration = Duration::from_secs(3600);

/// Which one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Golden {
    /// Namespace and name of the template.
    template: ActorKey,
    /// A hash of everything it depends on.
    id: String,
}

/// Held by the one who makes it; the others wait. Says why it could not be made.
pub(crate) type Maker = Arc<tokio::sync::Mutex<Option<String>>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Goldens {
    snapshots: Arc<Snapshots>,
    makers: Mutex<BTreeMap<Golden, Maker>>,
}

impl Golden {
    /// Reads the whole root directory's entries, where it is one and no image. Blocks.
    pub(crate) fn of(
        template: ActorKey,
        digest: &str,
        runtime: &dyn Runtime,
        image: Option<&Pin>,
        directory: Option<PathBuf>,
    ) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        for part in [digest, runtime.name(), runtime.version()] {
            writeln!(hasher, "{part}")?;
        }
        let mut dirs = match image {
            Some(pin) => {
                writeln!(hasher, "{pin}")?;
                Vec::new()
            }
            None => Vec::from_iter(directory),
        };
        while let Some(dir) = dirs.pop() {
            let mut names = files::names(&dir)?;
            names.sort_unstable();
            for name in names {
                let path = dir.join(name);
                let entry = fs::symlink_metadata(&path)?;
                let (mode, size) = (entry.mode(), entry.size());
                hasher.write_all(path.as_os_str().as_bytes())?;
                writeln!(hasher, "\0{mode} {size} {} {}", entry.mtime(), entry.mtime_nsec())?;
                if entry.is_dir() {
                    dirs.push(path);
                }
            }
        }
        Ok(Self { template, id: hasher.finalize().to_hex()[..32].into() })
    }
}

impl Goldens {
    /// Reads what is there.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let snapshots = Arc::new(Snapshots::open(root, false)?);
        Ok(Self { snapshots, makers: Mutex::default() })
    }

    /// Removes what an agent that died was making. Its programs have ended.
    pub(crate) fn remove_unfinished(&self) -> io::Result<()> {
        self.snapshots.remove_unfinished()
    }

    pub(crate) fn maker(&self, golden: &Golden) -> Maker {
        let mut makers = self.makers.lock().unwrap_or_else(PoisonError::into_inner);
        makers.retain(|other, _| other.template != golden.template || other.id == golden.id);
        makers.entry(golden.clone()).or_default().clone()
    }

    /// If it is there. Blocks.
    pub(crate) fn image(
        &self,
        golden: &Golden,
        runtime: &dyn Runtime,
    ) -> Result<Option<Image>, Unusable> {
        let (name, version) = (runtime.name(), runtime.version());
        match self.snapshots.verify(&golden.template, &golden.id, name, version) {
            Ok(image) => Ok(Some(image)),
            Err(Unusable::Absent { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn begin(&self, golden: &Golden) -> io::Result<Draft> {
        self.snapshots.begin(&golden.template, &golden.id)
    }

    /// From now on it is there, and those before it are not. Blocks.
    pub(crate) fn commit(
        &self,
        golden: &Golden,
        draft: Draft,
        digest: &str,
        runtime: &dyn Runtime,
        image: Option<Pin>,
    ) -> io::Result<()> {
        let origin = Origin {
            actor: golden.template.clone(),
            epoch: Epoch::default(),
            template: digest.into(),
            runtime: runtime.name().into(),
            runtime_version: runtime.version().into(),
            image,
            upload: Upload::Never,
        };
        let sealed = self.snapshots.seal(draft, origin)?;
        self.snapshots.commit(sealed)?;
        self.keep_only(golden, std::slice::from_ref(&golden.id))
    }

    /// It is of no use. Blocks.
    pub(crate) fn remove(&self, golden: &Golden) -> io::Result<()> {
        self.keep_only(golden, &[])
    }

    fn keep_only(&self, golden: &Golden, ids: &[String]) -> io::Result<()> {
        self.snapshots.delete(&golden.template, Epoch(u64::MAX), ids)
    }

    /// Removes those that nobody has used since then, in milliseconds since 1970. Blocks.
    fn collect(&self, since: u64) -> io::Result<()> {
        for (template, id) in self.snapshots.unused(since) {
            let golden = Golden { template, id };
            self.remove(&golden)?;
            self.snapshots.forget(&golden.template);
            self.makers.lock().unwrap_or_else(PoisonError::into_inner).remove(&golden);
        }
        Ok(())
    }
}

/// Removes those of no use, for ever.
pub(crate) async fn collect(core: Arc<Core>) -> Infallible {
    let mut ticks = tokio::time::interval(COLLECT_EVERY);
    loop {
        ticks.tick().await;
        let core = core.clone();
        let since = crate::snapshots::unix_ms().saturating_sub(UNUSED.as_millis() as u64);
        if let Err(error) = files::blocking(move || core.goldens.collect(since)).await {
            tracing::warn!(%error, "golden snapshots of no use were not removed");
        }
    }
}
