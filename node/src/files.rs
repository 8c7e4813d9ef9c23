//! Files: small whole ones replaced atomically, directories nobody else may read.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// How much a written file must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The death of every process. Enough for what a power loss makes void anyway.
    Process,
    /// A power loss.
    Power,
}

pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces `path` by `value` as JSON: readers see the old file or the new one, also when the disk is full.
pub(crate) fn write_json(
    path: &Path,
    value: &impl Serialize,
    durability: Durability,
) -> io::Result<()> {
    let temporary = temporary(path);
    let bytes = serde_json::to_vec(value)?;
    let mut file = File::create(&temporary)?;
    let mut replaced = || {
        file.write_all(&bytes)?;
        if durability == Durability::Power {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    };
    replaced().inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    match path.parent().filter(|_| durability == Durability::Power) {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Writes a value as JSON to a file that is not there yet, and leaves the sync to the caller.
pub(crate) fn write_new(path: &Path, value: &impl Serialize) -> io::Result<File> {
    let mut file = File::create_new(path)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    Ok(file)
}

/// Reads JSON; `None` when there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes a file or a directory with all that is in it; nothing there is well too.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Names in a directory; none when it does not exist.
pub(crate) fn names(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Runs blocking work off the reactor.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_value_is_read_back_and_a_missing_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        assert_eq!(read_json::<u32>(&path).unwrap(), None);
        write_json(&path, &7_u32, Durability::Power).unwrap();
        write_json(&path, &8_u32, Durability::Process).unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap(), Some(8));
        assert_eq!(names(dir.path()).unwrap(), ["x.json"]);
        remove(dir.path()).unwrap();
        remove(&path).unwrap();
    }
}
