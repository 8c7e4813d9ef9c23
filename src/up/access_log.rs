//! Envoy's access log must not fill the disk: one that has grown is put aside, in the place of the one before.

use std::{convert::Infallible, path::Path, time::Duration};

use tokio::time::interval;

use super::plan::Plan;
use crate::http;

/// Size from which it is put aside: with the one before, twice as much is kept.
const LARGE: u64 = 64 << 20;
const LOOK: Duration = Duration::from_secs(30);

/// Looks at it, for ever.
pub(super) async fn keep_small(plan: &Plan) -> Infallible {
    let log = plan.access_log();
    let mut ticks = interval(LOOK);
    loop {
        ticks.tick().await;
        if put_aside(&log, LARGE) {
            let _ = http::request("POST", plan.args.admin, "localhost", "/reopen_logs").await;
        }
    }
}

fn put_aside(log: &Path, large: u64) -> bool {
    let grown = log.metadata().is_ok_and(|file| file.is_file() && file.len() > large);
    grown && std::fs::rename(log, log.with_extension("log.1")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_large_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("access.log");
        std::fs::write(&log, "line\n").unwrap();
        assert!(!put_aside(&log, 100));
        assert!(put_aside(&log, 1));
        assert!(!log.exists() && dir.path().join("access.log.1").exists());
        assert!(!put_aside(Path::new("-"), 1));
    }
}
