//! Why an actor is as it is, for somebody on call: a pure function of its record and of what is known around it.
//!
//! | question | answered from |
//! | --- | --- |
//! | why is it in its state | the state itself, its last events, what its driver has in hand |
//! | who woke it, and how long each phase took | the record's last wake |
//! | why does it not sleep | [`idle::decide`](crate::idle::decide), asked as its driver asks it |
//! | what would a request meet now | [`lifecycle`](crate::lifecycle), on a copy: the transition a wake would make |
//!
//! So the answers cannot differ from what happens. Gathered in `service::explain`; nothing here waits or changes anything.

use std::time::Duration;

use reveille_api::{manifest::ActorTemplateSpec, proto};

use crate::{
    clock::{Moment, millis},
    driver::Doing,
    lifecycle::{NoWake, Phase, Place, Source, Storage},
    nodes::Standing,
    pace::Expected,
    record::{ActorRecord, EventRecord, WokenBy},
    routers::Use,
};

mod outlook;
mod sleep;
#[cfg(test)]
mod tests;
mod why;

/// What is known around an actor.
pub(crate) struct Facts<'a> {
    pub(crate) now: Moment,
    pub(crate) unix_ms: u64,
    /// As it is now.
    pub(crate) template: Option<&'a ActorTemplateSpec>,
    /// The actor's, oldest first.
    pub(crate) events: &'a [EventRecord],
    /// Nothing of an actor without a driver, or when that did not answer.
    pub(crate) doing: Doing,
    /// Its driver did not say what it has in hand.
    pub(crate) busy: bool,
    /// Nothing is woken any more.
    pub(crate) draining: bool,
    /// Its namespace may begin no wake now.
    pub(crate) no_wake: Option<NoWake>,
    pub(crate) used: Use,
    pub(crate) routers: Vec<proto::RouterUse>,
    /// The routers of before our start are back, or given up.
    pub(crate) settled: bool,
    /// How the node is doing that the actor is on, or its snapshot.
    pub(crate) node: Option<Standing>,
    /// The node it is on can stop its processes.
    pub(crate) node_freezes: bool,
    /// How far its snapshot is on its way to the store: bytes that are there, and all.
    pub(crate) upload: Option<(u64, u64)>,
    /// Where a wake from this would go now.
    pub(crate) room: &'a dyn Fn(&Source) -> Room,
    /// What a wake of this kind may be expected to take.
    pub(crate) pace: &'a dyn Fn(WokenBy) -> Option<Expected>,
}

/// Whether there is a worker for a wake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// This one is free.
    Free(Place),
    /// None is.
    Full(String),
}

/// All of it but the actor itself.
pub(crate) fn explain(record: &ActorRecord, facts: &Facts<'_>) -> proto::Explanation {
    proto::Explanation {
        actor: None,
        since_unix_ms: record.since_unix_ms,
        why: why::why(record, facts),
        problems: problems(record, facts),
        asked: facts.doing.asked.as_ref().map(proto::Asked::from),
        callers: facts.doing.callers as u32,
        sleep: sleep::sleep(record, facts),
        outlook: Some(outlook::outlook(record, facts)),
    }
}

/// What is not as it should be.
fn problems(record: &ActorRecord, facts: &Facts<'_>) -> Vec<String> {
    let life = &record.life;
    let mut problems = Vec::new();
    if facts.busy {
        problems.push("its driver does not say what it does: the store may be slow".to_owned());
    }
    if facts.template.is_none() {
        problems.push(format!("its template {} is missing", record.template));
    }
    if let Some(standing) = facts.node.as_ref().filter(|standing| !standing.ready) {
        let node = &standing.node;
        let heard = match standing.last_seen_unix_ms {
            0 => "was not heard of since the control plane started".to_owned(),
            ms => format!("was last heard of {} ago", facts.ago(ms)),
        };
        let only_there = |s: &crate::lifecycle::Snapshot| s.storage != Storage::Stored;
        problems.push(match (life.place(), &life.snapshot) {
            (Some(_), _) if standing.lost => {
                format!("node {node}, which it is on, {heard} and is given up")
            }
            (Some(_), _) => format!("node {node}, which it is on, is not ready: it {heard}"),
            (None, Some(snapshot)) if only_there(snapshot) => format!(
                "its snapshot is on node {node} only, which is not ready: it {heard}; no wake can begin without it"
            ),
            (None, _) => format!("node {node}, which has its snapshot, is not ready: it {heard}"),
        });
    }
    if facts.doing.failures > 0 {
        let times = facts.doing.failures;
        let kinds = ["CheckpointFailed", "FreezeFailed"];
        let last = facts.last_event(&kinds).map_or("", |event| event.message.as_str());
        problems.push(format!("it could not be put to sleep, {times} times in a row: {last}"));
    }
    let away: Vec<_> = facts.routers.iter().filter(|router| !router.connected).collect();
    if !away.is_empty() {
        let names: Vec<_> = away.iter().map(|router| router.router.as_str()).collect();
        let names = names.join(", ");
        problems.push(format!("router {names} may have requests of it and has no session"));
    }
    if life.phase() == Phase::Failed
        && let Some(event) = facts.last_event(&["RestoreFailed"])
    {
        problems.push(format!("{} ago: {}", facts.ago(event.unix_ms), event.message));
    }
    problems
}

impl Facts<'_> {
    /// How long ago that was, for people.
    fn ago(&self, unix_ms: u64) -> String {
        people(Duration::from_millis(self.unix_ms.saturating_sub(unix_ms)))
    }

    /// On the wall's clock.
    fn unix(&self, moment: Moment) -> u64 {
        if moment > self.now {
            self.unix_ms.saturating_add(millis(moment.since(self.now)))
        } else {
            self.unix_ms.saturating_sub(millis(self.now.since(moment)))
        }
    }

    /// What is left until then, for people.
    fn left(&self, moment: Moment) -> String {
        people(moment.since(self.now))
    }

    /// The last event of one of these kinds.
    fn last_event(&self, kinds: &[&str]) -> Option<&EventRecord> {
        self.events.iter().rev().find(|event| kinds.contains(&event.kind.as_str()))
    }
}

/// "3m 12s": two units are enough.
fn people(duration: Duration) -> String {
    let secs = match duration.as_secs() {
        secs @ 0..3_600 => secs,
        secs @ 3_600..86_400 => secs / 60 * 60,
        secs => secs / 3_600 * 3_600,
    };
    match secs {
        0 => format!("{}ms", duration.as_millis()),
        secs => humantime::format_duration(Duration::from_secs(secs)).to_string(),
    }
}
