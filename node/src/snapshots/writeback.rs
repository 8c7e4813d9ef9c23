//! Has the kernel write a part of a file to the disk, without waiting for it.
#![allow(unsafe_code)]

use std::{fs::File, io, ops::Range, os::fd::AsRawFd};

use nix::libc;

/// Begins. Waits at most until the disk's queue has room, and never for the file system's journal, as a sync does: a writer of
/// the same file is not held up. Says nothing of what has arrived: that takes a sync, which finds little left to do.
pub(super) fn begin(file: &File, bytes: Range<u64>) -> io::Result<()> {
    let (from, length) = (bytes.start as i64, (bytes.end - bytes.start) as i64);
    // SAFETY: it takes no pointer, and the descriptor is open as long as the file is borrowed.
    let begun = unsafe {
        libc::sync_file_range(file.as_raw_fd(), from, length, libc::SYNC_FILE_RANGE_WRITE)
    };
    if begun < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
