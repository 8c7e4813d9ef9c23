//! One `up` for a data directory: a lock that ends with its process, however that ends.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};

/// Held while this lives. The file names the process and is removed by [`Lock::release`] only: one that is still
/// there tells that its `up` was killed.
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
    /// The killed `up` that held it before.
    pub(super) killed: Option<i32>,
}

impl Lock {
    /// Makes the run directory and takes the lock.
    pub(super) fn take(data_dir: &Path) -> Result<Self> {
        let run = data_dir.join("run");
        let cannot = |what: &Path, error| {
            Error::failed(format!(
                "cannot write to {}: {error}: choose another --data-dir",
                what.display()
            ))
        };
        let mut dirs = fs::DirBuilder::new();
        dirs.recursive(true).mode(0o755).create(data_dir).map_err(|e| cannot(data_dir, e))?;
        dirs.mode(0o700).create(&run).map_err(|e| cannot(&run, e))?;
        // What stands there already may be somebody else's, with links in it to follow.
        for dir in ["", "run", "control", "node", "rootfs", "https"].map(|name| data_dir.join(name))
        {
            own(&dir)?;
        }
        fs::set_permissions(&run, PermissionsExt::from_mode(0o700)).map_err(|e| cannot(&run, e))?;

        let path = run.join("up.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| cannot(&path, e))?;
        let mut earlier = String::new();
        let _ = file.read_to_string(&mut earlier);
        let earlier: Option<i32> = earlier.trim().parse().ok();
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let who = earlier.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            return Err(Error::failed(format!(
                "another 'reveille up'{who} uses {}: stop it or choose another --data-dir",
                data_dir.display()
            )));
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()));
        written.map_err(|e| cannot(&path, e))?;
        Ok(Self { path, _file: file, killed: earlier })
    }

    /// Ends cleanly; the run directory goes too when nothing else is in it.
    pub(super) fn release(&self) {
        let _ = fs::remove_file(&self.path);
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

/// Refuses a directory that another user has, or can write to, and what is no directory at all.
fn own(dir: &Path) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(dir) else { return Ok(()) };
    let ours = found.uid() == rustix::process::geteuid().as_raw();
    if found.is_dir() && ours && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::failed(format!(
        "{} is not a directory that only this user can write to: choose another --data-dir",
        dir.display()
    )))
}

/// The `up` that uses a data directory now.
pub(crate) fn holder(data_dir: &Path) -> Option<String> {
    let path = data_dir.join("run/up.lock");
    let file = File::open(&path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockShared).err()?;
    fs::read_to_string(&path).ok()
}
