//! Time that does not ask the kernel: on the thread of the simulation it passes with the steps of the world.
//!
//! `tokio`'s time is the simulation's anyway. But HTTP/2 forgets reset streams by the standard library's `Instant`, and names
//! (`uuid`), records and `date` headers by its `SystemTime`; both ask the C library's `clock_gettime`.

#![allow(unsafe_code, reason = "a symbol of the C library is replaced, for this test alone")]

use std::{cell::Cell, time::Duration};

use rustix::time::{ClockId, Timespec};

/// Some day, at which every run begins.
const BEGIN: Duration = Duration::from_secs(1_800_000_000);

thread_local! {
    static NOW: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// So much of the run of this thread has passed.
pub(crate) fn set(elapsed: Duration) {
    NOW.set(Some(BEGIN + elapsed));
}

/// As the C library's; every clock shows the time of the world, if this thread has one.
///
/// # Safety
///
/// `time` may be written to.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: i32, time: *mut Timespec) -> i32 {
    let now = match (NOW.get(), ClockId::try_from(clock)) {
        (Some(now), _) => Timespec::try_from(now).expect("a time"),
        (None, Ok(clock)) => rustix::time::clock_gettime(clock),
        (None, Err(_)) => return -1,
    };
    // SAFETY: the caller's promise.
    unsafe { time.write(now) };
    0
}
