//! What a role that runs as root gives up before it does anything.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

use crate::error::{Error, Result};

/// Every role may be told to listen below port 1024.
const KEPT: &[Capability] = &[Capability::CAP_NET_BIND_SERVICE];

/// Gives up every capability but [`KEPT`], for good and for every child. Must come before the first thread.
///
/// Root without capabilities still owns its files. `paths` are what the role opens: when one of them lies
/// behind somebody else's closed directory, root's right to pass through is kept.
pub(crate) fn give_up(paths: &[&Path]) -> Result {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mut keep: CapsHashSet = KEPT.iter().copied().collect();
    if let Some(path) = paths.iter().find(|path| is_behind_a_closed_directory(path)) {
        tracing::info!(path = %path.display(), "keeps CAP_DAC_OVERRIDE: somebody else's directory is in the way");
        keep.insert(Capability::CAP_DAC_OVERRIDE);
    }
    limit_to(&keep)
        .map_err(|error| Error::failed(format!("cannot give up privileges: {error}")))?;
    rustix::thread::set_no_new_privs(true)
        .map_err(|error| Error::because("cannot give up privileges", &error))
}

fn limit_to(keep: &CapsHashSet) -> Result<(), CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding)?.difference(keep) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    let keep: CapsHashSet = permitted.intersection(keep).copied().collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)
}

/// True when the owner of everything, without capabilities, could not get at it.
fn is_behind_a_closed_directory(path: &Path) -> bool {
    let Ok(path) = std::path::absolute(path) else { return false };
    path.ancestors()
        .skip(1)
        .filter_map(|folder| folder.metadata().ok())
        .any(|folder| folder.uid() != 0 && folder.permissions().mode() & 0o001 == 0)
}
