//! Why an actor is in its state: one sentence for what it is, and those that say how it came to that.

use super::{Facts, people};
use crate::{
    lifecycle::{
        Cause, Checkpointing, Draining, Goal, Ice, Lost, Rest, Snapshot, Source, Stage, State,
        Storage,
    },
    record::{ActorRecord, WokenBy},
};

pub(super) fn why(record: &ActorRecord, facts: &Facts<'_>) -> Vec<String> {
    let life = &record.life;
    match &life.state {
        State::Rest(Rest::Suspended) if record.last_wake.is_none() && life.snapshot.is_none() => {
            vec!["nobody has asked for it yet: it was never started".to_owned()]
        }
        State::Rest(Rest::Suspended) => {
            let mut why = vec![went_down(facts)];
            why.extend(life.snapshot.as_ref().map(|snapshot| kept(snapshot, facts)));
            why
        }
        State::Rest(Rest::Stopped(lost)) => {
            let mut why = vec![
                "it was stopped by a user: traffic does not wake it, `reveille wake` does"
                    .to_owned(),
            ];
            why.extend(
                lost.iter().map(|lost| format!("before that it was lost: {}", lost.message)),
            );
            why.extend(life.snapshot.as_ref().map(|snapshot| kept(snapshot, facts)));
            why
        }
        State::Rest(Rest::Lost(lost)) => gone(lost, life.snapshot.as_ref(), facts),
        State::Rest(Rest::Failed(failed)) => {
            let (reason, message) = (failed.reason, &failed.message);
            let mut why = vec![format!("its last wake failed: {message} ({reason})")];
            why.push("the next request, or `reveille wake`, tries again".to_owned());
            why.extend(life.snapshot.as_ref().map(|snapshot| kept(snapshot, facts)));
            why
        }
        State::Waking(waking) => {
            let from = source(&waking.source, facts);
            let first = match &waking.stage {
                Stage::Placing(_) => {
                    let short = facts.doing.short.as_deref().unwrap_or("none is free");
                    format!("it waits for a worker, to be {from}: {short}")
                }
                Stage::Starting { place, exited: None } => {
                    format!("it is being {from}, on worker {} of node {}", place.worker, place.node)
                }
                Stage::Starting { place, exited: Some(message) } => {
                    format!(
                        "it is being {from} on worker {}, and has ended there: {message}",
                        place.worker
                    )
                }
            };
            let mut why = vec![first];
            why.extend(waits(facts));
            why.extend(has_left(facts));
            why
        }
        State::Running(running) => {
            let activation = &running.activation;
            let (endpoint, worker) = (&activation.endpoint, &activation.place.worker);
            let how = match record.last_wake.as_ref().map(|wake| wake.kind) {
                Some(WokenBy::Thawed) => "it was thawed".to_owned(),
                Some(WokenBy::Cloned) => {
                    "it was cloned from its template's golden snapshot".to_owned()
                }
                _ => format!("it was {}", source(&activation.source, facts)),
            };
            let mut why = vec![format!("it serves at {endpoint} on worker {worker}: {how}")];
            let called_off = facts.events.last().filter(|event| event.kind == "SuspendCancelled");
            why.extend(called_off.map(|event| {
                format!("it was to go down and was wanted again, {} ago", facts.ago(event.unix_ms))
            }));
            why
        }
        State::Draining(draining) => {
            let mut why = vec![drains(draining, facts)];
            let owing: Vec<_> =
                facts.routers.iter().filter(|router| router.owes_acknowledgement).collect();
            why.extend(owing.iter().map(|router| {
                let (name, n) = (&router.router, router.in_flight);
                format!("router {name} has not given its binding up yet: {n} in flight there")
            }));
            why.extend(has_left(facts));
            why
        }
        State::Frozen(frozen) => {
            let (node, worker) = (&frozen.activation.place.node, &frozen.activation.place.worker);
            match frozen.stage {
                Ice::Freezing => {
                    vec![format!("node {node} stops its processes on worker {worker}")]
                }
                Ice::Frozen => {
                    let asked = facts.last_event(&["IdleFreeze", "FreezeStarted"]);
                    let cause = asked.map_or("", |event| event.message.as_str());
                    let cause = if cause.is_empty() { "it went to sleep" } else { cause };
                    vec![format!(
                        "{cause}: its processes stand still on worker {worker}, which they keep"
                    )]
                }
                Ice::Thawing => {
                    let first = format!("node {node} lets its processes go on");
                    [first].into_iter().chain(waits(facts)).chain(has_left(facts)).collect()
                }
            }
        }
        State::Checkpointing(checkpointing) => saves(checkpointing, facts),
        State::Deleting(_) => {
            vec!["it is being deleted: nodes remove what they have of it".to_owned()]
        }
    }
}

/// Why it sleeps, as far as the event log knows.
fn went_down(facts: &Facts<'_>) -> String {
    let kinds = ["IdleSuspend", "PreemptedForCapacity", "SuspendStarted", "SnapshotAdopted"];
    let Some(event) = facts.last_event(&kinds) else { return "it went to sleep".to_owned() };
    let ago = facts.ago(event.unix_ms);
    match event.kind.as_str() {
        "IdleSuspend" => {
            let idle = facts.template.map(|template| &template.idle);
            let after =
                idle.and_then(|idle| idle.pause_after.into_iter().chain(idle.suspend_after).min());
            let after = after.map(|after| format!(" (its template says {})", people(after)));
            format!("nobody used it, so it went to sleep {ago} ago{}", after.unwrap_or_default())
        }
        "PreemptedForCapacity" => {
            format!("it was idle and another actor needed its worker, {ago} ago")
        }
        "SnapshotAdopted" => format!("{}, {ago} ago", event.message),
        _ => format!("it was suspended {ago} ago: {}", event.message),
    }
}

/// Where its state is.
fn kept(snapshot: &Snapshot, facts: &Facts<'_>) -> String {
    let (id, node) = (&snapshot.id, &snapshot.node);
    let age = facts.ago(snapshot.created_unix_ms);
    match snapshot.storage {
        Storage::Node => format!("snapshot {id}, {age} old, is on node {node}"),
        Storage::Stored => {
            format!("snapshot {id}, {age} old, is in the store, and was taken on {node}")
        }
        Storage::Waiting => {
            let far = match facts.upload {
                Some((done, all)) if all > 0 => format!(": {} % are there", 100 * done / all),
                _ => String::new(),
            };
            format!("snapshot {id}, {age} old, is on node {node} and not in the store yet{far}")
        }
    }
}

fn gone(lost: &Lost, snapshot: Option<&Snapshot>, facts: &Facts<'_>) -> Vec<String> {
    let mut why = vec![format!("its process is gone: {}", lost.message)];
    if let Some(survivor) = &lost.unreachable {
        let node = &survivor.activation.place.node;
        why.push(format!(
            "it may run on at node {node}, and is taken back if that returns with it"
        ));
    }
    why.push(match snapshot {
        Some(snapshot) => {
            format!("{}: what it did after that is lost with the next wake", kept(snapshot, facts))
        }
        None => "no snapshot of it was ever taken".to_owned(),
    });
    why
}

/// "restored from …"
fn source(source: &Source, facts: &Facts<'_>) -> String {
    let of = |snapshot: &Snapshot| {
        format!("snapshot {}, taken {} ago", snapshot.id, facts.ago(snapshot.created_unix_ms))
    };
    match source {
        Source::Cold => "started for the first time".to_owned(),
        Source::Current(snapshot) => format!("restored from {}", of(snapshot)),
        Source::Previous(snapshot) => {
            format!("restored from {}, because the one after it could not be", of(snapshot))
        }
        Source::ColdAfterFailure => "started anew, because no snapshot can be used".to_owned(),
    }
}

/// Who waits for it.
fn waits(facts: &Facts<'_>) -> Option<String> {
    match facts.doing.callers {
        _ if facts.busy => None,
        0 => Some("nobody waits for it any more; the wake goes on".to_owned()),
        1 => Some(
            "one caller waits for it; a router is one, however many requests wait there".into(),
        ),
        n => Some(format!(
            "{n} callers wait for it; a router is one, however many requests wait there"
        )),
    }
}

fn has_left(facts: &Facts<'_>) -> Option<String> {
    let deadline = facts.doing.deadline?;
    Some(format!("for that there are {} left", facts.left(deadline)))
}

fn drains(draining: &Draining, facts: &Facts<'_>) -> String {
    let to = match draining.goal {
        Goal::Freeze => "be frozen",
        Goal::Suspend => "be suspended",
        Goal::Stop => "be stopped",
        Goal::Delete => "be deleted",
    };
    let cause = match draining.cause {
        Cause::User => "by a user's wish".to_owned(),
        Cause::Shutdown => "with everything else".to_owned(),
        Cause::Idle(since) => format!("idle for {}", people(facts.now.since(since))),
        Cause::Pressure(since) => {
            let idle = people(facts.now.since(since));
            format!("idle for {idle}, because another actor needs its worker")
        }
    };
    format!("it is to {to}, {cause}: routers are asked to give its binding up")
}

fn saves(checkpointing: &Checkpointing, facts: &Facts<'_>) -> Vec<String> {
    let Checkpointing { activation, snapshot, resuming, exited, .. } = checkpointing;
    let (node, worker) = (&activation.place.node, &activation.place.worker);
    let mut why = vec![format!("node {node} takes snapshot {snapshot} of it on worker {worker}")];
    if *resuming {
        why.push("it is wanted again, and the node was asked to call that off".to_owned());
    }
    why.extend(exited.iter().map(|message| format!("its process has ended meanwhile: {message}")));
    why.extend(has_left(facts));
    why
}
