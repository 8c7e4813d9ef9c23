//! Who an actor is, for itself to read: a directory with three files, mounted read-only at `/run/reveille`.
//!
//! | file | holds |
//! | --- | --- |
//! | `actor`, `namespace` | the names |
//! | `epoch` | a number that grows with every activation: one who reads another than before was restored meanwhile |
//!
//! They are made anew for each activation, before a process of it runs. CRIU restores a file that was open only if it is as
//! long as it was, so each is filled up with newlines.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use reveille_api::{ActorKey, Epoch};

/// Where an actor finds them.
pub(crate) const INSIDE: &str = "/run/reveille";
/// In a bundle.
const DIR: &str = "identity";
/// No label, and no `u64`, is longer.
const LENGTH: usize = 64;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) actor: ActorKey,
    pub(crate) epoch: Epoch,
}

impl Identity {
    /// Writes the files. Returns where they are.
    pub(super) fn write(&self, bundle: &Path) -> Result<PathBuf, super::Error> {
        let dir = bundle.join(DIR);
        self.write_into(&dir).map_err(super::Error::file("write", &dir))?;
        Ok(dir)
    }

    fn write_into(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)?;
        let epoch = self.epoch.to_string();
        for (name, text) in
            [("actor", self.actor.name()), ("namespace", self.actor.namespace()), ("epoch", &epoch)]
        {
            let mut file = File::create(dir.join(name))?;
            file.write_all(format!("{text}{:\n<1$}", "", LENGTH - text.len()).as_bytes())?;
            file.set_permissions(PermissionsExt::from_mode(0o444))?;
        }
        fs::set_permissions(dir, PermissionsExt::from_mode(0o755))
    }
}
