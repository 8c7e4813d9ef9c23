//! [`Cgroups`]: a control group (v2) for each sandbox. It freezes and kills, and knows every process.
//!
//! The groups lie side by side at the root of the hierarchy, named by their sandboxes. A machine may have its controllers
//! in hierarchies of version 1, which are left alone: then there is none here, and [`limits`](crate::limits) holds what
//! the kernel does not.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use reveille_api::manifest::template::Resources;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pageout;
use crate::runtime::Error;

/// How long the kernel is given to freeze processes, or to kill them.
const PATIENCE: Duration = Duration::from_secs(10);
/// Those that hold limits.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Of `cpu.max`, in microseconds; the kernel takes no quota below the second.
const PERIOD: u64 = 100_000;
const MIN_QUOTA: u64 = 1_000;
const FREEZE: &str = "cgroup.freeze";
const PROCS: &str = "cgroup.procs";
/// Where the namespace of CRIU's launcher has the hierarchy: runc looks for it there.
pub(super) const INSIDE: &str = "/sys/fs/cgroup";

/// The hierarchy.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    root: PathBuf,
    /// Of [`CONTROLLERS`], those that are here.
    controllers: Vec<&'static str>,
}

/// One group, be it there or not.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    dir: PathBuf,
}

/// Everything in a group stands still as long as this is held.
#[derive(Debug)]
pub(crate) struct Stopped<'a>(&'a Cgroup);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        // One that is gone needs none.
        let _ = self.0.write(FREEZE, "0");
    }
}

impl Cgroups {
    /// Finds where the hierarchy is mounted.
    pub(crate) fn detect() -> Result<Self, Error> {
        let path = Path::new("/proc/self/mounts");
        let mounts = fs::read_to_string(path).map_err(Error::file("read", path))?;
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let found = mounts.find(|fields| fields.get(2) == Some(&"cgroup2"));
        let root = found.and_then(|fields| fields.get(1).map(PathBuf::from));
        let root = root.ok_or_else(|| {
            Error::Unsupported(
                "cgroup v2 is not mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified".into(),
            )
        })?;
        let there = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let there: Vec<_> = there.split_whitespace().collect();
        let enabled = |name: &str| {
            there.contains(&name)
                && fs::write(root.join("cgroup.subtree_control"), format!("+{name}")).is_ok()
        };
        let controllers = CONTROLLERS.into_iter().filter(|name| enabled(name)).collect();
        Ok(Self { root, controllers })
    }

    /// Limits that the kernel cannot hold here.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &'static str> {
        CONTROLLERS.into_iter().filter(|name| !self.controllers.contains(name))
    }

    /// The part of these limits that the kernel does not hold.
    pub(super) fn unheld(&self, limits: &Resources) -> Resources {
        let missing: Vec<_> = self.missing().collect();
        Resources {
            cpu: limits.cpu.filter(|_| missing.contains(&"cpu")),
            memory: limits.memory.filter(|_| missing.contains(&"memory")),
            pids: limits.pids.filter(|_| missing.contains(&"pids")),
        }
    }

    pub(super) fn group(&self, id: &str) -> Cgroup {
        Cgroup { dir: self.root.join(id) }
    }

    /// Makes the group of a sandbox, with those of its limits that the kernel holds.
    pub(super) fn create(&self, id: &str, limits: &Resources) -> Result<Cgroup, Error> {
        let group = self.group(id);
        fs::create_dir(&group.dir).map_err(Error::file("create", &group.dir))?;
        for (controller, file, value) in settings(limits) {
            if self.controllers.contains(&controller) {
                group.write(file, &value)?;
            }
        }
        Ok(group)
    }
}

/// What to write where, and what must be there for that.
fn settings(limits: &Resources) -> Vec<(&'static str, &'static str, String)> {
    let mut settings = Vec::new();
    if let Some(cpu) = limits.cpu {
        let quota = (cpu.0 * PERIOD / 1000).max(MIN_QUOTA);
        settings.push(("cpu", "cpu.max", format!("{quota} {PERIOD}")));
    }
    if let Some(memory) = limits.memory {
        settings.push(("memory", "memory.max", memory.0.to_string()));
        // Half an actor is of no use.
        settings.push(("memory", "memory.oom.group", "1".into()));
    }
    if let Some(pids) = limits.pids {
        settings.push(("pids", "pids.max", pids.to_string()));
    }
    settings
}

impl Cgroup {
    /// Where the launcher's namespace has it.
    pub(super) fn inside(&self) -> PathBuf {
        Path::new(INSIDE).join(self.dir.file_name().unwrap_or_default())
    }

    /// For those who are to be born in it.
    pub(super) fn open(&self) -> Result<File, Error> {
        File::open(&self.dir).map_err(Error::file("open", &self.dir))
    }

    pub(super) fn exists(&self) -> bool {
        self.dir.exists()
    }

    /// Returns once everything in it stands still.
    pub(super) async fn freeze(&self) -> Result<(), Error> {
        self.write(FREEZE, "1")?;
        self.eventually("freeze", "frozen 1").await
    }

    pub(super) async fn thaw(&self) -> Result<(), Error> {
        self.write(FREEZE, "0")?;
        self.eventually("thaw", "frozen 0").await
    }

    /// See [`Runtime::page_out`](super::Runtime::page_out).
    pub(super) async fn page_out(&self, stop: CancellationToken) -> Result<u64, Error> {
        if !pageout::there_is_swap() {
            return Ok(0);
        }
        let dir = self.dir.clone();
        let moved = crate::files::blocking(move || pageout::page_out(&dir, &stop)).await;
        moved.map_err(Error::file("page out", &self.dir))
    }

    /// Stops everything in it, in a moment.
    pub(crate) fn stop(&self) -> Result<Stopped<'_>, Error> {
        self.write(FREEZE, "1").map(|()| Stopped(self))
    }

    /// CPU time that was used in it.
    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        let used = self.number("cpu.stat", "usage_usec")?;
        used.map(Duration::from_micros).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Processes that the kernel killed for the group's memory limit.
    pub(crate) fn out_of_memory(&self) -> bool {
        self.number("memory.events", "oom_kill").is_ok_and(|killed| killed > Some(0))
    }

    /// Processes and threads in it.
    pub(crate) fn threads(&self) -> io::Result<u64> {
        Ok(fs::read_to_string(self.dir.join("cgroup.threads"))?.lines().count() as u64)
    }

    /// Its processes.
    pub(super) fn processes(&self) -> io::Result<Vec<i32>> {
        let text = fs::read_to_string(self.dir.join(PROCS))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Of a file of lines "key value".
    fn number(&self, file: &str, key: &str) -> io::Result<Option<u64>> {
        let text = fs::read_to_string(self.dir.join(file))?;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        Ok(lines.find(|(name, _)| *name == key).and_then(|(_, value)| value.parse().ok()))
    }

    /// Kills everything in it, frozen or not, and returns once it is gone.
    pub(super) async fn kill(&self) -> Result<(), Error> {
        if !self.dir.exists() {
            return Ok(());
        }
        self.write("cgroup.kill", "1")?;
        self.eventually("kill", "populated 0").await
    }

    pub(super) fn remove(&self) -> Result<(), Error> {
        match fs::remove_dir(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("remove", &self.dir)(error))
            }
            _ => Ok(()),
        }
    }

    fn write(&self, file: &str, value: &str) -> Result<(), Error> {
        let path = self.dir.join(file);
        let written = OpenOptions::new().write(true).open(&path);
        let written = written.and_then(|mut file| file.write_all(value.as_bytes()));
        written.map_err(Error::file("write", &path))
    }

    /// Waits for what `cgroup.events` says.
    async fn eventually(&self, operation: &'static str, wanted: &'static str) -> Result<(), Error> {
        let path = self.dir.join("cgroup.events");
        let waited = crate::files::blocking({
            let path = path.clone();
            move || wait(&path, wanted)
        });
        waited.await.map_err(Error::file(operation, &self.dir))
    }
}

fn wait(events: &Path, wanted: &str) -> io::Result<()> {
    let mut file = File::open(events)?;
    let deadline = Instant::now() + PATIENCE;
    let mut text = String::new();
    loop {
        text.clear();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        if text.lines().any(|line| line == wanted) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        // Wakes when the file says something else than it did when it was read.
        let changed = PollFlags::PRI | PollFlags::ERR;
        let seen = poll(&mut [PollFd::from_borrowed_fd(file.as_fd(), changed)], Some(&timeout))?;
        if seen == 0 && left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("still {text:?}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use reveille_api::manifest::quantity::{Bytes, Cpu};

    use super::*;

    #[test]
    fn limits_are_written_for_the_controllers_there_are_and_the_others_are_told() {
        let limits = Resources { cpu: Some(Cpu(1500)), memory: Some(Bytes(9)), pids: Some(3) };
        let dir = tempfile::tempdir().unwrap();
        let some = Cgroups { root: dir.path().into(), controllers: vec!["memory", "cpu"] };
        let unheld = Resources { pids: Some(3), ..Resources::default() };
        assert_eq!(some.unheld(&limits), unheld);
        assert_eq!(some.missing().collect::<Vec<_>>(), ["pids"]);
        let written = settings(&limits);
        let written: Vec<_> = written.iter().map(|(_, file, value)| (*file, &**value)).collect();
        let expected =
            [("cpu.max", "150000 100000"), ("memory.max", "9"), ("memory.oom.group", "1")];
        assert_eq!(written[..3], expected);
        assert_eq!(settings(&Resources { cpu: Some(Cpu(1)), ..unheld })[0].2, "1000 100000");
    }
}
