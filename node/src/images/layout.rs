//! An OCI layout directory: `oci-layout`, `index.json`, `blobs/sha256/…`.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use serde::Deserialize;

use super::{
    Error,
    document::{Digest, MAX_DOCUMENT},
};

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.into() }
    }

    /// What it holds. Blocks.
    pub(super) fn index(&self) -> Result<Vec<u8>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Mark {
            image_layout_version: String,
        }
        let dir = self.dir.display();
        let mark = self.document("oci-layout").map_err(|error| {
            Error::bad(format!(
                "{dir} is no OCI layout ({error}): `skopeo copy docker://… oci:{dir}` makes one"
            ))
        })?;
        match serde_json::from_slice::<Mark>(&mark) {
            Ok(mark) if mark.image_layout_version.starts_with("1.") => {}
            Ok(Mark { image_layout_version: version }) => {
                return Err(Error::bad(format!(
                    "{dir} is an OCI layout of version {version}, not 1"
                )));
            }
            Err(error) => return Err(Error::bad(format!("{dir} is no OCI layout: {error}"))),
        }
        self.document("index.json")
    }

    /// A manifest or a configuration; not compared with its digest yet. Blocks.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        self.document(&path(digest))
    }

    /// A layer, likewise. Blocks.
    pub(super) fn open(&self, digest: &Digest) -> Result<File, Error> {
        self.file(&path(digest))
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.file(name)?.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes);
        read.map_err(|error| Error::Away(format!("{name} of the layout cannot be read: {error}")))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(Error::bad(format!("{name} of the layout is too long")));
        }
        Ok(bytes)
    }

    /// Nothing of a layout is outside of it.
    fn file(&self, name: &str) -> Result<File, Error> {
        let opened = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::open(&self.dir, flags, Mode::empty())?;
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            let file = rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)?;
            let mode = rustix::fs::fstat(&file)?.st_mode;
            match FileType::from_raw_mode(mode) {
                FileType::RegularFile => Ok(File::from(file)),
                _ => Err(rustix::io::Errno::INVAL),
            }
        };
        // Somebody may be about to put it there.
        opened().map_err(|error| Error::Away(format!("{}: {error}", self.dir.join(name).display())))
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
