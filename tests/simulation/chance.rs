//! Chance that does not ask the kernel: it all begins with the seed.
//!
//! Jitter (`rand`), names (`uuid`), the order of hash tables (`std`) and of `select!` (`tokio`) all begin with the C library's
//! `getrandom`. Here it is a series that the seed begins, for the thread of the simulation. Two of them also count how often
//! they were asked in this process, so each run is a process of its own: see `main.rs`.

#![allow(unsafe_code, reason = "a symbol of the C library is replaced, for this test alone")]

use std::{cell::Cell, slice};

thread_local! {
    static SERIES: Cell<u64> = const { Cell::new(0) };
}

/// Begins the series of this thread.
pub(crate) fn begin(seed: u64) {
    SERIES.set(seed);
}

/// Where this thread's series is: somewhere else if anybody has asked once more, or less.
pub(crate) fn so_far() -> u64 {
    SERIES.get()
}

/// As the C library's, without chance.
///
/// # Safety
///
/// `buffer` has `length` bytes to write to.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _: u32) -> isize {
    if length > 0 {
        // SAFETY: the caller's promise.
        let bytes = unsafe { slice::from_raw_parts_mut(buffer, length) };
        bytes.fill_with(|| next().to_le_bytes()[3]);
    }
    length.cast_signed()
}

/// SplitMix64.
fn next() -> u64 {
    let state = SERIES.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    SERIES.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
