//! Requests that come a second time, as Envoy sends them after it could not connect.

use reveille_api::proto::{Revoke, router_command::Command};

use super::{
    HOST, binding, counter,
    envoy::Exchange,
    eventually,
    fake::{Fake, Session},
    reply,
    rig::Rig,
};

const IDS: [&str; 2] =
    ["434756f4-bd24-447a-8ac8-c7cdba96cd00", "7e6ee2cc-1650-4096-a2ea-f0029ecd68a3"];

async fn first(rig: &Rig, id: &str) -> Exchange {
    Exchange::begin(&rig.envoy, &[(":authority", HOST), ("x-request-id", id)]).await
}

async fn again(rig: &Rig, id: &str, failed: &str) -> Exchange {
    let headers = [(":authority", HOST), ("x-request-id", id), ("x-reveille-failed", failed)];
    Exchange::begin(&rig.envoy, &headers).await
}

/// A router that holds epoch 1.
async fn bound() -> (Rig, Fake, Session) {
    let (rig, mut fake, session) = Rig::in_session().await;
    drop(rig.wake(&mut fake, 1, 0).await);
    (rig, fake, session)
}

#[tokio::test]
async fn an_endpoint_that_could_not_be_reached_is_given_out_no_more_and_the_wake_says_so() {
    let (rig, mut fake, _session) = bound().await;
    let mut lost = first(&rig, IDS[0]).await;
    assert_eq!(lost.endpoint().await, "10.0.0.1:20000");
    let mut second = again(&rig, IDS[0], "10.0.0.1:20000").await;
    let wake = fake.wake().await;
    assert_eq!(wake.request.doubted_epoch, 1);
    assert_eq!(rig.router.metrics.bindings.get(), 0);
    // Others wait with it.
    let mut other = rig.get(HOST).await;
    eventually(2, || rig.router.table.parking().taken()).await;
    wake.reply(reply(binding(&counter(), 2, 0)));
    for exchange in [&mut second, &mut other] {
        assert_eq!(exchange.endpoint().await, "10.0.0.2:20000");
    }
    assert!(fake.wakes.try_recv().is_err(), "one wake for both");
    assert_eq!(rig.metric("reveille_router_not_connected_total").await, 1.0);
}

#[tokio::test]
async fn an_endpoint_that_is_not_the_present_one_evicts_nothing() {
    let (rig, mut fake, _session) = bound().await;
    for other in ["10.0.0.9:20000", "10.0.0.1:20001", "nowhere"] {
        let mut late = again(&rig, IDS[0], other).await;
        assert_eq!(late.endpoint().await, "10.0.0.1:20000", "{other}");
    }
    assert_eq!(rig.router.metrics.bindings.get(), 1);
    assert!(fake.wakes.try_recv().is_err());
}

#[tokio::test]
async fn without_a_session_a_binding_is_kept_whatever_failed() {
    let (rig, fake, session) = bound().await;
    drop(session);
    fake.kill().await;
    eventually(None, || rig.router.session.up()).await;
    let mut second = again(&rig, IDS[0], "10.0.0.1:20000").await;
    assert_eq!(second.endpoint().await, "10.0.0.1:20000");
    assert_eq!(rig.router.metrics.bindings.get(), 1);
}

#[tokio::test]
async fn a_binding_that_is_given_out_again_after_the_doubt_is_used() {
    let (rig, mut fake, _session) = bound().await;
    let mut second = again(&rig, IDS[0], "10.0.0.1:20000").await;
    fake.wake().await.reply(reply(binding(&counter(), 1, 0)));
    assert_eq!(second.endpoint().await, "10.0.0.1:20000");
    assert_eq!(rig.get(HOST).await.endpoint().await, "10.0.0.1:20000");
}

#[tokio::test]
async fn when_the_activation_is_gone_a_request_that_went_on_elsewhere_is_not_ended() {
    let (rig, mut fake, session) = bound().await;
    let (mut moved, mut lost) = (first(&rig, IDS[0]).await, first(&rig, IDS[1]).await);
    for exchange in [&mut moved, &mut lost] {
        assert_eq!(exchange.endpoint().await, "10.0.0.1:20000");
    }
    let mut second = again(&rig, IDS[0], "10.0.0.1:20000").await;
    fake.wake().await.reply(reply(binding(&counter(), 2, 0)));
    assert_eq!(second.endpoint().await, "10.0.0.2:20000");
    let gone =
        |epoch| Revoke { actor: Some((&counter()).into()), epoch, gone: true, ..Revoke::default() };
    session.command(Command::Revoke(gone(1))).await;
    assert_eq!(lost.error().await.message(), "activation_gone");
    // It counts only where it is.
    eventually(1, || rig.router.metrics.in_flight.get()).await;
    assert!(moved.trailers().await.is_some(), "its stream is open");
    // And where it is it can be ended.
    session.command(Command::Revoke(gone(2))).await;
    assert_eq!(second.error().await.message(), "activation_gone");
}
