//! [`Launcher`]: starts programs, from a thread with its own mount namespace where that is needed.
//!
//! runsc of 2024 takes the network namespace it is given for the machine's own when it finds
//! `/proc/sys/net/core/rmem_default` in it, and then refuses to work. Newer kernels show that file in every
//! namespace. So where they do, runsc runs with an empty directory over `/proc/sys/net`, in a mount namespace
//! that belongs to this one thread and ends with it; the agent itself stays where it was.

use std::{
    io,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use tokio::{process::Child, runtime::Handle, sync::oneshot};

use crate::slots::Netns;

const HIDDEN: &str = "/proc/sys/net";
const MARK: &str = "/proc/sys/net/core/rmem_default";

/// A handle to the launching thread; the thread ends when the last handle is gone.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    jobs: mpsc::Sender<Job>,
}

struct Job {
    command: Command,
    kill_on_drop: bool,
    reply: oneshot::Sender<io::Result<Child>>,
}

impl Launcher {
    /// Starts the thread. `pins` is the directory of pinned namespaces, which must not be held by a copy.
    pub(crate) async fn start(pins: &Path) -> io::Result<Self> {
        let hide = Netns::create().await?.enter(|| Path::new(MARK).exists()).await?;
        let pins = pins.to_owned();
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = oneshot::channel();
        let runtime = Handle::current();
        std::thread::Builder::new().name("launcher".into()).spawn(move || {
            let prepared = if hide { hide_sysctls(&pins) } else { Ok(()) };
            let failed = prepared.is_err();
            let _ = ready.send(prepared);
            if failed {
                return;
            }
            let _entered = runtime.enter();
            for job in queue {
                let mut command = tokio::process::Command::from(job.command);
                let child = command.kill_on_drop(job.kill_on_drop).spawn();
                let _ = job.reply.send(child);
            }
        })?;
        started.await.map_err(io::Error::other)??;
        if hide {
            tracing::debug!("runsc runs with an empty directory over /proc/sys/net");
        }
        Ok(Self { jobs })
    }

    /// Starts a program without environment and input, in the root directory.
    pub(crate) async fn spawn(
        &self,
        mut command: Command,
        kill_on_drop: bool,
    ) -> io::Result<Child> {
        command.env_clear().stdin(Stdio::null()).current_dir("/");
        let (reply, child) = oneshot::channel();
        let gone = || io::Error::other("the launcher thread is gone");
        self.jobs.send(Job { command, kill_on_drop, reply }).map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}

/// Gives this thread a mount namespace of its own, without the pinned namespaces and with nothing in [`HIDDEN`].
fn hide_sysctls(pins: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for name in crate::files::names(pins)? {
        let _ = umount2(&pins.join(name), MntFlags::MNT_DETACH);
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), HIDDEN, Some("tmpfs"), flags, none)?;
    Ok(())
}
