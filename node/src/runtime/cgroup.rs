//! [`Cgroups`]: a control group (v2) for each sandbox. It freezes and kills, and knows every process.
//!
//! The groups lie side by side at the root of the hierarchy, named by their sandboxes. A machine may have its controllers
//! in hierarchies of version 1, which are left alone: then there is none here, and of limits only what needs none.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pageout;
use crate::runtime::Error;

/// How long the kernel is given to freeze processes, or to kill them.
const PATIENCE: Duration = Duration::from_secs(10);
const PIDS: &str = "pids";
const PROCS: &str = "cgroup.procs";
/// Where the namespace of CRIU's launcher has the hierarchy: runc looks for it there.
pub(super) const INSIDE: &str = "/sys/fs/cgroup";

/// The hierarchy.
#[derive(Clone, Debug)]
pub(super) struct Cgroups {
    root: PathBuf,
    limits_pids: bool,
}

/// One group, be it there or not.
#[derive(Clone, Debug)]
pub(super) struct Cgroup {
    dir: PathBuf,
}

impl Cgroups {
    /// Finds where the hierarchy is mounted.
    pub(super) fn detect() -> Result<Self, Error> {
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
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let mut limits_pids = controllers.split_whitespace().any(|controller| controller == PIDS);
        if limits_pids {
            limits_pids = fs::write(root.join("cgroup.subtree_control"), "+pids").is_ok();
        }
        Ok(Self { root, limits_pids })
    }

    pub(super) fn group(&self, id: &str) -> Cgroup {
        Cgroup { dir: self.root.join(id) }
    }

    /// Makes the group of a sandbox.
    pub(super) fn create(&self, id: &str, pids: Option<u64>) -> Result<Cgroup, Error> {
        let group = self.group(id);
        fs::create_dir(&group.dir).map_err(Error::file("create", &group.dir))?;
        if let Some(pids) = pids.filter(|_| self.limits_pids) {
            group.write("pids.max", &pids.to_string())?;
        }
        Ok(group)
    }
}

impl Cgroup {
    /// Where the launcher's namespace has it.
    pub(super) fn inside(&self) -> PathBuf {
        Path::new(INSIDE).join(self.dir.file_name().unwrap_or_default())
    }

    /// Whoever writes 0 to this file is in the group from then on, and so are its children.
    pub(super) fn entrance(&self) -> PathBuf {
        self.dir.join(PROCS)
    }

    /// The same file where the launcher's namespace has it.
    pub(super) fn entrance_inside(&self) -> PathBuf {
        self.inside().join(PROCS)
    }

    pub(super) fn exists(&self) -> bool {
        self.dir.exists()
    }

    /// Returns once everything in it stands still.
    pub(super) async fn freeze(&self) -> Result<(), Error> {
        self.write("cgroup.freeze", "1")?;
        self.eventually("freeze", "frozen 1").await
    }

    pub(super) async fn thaw(&self) -> Result<(), Error> {
        self.write("cgroup.freeze", "0")?;
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
