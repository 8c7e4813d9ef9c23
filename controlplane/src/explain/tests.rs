use std::time::Duration;

use reveille_api::{
    Epoch, Failure, Reason,
    manifest::template::OnRestoreFailure,
    proto::{self, outlook::Fate, sleep::Blocker},
};

use super::*;
use crate::{
    lifecycle::{Actor, Asker, Cause, Event, Phase, Snapshot},
    record::{Asked, LastWake, Phases},
    testing::{World, eventually, key, spec},
};

const NOW: Moment = Moment(1_000_000);
const UNIX: u64 = 1_700_000_000_000;
const LADDER: &str =
    ", idle: {freezeAfter: 10s, suspendAfter: 1m}, wake: {timeout: 20s, park: 30s}";

fn place() -> Place {
    Place { node: "n1".into(), worker: "n1-0".into() }
}

fn snapshot(storage: Storage) -> Snapshot {
    Snapshot {
        id: "s1".into(),
        node: "n1".into(),
        epoch: Epoch(1),
        bytes: 1,
        created_unix_ms: UNIX - 192_000,
        runtime: "gvisor".into(),
        runtime_version: "1".into(),
        image: String::new(),
        storage,
    }
}

fn wake() -> Event {
    Event::Wake(Asker::User)
}

fn activated(epoch: u64) -> Event {
    Event::Activated { epoch: Epoch(epoch), endpoint: "10.0.0.1:20000".into(), h2c: false }
}

fn drained() -> Event {
    Event::Drained {
        epoch: Epoch(1),
        term: 0,
        in_flight: 0,
        last_active: Moment(0),
        silent: false,
        snapshot: "s1".into(),
    }
}

fn suspend() -> Event {
    Event::Suspend { cause: Cause::User, decided_for: None, snapshot: "s".into() }
}

fn stop() -> Event {
    Event::Stop { snapshot: "s".into() }
}

fn freeze() -> Event {
    Event::Freeze(Cause::Idle(NOW.minus(Duration::from_secs(11))), None)
}

fn committed() -> Event {
    Event::Committed { epoch: Epoch(1), snapshot: snapshot(Storage::Node) }
}

fn exited() -> Event {
    Event::Exited { node: "n1".into(), epoch: Epoch(1), message: "killed".into() }
}

fn failed() -> Event {
    Event::ActivateFailed {
        epoch: Epoch(2),
        failure: Failure::new(Reason::RestoreFailed, "no such file"),
    }
}

/// An actor to which this has happened.
fn after(events: impl IntoIterator<Item = Event>) -> ActorRecord {
    let mut record = ActorRecord::new(key("a"), "t".into(), UNIX - 600_000);
    record.life = Actor::new(Epoch(0));
    for event in events {
        record.life.apply(Default::default(), event);
    }
    if record.life.epoch.0 > 0 {
        let phases = Phases { total_us: 140_000, ..Phases::default() };
        record.last_wake =
            Some(LastWake { unix_ms: UNIX, kind: WokenBy::Restored, phases, asked: None });
    }
    record
}

fn standing(ready: bool) -> Option<Standing> {
    let node = "n1".to_owned();
    Some(Standing { node, ready, lost: false, last_seen_unix_ms: UNIX - 12_000 })
}

fn event(kind: &str, message: &str) -> EventRecord {
    EventRecord {
        sequence: 1,
        unix_ms: UNIX - 60_000,
        actor: key("a"),
        epoch: 1,
        kind: kind.into(),
        reason: String::new(),
        message: message.into(),
    }
}

fn router(in_flight: u32) -> proto::RouterUse {
    let (connected, has_binding) = (true, true);
    proto::RouterUse {
        router: "r1".into(),
        connected,
        has_binding,
        in_flight,
        owes_acknowledgement: false,
    }
}

fn free(_: &Source) -> Room {
    Room::Free(place())
}

fn full(_: &Source) -> Room {
    Room::Full("1 of 1 workers in use".into())
}

fn no_pace(_: WokenBy) -> Option<Expected> {
    None
}

/// Everything is well, and it was last used 4 s ago.
fn well(template: &ActorTemplateSpec) -> Facts<'_> {
    Facts {
        now: NOW,
        unix_ms: UNIX,
        template: Some(template),
        events: &[],
        doing: Doing::default(),
        busy: false,
        draining: false,
        no_wake: None,
        used: Use::Quiet(NOW.minus(Duration::from_secs(4))),
        routers: Vec::new(),
        settled: true,
        node: standing(true),
        node_freezes: true,
        upload: None,
        room: &free,
        pace: &no_pace,
    }
}

/// What an explanation must say: words of its first sentence, what keeps the actor from sleep, and of a request.
type Expect = (Phase, Vec<Event>, &'static str, Option<Blocker>, Fate, &'static str);

#[rustfmt::skip]
fn table() -> Vec<Expect> {
    use Blocker as B;
    let placed = || Event::Placed(place());
    let up = || vec![wake(), placed(), activated(1)];
    let and = |mut events: Vec<Event>, more: Vec<Event>| { events.extend(more); events };
    let saved = || and(up(), vec![suspend(), drained(), committed()]);
    vec![
        (Phase::Suspended, vec![], "it was never started", None, Fate::Waits,
            "it waits, 30s at the most: node n1 starts it for the first time on worker n1-0"),
        (Phase::Suspended, saved(), "it went to sleep", None, Fate::Waits,
            "node n1 restores snapshot s1 on worker n1-0; the last time that took 140 ms"),
        (Phase::Stopped, and(saved(), vec![stop()]), "stopped by a user", None, Fate::Refused,
            "refused with 503 actor_stopped"),
        (Phase::Lost, and(up(), vec![exited()]), "its process is gone: killed", None, Fate::Refused,
            "refused with 503 actor_lost: killed; no snapshot was ever taken"),
        (Phase::Failed, and(saved(), vec![wake(), placed(), failed()]),
            "its last wake failed: no such file (restore_failed)", None, Fate::Waits, "restores snapshot s1"),
        (Phase::Placing, vec![wake()], "waits for a worker, to be started for the first time: none is free",
            Some(B::Waking), Fate::Waits, "it joins the wake under way"),
        (Phase::Starting, vec![wake(), placed()], "being started for the first time, on worker n1-0 of node n1",
            Some(B::Waking), Fate::Waits, "it joins the wake under way"),
        (Phase::Running, up(), "it serves at 10.0.0.1:20000 on worker n1-0", Some(B::Nothing), Fate::Served,
            "its router asks where the actor is"),
        (Phase::Draining, and(up(), vec![suspend()]), "it is to be suspended, by a user's wish",
            Some(B::GoingDown), Fate::Waits, "its way down is called off"),
        (Phase::Freezing, and(up(), vec![freeze(), drained()]), "node n1 stops its processes",
            Some(B::GoingDown), Fate::Waits, "it is thawed as soon as it is frozen"),
        (Phase::Frozen, and(up(), vec![freeze(), drained(), Event::Frozen(Epoch(1))]), "its processes stand still",
            Some(B::Nothing), Fate::Waits, "node n1 thaws it"),
        (Phase::Thawing, and(up(), vec![freeze(), drained(), Event::Frozen(Epoch(1)), wake()]),
            "node n1 lets its processes go on", Some(B::Waking), Fate::Waits, "it joins the thaw under way"),
        (Phase::Checkpointing, and(up(), vec![suspend(), drained()]), "node n1 takes snapshot s1",
            Some(B::GoingDown), Fate::Waits, "the checkpoint is called off if it is not committed yet"),
        (Phase::Deleting, vec![Event::Delete], "it is being deleted", None, Fate::Refused,
            "refused with 404 actor_not_found"),
    ]
}

#[test]
fn every_state_says_why_what_keeps_it_awake_and_what_a_request_meets() {
    let template = spec(LADDER);
    let mut seen = std::collections::BTreeSet::new();
    for (phase, events, why, blocker, fate, outlook) in table() {
        let record = after(events);
        assert_eq!(record.life.phase(), phase);
        seen.insert(phase);
        let said = explain(&record, &well(&template));
        assert!(said.why[0].contains(why), "{phase:?}: {:?}", said.why);
        let sleep = said.sleep.as_ref().map(proto::Sleep::blocker);
        assert_eq!(sleep, blocker, "{phase:?}: {:?}", said.sleep);
        let told = said.outlook.unwrap();
        assert_eq!(told.fate(), fate, "{phase:?}: {told:?}");
        assert!(told.message.contains(outlook), "{phase:?}: {told:?}");
        assert_eq!(told.reason.is_empty(), fate != Fate::Refused, "{phase:?}: {told:?}");
        assert!(said.problems.is_empty(), "{phase:?}: {:?}", said.problems);
    }
    let all: std::collections::BTreeSet<_> =
        crate::lifecycle::table::ROWS.iter().map(|row| row.0).collect();
    assert_eq!(seen, all, "every state is in the table");
}

fn running() -> ActorRecord {
    after([wake(), Event::Placed(place()), activated(1)])
}

#[test]
fn what_keeps_a_running_actor_awake_is_named_and_when_it_sleeps_is_what_its_driver_would_do() {
    let template = spec(LADDER);
    let record = running();
    let sleep = |facts: &Facts<'_>| explain(&record, facts).sleep.unwrap();

    let idle = sleep(&well(&template));
    assert_eq!(idle.message, "idle for 4s: it is to freeze in 6s (idle.freezeAfter)");
    assert_eq!((idle.idle_since_unix_ms, idle.next_unix_ms), (UNIX - 4_000, UNIX + 6_000));
    let decided = crate::idle::decide(&template.idle, well(&template).used, NOW, None, true);
    let then = NOW.plus(Duration::from_millis(idle.next_unix_ms - UNIX));
    assert_eq!(decided, crate::idle::Decision::LookAgain(then));

    let cannot = sleep(&Facts { node_freezes: false, ..well(&template) });
    assert_eq!((cannot.next.as_str(), cannot.next_after_ms), ("suspend", 60_000));

    let busy = Facts { used: Use::Busy, routers: vec![router(2)], ..well(&template) };
    let busy = sleep(&busy);
    assert_eq!((busy.blocker(), busy.in_flight, busy.next_unix_ms), (Blocker::InFlight, 2, 0));
    assert_eq!(
        busy.message,
        "2 requests are in flight; 10s after the last one ends (idle.freezeAfter) it is to freeze"
    );

    let away = proto::RouterUse { connected: false, ..router(0) };
    let away = Facts { used: Use::Unknown, routers: vec![away], ..well(&template) };
    assert_eq!(sleep(&away).blocker(), Blocker::RouterAway);
    let problems = explain(&record, &away).problems;
    assert_eq!(problems, ["router r1 may have requests of it and has no session"]);

    let new = sleep(&Facts { used: Use::Unknown, settled: false, ..well(&template) });
    assert!(new.message.contains("has just started"), "{}", new.message);

    let later = NOW.plus(Duration::from_secs(40));
    let doing = Doing { failures: 3, not_before: Some(later), ..Doing::default() };
    let events = [event("CheckpointFailed", "no space")];
    let held = Facts { doing, events: &events, ..well(&template) };
    assert_eq!(sleep(&held).blocker(), Blocker::HeldBack);
    assert_eq!(
        sleep(&held).message,
        "the last try failed: it is to freeze in 40s, if nobody uses it"
    );
    let problems = explain(&record, &held).problems;
    assert_eq!(problems, ["it could not be put to sleep, 3 times in a row: no space"]);

    let warm = spec(", idle: {suspendAfter: 1m, keepWarm: true}");
    assert_eq!(sleep(&well(&warm)).blocker(), Blocker::KeepWarm);
    let never = spec("");
    assert_eq!(sleep(&well(&never)).blocker(), Blocker::NoRung);
}

#[test]
fn a_request_meets_what_the_machine_would_do_with_its_wake() {
    let template = spec(LADDER);
    let outlook = |record: &ActorRecord, facts: &Facts<'_>| explain(record, facts).outlook.unwrap();
    let asleep =
        after([wake(), Event::Placed(place()), activated(1), suspend(), drained(), committed()]);

    let bound = outlook(&running(), &Facts { routers: vec![router(0)], ..well(&template) });
    assert_eq!(bound.message, "it goes to 10.0.0.1:20000 at once");

    let waits = outlook(&asleep, &Facts { room: &full, ..well(&template) });
    assert!(waits.message.contains("it waits for a worker (1 of 1 workers in use)"), "{waits:?}");
    assert!(waits.node.is_empty());

    let pace = |_| Some(Expected { us: 150_000, of: 16 });
    let often = outlook(&asleep, &Facts { pace: &pace, ..well(&template) });
    assert_eq!((often.expected_us, often.expected_of), (150_000, 16));
    assert!(
        often.message.ends_with("the last 16 times of its template that took 150 ms"),
        "{often:?}"
    );
    assert_eq!((often.wake(), often.snapshot.as_str()), (proto::WakeKind::Restored, "s1"));

    let mut failure = Failure::new(Reason::QuotaExceeded, "spent");
    failure.retry_after = Some(Duration::from_secs(12));
    let spent = Facts { no_wake: Some(NoWake { failure, news: true }), ..well(&template) };
    let refused = outlook(&asleep, &spent);
    assert_eq!(
        refused.message,
        "refused with 429 quota_exceeded: spent; trying again may help in 12s"
    );
    assert_eq!(outlook(&running(), &spent).fate(), Fate::Served, "a budget is for wakes");

    let draining = Facts { draining: true, ..well(&template) };
    assert_eq!(outlook(&asleep, &draining).reason, "control_plane_unavailable");

    let golden = spec(", golden: true");
    let first = outlook(&after([]), &well(&golden));
    assert_eq!(first.wake(), proto::WakeKind::Cloned);

    let cold = spec(", onRestoreFailure: ColdStart");
    assert_eq!(template.on_restore_failure, OnRestoreFailure::Refuse);
    let lost = after([wake(), Event::Placed(place()), activated(1), exited()]);
    assert_eq!(outlook(&lost, &well(&cold)).wake(), proto::WakeKind::ColdStartAfterFailure);
}

#[test]
fn what_is_not_as_it_should_be_is_told() {
    let template = spec(LADDER);
    let problems = |record: &ActorRecord, facts: &Facts<'_>| explain(record, facts).problems;
    let asleep =
        after([wake(), Event::Placed(place()), activated(1), suspend(), drained(), committed()]);
    let away = Facts { node: standing(false), ..well(&template) };
    assert!(problems(&asleep, &away)[0].contains("no wake can begin without it"));
    assert_eq!(
        problems(&running(), &away),
        ["node n1, which it is on, is not ready: it was last heard of 12s ago"]
    );
    let busy = problems(&running(), &Facts { busy: true, ..well(&template) });
    assert_eq!(busy, ["its driver does not say what it does: the store may be slow"]);
    let none = problems(&running(), &Facts { template: None, ..well(&template) });
    assert_eq!(none, ["its template t is missing"]);
}

#[test]
fn why_it_sleeps_comes_from_its_events_and_where_its_state_is_from_its_snapshot() {
    let template = spec(LADDER);
    let mut asleep =
        after([wake(), Event::Placed(place()), activated(1), suspend(), drained(), committed()]);
    asleep.life.snapshot = Some(snapshot(Storage::Waiting));
    let events = [event("SuspendStarted", "asked for"), event("IdleSuspend", "nobody uses it")];
    let facts = Facts { events: &events, upload: Some((1, 4)), ..well(&template) };
    assert_eq!(
        explain(&asleep, &facts).why,
        [
            "nobody used it, so it went to sleep 1m ago (its template says 1m)",
            "snapshot s1, 3m 12s old, is on node n1 and not in the store yet: 25 % are there"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_whole_fleet_tells_who_woke_an_actor_who_uses_it_and_what_its_driver_has_in_hand() {
    let world = World::new(1, ", idle: {suspendAfter: 5s}").await;
    let actor = world.create("a").await;
    let router = world.router("r", "i1");
    let ask = || crate::service::explained(&world.fleet, &actor);
    let before = ask().await.unwrap();
    assert!(before.outlook.unwrap().message.contains("on worker n1-0"));
    assert_eq!((before.callers, before.sleep), (0, None));

    world.node.starts.send_replace(false);
    let waking = world.wake_through(&router, &actor);
    let during = async {
        world.until(&actor, Phase::Starting).await;
        ask().await.unwrap()
    };
    let during = tokio::select! {
        during = during => during,
        served = waking => panic!("{served:?}"),
    };
    let asked = during.asked.unwrap();
    assert_eq!((asked.router.as_str(), asked.request_id.as_str(), asked.user), ("r", "r-1", false));
    assert!(during.why.iter().any(|why| why.contains("s left")), "{:?}", during.why);
    assert!(during.since_unix_ms > 0);

    world.node.starts.send_replace(true);
    world.wake_through(&router, &actor).await.unwrap();
    world.report(&router, &actor, 2, 0);
    let awake = ask().await.unwrap();
    assert_eq!(awake.sleep.as_ref().unwrap().blocker(), Blocker::InFlight, "{awake:?}");
    assert!(awake.outlook.unwrap().message.contains("at once"));
    let wake = awake.actor.unwrap().last_wake.unwrap();
    assert_eq!(wake.asked.unwrap().router, "r");
    assert_eq!(world.record(&actor).last_wake.as_ref().unwrap().kind, WokenBy::ColdStart);

    world.report(&router, &actor, 0, 0);
    let told = ask().await.unwrap().sleep.unwrap().next_unix_ms - crate::clock::unix_ms();
    assert!((4_000..=5_000).contains(&told), "{told}");
    eventually("it sleeps", || match world.record(&actor).life.phase() {
        Phase::Suspended => Ok(()),
        phase => Err(format!("{phase:?}")),
    })
    .await;
    let asleep = ask().await.unwrap();
    assert!(asleep.why[0].starts_with("nobody used it"), "{:?}", asleep.why);
    let outlook = asleep.outlook.unwrap();
    assert_eq!(outlook.wake(), proto::WakeKind::Restored);

    world.fleet.wake(&actor, Asker::User, Default::default()).await.unwrap();
    let user = world.record(&actor).last_wake.clone().unwrap();
    assert_eq!(user.asked, Some(Asked::User));
    let expected = world.fleet.pace.of("demo", "t", WokenBy::Restored).unwrap();
    assert_eq!((expected.us, expected.of), (user.phases.total_us, 1));
}
