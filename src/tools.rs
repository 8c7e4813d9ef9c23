//! Where the third-party binaries are.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// From the system's package, not from `deploy/setup.sh`.
pub(crate) const NFT: &str = "nft";
/// The folder that `deploy/setup.sh` fills.
const DEPS: &str = ".deps/bin";

/// Not in the `PATH` of users who are not root.
const SYSTEM: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The executable `name`: `given` if it is, else in `.deps/bin` of the current directory or a folder above it, or
/// above this program, else in `PATH`. The error says what to do.
pub(crate) fn find(name: &str, given: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(path) = given {
        return match is_executable(path) {
            true => std::path::absolute(path).map_err(|error| error.to_string()),
            false => Err(format!(
                "{name}: {} is not an executable file: correct --{name}",
                path.display()
            )),
        };
    }
    let from = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    let above = from.iter().flatten().flat_map(|from| from.ancestors());
    let deps = above.map(|folder| folder.join(DEPS));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path: Vec<_> = std::env::split_paths(&path).chain(SYSTEM.map(PathBuf::from)).collect();
    deps.chain(path).map(|folder| folder.join(name)).find(|file| is_executable(file)).ok_or_else(
        || match name {
            NFT => format!("{name} is not installed: apt-get install nftables"),
            _ => format!(
                "{name} is not installed: run deploy/setup.sh {name}, or say where it is with --{name}"
            ),
        },
    )
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
