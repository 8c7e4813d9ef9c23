use std::{sync::Arc, time::Duration};

use reveille_api::proto::router_command::Command;
use tokio::time::Instant;

use super::*;
use crate::store::memory::MemoryStore;

const S: Duration = Duration::from_secs(1);

struct Rig {
    routers: Arc<Routers>,
    records: Records,
    clock: Clock,
}

fn rig() -> Rig {
    rig_on(Records::new(Arc::new(MemoryStore::default())))
}

fn rig_on(records: Records) -> Rig {
    let clock = Clock::default();
    let routers = Routers::open(records.clone(), clock, Timings::default()).unwrap();
    Rig { routers: Arc::new(routers), records, clock }
}

fn actor() -> ActorKey {
    ActorKey::new("demo", "a").unwrap()
}

impl Rig {
    fn connect(&self, router: &str, instance: &str) -> (u64, mpsc::Receiver<proto::RouterCommand>) {
        let (commands, received) = mpsc::channel(8);
        let hello = proto::Hello { router: router.into(), instance: instance.into() };
        (self.routers.connect(&hello, commands).0, received)
    }

    fn tracked(&self, term: u64) {
        self.routers.track(&actor(), Epoch(1), term, self.clock.now());
    }

    fn held(&self, router: &str, epoch: u64, term: u64, complete: bool) {
        let binding = proto::HeldBinding {
            actor: Some((&actor()).into()),
            epoch,
            term,
            in_flight: 2,
            ..Default::default()
        };
        self.routers.held(router, &proto::Held { bindings: vec![binding], complete });
    }

    fn ack(&self, router: &str, term: u64, in_flight: u32) {
        let actor = Some((&actor()).into());
        let ack = proto::RevokeAck { actor, epoch: 1, term, in_flight, idle_ms: 0 };
        self.routers.acknowledge(router, &ack);
    }

    /// In a task of its own.
    fn drain(&self, term: u64, patience: Duration) -> tokio::task::JoinSet<Drained> {
        let routers = Arc::clone(&self.routers);
        let mut set = tokio::task::JoinSet::new();
        reveille_api::task::spawn(&mut set, "drain", async move {
            routers.drain(&actor(), Epoch(1), term, patience).await
        });
        set
    }
}

async fn revoked(commands: &mut mpsc::Receiver<proto::RouterCommand>) -> (u64, u64, u64) {
    match commands.recv().await.unwrap().command.unwrap() {
        Command::Revoke(r) => (r.epoch, r.term, r.drain_ms),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn only_holders_are_asked_and_the_drain_ends_with_the_last_answer() {
    let rig = rig();
    let (_, mut one) = rig.connect("r1", "i1");
    let (_, mut two) = rig.connect("r2", "i2");
    let (_, mut none) = rig.connect("r3", "i3");
    rig.tracked(0);
    assert!(rig.routers.hold("i1", &actor(), Epoch(1), 0));
    assert!(rig.routers.hold("i2", &actor(), Epoch(1), 0));
    let mut drain = rig.drain(0, 5 * S);
    assert_eq!(revoked(&mut one).await, (1, 0, 5_000));
    assert_eq!(revoked(&mut two).await, (1, 0, 5_000));
    assert!(none.try_recv().is_err());
    rig.ack("r1", 0, 0);
    tokio::time::sleep(S).await;
    assert!(drain.try_join_next().is_none());
    rig.ack("r2", 0, 0);
    let drained = drain.join_next().await.unwrap().unwrap();
    assert_eq!((drained.in_flight, drained.silent), (0, false));
    assert!(!rig.routers.hold("i1", &actor(), Epoch(1), 0), "revoked is revoked");
    assert!(rig.routers.hold("i1", &actor(), Epoch(1), 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_held_of_an_activation_that_is_no_more_is_to_be_cut() {
    let rig = rig();
    let (_, mut commands) = rig.connect("r1", "i1");
    rig.tracked(0);
    rig.held("r1", 7, 4, true);
    let Some(Command::Revoke(revoke)) = commands.recv().await.unwrap().command else {
        panic!("no revoke")
    };
    assert_eq!((revoke.epoch, revoke.term, revoke.gone), (7, 4, true));
}

#[tokio::test(start_paused = true)]
async fn a_router_that_does_not_answer_makes_the_drain_end_silent() {
    let rig = rig();
    let (_, _kept) = rig.connect("r1", "i1");
    rig.tracked(0);
    rig.routers.hold("i1", &actor(), Epoch(1), 0);
    let begun = Instant::now();
    let drained = rig.routers.drain(&actor(), Epoch(1), 0, 5 * S).await;
    assert!(drained.silent);
    assert_eq!(begun.elapsed(), 7 * S);
}

#[tokio::test(start_paused = true)]
async fn a_router_that_comes_back_is_asked_again_with_what_is_left_of_the_time() {
    let rig = rig();
    let (session, commands) = rig.connect("r1", "i1");
    rig.tracked(0);
    rig.routers.hold("i1", &actor(), Epoch(1), 0);
    drop(commands);
    rig.routers.disconnect("r1", session);
    let mut drain = rig.drain(0, 10 * S);
    tokio::time::sleep(4 * S).await;
    let (_, mut commands) = rig.connect("r1", "i1");
    assert_eq!(revoked(&mut commands).await, (1, 0, 6_000));
    rig.ack("r1", 0, 0);
    assert!(!drain.join_next().await.unwrap().unwrap().silent);
}

#[tokio::test(start_paused = true)]
async fn another_instance_tells_that_everything_of_the_earlier_one_is_gone() {
    let rig = rig();
    let (_, _kept) = rig.connect("r1", "i1");
    rig.tracked(0);
    rig.routers.hold("i1", &actor(), Epoch(1), 0);
    rig.held("r1", 1, 0, true);
    assert_eq!(rig.routers.usage(&actor()), Use::Busy);
    let mut drain = rig.drain(0, 60 * S);
    tokio::time::sleep(S).await;
    let (_, _new) = rig.connect("r1", "i2");
    let drained = drain.join_next().await.unwrap().unwrap();
    assert_eq!((drained.in_flight, drained.silent), (0, false));
}

#[tokio::test(start_paused = true)]
async fn stale_holdings_are_answered_with_a_revoke_and_good_ones_are_kept() {
    let rig = rig();
    rig.tracked(3);
    let (_, mut commands) = rig.connect("r1", "i1");
    rig.held("r1", 1, 2, false);
    assert_eq!(revoked(&mut commands).await, (1, 2, 60_000));
    rig.held("r1", 0, 9, false);
    assert_eq!(revoked(&mut commands).await, (0, 9, 0));
    rig.held("r1", 1, 3, true);
    assert!(commands.try_recv().is_err());
    assert_eq!(rig.routers.list()[0].bindings, 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_router_held_before_it_got_a_later_term_does_not_take_that_away() {
    let rig = rig();
    let (_, mut commands) = rig.connect("r1", "i1");
    rig.tracked(1);
    assert!(rig.routers.hold("i1", &actor(), Epoch(1), 1));
    // Said before the wake's answer, and read after it was given.
    rig.held("r1", 1, 0, true);
    rig.ack("r1", 0, 0);
    assert_eq!(revoked(&mut commands).await.1, 0);
    assert_eq!(rig.routers.list()[0].bindings, 1);
    let mut drain = rig.drain(1, S);
    assert_eq!(revoked(&mut commands).await.1, 1);
    rig.ack("r1", 1, 0);
    assert!(!drain.join_next().await.unwrap().unwrap().silent);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_away_makes_the_use_unknown_until_it_is_given_up() {
    let rig = rig();
    let (session, _kept) = rig.connect("r1", "i1");
    rig.tracked(0);
    rig.routers.hold("i1", &actor(), Epoch(1), 0);
    assert!(matches!(rig.routers.usage(&actor()), Use::Quiet(_)));
    rig.routers.disconnect("r1", session);
    assert_eq!(rig.routers.usage(&actor()), Use::Unknown);
    tokio::time::sleep(61 * S).await;
    assert!(matches!(rig.routers.usage(&actor()), Use::Quiet(_)));
    assert_eq!(rig.records.routers().unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_late_end_of_an_earlier_session_does_not_end_the_present_one() {
    let rig = rig();
    let (first, _one) = rig.connect("r1", "i1");
    let (_, _two) = rig.connect("r1", "i1");
    rig.routers.disconnect("r1", first);
    assert!(rig.routers.present("i1", Duration::ZERO).await);
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_known_routers_are_awaited_for_a_while() {
    let before = rig();
    let (_, _kept) = before.connect("r1", "i1");
    // Until one has said everything it holds.
    let after = rig_on(before.records.clone());
    after.tracked(0);
    assert_eq!(after.routers.usage(&actor()), Use::Unknown);
    let (_, _commands) = after.connect("r1", "i1");
    after.held("r1", 1, 0, false);
    assert_eq!(after.routers.usage(&actor()), Use::Unknown);
    after.held("r1", 1, 0, true);
    assert_eq!(after.routers.usage(&actor()), Use::Busy);
    // Or until it is given up.
    let after = rig_on(before.records.clone());
    after.tracked(0);
    let begun = Instant::now();
    tokio::join!(after.routers.settle(), after.routers.settled());
    assert_eq!(begun.elapsed(), Timings::default().settle);
    assert!(matches!(after.routers.usage(&actor()), Use::Quiet(_)));
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_over_a_restart_keep_the_time_of_the_drain_that_is_taken_up() {
    let before = rig();
    let (_, _kept) = before.connect("r1", "i1");
    let after = rig_on(before.records.clone());
    // The suspend of term 0 was under way, and is again.
    after.tracked(1);
    let mut drain = after.drain(0, 30 * S);
    let (_, mut commands) = after.connect("r1", "i1");
    after.held("r1", 1, 0, true);
    let (_, _, drain_ms) = revoked(&mut commands).await;
    assert!(
        drain_ms >= 30_000,
        "{drain_ms}: the router would answer before its requests have ended"
    );
    assert_eq!(revoked(&mut commands).await, (1, 0, 30_000));
    assert!(drain.try_join_next().is_none());
    after.ack("r1", 0, 0);
    assert!(!drain.join_next().await.unwrap().unwrap().silent);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_taken_up_waits_for_a_router_that_still_has_the_binding_unused() {
    let before = rig();
    let (_, _kept) = before.connect("r1", "i1");
    let after = rig_on(before.records.clone());
    after.tracked(1);
    let mut drain = after.drain(0, 30 * S);
    let (_, _commands) = after.connect("r1", "i1");
    let binding =
        proto::HeldBinding { actor: Some((&actor()).into()), epoch: 1, ..Default::default() };
    after.routers.held("r1", &proto::Held { bindings: vec![binding], complete: true });
    tokio::time::sleep(S).await;
    // It may send a request there until it has heard of the revoke.
    assert!(drain.try_join_next().is_none());
    after.ack("r1", 0, 0);
    assert!(!drain.join_next().await.unwrap().unwrap().silent);
}

#[tokio::test(start_paused = true)]
async fn a_wake_may_arrive_just_before_its_routers_session() {
    let rig = rig();
    let routers = Arc::clone(&rig.routers);
    let waiting = routers.present("i1", 2 * S);
    let connecting = async {
        tokio::time::sleep(S).await;
        rig.connect("r1", "i1")
    };
    let (present, _session) = tokio::join!(waiting, connecting);
    assert!(present);
    assert!(!rig.routers.present("i9", 2 * S).await);
}

#[tokio::test(start_paused = true)]
async fn a_router_that_does_not_take_its_commands_is_cut_off() {
    let rig = rig();
    let (commands, _never_read) = mpsc::channel(1);
    let hello = proto::Hello { router: "r1".into(), instance: "i1".into() };
    let (_, over) = rig.routers.connect(&hello, commands);
    rig.held("r1", 1, 0, false);
    assert!(!over.is_cancelled());
    rig.held("r1", 1, 0, false);
    assert!(over.is_cancelled());
    assert!(!rig.routers.present("i1", Duration::ZERO).await);
}

#[tokio::test(start_paused = true)]
async fn a_second_process_is_refused_while_the_first_is_heard_and_has_the_name_when_it_is_not() {
    let rig = rig();
    let hello = |instance: &str| proto::Hello { router: "r1".into(), instance: instance.into() };
    assert!(rig.routers.admits(&hello("i1")).await);
    let (first, _commands) = rig.connect("r1", "i1");
    assert!(rig.routers.admits(&hello("i1")).await, "a session that broke is begun again");
    let talking = async {
        loop {
            rig.routers.heard("r1", first);
            tokio::time::sleep(Timings::default().report).await;
        }
    };
    let second = hello("i2");
    tokio::select! {
        admitted = rig.routers.admits(&second) => assert!(!admitted),
        () = talking => {}
    }
    // As after a power loss.
    assert!(rig.routers.admits(&second).await);
    // As after a kill: at once.
    let begun = Instant::now();
    let leave = async { rig.routers.disconnect("r1", first) };
    let (admitted, ()) = tokio::join!(rig.routers.admits(&second), leave);
    assert!(admitted && begun.elapsed().is_zero());
}
