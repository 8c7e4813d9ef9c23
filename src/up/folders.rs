//! The folders that templates of earlier `--apply` files run from: an `up` that is started again without them still
//! knows their actors, and has to run them.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use reveille_api::manifest::Manifest;

use crate::error::{Error, Result};

/// In the data directory, which only root writes to.
const FILE: &str = "rootfs-folders";

/// Those remembered and those of `manifests`, which are remembered from now on. One that is gone is left out, and stays
/// remembered: it may be on a disk that comes back.
pub(super) fn remember(data_dir: &Path, manifests: &[Manifest]) -> Result<Vec<PathBuf>> {
    let path = data_dir.join(FILE);
    let cannot = |error: io::Error| Error::because(path.display(), &error);
    let mut known = match fs::read(&path) {
        Ok(text) => lines(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
        Err(error) => return Err(cannot(error)),
    };
    let before = known.len();
    known.extend(manifests.iter().filter_map(Manifest::rootfs_folder).map(Path::to_path_buf));
    if known.len() > before {
        let mut text = Vec::new();
        for folder in &known {
            text.extend_from_slice(folder.as_os_str().as_bytes());
            text.push(b'\n');
        }
        // Beside it first: a crash leaves the old list or the new one.
        let new = path.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(cannot)?;
    }
    Ok(known.into_iter().filter(|folder| folder.is_dir()).collect())
}

fn lines(text: &[u8]) -> BTreeSet<PathBuf> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"/"));
    lines.map(|line| PathBuf::from(std::ffi::OsString::from_vec(line.to_vec()))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use reveille_api::manifest;

    use super::*;

    fn template(folder: &Path) -> Manifest {
        let text = format!(
            "{{apiVersion: reveille.dev/v1alpha1, kind: ActorTemplate, metadata: {{name: t}}, \
             spec: {{runtime: gvisor, rootfs: {{directory: {}}}, command: [/c]}}}}",
            folder.display()
        );
        manifest::parse_all(&text, Path::new("/")).unwrap().remove(0)
    }

    #[test]
    fn a_folder_is_known_to_every_later_start_for_as_long_as_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["a", "b"].map(|name| dir.path().join(name));
        for folder in &folders {
            fs::create_dir(folder).unwrap();
        }
        assert!(remember(dir.path(), &[]).unwrap().is_empty());
        assert_eq!(remember(dir.path(), &[template(&folders[0])]).unwrap(), folders[..1]);
        assert_eq!(remember(dir.path(), &[template(&folders[1])]).unwrap(), folders);
        assert_eq!(remember(dir.path(), &[]).unwrap(), folders);
        fs::remove_dir(&folders[0]).unwrap();
        assert_eq!(remember(dir.path(), &[]).unwrap(), folders[1..]);
        fs::create_dir(&folders[0]).unwrap();
        assert_eq!(remember(dir.path(), &[]).unwrap(), folders);
    }
}
