//! The `criu` runtime: containers that `runc` starts and `criu` saves and restores.
//!
//! ```text
//!  start     group made ─▶ overlay mounted ─▶ runc run ─────▶ overlay unmounted: the container holds it
//!  restore   group made ─▶ written files unpacked, overlay mounted ─▶ criu restore, inside the group ─▶ unmounted
//!  pause     cgroup.freeze          checkpoint   criu dump of the frozen group, then what was written
//!  resume    cgroup.freeze          kill         cgroup.kill
//! ```
//!
//! runc is needed for a start only: what comes after is one control group and its processes, which outlive the agent.
//! Of what a container shares with the machine, its network namespace, its log and the files that tell it who it is, an
//! image holds only the names; a restore is given others in their place. The agent has ended every connection from outside
//! by then and nothing moves, so nothing is locked while sockets are saved; connections of the actor to itself are saved
//! as they are.
//!
//! While it reads, criu runs code of its own in the processes. One that is killed then mostly leaves them able to go on:
//! of eleven, one process died of a trap, which is seen as its end. What it left in another kept the next criu from saving
//! it: that actor served on, and its next suspend failed.

mod seccomp;
mod spec;
mod trial;
mod version;
mod writes;
mod yards;

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use futures::{FutureExt, future::BoxFuture};
use nix::{
    mount::MsFlags,
    sched::{CloneFlags, setns},
};
use reveille_api::manifest::template::Resources;
use tokio_util::sync::CancellationToken;

use super::{
    Error, Kind, Runtime, Sandbox, born,
    cgroup::{self, Cgroup, Cgroups},
    identity,
    launcher::{self, Launcher},
    overlay::Overlay,
};
use crate::{
    files,
    process::{self, Process},
    slots::thread,
};
use version::Versions;
use writes::Memory;

const CRIU: &str = "criu";
const RUNC: &str = "runc";
/// In a bundle.
const PID_FILE: &str = "pid";
const OUTPUT: &str = "output";
const RUNC_LOG: &str = "runc.log";
const CRIU_LOG: &str = "criu.log";
/// What an image calls the network namespace.
const NETWORK: &str = "net";
/// And the mount that tells an actor who it is.
const IDENTITY: &str = "identity";
/// Of an image, how the names of the files with memory begin.
const PAGES: &str = "pages-";
/// Mounts of a container that keep their files in memory.
const TMPFS: [&str; 3] = ["/dev", "/dev/shm", "/tmp"];
/// Deleted files that are still open may be this large.
const GHOSTS: &str = "--ghost-limit=64M";
/// Written by criu into a log on every machine without CAP_SYS_RESOURCE, and of no consequence.
const NOISE: &str = "RLIMIT_NOFILE for self";
/// Where criu keeps what it has found out about the kernel, if that is a tmpfs.
const RUN: &str = "/run";

/// The two programs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) criu: PathBuf,
    pub(crate) runc: PathBuf,
}

impl Programs {
    /// As a snapshot's manifest has it.
    pub(crate) async fn versions(&self) -> Result<String, Error> {
        Versions::ask(self).await?.checked()
    }
}

/// Where this runtime keeps its state.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) bundles: PathBuf,
    /// Where a tmpfs is mounted.
    pub(crate) memory: PathBuf,
    /// Mounts of the agent that the launcher's namespace must not hold.
    pub(crate) mounts: Vec<PathBuf>,
    /// Of the names of all sandboxes of this data directory.
    pub(crate) prefix: String,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Criu {
    programs: Programs,
    places: Places,
    version: String,
    cgroups: Cgroups,
    memory: Memory,
    launcher: Launcher,
}

impl Criu {
    /// Looks at the programs and the kernel, and starts the launcher.
    pub(crate) async fn detect(programs: &Programs, places: Places) -> Result<Self, Error> {
        let programs =
            Programs { criu: super::find(&programs.criu)?, runc: super::find(&programs.runc)? };
        let version = programs.versions().await?;
        let cgroups = Cgroups::detect()?;
        files::create_private_dir(&places.bundles)
            .map_err(Error::file("create", &places.bundles))?;
        let memory = Memory::open(&places.memory)?;
        let launcher = Launcher::start({
            let places = places.clone();
            move || prepare(&places)
        });
        let launcher = launcher.await.map_err(Error::file("prepare mounts for", &programs.criu))?;
        let criu = Self { programs, places, version, cgroups, memory, launcher };
        if let Err(error) = criu.check().await {
            // Of no use to anybody then.
            criu.destroy()?;
            return Err(error);
        }
        Ok(criu)
    }

    /// What criu says of this kernel. It remembers what it found.
    async fn check(&self) -> Result<(), Error> {
        let log = self.places.bundles.join(CRIU_LOG);
        let mut command = self.criu("check");
        command.arg(format!("--log-file={}", log.display()));
        let checked = self.run(CRIU, "check", command, &log).await;
        files::remove(&log).map_err(Error::file("remove", &log))?;
        checked
    }

    fn criu(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.programs.criu);
        command.args([verb, "--no-default-config", "-v1"]);
        no_streams(&mut command);
        command
    }

    async fn run(
        &self,
        program: &'static str,
        verb: &'static str,
        command: Command,
        log: &Path,
    ) -> Result<(), Error> {
        let status = self.launcher.run(program, verb, command, verb == "run").await?;
        ended(program, verb, status, log)
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.places.bundles.join(id)
    }

    /// As runc and criu have it.
    fn arguments(&self, id: &str) -> [String; 2] {
        let bundle = self.bundle(id);
        ["--bundle", "--work-dir"].map(|option| format!("{option}={}", bundle.display()))
    }

    /// The programs that work on a sandbox.
    async fn programs(&self, id: &str) -> Result<Vec<Process>, Error> {
        let mut programs = Vec::new();
        for argument in self.arguments(id).into_iter().chain([self.memory.of(id).argument()]) {
            let found = process::all(argument, |_| true).await;
            let failed = Error::file("look for processes of", &self.places.bundles);
            programs.extend(found.map_err(failed)?);
        }
        Ok(programs)
    }

    /// Gives a sandbox its directories and its group, and runs what makes its processes.
    async fn launch(&self, sandbox: &Sandbox, image: Option<&Path>) -> Result<i32, Error> {
        let bundle = self.bundle(&sandbox.id);
        files::create_private_dir(&bundle).map_err(Error::file("create", &bundle))?;
        let output = bundle.join(OUTPUT);
        let key = key_of(&sandbox.output);
        let written = key.and_then(|key| fs::write(&output, key));
        written.map_err(Error::file("write", &output))?;
        let writes = self.memory.of(&sandbox.id);
        writes.create()?;
        if let Some(image) = image {
            writes.load(&self.launcher, image).await?;
        }
        self.cgroups.create(&sandbox.id, &sandbox.limits)?;
        writes.overlay(&sandbox.layers).mount(&self.launcher, &bundle).await?;
        let identity = sandbox.identity.write(&bundle)?.display().to_string();
        match image {
            None => self.run_container(sandbox, &bundle, &identity).await?,
            Some(image) => self.restore_container(sandbox, &bundle, &identity, image).await?,
        }
        Overlay::unmount(&self.launcher, &bundle).await?;
        let pid = super::read_pid(&bundle.join(PID_FILE))?;
        if sandbox.image_of.is_some() {
            name_host(pid, sandbox.identity.actor.name()).await?;
        }
        Ok(pid)
    }

    async fn run_container(
        &self,
        sandbox: &Sandbox,
        bundle: &Path,
        identity: &str,
    ) -> Result<(), Error> {
        spec::spec(sandbox, &Overlay::root(bundle), identity).write(bundle)?;
        let log = bundle.join(RUNC_LOG);
        let output = || sandbox.output.try_clone().map(Stdio::from);
        let output = || output().map_err(Error::file("open the log of", bundle));
        let [bundle_argument, _] = self.arguments(&sandbox.id);
        let mut command = Command::new(&self.programs.runc);
        command
            .arg(format!("--root={}", bundle.join(RUNC).display()))
            .arg(format!("--log={}", log.display()))
            .args(["--log-format=json", "run", "--detach", &bundle_argument])
            .arg(format!("--pid-file={}", bundle.join(PID_FILE).display()))
            .arg(&sandbox.id)
            .stdin(Stdio::null())
            .stdout(output()?)
            .stderr(output()?);
        self.run(RUNC, "run", command, &log).await
    }

    async fn restore_container(
        &self,
        sandbox: &Sandbox,
        bundle: &Path,
        identity: &str,
        image: &Path,
    ) -> Result<(), Error> {
        let output = image.join(OUTPUT);
        let key = fs::read_to_string(&output).map_err(Error::file("read", &output))?;
        let netns = File::open(&sandbox.netns).map_err(Error::file("open", &sandbox.netns))?;
        let streams = born::streams(Some(netns), &sandbox.output, None);
        let streams = streams.map_err(Error::file("open the log of", bundle))?;
        let [_, work_dir] = self.arguments(&sandbox.id);
        let mut command = self.criu("restore");
        command
            .args([&work_dir, "--restore-detached", "--manage-cgroups=ignore"])
            .arg(format!("--images-dir={}", image.display()))
            .arg(format!("--log-file={CRIU_LOG}"))
            .arg(format!("--pidfile={PID_FILE}"))
            .arg(format!("--root={}", Overlay::root(bundle).display()))
            .args(["--tcp-established", "--file-locks", "--inherit-fd"])
            .arg(format!("fd[0]:{NETWORK}"))
            .args(["--inherit-fd".into(), format!("fd[1]:{key}")])
            .arg(format!("--external=mnt[{IDENTITY}]:{identity}"));
        let group = self.cgroups.group(&sandbox.id);
        let ran = self.launcher.run_in(Some(&group), CRIU, "restore", command, streams).await?;
        ended(CRIU, "restore", ran, &bundle.join(CRIU_LOG))
    }

    async fn dump(&self, id: &str, image: &Path) -> Result<(), Error> {
        let (bundle, group) = (self.bundle(id), self.cgroups.group(id));
        let output = bundle.join(OUTPUT);
        let key = fs::read_to_string(&output).map_err(Error::file("read", &output))?;
        let pid = super::read_pid(&bundle.join(PID_FILE))?;
        let netns = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let network = fs::metadata(&netns).map_err(Error::file("read", &netns))?.ino();
        let [_, work_dir] = self.arguments(id);
        let mut command = self.criu("dump");
        command
            .args([&work_dir, "--leave-running", "--manage-cgroups=ignore", GHOSTS])
            .arg(format!("--tree={pid}"))
            .arg(format!("--images-dir={}", image.display()))
            .arg(format!("--log-file={CRIU_LOG}"))
            .arg(format!("--freeze-cgroup={}", group.inside().display()))
            .args(["--network-lock=skip", "--tcp-established", "--skip-in-flight"])
            .args(["--file-locks", "--link-remap"])
            .arg(format!("--external=net[{network}]:{NETWORK}"))
            .arg(format!("--external={key}"))
            .arg(format!("--external=mnt[{}]:{IDENTITY}", identity::INSIDE));
        self.run(CRIU, "dump", command, &bundle.join(CRIU_LOG)).await?;
        // criu moved it while it read it.
        group.freeze().await?;
        let copied = image.join(OUTPUT);
        fs::write(&copied, key).map_err(Error::file("write", &copied))?;
        self.memory.of(id).save(&self.launcher, image).await
    }
}

impl Runtime for Criu {
    fn kind(&self) -> Kind {
        Kind::Criu
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn start<'a>(&'a self, sandbox: &'a Sandbox) -> BoxFuture<'a, Result<i32, Error>> {
        self.launch(sandbox, None).boxed()
    }

    fn restore<'a>(
        &'a self,
        sandbox: &'a Sandbox,
        image: &'a Path,
    ) -> BoxFuture<'a, Result<i32, Error>> {
        self.launch(sandbox, Some(image)).boxed()
    }

    fn pause<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move { self.cgroups.group(id).freeze().await }.boxed()
    }

    fn resume<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move { self.cgroups.group(id).thaw().await }.boxed()
    }

    fn page_out<'a>(
        &'a self,
        id: &'a str,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        async move { self.cgroups.group(id).page_out(stop).await }.boxed()
    }

    fn checkpoint<'a>(&'a self, id: &'a str, image: &'a Path) -> BoxFuture<'a, Result<(), Error>> {
        self.dump(id, image).boxed()
    }

    /// Memory is spliced into files of its own, one after the other (criu's `write_pages_loc`), as each is open.
    fn writes_in_order(&self, file: &str) -> bool {
        file.starts_with(PAGES) && file.ends_with(".img")
    }

    fn kill<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            process::end(&self.programs(id).await?).await;
            self.cgroups.group(id).kill().await
        }
        .boxed()
    }

    fn discard<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let (bundle, group) = (self.bundle(id), self.cgroups.group(id));
            group.kill().await?;
            group.remove()?;
            Overlay::unmount(&self.launcher, &bundle).await?;
            self.memory.of(id).remove()?;
            files::remove(&bundle).map_err(Error::file("remove", &bundle))
        }
        .boxed()
    }

    fn group(&self, id: &str) -> Option<Cgroup> {
        Some(self.cgroups.group(id))
    }

    fn unheld(&self, limits: &Resources) -> Resources {
        self.cgroups.unheld(limits)
    }

    /// That of its processes, and its files, which are all in memory.
    fn memory(&self, id: &str, pid: i32, limit: u64) -> io::Result<u64> {
        let processes = self.cgroups.group(id).processes()?;
        let sum = |file: &str, keys: [&str; 2]| {
            // One may end meanwhile.
            let of = |pid: &i32| keys.map(|key| super::kibibytes(*pid, file, &[key]).unwrap_or(0));
            processes.iter().map(of).fold([0, 0], |a, b| [a[0] + b[0] * 1024, a[1] + b[1] * 1024])
        };
        let mut files = self.memory.of(id).bytes()?;
        for tmpfs in TMPFS {
            let usage = rustix::fs::statvfs(Path::new(&format!("/proc/{pid}/root{tmpfs}")))?;
            files += (usage.f_blocks - usage.f_bfree) * usage.f_frsize;
        }
        // Files that are mapped are of both.
        let total = |[own, shared]: [u64; 2]| own + shared.max(files);
        let roughly = total(sum("status", ["RssAnon", "RssShmem"]));
        if roughly <= limit {
            return Ok(roughly);
        }
        // What processes share was counted for each of them.
        Ok(total(sum("smaps_rollup", ["Pss_Anon", "Pss_Shmem"])))
    }

    fn sweep<'a>(&'a self, keep: &'a [String]) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            // A command the agent died over is let finish, so that its sandbox is in a state to go on from.
            for id in keep {
                let programs = self.programs(id).await?;
                process::let_finish(&programs).await;
                process::end(&programs).await;
            }
            let bundles = &self.places.bundles;
            let mut left = files::names(bundles).map_err(Error::file("read", bundles))?;
            left.retain(|id| !keep.contains(id));
            for id in left {
                let gone = async {
                    self.kill(&id).await?;
                    self.discard(&id).await
                };
                if let Err(error) = gone.await {
                    tracing::warn!(sandbox = id, %error, "a leftover sandbox was not deleted");
                }
            }
            let swept = files::blocking(|| yards::sweep(Path::new(yards::PARENT))).await;
            swept.map_err(Error::file("read", Path::new(yards::PARENT)))
        }
        .boxed()
    }

    fn destroy(&self) -> Result<(), Error> {
        self.memory.destroy()?;
        files::remove(&self.places.bundles).map_err(Error::file("remove", &self.places.bundles))
    }
}

/// Puts what the programs need into this thread's namespace.
fn prepare(places: &Places) -> io::Result<()> {
    const TMPFS_MAGIC: i128 = 0x0102_1994;
    const CGROUP2_MAGIC: i128 = 0x6367_7270;
    launcher::own_mounts(&places.mounts)?;
    let is = |path: &str, magic| rustix::fs::statfs(path).map(|fs| i128::from(fs.f_type) == magic);
    // Nothing of ours may be covered. Without it each call takes longer.
    let ours = [&places.bundles, &places.memory].iter().any(|path| path.starts_with(RUN));
    if !ours && !is(RUN, TMPFS_MAGIC)? {
        launcher::cover("tmpfs", Path::new(RUN), MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
    }
    if !is(cgroup::INSIDE, CGROUP2_MAGIC)? {
        launcher::cover("cgroup2", Path::new(cgroup::INSIDE), MsFlags::empty())?;
    }
    Ok(())
}

/// Names the host of a container.
async fn name_host(pid: i32, name: &str) -> Result<(), Error> {
    let uts = PathBuf::from(format!("/proc/{pid}/ns/uts"));
    let (namespace, name) = (uts.clone(), name.to_owned());
    let named = thread("uts", move || {
        setns(File::open(namespace)?, CloneFlags::CLONE_NEWUTS)?;
        rustix::system::sethostname(name.as_bytes())?;
        Ok(())
    });
    named.await.flatten().map_err(Error::file("name the host of", &uts))
}

fn no_streams(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
}

/// What became of a command.
fn ended(
    program: &'static str,
    verb: &'static str,
    status: ExitStatus,
    log: &Path,
) -> Result<(), Error> {
    if status.success() {
        return Ok(());
    }
    let log = fs::read_to_string(log).unwrap_or_default();
    let said = if program == CRIU { first_error(&log) } else { super::last_error(&log) };
    Err(Error::failed(program, verb, said.unwrap_or_else(|| status.to_string())))
}

/// What criu calls a file that is not the container's own.
fn key_of(file: &File) -> io::Result<String> {
    let info = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", file.as_raw_fd()))?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let mount: u32 =
        mount.and_then(|id| id.trim().parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(format!("file[{mount:x}:{:x}]", file.metadata()?.ino()))
}

/// The first error of criu's log: the others follow from it.
fn first_error(log: &str) -> Option<String> {
    let errors = log.lines().filter(|line| !line.contains(NOISE));
    let mut errors = errors.filter_map(|line| line.split_once("Error (")?.1.split_once("): "));
    errors.next().map(|(_, message)| message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_of_consequence_is_told() {
        let log = "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n\
                   (00.01)     7: Error (criu/files.c:12): Can't open file\nError (criu/cr-dump.c:9): Dumping FAILED.\n";
        assert_eq!(first_error(log).as_deref(), Some("Can't open file"));
        assert_eq!(first_error("Warn  (criu/x.c:1): hm\n"), None);
    }
}
