//! Programs that are born in a control group.
//!
//! Whoever moves a process into a group waits until every processor has been quiet once, which is 8 to 20 ms of a wake
//! on two cores. A process that is made in its group waits for nobody: `clone3`, of Linux 5.7.
//!
//! Between `clone3` and `execve` the child is a copy of a process of many threads with only one of them: another may have held
//! any lock. It makes system calls and nothing else.

#![allow(unsafe_code)]

use std::{
    ffi::{CString, c_char, c_int},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsRawFd, RawFd},
        unix::{ffi::OsStrExt, process::ExitStatusExt},
    },
    process::{Command, ExitStatus},
    ptr,
};

use nix::libc;
use reveille_api::task;
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
};

use crate::process::Process;

/// From `linux/sched.h`; they do not fit into the type that `libc` has for them.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// What a program has for input, output and errors.
pub(super) type Streams = [File; 3];

/// Those given, and nothing.
pub(super) fn streams(
    input: Option<File>,
    output: &File,
    errors: Option<&File>,
) -> io::Result<Streams> {
    let null = || File::options().read(true).write(true).open("/dev/null");
    Ok([
        input.map_or_else(null, Ok)?,
        output.try_clone()?,
        errors.map_or_else(null, File::try_clone)?,
    ])
}

/// A child of this process. Dropped before its end was waited for, it is killed.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    process: Process,
    waited: bool,
}

impl Child {
    /// Returns once it has ended. Cancel safe.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.process.exited().await;
        self.waited = true;
        reap(self.pid)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.waited {
            return;
        }
        // At once: who looks for what is left over must not find it still starting something.
        self.process.kill();
        let (pid, process) = (self.pid, self.process.clone());
        task::detach("reap", async move {
            process.exited().await;
            let _ = reap(pid);
        });
    }
}

/// Blocks until it has ended.
fn reap(pid: Pid) -> io::Result<ExitStatus> {
    let ended = waitpid(Some(pid), WaitOptions::empty())?;
    let (_, status) = ended.ok_or(io::ErrorKind::NotFound)?;
    Ok(ExitStatus::from_raw(status.as_raw()))
}

/// Starts a program, named by its path, in the root directory and without environment. With a group, given by its open
/// directory, it is in it from its first moment. Of the command only the program and the arguments are used. Returns once the
/// program runs.
pub(super) fn spawn(
    command: &Command,
    streams: &Streams,
    group: Option<&File>,
) -> io::Result<Child> {
    let text = |part: &std::ffi::OsStr| CString::new(part.as_bytes());
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words = words.map(text).collect::<Result<Vec<_>, _>>()?;
    let arguments: Vec<_> = words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC)?;
    let program = Program {
        arguments: &arguments,
        streams: streams.each_ref().map(AsRawFd::as_raw_fd),
        tell: tell.as_raw_fd(),
    };
    let into = group.map_or(0, |_| CLONE_INTO_CGROUP);
    let how = libc::clone_args {
        flags: CLONE_CLEAR_SIGHAND | into,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: group.map_or(0, |group| group.as_raw_fd() as u64),
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
    };
    // SAFETY: `how` is as large as is said and lives until the call is over. Without CLONE_VM the child has memory of its own, in
    // which everything that `program` points to stays as it is; it never returns from `become_it`.
    let pid = unsafe {
        let pid = libc::syscall(libc::SYS_clone3, &raw const how, size_of::<libc::clone_args>());
        if pid == 0 {
            program.become_it()
        }
        pid
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    drop(tell);
    let pid = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::InvalidData)?;
    let mut errno = [0; size_of::<c_int>()];
    // It ends with nothing when the program runs.
    let failed = match File::from(told).read_exact(&mut errno) {
        Ok(()) => Some(io::Error::from_raw_os_error(c_int::from_ne_bytes(errno))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        Err(error) => Some(error),
    };
    let process = match failed {
        None => Process::open(pid.as_raw_nonzero().get()),
        Some(error) => Err(error),
    };
    match process {
        Ok(process) => Ok(Child { pid, process, waited: false }),
        Err(error) => {
            let _ = kill_process(pid, Signal::KILL);
            let _ = reap(pid);
            Err(error)
        }
    }
}

/// What the child needs, made before there is one.
struct Program<'a> {
    /// With a null at their end; the first is the program.
    arguments: &'a [*const c_char],
    streams: [RawFd; 3],
    /// Where it says why it could not be.
    tell: RawFd,
}

impl Program<'_> {
    /// # Safety
    ///
    /// Only in a child that has this memory for itself. The pointers are of strings that live, and the descriptors are open and
    /// above those of the three streams, as all are that this program opens.
    unsafe fn become_it(&self) -> ! {
        // SAFETY: only system calls, by functions that are safe after a fork; every pointer is of this function or as is asked for.
        unsafe {
            let mut nothing = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut nothing);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const nothing, ptr::null_mut());
            // Ignored by Rust's programs, and what is ignored stays so.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let mut ready = libc::chdir(c"/".as_ptr()) == 0;
            for (number, stream) in self.streams.iter().enumerate() {
                ready = ready && libc::dup2(*stream, number as c_int) >= 0;
            }
            if ready {
                let none = [ptr::null::<c_char>()];
                libc::execve(self.arguments[0], self.arguments.as_ptr(), none.as_ptr());
            }
            let errno = *libc::__errno_location();
            libc::write(self.tell, (&raw const errno).cast(), size_of::<c_int>());
            libc::_exit(127)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    fn streams(output: &File) -> Streams {
        super::streams(None, output, None).unwrap()
    }

    fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh", "an argument"]);
        command
    }

    #[tokio::test]
    async fn a_program_has_its_arguments_and_streams_nothing_else_and_its_end_is_told() {
        let mut output = tempfile::tempfile().unwrap();
        let command = sh("echo \"$1\"; pwd; env | grep -v ^_= | grep -v ^PWD=; kill -PIPE $$");
        let mut child = spawn(&command, &streams(&output), None).unwrap();
        let status = child.wait().await.unwrap();
        assert_eq!(status.signal(), Some(libc::SIGPIPE), "{status}");
        let mut text = String::new();
        io::Seek::rewind(&mut output).unwrap();
        output.read_to_string(&mut text).unwrap();
        assert_eq!(text, "an argument\n/\n");
        let mut child = spawn(&sh("exit 7"), &streams(&output), None).unwrap();
        assert_eq!(child.wait().await.unwrap().code(), Some(7));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_told_and_leaves_no_process() {
        let output = tempfile::tempfile().unwrap();
        let error = spawn(&Command::new("/no/such"), &streams(&output), None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_any_more_is_killed_and_reaped() {
        let output = tempfile::tempfile().unwrap();
        let child = spawn(&sh("read -r line < /dev/zero"), &streams(&output), None).unwrap();
        let stat = format!("/proc/{}/stat", child.pid.as_raw_nonzero());
        drop(child);
        let gone = async {
            while fs::exists(&stat).unwrap() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
    }
}
