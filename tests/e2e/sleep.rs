//! When an actor goes to sleep, and when it must not.

use std::time::Duration;

use futures::StreamExt;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{
    COUNTER,
    harness::{
        cluster::{Cluster, Options},
        machine_can_run_it,
        manifest::Manifests,
    },
};

async fn cluster(spec: &str) -> Cluster {
    let manifests =
        Manifests::new().counter("demo", "counter", spec).actor("demo", "counter", "counter");
    Cluster::start(Options::new(manifests)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspend_waits_for_the_request_in_flight() {
    if !machine_can_run_it("drain") {
        return;
    }
    let cluster = cluster("").await;
    let first = cluster.client.get(COUNTER, "/").await.count();
    let client = cluster.client.clone();
    let slow = tokio::task::spawn(async move { client.get(COUNTER, "/slow?ms=1500").await });
    // The suspend must begin while the request is under way.
    eventually_in_flight(&cluster).await;
    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    let answer = slow.await.expect("joined");
    assert_eq!(answer.status, 200, "{answer:?}");
    let after = cluster.client.get(COUNTER, "/").await.count();
    assert_eq!(after.nonce, first.nonce);
    cluster.stop().await;
}

pub(crate) async fn eventually_in_flight(cluster: &Cluster) {
    crate::harness::eventually("a request is in flight", Duration::from_secs(5), || async {
        let metrics = metrics(cluster).await;
        let busy = metrics
            .lines()
            .find(|l| l.starts_with("reveille_router_requests_in_flight "))
            .is_some_and(|l| !l.ends_with(" 0"));
        if busy { Ok(()) } else { Err(metrics) }
    })
    .await;
}

/// The router's metrics.
async fn metrics(cluster: &Cluster) -> String {
    let client = crate::harness::client::Client::new(cluster.status);
    client.get("localhost", "/metrics").await.text()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_during_suspends_are_neither_lost_nor_doubled() {
    if !machine_can_run_it("churn") {
        return;
    }
    let cluster = cluster("").await;
    let first = cluster.client.get(COUNTER, "/").await.count();
    let (mut asleep, mut cancelled) = (0, 0);
    for round in 1..=20 {
        // From the first step of a suspend to after its end.
        let delay = Duration::from_millis(round * 37 % 260);
        let request = async {
            tokio::time::sleep(delay).await;
            cluster.client.get(COUNTER, "/").await.count()
        };
        let suspend = cluster.cli(&["suspend", "actor", "counter", "-n", "demo"]);
        let (count, output) = tokio::join!(request, suspend);
        assert_eq!((count.count, &count.nonce), (first.count + round, &first.nonce));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            asleep += 1;
        } else {
            assert!(stderr.contains("it is in use"), "{stderr}");
            cancelled += 1;
        }
    }
    assert!(asleep > 0 && cancelled > 0, "{asleep} suspends, {cancelled} cancelled");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_keeps_the_actor_awake_past_its_idle_time() {
    if !machine_can_run_it("sse") {
        return;
    }
    let cluster = cluster("idle: { suspendAfter: 1s }\n").await;
    let io = TokioIo::new(TcpStream::connect(cluster.http).await.expect("connects"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("http");
    let connection = tokio::task::spawn(connection);
    let request = Request::get("/sse?events=8&ms=500")
        .header(HOST, COUNTER)
        .body(Empty::<Bytes>::new())
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let mut events = String::new();
    let mut body = answer.into_body().into_data_stream();
    while let Some(chunk) = body.next().await {
        events.push_str(&String::from_utf8_lossy(&chunk.expect("the stream is not cut")));
    }
    assert_eq!(events.matches("data:").count(), 8, "{events}");
    assert_eq!(cluster.actor("demo", "counter").await["epoch"], 1, "it never slept meanwhile");
    drop(sender);
    let _ = connection.await;
    cluster.reaches("demo", "counter", "Suspended").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_are_idempotent_and_stopped_is_not_woken_by_traffic() {
    if !machine_can_run_it("verbs") {
        return;
    }
    let cluster = cluster("").await;
    for _ in 0..2 {
        cluster.ok(&["wake", "actor", "counter", "-n", "demo"]).await;
    }
    assert_eq!(cluster.actor("demo", "counter").await["epoch"], 1);
    let first = cluster.client.get(COUNTER, "/").await.count();
    for _ in 0..2 {
        cluster.ok(&["stop", "actor", "counter", "-n", "demo"]).await;
    }
    assert_eq!(cluster.actor("demo", "counter").await["state"], "Stopped");
    let answer = cluster.client.get(COUNTER, "/").await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (503, Some("actor_stopped")));
    assert_eq!(answer.header("retry-after"), None);
    cluster.ok(&["wake", "actor", "counter", "-n", "demo"]).await;
    let again = cluster.client.get(COUNTER, "/").await.count();
    assert_eq!((again.count, &again.nonce), (2, &first.nonce));
    for _ in 0..2 {
        cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    }
    // There is nothing to freeze.
    let output = cluster.cli(&["freeze", "actor", "counter", "-n", "demo"]).await;
    assert!(!output.status.success());
    cluster.ok(&["wake", "actor", "counter", "-n", "demo"]).await;
    for _ in 0..2 {
        cluster.ok(&["freeze", "actor", "counter", "-n", "demo"]).await;
    }
    let frozen = cluster.actor("demo", "counter").await;
    assert_eq!(frozen["state"], "Frozen");
    let thawed = cluster.client.get(COUNTER, "/").await;
    assert_eq!(thawed.header("x-reveille-wake"), Some("thawed"));
    let thawed = thawed.count();
    assert_eq!((thawed.count, &thawed.nonce), (3, &first.nonce));
    assert_eq!(cluster.actor("demo", "counter").await["epoch"], frozen["epoch"]);
    for verb in ["freeze", "suspend"] {
        cluster.ok(&[verb, "actor", "counter", "-n", "demo"]).await;
    }
    let restored = cluster.client.get(COUNTER, "/").await;
    assert_eq!(restored.header("x-reveille-wake"), Some("restored"));
    let restored = restored.count();
    assert_eq!((restored.count, &restored.nonce), (4, &first.nonce));
    cluster.ok(&["delete", "actor", "counter", "-n", "demo"]).await;
    // The router may remember the actor for as long as it caches an answer.
    crate::harness::eventually("it is unknown", Duration::from_secs(5), || async {
        let answer = cluster.client.get(COUNTER, "/").await;
        if answer.reason() == Some("actor_not_found") { Ok(()) } else { Err(answer) }
    })
    .await;
    cluster.stop().await;
}
