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

/// How long a part may take to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the node agent may: it gives itself 30 s to finish what it began.
const NODE_PATIENCE: Duration = Duration::from_secs(40);
/// One that is told again later.
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);
/// The same when Ctrl-C was given twice.
const HASTE: Duration = Duration::from_secs(3);
/// How often it is tried to suspend everything.
const TRIES: u32 = 3;
/// Before it is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// What the control plane may take longer than it was told.
const MARGIN: Duration = Duration::from_secs(5);

/// Says that it is not ready, finishes the requests, closes the door, suspends every actor, ends the parts. `haste`
/// skips what waits for others.
pub(super) async fn stop(plan: &Plan, parts: Parts, haste: &CancellationToken) {
    if let Some(router) = parts.get(Part::Router) {
        say("stopping: not ready any more");
        router.tell(Ending { signal: Signal::USR1, patience: FOR_EVER });
    }
    if let Some(envoy) = parts.get(Part::Envoy) {
        // It serves until nothing is in flight or parked, and listens until then.
        let patience = plan.args.drain + PATIENCE;
        let drained = envoy.stop(Ending { signal: Signal::TERM, patience });
        if haste.run_until_cancelled(drained).await.is_none() {
            say("stopping: does not wait for requests any longer");
            envoy.stop(Ending { signal: Signal::TERM, patience: HASTE }).await;
        }
    }
    let mut asked = true;
    if parts.get(Part::Node).is_some() {
        match haste.run_until_cancelled(suspend_all(plan)).await {
            Some(answered) => asked = answered,
            None => say("stopping: does not wait for actors any longer"),
        }
    }
    let end = |part, signal| {
        let keeper = parts.get(part);
        let patience = match part {
            Part::Node => NODE_PATIENCE,
            _ if haste.is_cancelled() => HASTE,
            _ => PATIENCE,
        };
        async move {
            if let Some(keeper) = keeper {
                keeper.stop(Ending { signal, patience }).await;
            }
        }
    };
    join_all([end(Part::Router, Signal::TERM), end(Part::Dns, Signal::TERM)]).await;
    if asked {
        // SIGINT: for good, with every namespace and rule. Never in haste.
        end(Part::Node, Signal::INT).await;
    } else {
        // Nobody could take a snapshot: what runs stays, rather than being lost.
        say(
            "stopping: no control plane answers; running actors are left for the next 'reveille up'",
        );
        end(Part::Node, Signal::TERM).await;
    }
    end(Part::ControlPlane, Signal::TERM).await;
    remove_run_files(plan);
    say("stopped");
}

/// Suspends what runs. False when no control plane answered in all that time. A checkpoint that fails leaves its
/// actor running and is worth another try, as long as there is time.
async fn suspend_all(plan: &Plan) -> bool {
    let end = Instant::now() + plan.args.drain;
    let (mut suspended, mut attempt) = (0, 0);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Some(progress) = timeout(left + MARGIN, drain(plan, left)).await.ok().flatten() else {
            if Instant::now() >= end {
                return false;
            }
            sleep(PAUSE).await;
            continue;
        };
        attempt += 1;
        suspended += progress.suspended;
        match progress.remaining + progress.failed {
            0 if suspended == 0 => return true,
            0 => {
                say(&format!("stopping: {} suspended", actors(suspended)));
                return true;
            }
            failed if attempt == TRIES || Instant::now() >= end => {
                say(&format!(
                    "stopping: {} suspended, {} not: 'reveille events -A' tells why; they wake from \
                     their snapshots before",
                    actors(suspended),
                    actors(failed)
                ));
                return true;
            }
            _ => sleep(PAUSE).await,
        }
    }
}

fn actors(count: u32) -> String {
    if count == 1 { "1 actor".into() } else { format!("{count} actors") }
}

/// One try; nothing when the control plane does not answer to its end.
async fn drain(plan: &Plan, left: Duration) -> Option<DrainProgress> {
    let mut control = ready::control_plane(plan).await?;
    let deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let mut stream = control.drain(DrainRequest { deadline_ms }).await.ok()?.into_inner();
    let mut last = DrainProgress::default();
    while let Some(progress) = stream.message().await.ok()? {
        if progress.remaining > 0 && progress.remaining != last.remaining {
            say(&format!("stopping: {} to suspend", actors(progress.remaining)));
        }
        last = progress;
    }
    Some(last)
}

/// What the parts leave in the run directory; folders only when they are empty.
fn remove_run_files(plan: &Plan) {
    let run = plan.run_dir();
    for file in [
        "control.sock",
        "router.sock",
        "node.sock",
        "token",
        "control.http",
        "node.http",
        "envoy.http",
        "dns.http",
    ] {
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
