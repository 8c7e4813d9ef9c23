//! Where the third-party binaries are.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use reveille_api::manifest::template::Runtime;

/// From the system's package, not from `deploy/setup.sh`.
pub(crate) const NFT: &str = "nft";
const RUNSC: &str = "runsc";
const CRIU: &str = "criu";
const RUNC: &str = "runc";
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

/// The programs that run actors. A node does without a runtime whose programs are not there, unless one was named.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Runtimes {
    /// gVisor's runsc [default: .deps/bin/runsc here or above, else in PATH]
    #[arg(long, value_name = "PATH", env = "REVEILLE_RUNSC", hide_env_values = true)]
    runsc: Option<PathBuf>,
    /// CRIU [default: .deps/bin/criu here or above, else in PATH]
    #[arg(long, value_name = "PATH", env = "REVEILLE_CRIU", hide_env_values = true)]
    criu: Option<PathBuf>,
    /// runc, which starts what CRIU saves [default: .deps/bin/runc here or above, else in PATH]
    #[arg(long, value_name = "PATH", env = "REVEILLE_RUNC", hide_env_values = true)]
    runc: Option<PathBuf>,
}

impl Runtimes {
    fn flags(&self) -> [(&'static str, &Option<PathBuf>); 3] {
        [(RUNSC, &self.runsc), (CRIU, &self.criu), (RUNC, &self.runc)]
    }

    /// The flags that were given.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        self.flags().into_iter().filter_map(|(name, given)| Some((name, given.as_ref()?)))
    }

    /// What was named is there, and something that can run actors.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, given) in self.named() {
            find(name, Some(given))?;
        }
        let [runsc, criu, runc] = self.flags().map(|(name, given)| find(name, given.as_deref()));
        if criu.is_ok() && runc.is_ok() { Ok(()) } else { runsc.map(drop) }
    }

    /// The node's configuration with them: as they were found, or as they are called.
    pub(crate) fn complete(&self, config: reveille_node::Config) -> reveille_node::Config {
        let [runsc, criu, runc] = self.flags().map(|(name, given)| {
            let named = given.clone().unwrap_or_else(|| name.into());
            find(name, given.as_deref()).unwrap_or(named)
        });
        let of = |(name, _)| if name == RUNSC { Runtime::Gvisor } else { Runtime::Criu };
        let required = self.named().map(of).collect();
        reveille_node::Config { runsc, criu, runc, required, ..config }
    }
}
