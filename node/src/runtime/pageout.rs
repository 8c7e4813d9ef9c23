//! Memory of processes that stand still, moved to swap.
//!
//! A group that has `memory.reclaim` is told there how much to give back. Where the memory controller is one of version 1 there
//! is none, and the kernel is told of each range of each process (`process_madvise`). It leaves where they are pages
//! that more than one process has in its tables. Nothing here waits for the process, and nothing makes it wait: a page is
//! read back when it is touched.

#![allow(unsafe_code)]

use std::{
    fs, io,
    ops::Range,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
};

use nix::libc;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio_util::sync::CancellationToken;

/// Of one call: between two of them it is seen that the actor is wanted.
const STEP: usize = 16 << 20;

/// True when the machine has anywhere to move memory to.
pub(crate) fn there_is_swap() -> bool {
    // The first line is the table's head.
    fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1)
}

/// As far as it goes, or until `stop`. Returns how many bytes less these processes have in memory.
pub(super) fn page_out(group: &Path, stop: &CancellationToken) -> io::Result<u64> {
    let pids: Vec<i32> = fs::read_to_string(group.join("cgroup.procs"))?
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    let before = resident(&pids);
    let reclaim = group.join("memory.reclaim");
    if reclaim.exists() {
        // Refused once there is less than that to be had.
        while !stop.is_cancelled() && fs::write(&reclaim, STEP.to_string()).is_ok() {}
    } else {
        for pid in &pids {
            match of_process(*pid, stop) {
                // It has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                outcome => outcome?,
            }
        }
    }
    Ok(before.saturating_sub(resident(&pids)))
}

fn of_process(pid: i32, stop: &CancellationToken) -> io::Result<()> {
    let number = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(number, PidfdFlags::empty())?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    for range in maps.lines().filter_map(range) {
        for from in range.clone().step_by(STEP) {
            if stop.is_cancelled() {
                return Ok(());
            }
            // Ranges that the kernel never moves (locked, of a device) are refused, and stay.
            match advise(process.as_fd(), from..range.end.min(from + STEP)) {
                Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Of a line of `maps`, unless nothing can be in it.
fn range(line: &str) -> Option<Range<usize>> {
    let (range, rest) = line.split_once(' ')?;
    let (from, to) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    // Reserved: sandboxes have terabytes of it.
    (!rest.starts_with("---")).then_some(address(from)?..address(to)?)
}

fn advise(process: BorrowedFd<'_>, range: Range<usize>) -> io::Result<()> {
    let vector = libc::iovec {
        iov_base: std::ptr::with_exposed_provenance_mut(range.start),
        iov_len: range.len(),
    };
    // SAFETY: the kernel reads one `iovec`, which lives until the call is over. The addresses in it are of the other process: they
    // are not memory of this one, and the advice changes no byte of that one's.
    let advised = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            process.as_raw_fd(),
            &raw const vector,
            1_usize,
            libc::MADV_PAGEOUT,
            0_u32,
        )
    };
    if advised < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Bytes that these have in memory, what they share counted for each.
fn resident(pids: &[i32]) -> u64 {
    let of = |pid: &i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        text.split(' ').nth(1)?.parse::<u64>().ok()
    };
    pids.iter().filter_map(of).sum::<u64>() * rustix::param::page_size() as u64
}
