//! What a process does with a signal, as the kernel tells it.

use rustix::process::Signal;

/// True when this process was started with the signal ignored.
pub(super) fn ignored(signal: Signal) -> bool {
    has("self", "SigIgn:", signal).unwrap_or(false)
}

/// True when a process has a handler for the signal; nothing when there is no such process.
pub(super) fn caught(pid: u32, signal: Signal) -> Option<bool> {
    has(&pid.to_string(), "SigCgt:", signal)
}

fn has(pid: &str, set: &str, signal: Signal) -> Option<bool> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix(set))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask & (1 << (signal.as_raw() - 1)) != 0)
}
