//! What a request would meet now: the transition that its wake would make, on a copy of the state.

use reveille_api::{
    Failure, Reason,
    proto::{self, outlook::Fate},
};

use super::{Facts, Room, people};
use crate::{
    clock::millis,
    lifecycle::{Asker, Effect, Event, Phase, Rules, Source, State, Waking},
    record::{ActorRecord, WokenBy},
};

pub(super) fn outlook(record: &ActorRecord, facts: &Facts<'_>) -> proto::Outlook {
    let mut life = record.life.clone();
    let phase = life.phase();
    let has_binding = facts.routers.iter().any(|router| router.connected && router.has_binding);
    if facts.draining && !(phase == Phase::Running && has_binding) {
        return refused(&crate::driver::draining());
    }
    let on_restore_failure =
        facts.template.map(|template| template.on_restore_failure).unwrap_or_default();
    let rules = Rules { on_restore_failure, no_wake: facts.no_wake.as_ref() };
    let effects = life.apply(rules, Event::Wake(Asker::Traffic)).effects;
    let endpoint = record.life.activation().map(|activation| activation.endpoint.clone());
    let endpoint = endpoint.unwrap_or_default();
    for effect in &effects {
        match effect {
            Effect::Refuse(failure) => return refused(failure),
            Effect::Serve(_) if phase == Phase::Running => return serves(endpoint, has_binding),
            Effect::Serve(_) => {
                let message = "its way down is called off, and the request goes on".to_owned();
                let wake = proto::WakeKind::Resumed.into();
                let outlook = proto::Outlook { message, endpoint, wake, ..parks(facts) };
                return outlook;
            }
            Effect::Place(source) => return wakes(record, source, facts),
            Effect::Thaw(_, _, place) => {
                let then = format!("node {} thaws it", place.node);
                return proto::Outlook { endpoint, ..kind(record, WokenBy::Thawed, &then, facts) };
            }
            _ => {}
        }
    }
    // It joins what is under way, or what was just asked for.
    match (&record.life.state, phase) {
        (State::Waking(Waking { source, .. }), _) => {
            let woken = woken_by(source, facts);
            joins(record, woken, "it joins the wake under way", facts)
        }
        (_, Phase::Thawing) => joins(record, WokenBy::Thawed, "it joins the thaw under way", facts),
        (_, Phase::Freezing) => {
            joins(record, WokenBy::Thawed, "it is thawed as soon as it is frozen", facts)
        }
        _ => {
            let message = "the checkpoint is called off if it is not committed yet; if it is, the next activation \
                           serves it"
                .to_owned();
            proto::Outlook { message, wake: proto::WakeKind::Resumed.into(), ..parks(facts) }
        }
    }
}

fn refused(failure: &Failure) -> proto::Outlook {
    let reason = failure.reason;
    let how = match reason {
        Reason::ActorNotFound => "it is being deleted".to_owned(),
        _ => failure.message.clone(),
    };
    let retry = failure.retry_after.or(reason.retry_after());
    let retry = retry.map(|after| format!("; trying again may help in {}", people(after)));
    proto::Outlook {
        fate: Fate::Refused.into(),
        message: format!(
            "refused with {} {reason}: {how}{}",
            reason.http_status(),
            retry.unwrap_or_default()
        ),
        reason: reason.name().to_owned(),
        ..proto::Outlook::default()
    }
}

fn serves(endpoint: String, has_binding: bool) -> proto::Outlook {
    let message = match has_binding {
        true => format!("it goes to {endpoint} at once"),
        false => format!("its router asks where the actor is, and sends it to {endpoint}"),
    };
    let (fate, wake) = (Fate::Served.into(), proto::WakeKind::None.into());
    proto::Outlook { fate, message, wake, endpoint, ..proto::Outlook::default() }
}

/// What waits does so within its template's limit.
fn parks(facts: &Facts<'_>) -> proto::Outlook {
    let park_ms = facts.template.map_or(0, |template| millis(template.wake.park));
    proto::Outlook { fate: Fate::Waits.into(), park_ms, ..proto::Outlook::default() }
}

fn woken_by(source: &Source, facts: &Facts<'_>) -> WokenBy {
    match WokenBy::from(source) {
        WokenBy::ColdStart if facts.template.is_some_and(|template| template.golden) => {
            WokenBy::Cloned
        }
        kind => kind,
    }
}

fn wakes(record: &ActorRecord, source: &Source, facts: &Facts<'_>) -> proto::Outlook {
    let woken = woken_by(source, facts);
    let snapshot = source.snapshot().map(|snapshot| snapshot.id.clone()).unwrap_or_default();
    let how = match (source, woken) {
        (_, WokenBy::Cloned) => "starts it as a clone of its template's golden snapshot".to_owned(),
        (Source::Cold, _) => "starts it for the first time".to_owned(),
        (Source::ColdAfterFailure, _) => "starts it anew: its state is lost".to_owned(),
        _ => format!("restores snapshot {snapshot}"),
    };
    let (node, then) = match (facts.room)(source) {
        Room::Free(place) => {
            let then = format!("node {} {how} on worker {}", place.node, place.worker);
            (place.node, then)
        }
        Room::Full(why) => {
            let then = format!("it waits for a worker ({why}), and then a node {how}");
            (String::new(), then)
        }
    };
    proto::Outlook { snapshot, node, ..kind(record, woken, &then, facts) }
}

/// It waits for a wake of this kind.
fn kind(record: &ActorRecord, woken: WokenBy, then: &str, facts: &Facts<'_>) -> proto::Outlook {
    let (expected_us, expected_of) = expected(record, woken, facts);
    let expected = match (expected_us, expected_of) {
        (0, _) => String::new(),
        (us, 1) => format!("; the last time that took {}", micros(us)),
        (us, n) => format!("; the last {n} times of its template that took {}", micros(us)),
    };
    let parks = parks(facts);
    let park = people(std::time::Duration::from_millis(parks.park_ms));
    proto::Outlook {
        message: format!("it waits, {park} at the most: {then}{expected}"),
        wake: proto::WakeKind::from(woken).into(),
        expected_us,
        expected_of,
        ..parks
    }
}

fn joins(record: &ActorRecord, woken: WokenBy, then: &str, facts: &Facts<'_>) -> proto::Outlook {
    let place = record.life.place();
    let node = place.map(|place| place.node.clone()).unwrap_or_default();
    proto::Outlook { node, ..kind(record, woken, then, facts) }
}

/// As its template's actors lately, or as it did itself the last time.
fn expected(record: &ActorRecord, woken: WokenBy, facts: &Facts<'_>) -> (u64, u32) {
    if let Some(expected) = (facts.pace)(woken) {
        return (expected.us, expected.of);
    }
    let own = record.last_wake.as_ref().filter(|wake| wake.kind == woken);
    own.map_or((0, 0), |wake| (wake.phases.total_us, 1))
}

fn micros(us: u64) -> String {
    match us {
        0..10_000 => format!("{:.1} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}
