use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use reveille_api::proto::{Protocol, router_report::Report};

use super::{HOST, binding, counter, envoy::Answer, eventually, reply, rig::Rig};

#[tokio::test]
async fn bound_actors_are_served_while_the_control_plane_is_away() {
    let (rig, mut fake) = Rig::start().await;
    rig.wake(&mut fake, 1, 0).await;
    fake.kill().await;
    eventually(0, || rig.router.metrics.session_up.get()).await;
    for _ in 0..10 {
        assert_eq!(rig.get(HOST).await.endpoint().await, "10.0.0.1:20000");
    }
    assert_eq!(rig.metric("reveille_router_wakes_started_total").await, 1.0);
}

#[tokio::test]
async fn a_warm_answer_has_nothing_of_a_wake_and_any_spelling_of_the_host_is_warm() {
    let (rig, mut fake) = Rig::start().await;
    rig.wake(&mut fake, 1, 0).await;
    for host in [HOST, "COUNTER.demo.actors.test:8080", "counter.demo.actors.test."] {
        let Answer::Routed(fields) = rig.get(host).await.answer().await else { panic!("{host}") };
        assert_eq!(fields.into_keys().collect::<Vec<_>>(), ["endpoint"]);
    }
}

#[tokio::test]
async fn an_h2c_actor_is_named_as_one() {
    let (rig, mut fake) = Rig::start().await;
    let mut first = rig.get(HOST).await;
    let mut h2c = binding(&counter(), 1, 0);
    h2c.set_protocol(Protocol::H2c);
    fake.wake().await.reply(reply(h2c));
    for exchange in [&mut first, &mut rig.get(HOST).await] {
        let Answer::Routed(fields) = exchange.answer().await else { panic!("refused") };
        assert_eq!(fields["protocol"], "h2c");
    }
}

#[tokio::test]
async fn a_request_is_in_flight_from_its_answer_to_the_end_of_its_stream() {
    let (rig, mut fake, mut session) = Rig::in_session().await;
    let mut exchange = rig.wake(&mut fake, 1, 0).await;
    assert!(matches!(exchange.trailers().await, Some(Response::ResponseTrailers(_))));
    assert_eq!(rig.router.metrics.in_flight.get(), 1);
    drop(exchange);
    eventually(0, || rig.router.metrics.in_flight.get()).await;
    let mut rows = Vec::new();
    while rows.last().is_none_or(|row: &(u32, u64)| row.0 > 0) {
        let Report::Activity(activity) = session.report().await else { panic!("no activity") };
        rows.extend(activity.actors.iter().map(|row| (row.in_flight, row.requests)));
    }
    assert_eq!(rows.iter().map(|(_, requests)| requests).sum::<u64>(), 1);
    assert_eq!(rows.last().unwrap().0, 0);
}
