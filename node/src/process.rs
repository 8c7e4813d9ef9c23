//! [`Process`]: a sandbox process, held by a pidfd so that its number cannot come to mean another one.

#![allow(unsafe_code)]

use std::{fs, io, os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

/// How long a new agent waits for commands of the one before it.
const COMMAND: Duration = Duration::from_secs(10);

/// Which process this is, also after a restart of the agent: a pid is used again, a pid with its start time is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Clock ticks from boot to its start.
    pub(crate) started: u64,
}

/// A process that need not be a child.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    id: ProcessId,
    fd: Arc<AsyncFd<OwnedFd>>,
}

impl Process {
    /// Takes hold of a process known to run now.
    pub(crate) fn open(pid: i32) -> io::Result<Self> {
        let number = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        let fd = pidfd_open(number, PidfdFlags::NONBLOCK)?;
        // Read after the pidfd is open: it cannot be another process's any more.
        let started = start_time(pid)?;
        // SAFETY: an `OwnedFd` is open and stays the same descriptor until it is dropped, with the `AsyncFd`.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { id: ProcessId { pid, started }, fd: Arc::new(fd) })
    }

    /// Takes hold of a process seen earlier; `NotFound` when it is gone, whoever has its pid now.
    pub(crate) fn reopen(id: ProcessId) -> io::Result<Self> {
        let process = Self::open(id.pid)?;
        if process.id == id { Ok(process) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    pub(crate) fn id(&self) -> ProcessId {
        self.id
    }

    /// SIGKILL; a process that is gone already is well too.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(self.fd.get_ref(), Signal::KILL);
    }

    /// Returns once it has ended.
    pub(crate) async fn exited(&self) {
        // An error means the reactor is gone: nobody waits any more.
        let _ = self.fd.readable().await;
    }

    /// True for one that has ended, also if nobody has asked yet how.
    pub(crate) fn is_over(&self) -> bool {
        let ended = PollFd::new(self.fd.get_ref(), PollFlags::IN);
        poll(&mut [ended], Some(&Timespec::default())).is_ok_and(|ended| ended > 0)
    }

    /// Kills it and returns once it is gone.
    pub(crate) async fn end(&self) {
        self.kill();
        self.exited().await;
    }
}

/// Field 22 of `/proc/<pid>/stat`; the second one may contain blanks and parentheses.
fn start_time(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let field = fields.split_whitespace().nth(19);
    field.and_then(|field| field.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Processes that have this argument (it names a path of ours), with all their arguments.
fn with_argument(wanted: &str) -> io::Result<Vec<(i32, Vec<String>)>> {
    let mut found = Vec::new();
    for name in crate::files::names(Path::new("/proc"))? {
        let Ok(pid) = name.parse::<i32>() else { continue };
        // It may end while we look.
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let line = line.strip_suffix(&[0]).unwrap_or(&line);
        let arguments: Vec<_> =
            line.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
        if arguments.iter().any(|argument| argument == wanted) {
            found.push((pid, arguments));
        }
    }
    Ok(found)
}

/// The processes that have this argument and are wanted by all their arguments.
pub(crate) async fn all(
    argument: String,
    wanted: impl Fn(&[String]) -> bool,
) -> io::Result<Vec<Process>> {
    let found = crate::files::blocking(move || with_argument(&argument)).await?;
    let wanted = found.into_iter().filter(|(_, arguments)| wanted(arguments));
    // One that has ended meanwhile is of no interest.
    Ok(wanted.filter_map(|(pid, _)| Process::open(pid).ok()).collect())
}

/// Kills processes and returns once they are gone.
pub(crate) async fn end(processes: &[Process]) {
    futures::future::join_all(processes.iter().map(Process::end)).await;
}

/// Gives commands of an agent that died some time to end.
pub(crate) async fn let_finish(commands: &[Process]) {
    let finished = futures::future::join_all(commands.iter().map(Process::exited));
    let _ = tokio::time::timeout(COMMAND, finished).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_found_by_its_argument_and_known_by_its_start() {
        let argument = format!("--mark=/{}", uuid::Uuid::now_v7());
        let script = ["-c", "read line", "sh", &argument];
        let mut child = tokio::process::Command::new("sh")
            .args(script)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let process = Process::open(child.id().unwrap() as i32).unwrap();
        let again = Process::reopen(process.id()).unwrap();
        let other = ProcessId { started: process.id().started + 1, ..process.id() };
        assert_eq!(Process::reopen(other).unwrap_err().kind(), io::ErrorKind::NotFound);
        // Until exec the child still shows our own command line.
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
        while with_argument(&argument).unwrap().is_empty() {
            assert!(tokio::time::Instant::now() < deadline, "never seen");
            tokio::task::yield_now().await;
        }
        assert!(!again.is_over());
        end(&all(argument.clone(), |_| true).await.unwrap()).await;
        // Nobody has waited for it.
        assert!(again.is_over());
        again.exited().await;
        child.wait().await.unwrap();
        assert!(with_argument(&argument).unwrap().is_empty());
        assert!(Process::reopen(process.id()).is_err());
    }
}
