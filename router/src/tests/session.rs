use reveille_api::proto::{Revoke, RevokeAck, router_command::Command, router_report::Report};
use tokio::time::Duration;

use super::{
    HOST, binding, counter, eventually,
    fake::{Fake, Session},
    reply,
    rig::Rig,
};

async fn ack(session: &mut Session) -> RevokeAck {
    match session.word().await {
        Report::RevokeAck(ack) => ack,
        other => panic!("{other:?}"),
    }
}

fn said(ack: &RevokeAck) -> (u64, u64, u32) {
    (ack.epoch, ack.term, ack.in_flight)
}

#[tokio::test]
async fn a_revoke_is_acknowledged_at_once_when_nothing_is_in_flight_and_the_next_request_is_cold() {
    let (rig, mut fake, mut session) = Rig::in_session().await;
    drop(rig.wake(&mut fake, 1, 0).await);
    eventually(0, || rig.router.metrics.in_flight.get()).await;
    session.revoke(1, 0, 10_000).await;
    assert_eq!(said(&ack(&mut session).await), (1, 0, 0));
    assert_eq!((rig.router.table.len(), rig.router.metrics.bindings.get()), (0, 0));
    rig.wake(&mut fake, 2, 0).await;
}

#[tokio::test]
async fn a_revoke_of_what_was_never_held_is_acknowledged_at_once() {
    let (rig, _fake, mut session) = Rig::in_session().await;
    session.revoke(7, 3, 10_000).await;
    assert_eq!(said(&ack(&mut session).await), (7, 3, 0));
    assert_eq!(rig.router.table.len(), 0);
}

#[tokio::test]
async fn a_revoke_is_acknowledged_when_the_last_request_has_ended() {
    let (rig, mut fake, mut session) = Rig::in_session().await;
    let first = rig.wake(&mut fake, 1, 0).await;
    let mut second = rig.get(HOST).await;
    second.endpoint().await;
    session.revoke(1, 0, 10_000).await;
    eventually(1, || rig.router.revokes.len()).await;
    // A request that comes while it drains waits for what comes next.
    let mut third = rig.get(HOST).await;
    let wake = fake.wake().await;
    drop(first);
    eventually(1, || rig.router.metrics.in_flight.get()).await;
    assert_eq!(rig.router.revokes.len(), 1);
    drop(second);
    assert_eq!(said(&ack(&mut session).await), (1, 0, 0));
    wake.reply(reply(binding(&counter(), 2, 0)));
    assert_eq!(third.endpoint().await, "10.0.0.2:20000");
}

#[tokio::test]
async fn a_cancelled_suspend_gives_the_same_endpoint_out_in_its_next_term() {
    let (rig, mut fake, mut session) = Rig::in_session().await;
    let long = rig.wake(&mut fake, 1, 0).await;
    session.revoke(1, 0, 10_000).await;
    eventually(1, || rig.router.revokes.len()).await;
    let next = rig.wake(&mut fake, 1, 1).await;
    // The second suspend waits for the requests of both terms.
    session.revoke(1, 1, 10_000).await;
    eventually(2, || rig.router.revokes.len()).await;
    drop(next);
    eventually(1, || rig.router.metrics.in_flight.get()).await;
    assert_eq!(rig.router.revokes.len(), 2);
    drop(long);
    // The later one says all that the earlier would, and may have taken its place.
    while said(&ack(&mut session).await) != (1, 1, 0) {}
    eventually(0, || rig.router.table.len()).await;
}

#[tokio::test]
async fn a_drain_that_takes_too_long_is_acknowledged_with_what_is_left() {
    let (rig, mut fake, mut session) = Rig::in_session().await;
    let long = rig.wake(&mut fake, 1, 0).await;
    session.revoke(1, 0, 30).await;
    let late = ack(&mut session).await;
    assert_eq!((said(&late), late.idle_ms), ((1, 0, 1), 0));
    assert_eq!(rig.router.table.len(), 1);
    drop(long);
    eventually(0, || rig.router.table.len()).await;
}

#[tokio::test]
async fn a_reply_that_was_revoked_on_its_way_is_asked_for_again() {
    let (rig, mut fake, mut session) = Rig::in_session().await;
    let mut exchange = rig.get(HOST).await;
    let wake = fake.wake().await;
    session.revoke(1, 0, 10_000).await;
    ack(&mut session).await;
    wake.reply(reply(binding(&counter(), 1, 0)));
    fake.wake().await.reply(reply(binding(&counter(), 2, 0)));
    assert_eq!(exchange.endpoint().await, "10.0.0.2:20000");
    assert_eq!(rig.router.metrics.wakes_stale.get(), 1);
}

#[tokio::test]
async fn a_control_plane_that_restarts_is_told_what_is_held_and_what_was_acknowledged() {
    let (rig, mut fake, mut session) = Rig::in_session().await;
    let _request = rig.wake(&mut fake, 3, 2).await;
    session.revoke(2, 0, 0).await;
    assert_eq!(said(&ack(&mut session).await), (2, 0, 0));
    drop(session);
    fake.kill().await;
    eventually(None, || rig.router.session.up()).await;
    let mut fake = Fake::listen(&rig.control_plane).await;
    let mut session = fake.session().await;
    let (hello, held) = session.greeting().await;
    assert_eq!(hello.instance, rig.router.instance);
    let held: Vec<_> = held.iter().map(|b| (b.epoch, b.term, b.in_flight, b.idle_ms)).collect();
    assert_eq!(held, [(3, 2, 1, 0)]);
    session.welcome().await;
    assert_eq!(said(&ack(&mut session).await), (2, 0, 0));
}

#[tokio::test]
async fn a_control_plane_that_restarts_is_told_of_requests_at_what_was_revoked() {
    let (rig, mut fake, session) = Rig::in_session().await;
    let long = rig.wake(&mut fake, 3, 2).await;
    session.revoke(3, 2, 60_000).await;
    eventually(1, || rig.router.revokes.len()).await;
    drop(session);
    let mut session = fake.session().await;
    let (_, held) = session.greeting().await;
    let held: Vec<_> = held.iter().map(|b| (b.epoch, b.term, b.in_flight)).collect();
    assert_eq!(held, [(3, 0, 1)]);
    drop((long, session));
}

#[tokio::test]
async fn an_acknowledgement_said_again_tells_what_is_in_flight_by_then() {
    let (rig, mut fake, mut session) = Rig::in_session().await;
    let long = rig.wake(&mut fake, 1, 0).await;
    session.revoke(1, 0, 0).await;
    assert_eq!(said(&ack(&mut session).await), (1, 0, 1));
    drop(session);
    let mut session = fake.session().await;
    session.greeting().await;
    assert_eq!(said(&ack(&mut session).await), (1, 0, 1));
    drop((long, session));
    eventually(0, || rig.router.metrics.in_flight.get()).await;
    let mut session = fake.session().await;
    session.greeting().await;
    assert_eq!(said(&ack(&mut session).await), (1, 0, 0));
}

#[tokio::test]
async fn a_drain_outlives_the_session_it_was_asked_for_on() {
    let (rig, mut fake, session) = Rig::in_session().await;
    let request = rig.wake(&mut fake, 1, 0).await;
    session.revoke(1, 0, 10_000).await;
    eventually(1, || rig.router.revokes.len()).await;
    drop(session);
    fake.kill().await;
    eventually(None, || rig.router.session.up()).await;
    drop(request);
    eventually(0, || rig.router.revokes.len()).await;
    let mut fake = Fake::listen(&rig.control_plane).await;
    let mut session = fake.session().await;
    assert_eq!(session.greeting().await.1, []);
    assert_eq!(said(&ack(&mut session).await), (1, 0, 0));
}

#[tokio::test]
async fn a_wake_that_lost_its_control_plane_is_asked_of_the_next() {
    let (rig, mut fake, session) = Rig::in_session().await;
    let mut exchange = rig.get(HOST).await;
    let wake = fake.wake().await;
    drop((wake, session));
    fake.kill().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut fake = Fake::listen(&rig.control_plane).await;
    fake.wake().await.reply(reply(binding(&counter(), 1, 0)));
    assert_eq!(exchange.endpoint().await, "10.0.0.1:20000");
}

#[tokio::test]
async fn requests_at_an_activation_that_is_gone_are_ended_at_once() {
    let (rig, mut fake, session) = Rig::in_session().await;
    let mut cut = rig.wake(&mut fake, 1, 0).await;
    let revoke =
        Revoke { actor: Some((&counter()).into()), epoch: 1, gone: true, ..Revoke::default() };
    session.command(Command::Revoke(revoke)).await;
    let error = cut.error().await;
    assert_eq!((error.code(), error.message()), (tonic::Code::Aborted, "activation_gone"));
    eventually((0, 0), || (rig.router.metrics.in_flight.get(), rig.router.table.len())).await;
    rig.wake(&mut fake, 2, 0).await;
}
