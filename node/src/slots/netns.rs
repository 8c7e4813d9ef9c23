//! [`Netns`]: network namespaces, entered by short-lived threads.
//!
//! A thread that changes its namespace is never given back to a pool: it does its work and ends.

use std::{
    cell::RefCell,
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use tokio::sync::oneshot;

const SELF: &str = "/proc/thread-self/ns/net";

thread_local! {
    /// See [`until_the_end`].
    static KEPT: RefCell<Vec<Rc<OwnedFd>>> = const { RefCell::new(Vec::new()) };
}

/// A network namespace held by a descriptor. It ends when nothing holds it: descriptor, process or pin.
#[derive(Clone, Debug)]
pub(crate) struct Netns {
    fd: Arc<OwnedFd>,
}

impl Netns {
    /// A new one. Routers have no use for IPv6 here, and without it nothing waits for its address checks.
    pub(crate) async fn create() -> io::Result<Self> {
        thread("netns-create", || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            for scope in ["all", "default"] {
                write_sysctl(&format!("ipv6/conf/{scope}/disable_ipv6"), "1")?;
            }
            Ok(Self { fd: Arc::new(File::open(SELF)?.into()) })
        })
        .await?
    }

    /// The one pinned at `path`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { fd: Arc::new(File::open(path)?.into()) })
    }

    /// Pins it at `path`, so that it outlives the agent.
    pub(crate) fn pin(&self, path: &Path) -> io::Result<()> {
        File::create(path)?;
        mount(Some(&self.path()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    }

    /// Where any process of this machine can open it, as long as the agent lives.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()).into()
    }

    pub(crate) fn raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Does blocking work inside.
    pub(crate) async fn enter<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let fd = self.fd.clone();
        thread("netns", move || {
            setns(&*fd, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
        .await?
    }
}

/// Removes a pin; none there is well too.
pub(crate) fn unpin(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => crate::files::remove(path),
        Err(error) => Err(error.into()),
    }
}

/// Sets a network parameter of the thread's namespace. One this kernel does not have needs no setting.
pub(crate) fn write_sysctl(name: &str, value: &str) -> io::Result<()> {
    match std::fs::write(Path::new("/proc/sys/net").join(name), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

/// Keeps a descriptor open until the thread ends, when the result of its work is known: the kernel takes 10 to 30 ms to close
/// a socket that changed rules or saw packets.
pub(super) fn until_the_end(fd: OwnedFd) -> Rc<OwnedFd> {
    let fd = Rc::new(fd);
    KEPT.with_borrow_mut(|kept| kept.push(fd.clone()));
    fd
}

/// Does work on a thread of its own.
pub(crate) async fn thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (reply, done) = oneshot::channel();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        let _ = reply.send(work());
    })?;
    done.await.map_err(|_| io::Error::other(format!("the {name:?} thread panicked")))
}
