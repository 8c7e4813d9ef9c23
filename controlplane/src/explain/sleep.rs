//! Why an actor that holds a worker does not sleep, and when it will.

use reveille_api::proto::{self, sleep::Blocker};

use super::{Facts, people};
use crate::{
    idle::{self, Decision},
    lifecycle::Phase,
    record::ActorRecord,
    routers::Use,
};

/// Nothing at rest.
pub(super) fn sleep(record: &ActorRecord, facts: &Facts<'_>) -> Option<proto::Sleep> {
    let phase = record.life.phase();
    let under_way = |blocker, message: &str| {
        Some(proto::Sleep {
            blocker: Blocker::into(blocker),
            message: message.to_owned(),
            in_flight: in_flight(facts),
            routers: facts.routers.clone(),
            ..proto::Sleep::default()
        })
    };
    match phase {
        Phase::Suspended | Phase::Stopped | Phase::Lost | Phase::Failed | Phase::Deleting => None,
        Phase::Placing | Phase::Starting | Phase::Thawing => {
            under_way(Blocker::Waking, "it is being woken")
        }
        Phase::Draining | Phase::Freezing | Phase::Checkpointing => {
            under_way(Blocker::GoingDown, "it is on its way to sleep")
        }
        Phase::Running | Phase::Frozen => Some(awake(phase, facts)),
    }
}

fn in_flight(facts: &Facts<'_>) -> u32 {
    facts.routers.iter().map(|router| router.in_flight).sum()
}

fn awake(phase: Phase, facts: &Facts<'_>) -> proto::Sleep {
    let mut sleep = proto::Sleep {
        in_flight: in_flight(facts),
        routers: facts.routers.clone(),
        ..proto::Sleep::default()
    };
    let mut blocked = |blocker: Blocker, message: String| {
        sleep.blocker = blocker.into();
        sleep.message = message;
    };
    let Some(template) = facts.template else {
        blocked(Blocker::NoRung, "its template is missing".to_owned());
        return sleep;
    };
    let may_freeze = phase == Phase::Running && facts.node_freezes;
    let Some((rung, after)) = idle::first_rung(&template.idle, may_freeze) else {
        match (template.idle.keep_warm, phase) {
            (true, _) => blocked(Blocker::KeepWarm, "its template says idle.keepWarm".to_owned()),
            (false, Phase::Frozen) => blocked(
                Blocker::NoRung,
                "its template has neither idle.pauseAfter nor idle.suspendAfter: it stays frozen"
                    .to_owned(),
            ),
            (false, _) => {
                blocked(Blocker::NoRung, "its template names no time in idle".to_owned());
            }
        }
        return sleep;
    };
    let (name, field) = (rung.name(), format!("idle.{}After", rung.name()));
    let due =
        idle::decide(&template.idle, facts.used, facts.now, facts.doing.not_before, may_freeze);
    match (facts.used, due) {
        (Use::Busy, _) => {
            let requests = match sleep.in_flight {
                1 => "a request is in flight".to_owned(),
                n => format!("{n} requests are in flight"),
            };
            let after = people(after);
            sleep.blocker = Blocker::InFlight.into();
            sleep.message =
                format!("{requests}; {after} after the last one ends ({field}) it is to {name}");
        }
        (Use::Unknown, _) if !facts.settled => blocked(
            Blocker::RouterAway,
            "the control plane has just started, and not all of its routers are back yet"
                .to_owned(),
        ),
        (Use::Unknown, _) => blocked(
            Blocker::RouterAway,
            "a router that may have requests of it has no session: nobody knows whether it is idle"
                .to_owned(),
        ),
        (Use::Quiet(since), decision) => {
            let first = since.plus(after);
            let idle = people(facts.now.since(since));
            let when = match decision {
                Decision::LookAgain(when) => when,
                _ => facts.now,
            };
            sleep.idle_since_unix_ms = facts.unix(since);
            sleep.next_unix_ms = facts.unix(when);
            (sleep.blocker, sleep.message) = if when > first {
                let why = match facts.doing.failures {
                    0 => "the last try was called off",
                    _ => "the last try failed",
                };
                let left = facts.left(when);
                (
                    Blocker::HeldBack.into(),
                    format!("{why}: it is to {name} in {left}, if nobody uses it"),
                )
            } else if when > facts.now {
                let left = facts.left(when);
                let message = format!("idle for {idle}: it is to {name} in {left} ({field})");
                (Blocker::Nothing.into(), message)
            } else {
                let message = format!("idle for {idle}: it is to {name} now ({field})");
                (Blocker::Nothing.into(), message)
            };
        }
    }
    sleep.next = name.to_owned();
    sleep.next_after_ms = crate::clock::millis(after);
    sleep
}
