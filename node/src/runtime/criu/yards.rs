//! Directories in `/tmp` on which `criu restore` puts a container's mounts together. It removes its own, unless it is killed.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

use crate::files;

/// Where, and how their names begin (criu's `create_mnt_roots`).
pub(super) const PARENT: &str = "/tmp";
const PREFIX: &str = ".criu.mntns.";
/// No restore is at its mounts for so long: somebody else's may be.
const OLD: Duration = Duration::from_secs(600);

/// Removes those that somebody killed has left there. Blocks.
pub(super) fn sweep(parent: &Path) -> io::Result<()> {
    let old = |found: &fs::Metadata| {
        let changed = found.modified().unwrap_or_else(|_| SystemTime::now());
        changed.elapsed().is_ok_and(|age| age > OLD)
    };
    for name in files::names(parent)?.iter().filter(|name| name.starts_with(PREFIX)) {
        let path = parent.join(name);
        // It may be gone by now.
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && old(&found) {
            // One in which something lies is not what it seems, and stays.
            let _ = fs::remove_dir(&path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_one_that_nobody_works_on_goes() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str, age: Duration, inside: &[&str]| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            for name in inside {
                fs::write(path.join(name), "").unwrap();
            }
            let changed = SystemTime::now() - age;
            fs::File::open(&path).unwrap().set_modified(changed).unwrap();
        };
        make(".criu.mntns.left", 2 * OLD, &[]);
        make(".criu.mntns.busy", OLD / 2, &[]);
        make(".criu.mntns.full", 2 * OLD, &["file"]);
        make("another", 2 * OLD, &[]);
        sweep(parent.path()).unwrap();
        let mut left = files::names(parent.path()).unwrap();
        left.sort_unstable();
        assert_eq!(left, [".criu.mntns.busy", ".criu.mntns.full", "another"]);
    }
}
