//! The verbs that wait for an outcome: wake, suspend, stop, delete, drain.

use std::{collections::HashSet, pin::pin, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use reveille_api::{
    ActorKey, Failure, Reason, proto,
    trace::{self, Kind, Span},
};
use tokio::{sync::mpsc, time::Instant};
use tonic::{Request, Status};

use super::view;
use crate::{
    driver::{Down, NotDown},
    fleet::{Fleet, Origin},
    lifecycle::{Asker, Cause},
};

/// Beyond what the template allows the steps themselves.
const SLACK: Duration = Duration::from_secs(10);
/// Actors that a drain takes down: each begins when its nodes can soon save it, and has its time from then on.
const AT_A_TIME: usize = 64;

pub(super) fn not_found(key: &ActorKey) -> Status {
    Status::not_found(format!("actor {:?} does not exist", key.to_string()))
}

pub(super) fn store(error: crate::store::Error) -> Status {
    Status::internal(format!("the store failed: {error}"))
}

pub(super) fn current(fleet: &Fleet, key: &ActorKey) -> Result<proto::Actor, Status> {
    let record = fleet.view(key).map_err(store)?.ok_or_else(|| not_found(key))?;
    Ok(view::actor(fleet, &record))
}

/// The span of a verb, in the trace that its caller names.
pub(super) fn span<T>(request: &Request<T>, name: &'static str, key: &ActorKey) -> Span {
    let named = request.metadata().get(trace::HEADER).and_then(|value| value.to_str().ok());
    Span::after(named.and_then(|value| value.parse().ok()), name, Kind::Server).of(key)
}

pub(super) async fn wake(
    fleet: &Arc<Fleet>,
    key: &ActorKey,
    mut span: Span,
) -> Result<proto::Actor, Status> {
    let origin = Origin { traceparent: span.traceparent(), ..Origin::default() };
    let woken = fleet.wake(key, Asker::User, origin).await;
    woken.inspect_err(|failure| span.fail(failure.reason))?;
    current(fleet, key)
}

/// Freeze, suspend, stop or delete; the outcome is worth waiting for as long as all of its steps may take.
pub(super) async fn down(
    fleet: &Arc<Fleet>,
    key: &ActorKey,
    goal: Down,
    mut span: Span,
) -> Result<(), Status> {
    let record = fleet.view(key).map_err(store)?.ok_or_else(|| not_found(key))?;
    let template = fleet.catalog.template(key.namespace(), &record.template);
    let steps = template.map_or(Duration::ZERO, |template| {
        let spec = &template.spec;
        // A wake under way comes first.
        spec.wake.timeout + spec.readiness.timeout + spec.drain.timeout
    });
    let patience = steps + fleet.timings.checkpoint + fleet.timings.settle + SLACK;
    let down = fleet.down_within(span.traceparent(), key, goal);
    match tokio::time::timeout(patience, down).await {
        Err(_) => Err(Status::deadline_exceeded(format!(
            "actor {:?} is still going down; `reveille describe` tells where it stands",
            key.to_string()
        ))),
        Ok(Err(failure)) if failure.reason == Reason::ActorNotFound => Err(not_found(key)),
        Ok(Err(failure)) => Err(failure.into()),
        Ok(Ok(outcome)) => outcome.map_err(|error| {
            span.set("reveille.outcome", &error);
            not_down(key, error)
        }),
    }
}

fn not_down(key: &ActorKey, error: NotDown) -> Status {
    let message = format!("actor {:?}: {error}", key.to_string());
    match error {
        NotDown::InUse => Status::aborted(message),
        NotDown::CheckpointFailed(_) | NotDown::FreezeFailed(_) => Status::unavailable(message),
        NotDown::Gone(_) => Status::failed_precondition(message),
        NotDown::Store(_) => Failure::internal(message).into(),
    }
}

/// Suspends everything; tells how far it is after each actor.
pub(super) async fn drain(
    fleet: Arc<Fleet>,
    deadline: Duration,
    progress: mpsc::Sender<Result<proto::DrainProgress, Status>>,
) {
    fleet.begin_drain();
    let until = Instant::now() + deadline;
    let (mut suspended, mut failed) = (0, HashSet::new());
    // What was in use is tried again; what could not be suspended is left as it is.
    loop {
        let mut keys = fleet.active();
        keys.retain(|key| !failed.contains(key));
        let all = keys.len();
        let mut going = pin!(
            stream::iter(keys)
                .map(|key| async {
                    let outcome = fleet.down(&key, Down::Suspend(Cause::Shutdown)).await;
                    (key, outcome)
                })
                .buffer_unordered(AT_A_TIME)
        );
        let mut remaining = all;
        loop {
            let told = proto::DrainProgress {
                remaining: remaining as u32,
                suspended,
                failed: failed.len() as u32,
            };
            if progress.send(Ok(told)).await.is_err() {
                return;
            }
            match tokio::time::timeout_at(until, going.next()).await {
                Err(_) => return,
                Ok(None) => break,
                Ok(Some((_, Ok(Ok(()))))) => suspended += 1,
                Ok(Some((_, Ok(Err(NotDown::InUse))))) => {}
                Ok(Some((key, _))) => drop(failed.insert(key)),
            }
            remaining -= 1;
        }
        if all == 0 {
            return;
        }
    }
}
