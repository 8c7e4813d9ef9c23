use std::{future::pending, time::Duration};

use reveille_api::{Ladder, net::Address, task};
use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{
    HOST, binding, counter, envoy, eventually, reply,
    rig::{Rig, ladder},
};

#[tokio::test]
async fn it_is_ready_once_a_session_stood_and_stays_so_without_one() {
    let (rig, mut fake) = Rig::start().await;
    assert_eq!(rig.page("/healthz", "*/*").await.0, 200);
    assert_eq!(rig.page("/readyz", "*/*").await.0, 503);
    let session = fake.welcomed().await;
    eventually(true, || rig.router.session.ever()).await;
    assert_eq!(rig.page("/readyz", "*/*").await.0, 200);
    drop(session);
    fake.kill().await;
    eventually(None, || rig.router.session.up()).await;
    assert_eq!(rig.page("/readyz", "*/*").await.0, 200);
}

#[tokio::test]
async fn a_shutdown_fails_readiness_first_and_lets_everything_finish() {
    let (mut rig, mut fake, _session) = Rig::in_session().await;
    let long = rig.wake(&mut fake, 1, 0).await;
    let mut parked = rig.get("other.demo.actors.test").await;
    let wake = fake.wake().await;
    rig.shutdown.cancel();
    assert_eq!(rig.page("/readyz", "*/*").await.0, 503);
    // Requests that still come are served.
    assert_eq!(rig.get(HOST).await.endpoint().await, "10.0.0.1:20000");
    let other = reveille_api::ActorKey::new("demo", "other").unwrap();
    wake.reply(reply(binding(&other, 5, 0)));
    assert_eq!(parked.endpoint().await, "10.0.0.5:20000");
    drop(parked);
    assert!(rig.running.try_join_next().is_none(), "ended with a request in flight");
    drop(long);
    rig.running.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn in_the_grace_of_a_shutdown_whoever_comes_is_served_and_a_second_signal_ends_it() {
    let grace = ladder().with_grace(Duration::from_secs(60)).unwrap();
    let (mut rig, mut fake) = Rig::with(|config| config.ladder = grace).await;
    drop(rig.wake(&mut fake, 1, 0).await);
    rig.shutdown.cancel();
    assert_eq!(rig.page("/readyz", "*/*").await.0, 503);
    // With nothing in flight it would have ended by now.
    eventually(0, || rig.router.metrics.in_flight.get()).await;
    for _ in 0..20 {
        assert_eq!(rig.get(HOST).await.endpoint().await, "10.0.0.1:20000");
        assert!(rig.running.try_join_next().is_none(), "ended in its grace");
    }
    rig.hurry.cancel();
    rig.running.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_shutdown_ends_at_its_deadline() {
    let drain = Duration::from_millis(100);
    let ladder = Ladder::new(drain / 2, drain, 4, 100).unwrap().with_grace(Duration::ZERO).unwrap();
    let (mut rig, mut fake) = Rig::with(|config| config.ladder = ladder).await;
    let _long = rig.wake(&mut fake, 1, 0).await;
    let since = tokio::time::Instant::now();
    rig.shutdown.cancel();
    rig.running.join_next().await.unwrap().unwrap().unwrap();
    assert!(since.elapsed() >= drain && since.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn the_metrics_name_no_actor() {
    let (rig, mut fake) = Rig::start().await;
    rig.wake(&mut fake, 1, 0).await;
    let (_, text) = rig.page("/metrics", "*/*").await;
    assert!(!text.contains("demo") && !text.contains("10.0.0.1"), "{text}");
}

#[tokio::test]
async fn grpc_health_tells_what_readiness_tells() {
    let (rig, mut fake) = Rig::start().await;
    let check = async || {
        let mut client = HealthClient::new(rig.envoy.clone());
        client.check(HealthCheckRequest::default()).await.unwrap().into_inner().status
    };
    assert_eq!(check().await, 2, "no session stood yet");
    let _session = fake.welcomed().await;
    let _long = rig.wake(&mut fake, 1, 0).await;
    while check().await != 1 {
        tokio::task::yield_now().await;
    }
    rig.shutdown.cancel();
    while check().await != 2 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_an_envoy_that_vanished_without_a_word_had_in_flight_ends_within_half_a_minute() {
    let (rig, mut fake, _session) = Rig::in_session().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wire.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let Address::Unix(router) = rig.grpc.clone() else { panic!("{:?}", rig.grpc) };
    let (cut, mut wire) = (CancellationToken::new(), JoinSet::new());
    let is_cut = cut.clone();
    task::spawn(&mut wire, "wire", async move {
        let (mut envoy, _) = listener.accept().await.unwrap();
        let mut router = UnixStream::connect(router).await.unwrap();
        let both_ways = copy_bidirectional(&mut envoy, &mut router);
        is_cut.run_until_cancelled(both_ways).await;
        // Neither end is told.
        pending::<()>().await;
    });
    let mut request = envoy::get(&Address::Unix(path).channel(), HOST).await;
    fake.wake().await.reply(reply(binding(&counter(), 1, 0)));
    request.endpoint().await;
    eventually(1, || rig.router.metrics.in_flight.get()).await;
    cut.cancel();
    tokio::time::pause();
    for _ in 0..31 {
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::resume();
    eventually(0, || rig.router.metrics.in_flight.get()).await;
}
