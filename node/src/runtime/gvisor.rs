//! The `gvisor` runtime: drives the `runsc` command.
//!
//! Every call is one `runsc` process. A sandbox consists of two more, `runsc-sandbox` and `runsc-gofer`, which
//! outlive it and the agent; both carry the bundle's path in their arguments, which is how leftovers are found.
//! runsc writes its own errors as JSON lines into a file of the bundle, apart from the actor's output.
//!
//! It writes what it knows of a sandbox in place, so one that is killed just then leaves a sandbox that no other can speak to: it is
//! given up, and its actor wakes from its last snapshot.

mod flags;
mod mend;
mod spec;

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use futures::{FutureExt, future::BoxFuture};

pub(crate) use flags::Flags;

use nix::{libc, mount::MsFlags};
use reveille_api::manifest::template::Resources;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::{
    Error, Kind, Runtime, Sandbox, born,
    cgroup::{Cgroup, Cgroups},
    launcher::{self, LIMIT, Launcher},
    overlay::Overlay,
};
use crate::{files, process, slots::Netns};
use tokio_util::sync::CancellationToken;

const RUNSC: &str = "runsc";
const ERRORS: &str = "runsc.log";
const PID_FILE: &str = "pid";
/// Of an image, the file with everything but the memory.
const KERNEL: &str = "checkpoint.img";
/// And the one with the memory.
const PAGES: &str = "pages.img";
/// Of a sandbox, the name of the file that is its memory.
const MEMORY: &[u8] = b"/memfd:runsc-memory";
/// In a bundle, the image of a clone.
const IMAGE: &str = "image";
/// What makes runsc of 2024 take the namespace it is given for the machine's own, and then refuse to work. Newer kernels
/// show it in every namespace. Where they do, runsc finds an empty directory there.
const MARK: &str = "/proc/sys/net/core/rmem_default";
const HIDDEN: &str = "/proc/sys/net";

/// Where `runsc` is, what it can do, and where it keeps its state.
#[derive(Debug)]
pub(crate) struct Gvisor {
    binary: PathBuf,
    root: PathBuf,
    bundles: PathBuf,
    flags: Flags,
    /// Of sandboxes.
    launcher: Launcher,
    /// Of commands to those there are.
    commands: Launcher,
    /// Without them a freeze is a pause, which takes ten times as long.
    cgroups: Option<Cgroups>,
}

impl Gvisor {
    /// Looks at the binary and starts the launcher. `mounts` are those of the agent that its namespace must not hold.
    pub(crate) async fn detect(
        binary: &Path,
        root: &Path,
        bundles: &Path,
        mounts: Vec<PathBuf>,
    ) -> Result<Self, Error> {
        let binary = super::find(binary)?;
        let flags = Flags::detect(&binary).await?;
        flags.check()?;
        for dir in [root, bundles] {
            files::create_private_dir(dir).map_err(Error::file("create", dir))?;
        }
        let apart = async {
            let hide = Netns::create().await?.enter(|| Path::new(MARK).exists()).await?;
            tracing::debug!(hide, "runsc finds an empty directory at {HIDDEN} where it must");
            let commands = launch_apart(mounts.clone(), hide, short_lived).await?;
            io::Result::Ok((launch_apart(mounts, hide, || Ok(())).await?, commands))
        };
        let apart = apart.await.map_err(Error::file("prepare to start", &binary));
        let (launcher, commands) = apart?;
        let cgroups = Cgroups::detect().inspect_err(|error| {
            tracing::warn!(%error, "actors are frozen by runsc, which is slower");
        });
        let (root, bundles, cgroups) = (root.into(), bundles.into(), cgroups.ok());
        Ok(Self { binary, root, bundles, flags, launcher, commands, cgroups })
    }

    /// `--root` is one argument on purpose: leftovers are found by it.
    fn root_argument(&self) -> String {
        format!("--root={}", self.root.display())
    }

    /// The sandbox's own control group, where there are any.
    fn own_group(&self, sandbox: &Sandbox) -> Result<Option<Cgroup>, Error> {
        let limits = of_group(&sandbox.limits);
        match &self.cgroups {
            Some(cgroups) => cgroups.create(&sandbox.id, &limits).map(Some),
            None if limits == Resources::default() => Ok(None),
            None => Err(Error::Unsupported(
                "resources.cpu and resources.memory need cgroup v2: mount it, or start the actor elsewhere".into(),
            )),
        }
    }

    fn command(&self, log: &Path) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg(self.root_argument())
            .args(["--platform=systrap", "--network=sandbox", "--overlay2=root:memory"])
            // The group is ours to make: never a hand of runsc on the machine's own.
            .args(["--ignore-cgroups=true", "--log-format=json"])
            .arg(format!("--log={}", log.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if self.flags.net_disconnect_ok {
            command.arg("--net-disconnect-ok=true");
        }
        command
    }

    /// Starts or restores; both leave the pid in a file when they end.
    async fn launch(
        &self,
        verb: &'static str,
        arguments: &[String],
        sandbox: &Sandbox,
    ) -> Result<i32, Error> {
        let bundle = &self.bundle(&sandbox.id);
        files::create_private_dir(bundle).map_err(Error::file("create", bundle))?;
        let identity = sandbox.identity.write(bundle)?.display().to_string();
        Overlay { layers: &sandbox.layers, writes: None }.mount(&self.launcher, bundle).await?;
        let root = Overlay::root(bundle);
        spec::spec(sandbox, &root, &identity).write(bundle)?;
        let streams = born::streams(None, &sandbox.output, Some(&sandbox.output));
        let streams = streams.map_err(Error::file("open the log of", bundle))?;
        let pid_file = bundle.join(PID_FILE);
        let log = bundle.join(ERRORS);
        let group = self.own_group(sandbox)?;
        let mut command = self.command(&log);
        command
            .args([verb, "--detach"])
            .arg(self.bundle_argument(&sandbox.id))
            .arg(format!("--pid-file={}", pid_file.display()))
            .args(arguments)
            .arg(&sandbox.id);
        let ran = self.launcher.run_in(group.as_ref(), RUNSC, verb, command, streams).await?;
        ended(verb, ran, &log)?;
        // The sandbox holds it.
        Overlay::unmount(&self.launcher, bundle).await?;
        super::read_pid(&pid_file)
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.bundles.join(id)
    }

    /// As the processes of a sandbox have it.
    fn bundle_argument(&self, id: &str) -> String {
        format!("--bundle={}", self.bundle(id).display())
    }

    /// Starts a sandbox without a network that does nothing, and ends with it.
    pub(crate) async fn try_out(&self) -> Result<(), Error> {
        files::create_private_dir(&self.root).map_err(Error::file("create", &self.root))?;
        let log = self.root.join(ERRORS);
        let mut command = self.command(&log);
        command.args(["--network=none", "do", "/bin/true"]);
        ended("do", self.launcher.run(RUNSC, "do", command, false).await?, &log)
    }

    /// The image with the sandbox's own name for its host; `None` where it must keep the one it has.
    async fn renamed(&self, image: &Path, old: &'static str, sandbox: &Sandbox) -> Option<PathBuf> {
        let bundle = self.bundle(&sandbox.id);
        let (from, copy) = (image.to_owned(), bundle.join(IMAGE));
        let (new, into) = (sandbox.identity.actor.name().to_owned(), copy.clone());
        let renamed = files::blocking(move || {
            files::create_private_dir(&bundle)?;
            mend::rename(&from, KERNEL, [old, &new], &into)
        });
        match renamed.await {
            Ok(true) => Some(copy),
            Ok(false) => None,
            Err(error) => {
                tracing::warn!(id = sandbox.id, %error, "a clone keeps the host name of its template");
                None
            }
        }
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
        let child = self.commands.spawn(command, true).await.ok()?;
        let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.ok()?.ok()?;
        serde_json::from_slice::<State>(&output.stdout).ok().map(|state| state.status)
    }

    /// Runs a command to its end, also when nobody waits for it any more.
    async fn control(
        &self,
        verb: &'static str,
        arguments: &[String],
        id: &str,
    ) -> Result<(), Error> {
        let log = self.bundle(id).join(ERRORS);
        let mut command = self.command(&log);
        command.arg(verb).args(arguments).arg(id);
        let _ = std::fs::remove_file(&log);
        ended(verb, self.commands.run(RUNSC, verb, command, false).await?, &log)
    }
}

impl Runtime for Gvisor {
    fn kind(&self) -> Kind {
        Kind::Gvisor
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
        async move {
            let renamed = match sandbox.image_of {
                Some(old) => self.renamed(image, old, sandbox).await,
                None => None,
            };
            let image = renamed.as_deref().unwrap_or(image);
            let arguments = [format!("--image-path={}", image.display())];
            self.launch("restore", &arguments, sandbox).await
        }
        .boxed()
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

    fn freeze<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            if let Some(group) = self.group(id) {
                return group.freeze().await;
            }
            let paused = self.control("pause", &[], id).await;
            if paused.is_err() && self.status(id).await.is_some_and(|status| status == "paused") {
                return Ok(());
            }
            paused
        }
        .boxed()
    }

    fn page_out<'a>(
        &'a self,
        id: &'a str,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        async move {
            match self.group(id) {
                Some(group) => group.page_out(stop).await,
                None => Ok(0),
            }
        }
        .boxed()
    }

    fn thaw<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            match self.group(id) {
                Some(group) => group.thaw().await,
                None => self.resume(id).await,
            }
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

    /// The memory file's ranges go to an `io.Writer` (`MemoryFile.SaveTo`), which knows of no places. Later releases may write
    /// several at once.
    fn writes_in_order(&self, file: &str) -> bool {
        self.flags.writes_pages_in_order && file == PAGES
    }

    fn kill<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let found = process::all(self.bundle_argument(id), |_| true).await;
            let found = found.map_err(Error::file("look for processes of", &self.bundle(id)))?;
            process::end(&found).await;
            // And what one of them had started when it was looked for.
            if let Some(group) = self.group(id) {
                group.kill().await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn discard<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            if let Some(group) = self.group(id) {
                // Of a frozen one nothing would see that the rest is dead.
                group.kill().await?;
                group.remove()?;
            }
            let bundle = self.bundle(id);
            Overlay::unmount(&self.launcher, &bundle).await?;
            if !bundle.exists() {
                // It did not come so far that runsc knows it.
                return Ok(());
            }
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
            files::remove(&bundle).map_err(Error::file("remove", &bundle))
        }
        .boxed()
    }

    fn group(&self, id: &str) -> Option<Cgroup> {
        self.cgroups.as_ref().map(|cgroups| cgroups.group(id)).filter(Cgroup::exists)
    }

    fn unheld(&self, limits: &Resources) -> Resources {
        let limits = of_group(limits);
        self.cgroups.as_ref().map(|cgroups| cgroups.unheld(&limits)).unwrap_or_default()
    }

    /// All memory of its processes and its files is one file of the sandbox; beside it there is the sandbox's own.
    fn memory(&self, _id: &str, pid: i32, _limit: u64) -> io::Result<u64> {
        let own = super::kibibytes(pid, "status", &["RssAnon"])? * 1024;
        let open = PathBuf::from(format!("/proc/{pid}/fd"));
        for name in files::names(&open)? {
            let path = open.join(name);
            let is = |target: PathBuf| target.as_os_str().as_encoded_bytes().starts_with(MEMORY);
            if std::fs::read_link(&path).is_ok_and(is) {
                return Ok(own + std::fs::metadata(&path)?.blocks() * 512);
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "the sandbox has no memory file"))
    }

    fn sweep<'a>(&'a self, keep: &'a [String]) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let kept: Vec<_> = keep.iter().map(|id| self.bundle_argument(id)).collect();
            let failed = || Error::file("look for processes of", &self.root);
            // A command the agent died over is let finish, so that its sandbox is in a state to go on from.
            let commands = process::all(self.root_argument(), |arguments| {
                arguments.last().is_some_and(|last| keep.contains(last))
                    && !arguments.iter().any(|argument| kept.contains(argument))
            });
            process::let_finish(&commands.await.map_err(failed())?).await;
            let doomed = process::all(self.root_argument(), |arguments| {
                !arguments.iter().any(|argument| kept.contains(argument))
            });
            process::end(&doomed.await.map_err(failed())?).await;
            super::discard_others(self, &self.bundles, keep).await
        }
        .boxed()
    }

    fn destroy(&self) -> Result<(), Error> {
        for dir in [&self.root, &self.bundles] {
            files::remove(dir).map_err(Error::file("remove", dir))?;
        }
        Ok(())
    }
}

/// What became of a command.
fn ended(verb: &'static str, status: ExitStatus, log: &Path) -> Result<(), Error> {
    if status.success() {
        return Ok(());
    }
    let said = super::last_error(&std::fs::read_to_string(log).unwrap_or_default());
    Err(Error::failed(RUNSC, verb, said.unwrap_or_else(|| status.to_string())))
}

/// Those of the sandbox as a whole. The number of processes is its own kernel's to limit.
fn of_group(limits: &Resources) -> Resources {
    Resources { pids: None, ..limits.clone() }
}

/// With mounts apart from the agent's, after something else.
async fn launch_apart(
    mounts: Vec<PathBuf>,
    hide: bool,
    prepare: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<Launcher> {
    let launcher = Launcher::start(move || {
        launcher::own_mounts(&mounts)?;
        if hide {
            let flags =
                MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            launcher::cover("tmpfs", Path::new(HIDDEN), flags)?;
        }
        prepare()
    });
    launcher.await
}

/// What this thread starts finds no `membarrier`. Each runsc registers for it as it starts, which takes 13 of the 20 ms of a command
/// that does nothing: the kernel waits until every processor has been seen. Only a sandbox may have a use for it.
fn short_lived() -> io::Result<()> {
    let filter = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_membarrier, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        std::env::consts::ARCH.try_into().map_err(io::Error::other)?,
    );
    let program = filter.and_then(BpfProgram::try_from).map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_launched_for_a_moment_is_filtered_and_nothing_else_is() {
        let filters = async |prepare: fn() -> io::Result<()>| {
            let launcher = Launcher::start(prepare).await.unwrap();
            let mut awk = Command::new("awk");
            awk.args(["/^Seccomp_filters:/ { print $2 }", "/proc/self/status"]);
            awk.stdout(Stdio::piped());
            let awk = launcher.spawn(awk, true).await.unwrap();
            let output = awk.wait_with_output().await.unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().unwrap()
        };
        assert_eq!(filters(short_lived).await, filters(|| Ok(())).await + 1);
    }
}
