//! The `gvisor` runtime: drives the `runsc` command.
//!
//! Every call is one `runsc` process. A sandbox consists of two more, `runsc-sandbox` and `runsc-gofer`, which
//! outlive it and the agent; both carry the bundle's path in their arguments, which is how leftovers are found.
//! runsc writes its own errors as JSON lines into a file of the bundle, apart from the actor's output.

mod flags;
mod mend;
mod spec;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};

pub(crate) use flags::Flags;

use super::{Error, Runtime, Sandbox, launcher::Launcher};
use crate::{
    files,
    process::{self, Process},
};

/// Bounds calls whose caller gives no deadline of its own.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a new agent waits for commands of the one before it.
const COMMAND: Duration = Duration::from_secs(10);
/// Longest text of runsc that is handed on.
const MAX_MESSAGE: usize = 2048;
const ERRORS: &str = "runsc.log";
const PID_FILE: &str = "pid";
/// Of an image, the file with everything but the memory.
const KERNEL: &str = "checkpoint.img";

/// Where `runsc` is, what it can do, and where it keeps its state.
#[derive(Debug)]
pub(crate) struct Gvisor {
    binary: PathBuf,
    root: PathBuf,
    bundles: PathBuf,
    flags: Flags,
    launcher: Launcher,
}

impl Gvisor {
    /// Looks at the binary and starts the launcher.
    pub(crate) async fn detect(
        binary: &Path,
        root: &Path,
        bundles: &Path,
        pins: &Path,
    ) -> Result<Self, Error> {
        let binary = find(binary)?;
        let flags = Flags::detect(&binary).await?;
        flags.check()?;
        let launcher =
            Launcher::start(pins).await.map_err(Error::file("hide", Path::new("/proc/sys/net")))?;
        Ok(Self { binary, root: root.into(), bundles: bundles.into(), flags, launcher })
    }

    /// `--root` is one argument on purpose: leftovers are found by it.
    fn root_argument(&self) -> String {
        format!("--root={}", self.root.display())
    }

    fn command(&self, log: &Path) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg(self.root_argument())
            .args(["--platform=systrap", "--network=sandbox", "--overlay2=root:memory"])
            // No limits without cgroup v2, and never a hand on the machine's own groups.
            .args(["--ignore-cgroups=true", "--log-format=json"])
            .arg(format!("--log={}", log.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if self.flags.net_disconnect_ok {
            command.arg("--net-disconnect-ok=true");
        }
        command
    }

    /// Runs a command to its end. One that starts a sandbox is killed when nobody waits for it any more.
    async fn run(&self, verb: &'static str, command: Command, log: &Path) -> Result<(), Error> {
        let _ = std::fs::remove_file(log);
        let starts = matches!(verb, "run" | "restore");
        let spawned = self.launcher.spawn(command, starts).await;
        let program = || self.binary.clone();
        let mut child = spawned.map_err(|source| Error::Spawn { program: program(), source })?;
        let status = match tokio::time::timeout(LIMIT, child.wait()).await {
            Ok(status) => status.map_err(|source| Error::Spawn { program: program(), source })?,
            Err(_) => {
                let _ = child.kill().await;
                return Err(Error::TimedOut { command: verb, limit: LIMIT });
            }
        };
        if status.success() {
            return Ok(());
        }
        let said = flags::last_error(&std::fs::read_to_string(log).unwrap_or_default());
        let mut message = said.unwrap_or_else(|| status.to_string());
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Err(Error::Failed { command: verb, message })
    }

    /// Starts or restores; both leave the pid in a file when they end.
    async fn launch(
        &self,
        verb: &'static str,
        arguments: &[String],
        sandbox: &Sandbox,
    ) -> Result<i32, Error> {
        let bundle = &sandbox.bundle;
        files::create_private_dir(bundle).map_err(Error::file("create", bundle))?;
        let config = bundle.join("config.json");
        let written = serde_json::to_vec(&spec::spec(sandbox)).map_err(io::Error::from);
        written
            .and_then(|bytes| std::fs::write(&config, bytes))
            .map_err(Error::file("write", &config))?;
        let output = || -> Result<Stdio, Error> {
            let file =
                sandbox.output.try_clone().map_err(Error::file("open the log of", bundle))?;
            Ok(file.into())
        };
        let pid_file = bundle.join(PID_FILE);
        let log = bundle.join(ERRORS);
        let mut command = self.command(&log);
        command
            .args([verb, "--detach"])
            .arg(format!("--bundle={}", bundle.display()))
            .arg(format!("--pid-file={}", pid_file.display()))
            .args(arguments)
            .arg(&sandbox.id)
            .stdout(output()?)
            .stderr(output()?);
        self.run(verb, command, &log).await?;
        let pid = std::fs::read_to_string(&pid_file).map_err(Error::file("read", &pid_file))?;
        pid.trim()
            .parse()
            .map_err(|_| Error::Failed { command: verb, message: format!("{pid:?} is no pid") })
    }

    /// Starts a sandbox without a network that does nothing, and ends with it.
    pub(crate) async fn try_out(&self) -> Result<(), Error> {
        files::create_private_dir(&self.root).map_err(Error::file("create", &self.root))?;
        let log = self.root.join(ERRORS);
        let mut command = self.command(&log);
        command.args(["--network=none", "do", "/bin/true"]);
        self.run("do", command, &log).await
    }

    /// As runsc has it: "running", "paused", "stopped".
    async fn status(&self, id: &str) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct State {
            status: String,
        }
        let mut command = self.command(Path::new("/dev/null"));
        command.args(["state", id]).stdout(Stdio::piped());
        // Killed when it is not waited for any more.
        let child = self.launcher.spawn(command, true).await.ok()?;
        let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.ok()?.ok()?;
        serde_json::from_slice::<State>(&output.stdout).ok().map(|state| state.status)
    }

    async fn control(
        &self,
        verb: &'static str,
        arguments: &[String],
        id: &str,
    ) -> Result<(), Error> {
        let log = self.bundles.join(id).join(ERRORS);
        let mut command = self.command(&log);
        command.arg(verb).args(arguments).arg(id);
        self.run(verb, command, &log).await
    }
}

impl Runtime for Gvisor {
    fn name(&self) -> &'static str {
        reveille_api::manifest::template::Runtime::Gvisor.name()
    }

    fn version(&self) -> &str {
        &self.flags.version
    }

    fn start<'a>(&'a self, sandbox: &'a Sandbox) -> BoxFuture<'a, Result<i32, Error>> {
        self.launch("run", &[], sandbox).boxed()
    }

    /// Without a `create` before: one process less. Without `--direct`: the image is in the page cache.
    fn restore<'a>(
        &'a self,
        sandbox: &'a Sandbox,
        image: &'a Path,
    ) -> BoxFuture<'a, Result<i32, Error>> {
        let arguments = [format!("--image-path={}", image.display())];
        async move { self.launch("restore", &arguments, sandbox).await }.boxed()
    }

    fn pause<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        self.control("pause", &[], id).boxed()
    }

    fn resume<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let resumed = self.control("resume", &[], id).await;
            // One that was never paused is refused.
            if resumed.is_err() && self.status(id).await.is_some_and(|status| status == "running") {
                return Ok(());
            }
            resumed
        }
        .boxed()
    }

    fn checkpoint<'a>(&'a self, id: &'a str, image: &'a Path) -> BoxFuture<'a, Result<(), Error>> {
        let mut arguments = vec![format!("--image-path={}", image.display())];
        arguments.extend(self.flags.checkpoint.iter().map(ToString::to_string));
        async move {
            self.control("checkpoint", &arguments, id).await?;
            if !self.flags.saves_dead_interests {
                return Ok(());
            }
            let kernel = image.join(KERNEL);
            let mended = files::blocking({
                let kernel = kernel.clone();
                move || mend::mend(&kernel)
            });
            let mend::Mended { deleted, ready } =
                mended.await.map_err(Error::file("mend", &kernel))?;
            tracing::debug!(id, deleted, ready, "the epoll interests of an image were mended");
            Ok(())
        }
        .boxed()
    }

    fn kill<'a>(&'a self, bundle: &'a Path) -> BoxFuture<'a, Result<(), Error>> {
        let argument = format!("--bundle={}", bundle.display());
        async move {
            let found = process::all(argument, |_| true).await;
            process::end(&found.map_err(Error::file("look for processes of", bundle))?).await;
            Ok(())
        }
        .boxed()
    }

    fn discard<'a>(&'a self, id: &'a str, bundle: &'a Path) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let deleted = self.control("delete", &["--force".into()], id).await;
            // Of a sandbox that died half-made runsc knows nothing, but its lock and its socket are there.
            for name in files::names(&self.root).map_err(Error::file("read", &self.root))? {
                if name.contains(id) {
                    let path = self.root.join(name);
                    files::remove(&path).map_err(Error::file("remove", &path))?;
                }
            }
            if let Err(error) = deleted {
                tracing::debug!(id, %error, "runsc did not delete the sandbox");
            }
            files::remove(bundle).map_err(Error::file("remove", bundle))
        }
        .boxed()
    }

    fn sweep<'a>(&'a self, keep: &'a [String]) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let bundle = |id: &String| format!("--bundle={}", self.bundles.join(id).display());
            let kept: Vec<_> = keep.iter().map(bundle).collect();
            let failed = || Error::file("look for processes of", &self.root);
            // A command the agent died over is let finish, so that its sandbox is in a state to go on from.
            let commands = process::all(self.root_argument(), |arguments| {
                arguments.last().is_some_and(|last| keep.contains(last))
                    && !arguments.iter().any(|argument| kept.contains(argument))
            });
            let commands = commands.await.map_err(failed())?;
            let finished = futures::future::join_all(commands.iter().map(Process::exited));
            let _ = tokio::time::timeout(COMMAND, finished).await;
            let doomed = process::all(self.root_argument(), |arguments| {
                !arguments.iter().any(|argument| kept.contains(argument))
            });
            process::end(&doomed.await.map_err(failed())?).await;
            let bundles =
                files::names(&self.bundles).map_err(Error::file("read", &self.bundles))?;
            let orphans = bundles.into_iter().filter(|id| !keep.contains(id));
            let discards = orphans.map(|id| async move {
                let bundle = self.bundles.join(&id);
                if let Err(error) = self.discard(&id, &bundle).await {
                    tracing::warn!(sandbox = id, %error, "a leftover sandbox was not deleted");
                }
            });
            futures::future::join_all(discards).await;
            Ok(())
        }
        .boxed()
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
