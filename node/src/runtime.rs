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

pub(crate) mod gvisor;
mod launcher;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use reveille_api::manifest::template::EnvVar;

/// Everything a sandbox is made of.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    /// Unique for ever; all have the same length, so that none is a prefix of another.
    pub(crate) id: String,
    /// A directory of its own, removed by [`Runtime::discard`].
    pub(crate) bundle: PathBuf,
    pub(crate) hostname: String,
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<EnvVar>,
    /// Never written to.
    pub(crate) rootfs: PathBuf,
    pub(crate) pids: Option<u64>,
    /// The network namespace, as any process may open it.
    pub(crate) netns: PathBuf,
    /// Where its output goes.
    pub(crate) output: Arc<File>,
}

/// Mechanism of one kind of sandbox.
pub(crate) trait Runtime: Send + Sync {
    /// As templates and snapshots name it.
    fn name(&self) -> &'static str;

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

    /// Writes the image of a paused sandbox into an empty directory and leaves it paused.
    fn checkpoint<'a>(&'a self, id: &'a str, image: &'a Path) -> BoxFuture<'a, Result<(), Error>>;

    /// Kills what runs of a sandbox, also one half-made. Quick: what is left is dead and serves nobody.
    fn kill<'a>(&'a self, bundle: &'a Path) -> BoxFuture<'a, Result<(), Error>>;

    /// Removes what a killed sandbox leaves behind, its bundle included. May take seconds.
    fn discard<'a>(&'a self, id: &'a str, bundle: &'a Path) -> BoxFuture<'a, Result<(), Error>>;

    /// Kills and removes every sandbox of this data directory that is not in `keep`.
    fn sweep<'a>(&'a self, keep: &'a [String]) -> BoxFuture<'a, Result<(), Error>>;
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
    #[error("runsc {command} failed: {message}")]
    Failed {
        /// Its verb.
        command: &'static str,
        /// Its last words.
        message: String,
    },
    /// It took too long and was killed.
    #[error("runsc {command} did not end within {limit:?}")]
    TimedOut {
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
    pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { operation, path, source }
    }
}
