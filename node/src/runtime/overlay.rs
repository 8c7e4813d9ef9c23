//! [`Overlay`]: a root directory made of layers.
//!
//! ```text
//!  <bundle>/layers/0, 1, …   links to the layers, the uppermost first: the kernel takes only so much text
//!  <bundle>/rootfs           the overlay: only in the launcher's namespace, while a sandbox is made, and in its own
//! ```

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{Error, launcher::Launcher};
use crate::files;

const LAYERS: &str = "layers";
const ROOT: &str = "rootfs";

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Overlay<'a> {
    /// The uppermost first; without a place to write to, two at least.
    pub(super) layers: &'a [PathBuf],
    /// Where it takes what is written to it, and where it works on that. None: it cannot be written to.
    pub(super) writes: Option<[PathBuf; 2]>,
}

impl Overlay<'_> {
    /// Where the overlay of a bundle is.
    pub(super) fn root(bundle: &Path) -> PathBuf {
        bundle.join(ROOT)
    }

    /// Mounts it, in the launcher's namespace.
    pub(super) async fn mount(&self, launcher: &Launcher, bundle: &Path) -> Result<(), Error> {
        let (links, target) = (bundle.join(LAYERS), Self::root(bundle));
        for dir in [&links, &target] {
            files::create_private_dir(dir).map_err(Error::file("create", dir))?;
        }
        for (at, layer) in self.layers.iter().enumerate() {
            symlink(layer, links.join(at.to_string())).map_err(Error::file("link to", layer))?;
        }
        let names: Vec<_> = (0..self.layers.len()).map(|at| at.to_string()).collect();
        // With the others a layer would be bound to its directory: this one is made anew at each restore.
        let mut options = format!("lowerdir={},index=off,metacopy=off", names.join(":"));
        if let Some([upper, work]) = &self.writes {
            options += &format!(",upperdir={},workdir={}", escape(upper), escape(work));
        }
        let place = target.clone();
        let mounted = launcher.enter(move || {
            // The thread's own.
            std::env::set_current_dir(&links)?;
            let (kind, flags) = (Some("overlay"), MsFlags::empty());
            let mounted = mount(kind, &place, kind, flags, Some(&*options));
            std::env::set_current_dir("/")?;
            Ok(mounted?)
        });
        mounted.await.map_err(Error::file("mount", &target))
    }

    /// Takes the one of a bundle away from the launcher's namespace; none there is well too.
    pub(super) async fn unmount(launcher: &Launcher, bundle: &Path) -> Result<(), Error> {
        let target = Self::root(bundle);
        let place = target.clone();
        let unmounted = launcher.enter(move || match umount2(&place, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        });
        unmounted.await.map_err(Error::file("unmount", &target))
    }
}

/// As the overlay's options want a path.
fn escape(path: &Path) -> String {
    let mut escaped = String::new();
    for character in path.display().to_string().chars() {
        if matches!(character, '\\' | ':' | ',') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}
