//! What runs an actor's process and takes its snapshots: the [`Runtime`] trait.
//!
//! ```text
//!              start ──────────────┐
//!                                  ▼          pause             checkpoint
//!              restore(image) ▶ running ⇄ ─────────── paused ───────────────▶ paused, image written
//!                                  │          resume     │
//!                                  └──────── kill ───────┴─▶ discard: nothing is left
//! ```
//!
//! A runtime knows nothing of actors, epochs or endpoints: it is given a [`Sandbox`], and everything that
//! serialises, fences or cleans up after a crash is its caller's.

mod born;
pub(crate) mod cgroup;
pub(crate) mod criu;
pub(crate) mod gvisor;
mod identity;
mod launcher;
mod oci;
mod overlay;
pub(crate) mod pageout;

use std::{
    fmt::Debug,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
pub(crate) use reveille_api::manifest::template::Runtime as Kind;
use reveille_api::manifest::template::{EnvVar, Resources};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub(crate) use identity::{INSIDE as IDENTITY, Identity};

use crate::files;
use cgroup::Cgroup;

/// Longest text of a program that is handed on.
const MAX_MESSAGE: usize = 2048;

/// Everything a sandbox is made of.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    /// Unique for ever; all have the same length, so that none is a prefix of another.
    pub(crate) id: String,
    /// Its name is the host's too.
    pub(crate) identity: Identity,
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<EnvVar>,
    /// Where it starts.
    pub(crate) directory: String,
    pub(crate) user: User,
    /// What its root directory is an overlay of, the uppermost first. Never written to.
    pub(crate) layers: Vec<PathBuf>,
    /// What the host is called in the image, where that is another's.
    pub(crate) image_of: Option<&'static str>,
    pub(crate) limits: Resources,
    /// The network namespace, as any process may open it.
    pub(crate) netns: PathBuf,
    /// Where its output goes.
    pub(crate) output: Arc<File>,
}

/// Who runs in a sandbox, as the OCI configuration has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    #[serde(rename = "additionalGids", skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Vec<u32>,
}

/// Mechanism of one kind of sandbox.
pub(crate) trait Runtime: Debug + Send + Sync {
    /// As templates name it.
    fn kind(&self) -> Kind;

    /// As snapshots and the control plane name it.
    fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// A snapshot is restored by the version that took it.
    fn version(&self) -> &str;

    /// Starts the process anew. Returns the pid whose end is the sandbox's end.
    fn start<'a>(&'a self, sandbox: &'a Sandbox) -> BoxFuture<'a, Result<i32, Error>>;

    /// Brings the process back from an image; otherwise as [`Runtime::start`].
    fn restore<'a>(
        &'a self,
        sandbox: &'a Sandbox,
        image: &'a Path,
    ) -> BoxFuture<'a, Result<i32, Error>>;

    /// Stops every process of the sandbox where it stands.
    fn pause<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// Lets a paused sandbox go on. One that runs is well too.
    fn resume<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// Stops every process, cheaper than [`Runtime::pause`] where that can be had; good for nothing but [`Runtime::thaw`].
    /// One that is frozen is well too.
    fn freeze<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        self.pause(id)
    }

    /// Moves memory of a frozen sandbox to swap, if there is any, as far as that goes or until `stop`. Returns how many
    /// bytes. It may be thawed meanwhile.
    fn page_out<'a>(
        &'a self,
        id: &'a str,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<u64, Error>>;

    /// Undoes a freeze. One that runs is well too.
    fn thaw<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        self.resume(id)
    }

    /// Writes the image of a paused sandbox into an empty directory and leaves it paused.
    fn checkpoint<'a>(&'a self, id: &'a str, image: &'a Path) -> BoxFuture<'a, Result<(), Error>>;

    /// True of a file of an image that [`Runtime::checkpoint`] writes from its front to its end, each byte once.
    fn writes_in_order(&self, file: &str) -> bool;

    /// Kills what runs of a sandbox, also one half-made. Quick: what is left is dead and serves nobody.
    fn kill<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// Removes what a killed sandbox leaves behind, if anything. May take seconds.
    fn discard<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// Its control group.
    fn group(&self, id: &str) -> Option<Cgroup>;

    /// The part of these limits that nothing here holds by itself.
    fn unheld(&self, limits: &Resources) -> Resources;

    /// Bytes of memory that a sandbox takes, exactly only where it may be more than `limit`. Blocks.
    fn memory(&self, id: &str, pid: i32, limit: u64) -> io::Result<u64>;

    /// Kills and removes every sandbox of this data directory that is not in `keep`.
    fn sweep<'a>(&'a self, keep: &'a [String]) -> BoxFuture<'a, Result<(), Error>>;

    /// Removes its directories. There is no sandbox any more.
    fn destroy(&self) -> Result<(), Error>;
}

/// The runtimes of a node.
#[derive(Clone, Debug)]
pub(crate) struct Runtimes(Vec<Arc<dyn Runtime>>);

impl Runtimes {
    pub(crate) fn new(runtimes: Vec<Arc<dyn Runtime>>) -> Self {
        Self(runtimes)
    }

    pub(crate) fn get(&self, kind: Kind) -> Option<&Arc<dyn Runtime>> {
        self.iter().find(|runtime| runtime.kind() == kind)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<dyn Runtime>> {
        self.0.iter()
    }
}

/// Why a runtime failed. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program cannot be run at all.
    #[error("cannot run {program}")]
    Spawn {
        /// Path of the program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It said no.
    #[error("{program} {command} failed: {message}")]
    Failed {
        /// Its name.
        program: &'static str,
        /// Its verb.
        command: &'static str,
        /// Its last words.
        message: String,
    },
    /// It took too long and was killed.
    #[error("{program} {command} did not end within {limit:?}")]
    TimedOut {
        /// Its name.
        program: &'static str,
        /// Its verb.
        command: &'static str,
        /// How long it was given.
        limit: Duration,
    },
    /// A file of the sandbox.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program lacks something Reveille needs.
    #[error("{0}")]
    Unsupported(String),
}

impl Error {
    /// A program said no; the text is cut where it is too long.
    pub(crate) fn failed(
        program: &'static str,
        command: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Self::Failed { program, command, message }
    }

    pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { operation, path, source }
    }
}

/// Resolves a bare name in `PATH` and checks that the file is there.
fn find(binary: &Path) -> Result<PathBuf, Error> {
    let found = crate::checks::find_program(binary);
    let missing =
        || Error::Spawn { program: binary.into(), source: io::ErrorKind::NotFound.into() };
    let found = found.ok_or_else(missing)?;
    File::open(&found).map_err(|source| Error::Spawn { program: found.clone(), source })?;
    Ok(found)
}

fn read_pid(path: &Path) -> Result<i32, Error> {
    let pid = std::fs::read_to_string(path).and_then(|text| {
        text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    });
    pid.map_err(Error::file("read", path))
}

/// Kibibytes in a file of `/proc` with lines "Key:   123 kB".
fn kibibytes(pid: i32, file: &str, keys: &[&str]) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let values = lines.filter(|(key, _)| keys.contains(key)).filter_map(|(_, value)| {
        value.split_whitespace().next().and_then(|number| number.parse::<u64>().ok())
    });
    Ok(values.sum())
}

/// Removes what is left of the sandboxes that have a bundle here and are not in `keep`.
async fn discard_others(
    runtime: &impl Runtime,
    bundles: &Path,
    keep: &[String],
) -> Result<(), Error> {
    let names = files::names(bundles).map_err(Error::file("read", bundles))?;
    let orphans = names.into_iter().filter(|id| !keep.contains(id));
    let discards = orphans.map(|id| async move {
        if let Err(error) = runtime.discard(&id).await {
            tracing::warn!(sandbox = id, %error, "a leftover sandbox was not deleted");
        }
    });
    futures::future::join_all(discards).await;
    Ok(())
}

/// The last error of a log in JSON lines, as runc and runsc write it.
fn last_error(log: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Line {
        msg: String,
        level: String,
    }
    let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines.filter(|line| line.level == "error" || line.level == "fatal").map(|line| line.msg).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_found() {
        let log = "{\"msg\":\"first\",\"level\":\"error\"}\nnoise\n{\"msg\":\"second\",\"level\":\"error\"}\n{\"msg\":\"x\",\"level\":\"info\"}\n";
        assert_eq!(last_error(log).as_deref(), Some("second"));
        assert_eq!(last_error("noise"), None);
    }
}
