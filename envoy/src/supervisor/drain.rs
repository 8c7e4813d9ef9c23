//! The end of Envoy: first what it has in flight, then the process.

use std::time::Duration;

use futures::FutureExt;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::Child,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Config, Error, Running, TERM, admin::Admin};

/// How often Envoy is asked how many requests are left.
const POLL: Duration = Duration::from_millis(100);
/// For connections that were made just before it stopped listening, and have not said yet what they want.
const LAST: Duration = Duration::from_millis(500);
/// What is in flight gets no more than this when the stop is hurried.
const HURRIED: Duration = Duration::from_secs(2);

/// Drains Envoy, ends it and waits for it.
pub(super) async fn end(
    admin: &Admin,
    running: Running,
    config: &Config,
    hurry: &CancellationToken,
) -> Result<(), Error> {
    let Running { mut child, said } = running;
    let drained = tokio::select! {
        // It may die meanwhile, and then nothing is left to be done.
        _ = child.wait() => return Ok(()),
        drained = drain_requests(admin, config, hurry) => drained,
    };
    match drained {
        Ok(0) => tracing::info!("Envoy is drained"),
        Ok(left) => {
            tracing::warn!(left, drain = ?config.drain, "requests are cut: the drain deadline passed");
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "Envoy cannot be drained");
        }
    }
    said.expect_the_end();
    signal(&child, Signal::TERM);
    if timeout(TERM, child.wait()).await.is_err() {
        tracing::warn!(after = ?TERM, "Envoy does not end: killing it");
        child.kill().await.map_err(Error::Wait)?;
    }
    Ok(())
}

/// Returns how many requests are left: none, or the deadline has passed. Listens until then, so that nobody
/// who was told to come here finds the door shut while it could still serve.
async fn drain_requests(
    admin: &Admin,
    config: &Config,
    hurry: &CancellationToken,
) -> Result<u64, super::admin::Error> {
    admin.fail_health_check().await?;
    let _ = hurry.run_until_cancelled(sleep(config.grace)).await;
    let over = over(config.drain, hurry.clone()).shared();
    until_none(over.clone(), || admin.active_requests()).await?;
    admin.stop_listening().await?;
    until_none(sleep(LAST), || admin.active_connections()).await?;
    until_none(over, || admin.active_requests()).await
}

/// The drain deadline, or the one of a hurry.
async fn over(drain: Duration, hurry: CancellationToken) {
    let hurried = async {
        hurry.cancelled().await;
        sleep(HURRIED).await;
    };
    let _ = timeout(drain, hurried).await;
}

/// Waits until none is left or it is over, and says how many are.
async fn until_none<F: Future<Output = Result<u64, super::admin::Error>>>(
    over: impl Future<Output = ()>,
    left: impl Fn() -> F,
) -> Result<u64, super::admin::Error> {
    tokio::pin!(over);
    loop {
        let left = left().await?;
        if left == 0 {
            return Ok(0);
        }
        tokio::select! {
            () = &mut over => return Ok(left),
            () = sleep(POLL) => {}
        }
    }
}

/// The child is not reaped yet, so the id is still its own.
fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}
