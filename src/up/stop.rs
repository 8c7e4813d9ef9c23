//! Ends everything in an order in which nobody is cut off and nothing is left behind.

use std::{io::Write, time::Duration};

use futures::future::join_all;
use reveille_api::proto::{DrainProgress, DrainRequest};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    keeper::{Ending, Parts},
    plan::{Part, Plan},
    ready,
};
use crate::{client::Control, http};

/// How long a part may take to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same when Ctrl-C was given twice.
const HASTE: Duration = Duration::from_secs(3);
/// How often it is tried to suspend everything.
const TRIES: u32 = 3;
/// Before it is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// What the control plane may take longer than it was told.
const MARGIN: Duration = Duration::from_secs(5);

/// Closes the door, suspends every actor, ends the parts. `haste` skips what waits for others.
pub(super) async fn stop(plan: &Plan, parts: Parts, haste: &CancellationToken) {
    if parts.get(Part::Envoy).is_some() {
        say("stopping: no new connections");
        let door = http::request("POST", plan.args.admin, "localhost", "/drain_listeners");
        let _ = haste.run_until_cancelled(door).await;
    }
    if parts.get(Part::Node).is_some()
        && haste.run_until_cancelled(suspend_all(plan)).await.is_none()
    {
        say("stopping: does not wait for actors any longer");
    }
    let end = |part, signal, haste_too: bool| {
        let keeper = parts.get(part);
        let patience = if haste_too && haste.is_cancelled() { HASTE } else { PATIENCE };
        async move {
            if let Some(keeper) = keeper {
                keeper.stop(Ending { signal, patience }).await;
            }
        }
    };
    end(Part::Envoy, Signal::TERM, true).await;
    join_all([end(Part::Router, Signal::TERM, true), end(Part::Dns, Signal::TERM, true)]).await;
    // SIGINT: for good, with every namespace and rule. Never in haste.
    end(Part::Node, Signal::INT, false).await;
    end(Part::ControlPlane, Signal::TERM, true).await;
    remove_run_files(plan);
    say("stopped");
}

/// A checkpoint that fails leaves its actor running and is worth another try, as long as there is time.
async fn suspend_all(plan: &Plan) {
    let Some(mut control) = ready::control_plane(plan).await else { return };
    let end = Instant::now() + plan.args.drain;
    let mut suspended = 0;
    for attempt in 1.. {
        let left = end.saturating_duration_since(Instant::now());
        let progress = match timeout(left + MARGIN, drain(&mut control, left)).await {
            Ok(Ok(progress)) => progress,
            Ok(Err(error)) => {
                let why = error.message();
                return say(&format!("stopping: actors could not be suspended: {why}"));
            }
            Err(_) => return say("stopping: the control plane does not suspend in time"),
        };
        suspended += progress.suspended;
        match progress.remaining + progress.failed {
            0 if suspended == 0 => return,
            0 => return say(&format!("stopping: {} suspended", actors(suspended))),
            failed if attempt == TRIES || Instant::now() >= end => {
                return say(&format!(
                    "stopping: {} suspended, {} not: 'reveille events -A' tells why; they wake from \
                     their snapshots before",
                    actors(suspended),
                    actors(failed)
                ));
            }
            _ => sleep(PAUSE).await,
        }
    }
}

fn actors(count: u32) -> String {
    if count == 1 { "1 actor".into() } else { format!("{count} actors") }
}

async fn drain(control: &mut Control, left: Duration) -> Result<DrainProgress, tonic::Status> {
    let deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let mut stream = control.drain(DrainRequest { deadline_ms }).await?.into_inner();
    let mut last = DrainProgress::default();
    while let Some(progress) = stream.message().await? {
        if progress.remaining > 0 && progress.remaining != last.remaining {
            say(&format!("stopping: {} to suspend", actors(progress.remaining)));
        }
        last = progress;
    }
    Ok(last)
}

/// What the parts leave in the run directory; folders only when they are empty.
fn remove_run_files(plan: &Plan) {
    let run = plan.run_dir();
    for file in ["control.sock", "router.sock", "node.sock", "token"] {
        let _ = std::fs::remove_file(run.join(file));
    }
    let _ = std::fs::remove_dir_all(run.join("envoy"));
    let _ = std::fs::remove_dir(run.join("netns"));
    plan.lock.release();
}

/// To the person in front of it. Nobody there is no reason to stop stopping.
fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}");
    let _ = stdout.flush();
}
