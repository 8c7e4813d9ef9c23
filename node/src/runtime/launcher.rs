//! [`Launcher`]: starts programs from a thread with a mount namespace of its own.
//!
//! What a runtime's programs must find elsewhere than the machine has it is put there in that namespace, which belongs
//! to this one thread and ends with it; the agent itself stays where it was.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::mpsc,
    time::Duration,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use tokio::{process::Child, runtime::Handle, sync::oneshot};

use super::{Error, born, born::Streams, cgroup::Cgroup};

/// Bounds programs whose caller gives no deadline of its own.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

type Job = Box<dyn FnOnce() + Send>;

/// A handle to the launching thread; the thread ends when the last handle is gone.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    jobs: mpsc::Sender<Job>,
}

impl Launcher {
    /// Starts the thread, and does this on it before anything else.
    pub(crate) async fn start(
        prepare: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = oneshot::channel();
        let runtime = Handle::current();
        std::thread::Builder::new().name("launcher".into()).spawn(move || {
            let prepared = prepare();
            let failed = prepared.is_err();
            let _ = ready.send(prepared);
            if failed {
                return;
            }
            let _entered = runtime.enter();
            for job in queue {
                job();
            }
        })?;
        started.await.map_err(io::Error::other)??;
        Ok(Self { jobs })
    }

    /// Does something quick on the thread, unless nobody waits for it any more when its turn comes.
    pub(crate) async fn enter<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (reply, done) = oneshot::channel();
        let job = Box::new(move || {
            if !reply.is_closed() {
                let _ = reply.send(work());
            }
        });
        let gone = || io::Error::other("the launcher thread is gone");
        self.jobs.send(job).map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }

    /// Starts a program without environment, in the root directory.
    pub(crate) async fn spawn(
        &self,
        mut command: Command,
        kill_on_drop: bool,
    ) -> io::Result<Child> {
        command.env_clear().current_dir("/");
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(kill_on_drop);
        self.enter(move || command.spawn()).await
    }

    /// Runs a program that is [born](born) in this group to its end, if that comes in time; it is killed if nobody waits
    /// for it any more.
    pub(super) async fn run_in(
        &self,
        group: Option<&Cgroup>,
        program: &'static str,
        verb: &'static str,
        command: Command,
        streams: Streams,
    ) -> Result<ExitStatus, Error> {
        let group = group.map(Cgroup::open).transpose()?;
        let path = PathBuf::from(command.get_program());
        let failed = |source| Error::Spawn { program: path.clone(), source };
        let child = self.enter(move || born::spawn(&command, &streams, group.as_ref()));
        let mut child = child.await.map_err(failed)?;
        match tokio::time::timeout(LIMIT, child.wait()).await {
            Ok(status) => status.map_err(failed),
            Err(_) => Err(Error::TimedOut { program, command: verb, limit: LIMIT }),
        }
    }

    /// Runs a program to its end, if that comes in time.
    pub(crate) async fn run(
        &self,
        program: &'static str,
        verb: &'static str,
        command: Command,
        kill_on_drop: bool,
    ) -> Result<ExitStatus, Error> {
        let path = PathBuf::from(command.get_program());
        let failed = |source| Error::Spawn { program: path.clone(), source };
        let mut child = self.spawn(command, kill_on_drop).await.map_err(failed)?;
        match tokio::time::timeout(LIMIT, child.wait()).await {
            Ok(status) => status.map_err(failed),
            Err(_) => {
                let _ = child.kill().await;
                Err(Error::TimedOut { program, command: verb, limit: LIMIT })
            }
        }
    }
}

/// Gives this thread a mount namespace of its own, without these mounts of the agent, which must not be held by a copy.
pub(super) fn own_mounts(without: &[PathBuf]) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for path in without {
        let _ = umount2(path, MntFlags::MNT_DETACH);
    }
    Ok(())
}

/// Mounts something small over a directory, in this thread's namespace.
pub(super) fn cover(kind: &str, path: &Path, flags: MsFlags) -> io::Result<()> {
    mount(Some(kind), path, Some(kind), flags, None::<&str>)?;
    Ok(())
}
