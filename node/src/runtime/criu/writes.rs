//! [`Writes`]: where an actor's root directory takes what is written to it.
//!
//! ```text
//!  <run>/memory                 a tmpfs of the node; outlives the agent
//!    <sandbox>/upper, work      of the overlay over the template's directory or layers
//! ```
//!
//! CRIU takes the root directory for granted. So what was written travels in the image beside its files, as an archive
//! of the upper directory that the frozen container cannot change.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{
    files,
    runtime::{Error, launcher::Launcher, overlay::Overlay},
};

const ARCHIVE: &str = "writes.tar";
const TAR: &str = "tar";
/// The overlay's own marks of what was deleted are attributes too.
const ATTRIBUTES: [&str; 3] = ["--xattrs", "--xattrs-include=*", "--numeric-owner"];

/// The node's memory for them.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    root: PathBuf,
}

impl Memory {
    /// Mounted by an earlier agent, or now.
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        const TMPFS_MAGIC: i128 = 0x0102_1994;
        files::create_private_dir(root).map_err(Error::file("create", root))?;
        // The directory may lie in a tmpfs itself.
        let parent = root.parent().unwrap_or(root);
        let device = |path: &Path| rustix::fs::stat(path).map(|stat| stat.st_dev);
        let mounted = rustix::fs::statfs(root).is_ok_and(|fs| i128::from(fs.f_type) == TMPFS_MAGIC)
            && device(root) != device(parent);
        if !mounted {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            let mounted = mount(Some("tmpfs"), root, Some("tmpfs"), flags, Some("mode=700"));
            mounted.map_err(io::Error::from).map_err(Error::file("mount", root))?;
        }
        Ok(Self { root: root.into() })
    }

    pub(super) fn of(&self, id: &str) -> Writes {
        Writes { dir: self.root.join(id) }
    }

    pub(super) fn destroy(&self) -> Result<(), Error> {
        for name in files::names(&self.root).map_err(Error::file("read", &self.root))? {
            self.of(&name).remove()?;
        }
        match umount2(&self.root, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
            Err(error) => return Err(Error::file("unmount", &self.root)(error.into())),
        }
        files::remove(&self.root).map_err(Error::file("remove", &self.root))
    }
}

/// What one sandbox wrote.
#[derive(Clone, Debug)]
pub(super) struct Writes {
    dir: PathBuf,
}

impl Writes {
    fn upper(&self) -> PathBuf {
        self.dir.join("upper")
    }

    /// As the program that packs or unpacks it has it.
    pub(super) fn argument(&self) -> String {
        format!("--directory={}", self.upper().display())
    }

    /// Bytes that were written.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        let (mut bytes, mut dirs) = (0, vec![self.upper()]);
        while let Some(dir) = dirs.pop() {
            for name in files::names(&dir)? {
                // It may be deleted meanwhile.
                let path = dir.join(name);
                let Ok(entry) = fs::symlink_metadata(&path) else { continue };
                bytes += entry.blocks() * 512;
                if entry.is_dir() {
                    dirs.push(path);
                }
            }
        }
        Ok(bytes)
    }

    /// Room for a new sandbox that has written nothing.
    pub(super) fn create(&self) -> Result<(), Error> {
        for dir in [self.upper(), self.dir.join("work")] {
            files::create_private_dir(&dir).map_err(Error::file("create", &dir))?;
        }
        // It becomes the container's root directory.
        let upper = self.upper();
        let opened =
            fs::set_permissions(&upper, std::os::unix::fs::PermissionsExt::from_mode(0o755));
        opened.map_err(Error::file("open up", &upper))
    }

    /// Over these layers.
    pub(super) fn overlay<'a>(&self, layers: &'a [PathBuf]) -> Overlay<'a> {
        Overlay { layers, writes: Some([self.upper(), self.dir.join("work")]) }
    }

    /// Into an image, if there is anything.
    pub(super) async fn save(&self, launcher: &Launcher, image: &Path) -> Result<(), Error> {
        let upper = self.upper();
        if files::names(&upper).map_err(Error::file("read", &upper))?.is_empty() {
            return Ok(());
        }
        self.tar(launcher, "--create", &image.join(ARCHIVE), &["--sparse", "."]).await
    }

    /// From an image.
    pub(super) async fn load(&self, launcher: &Launcher, image: &Path) -> Result<(), Error> {
        let archive = image.join(ARCHIVE);
        if !archive.exists() {
            return Ok(());
        }
        self.tar(launcher, "--extract", &archive, &["--preserve-permissions"]).await
    }

    async fn tar(
        &self,
        launcher: &Launcher,
        verb: &'static str,
        archive: &Path,
        more: &[&str],
    ) -> Result<(), Error> {
        let mut command = Command::new(crate::runtime::find(Path::new(TAR))?);
        command
            .arg(verb)
            .arg(format!("--file={}", archive.display()))
            .arg(self.argument())
            .args(ATTRIBUTES)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let status = launcher.run(TAR, verb, command, true).await?;
        if status.success() { Ok(()) } else { Err(Error::failed(TAR, verb, status.to_string())) }
    }

    pub(super) fn remove(&self) -> Result<(), Error> {
        files::remove(&self.dir).map_err(Error::file("remove", &self.dir))
    }
}
