//! Starts Envoy from a thread that lives as long as the supervisor.
//!
//! The kernel sends the signal of `PDEATHSIG` when the *thread* ends that started the process, not the process
//! that the thread belongs to. Threads of a runtime come and go; this one goes when [`Launcher`] is dropped or
//! the process ends, however it ends.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc,
};

use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

type Order = (Command, oneshot::Sender<io::Result<Child>>);

#[derive(Debug)]
pub(super) struct Launcher {
    orders: mpsc::Sender<Order>,
    /// Asks the kernel to kill what it then becomes, when we die. From util-linux.
    setpriv: Option<PathBuf>,
}

impl Launcher {
    /// Must be called in a runtime.
    pub(super) fn start() -> io::Result<Self> {
        let (orders, received) = mpsc::channel::<Order>();
        let runtime = Handle::current();
        std::thread::Builder::new().name("envoy-launcher".into()).spawn(move || {
            let _inside = runtime.enter();
            for (mut command, reply) in received {
                let _ = reply.send(command.spawn());
            }
        })?;
        let setpriv = setpriv();
        if setpriv.is_none() {
            tracing::warn!(
                "setpriv is not on PATH: an Envoy outlives a supervisor that is killed, until the next start"
            );
        }
        Ok(Self { orders, setpriv })
    }

    /// A command that dies with this launcher, knows nothing of our environment, and gets no Ctrl-C of a
    /// terminal: that is for the supervisor, which drains.
    pub(super) fn command(&self, binary: &Path) -> Command {
        let mut command = match &self.setpriv {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        command
            .env_clear()
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::inherit())
            .stderr(Stdio::piped());
        command
    }

    pub(super) async fn launch(&self, command: Command) -> io::Result<Child> {
        let (reply, launched) = oneshot::channel();
        let gone = || io::Error::other("the launcher thread is gone");
        self.orders.send((command, reply)).map_err(|_| gone())?;
        launched.await.map_err(|_| gone())?
    }
}

/// Where `setpriv` is.
pub(super) fn setpriv() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join("setpriv")).find(|file| file.is_file())
}
