//! The end of Envoy: first what it has in flight, then the process.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::{process::Child, time};

use super::{Error, Running, TERM, admin::Admin};

/// How often Envoy is asked how many requests are left.
const POLL: Duration = Duration::from_millis(100);
/// For requests that came just before it stopped listening.
const LAST: Duration = Duration::from_millis(500);

/// Drains Envoy, ends it and waits for it.
pub(super) async fn end(admin: &Admin, running: Running, drain: Duration) -> Result<(), Error> {
    let Running { mut child, said } = running;
    let drained = tokio::select! {
        // It may die meanwhile, and then nothing is left to be done.
        _ = child.wait() => return Ok(()),
        drained = drain_requests(admin, drain) => drained,
    };
    match drained {
        Ok(0) => tracing::info!("Envoy is drained"),
        Ok(left) => tracing::warn!(left, ?drain, "requests are cut: the drain deadline passed"),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "Envoy cannot be drained");
        }
    }
    said.expect_the_end();
    signal(&child, Signal::TERM);
    if time::timeout(TERM, child.wait()).await.is_err() {
        tracing::warn!(after = ?TERM, "Envoy does not end: killing it");
        child.kill().await.map_err(Error::Wait)?;
    }
    Ok(())
}

/// Returns how many requests are left: none, or the deadline has passed. Listens until then, so that nobody
/// who was told to come here finds the door shut while it could still serve.
async fn drain_requests(admin: &Admin, drain: Duration) -> Result<u64, super::admin::Error> {
    let deadline = time::Instant::now() + drain;
    admin.fail_health_check().await?;
    wait_until_idle(admin, deadline).await?;
    admin.stop_listening().await?;
    wait_until_idle(admin, deadline.max(time::Instant::now() + LAST)).await
}

async fn wait_until_idle(
    admin: &Admin,
    deadline: time::Instant,
) -> Result<u64, super::admin::Error> {
    loop {
        let active = admin.active_requests().await?;
        if active == 0 || time::Instant::now() >= deadline {
            return Ok(active);
        }
        time::sleep_until(deadline.min(time::Instant::now() + POLL)).await;
    }
}

/// The child is not reaped yet, so the id is still its own.
fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}
