//! An Envoy that an earlier supervisor of the same directory left behind: found and killed.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// The kernel ends a killed process soon, or it hangs in the kernel.
const DEADLINE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Kills every process of this binary that runs with this bootstrap; returns how many there were. The caller
/// holds the lock of the directory, so none of them has a supervisor. Blocks.
pub(super) fn kill(binary: &Path, bootstrap: &Path) -> io::Result<usize> {
    let mut killed = 0;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        if !is_ours(pid, binary, bootstrap) {
            continue;
        }
        // The descriptor is of one process only: when it is still ours now, it is for ever.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if !is_ours(pid, binary, bootstrap) {
            continue;
        }
        tracing::warn!(pid = pid.as_raw_pid(), "killing an Envoy that was left behind");
        pidfd_send_signal(&process, Signal::KILL)?;
        // Readable when it has ended.
        if poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&DEADLINE))? == 0 {
            return Err(io::Error::other(format!("process {} does not die", pid.as_raw_pid())));
        }
        killed += 1;
    }
    Ok(killed)
}

fn is_ours(pid: Pid, binary: &Path, bootstrap: &Path) -> bool {
    let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_pid()));
    // The binary may have been replaced since; the kernel then adds to its name.
    let same_binary = fs::read_link(proc.join("exe")).is_ok_and(|exe| {
        let bytes = exe.as_os_str().as_bytes();
        let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
        Path::new(OsStr::from_bytes(bytes)).file_name() == binary.file_name()
    });
    same_binary
        && fs::read(proc.join("cmdline")).is_ok_and(|line| {
            line.split(|byte| *byte == 0).any(|arg| arg == bootstrap.as_os_str().as_bytes())
        })
}
