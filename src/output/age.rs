//! Times: RFC 3339 for programs, "3m12s" for people.

use std::time::Duration;

use jiff::Timestamp;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The time of `unix_ms`; 0 is never.
pub(crate) fn at(unix_ms: u64) -> Option<Timestamp> {
    let ms = i64::try_from(unix_ms).ok().filter(|ms| *ms > 0)?;
    Timestamp::from_millisecond(ms).ok()
}

/// How long ago that was, for people.
pub(crate) fn since(then: Option<Timestamp>) -> String {
    let Some(then) = then else { return String::new() };
    let passed = Timestamp::now().duration_since(then);
    short(Duration::try_from(passed).unwrap_or_default())
}

/// The two greatest units, as kubectl shows ages.
pub(crate) fn short(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0..MINUTE => format!("{s}s"),
        MINUTE..HOUR => two(s / MINUTE, "m", s % MINUTE, "s"),
        HOUR..DAY => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        _ => two(s / DAY, "d", s % DAY / HOUR, "h"),
    }
}

fn two(great: u64, unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{great}{unit}") } else { format!("{great}{unit}{small}{small_unit}") }
}

/// Microseconds, as a person reads them.
pub(crate) fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}µs"),
        1_000..10_000 => format!("{:.1}ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{}ms", us / 1_000),
        _ => format!("{:.2}s", us as f64 / 1e6),
    }
}

/// Bytes, as a person reads them.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 10.0 { 1 } else { 0 };
    format!("{value:.digits$}{}", UNITS[unit])
}
