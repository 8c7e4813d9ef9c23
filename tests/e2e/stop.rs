//! Ctrl-C: first nobody is sent here any more, then what is there is finished, then the door is closed.

use std::time::Duration;

use crate::{
    COUNTER,
    harness::{
        client::Client,
        cluster::{Cluster, Options},
        eventually, machine_can_run_it,
        manifest::Manifests,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn at_a_stop_readiness_fails_first_and_whoever_is_there_or_still_comes_is_served() {
    if !machine_can_run_it("stop") {
        return;
    }
    let manifests = Manifests::new()
        .counter("demo", "counter", "")
        .actor("demo", "counter", "counter")
        .actor("demo", "sleeper", "counter");
    let mut cluster = Cluster::start(Options::new(manifests)).await;
    let first = cluster.client.get(COUNTER, "/").await.count();
    let client = cluster.client.clone();
    let slow = tokio::task::spawn(async move { client.get(COUNTER, "/slow?ms=4000").await });
    let status = Client::new(cluster.status);
    eventually("the slow request is under way", Duration::from_secs(5), || async {
        let metrics = status.get("localhost", "/metrics").await.text();
        let busy = metrics.contains("\nreveille_router_requests_in_flight 1\n");
        if busy { Ok(()) } else { Err(metrics) }
    })
    .await;

    cluster.interrupt();
    eventually("it is not ready", Duration::from_secs(5), || async {
        let answer = status.get("localhost", "/readyz").await;
        if answer.status == 503 { Ok(()) } else { Err(answer) }
    })
    .await;
    // Over a connection of its own, also to an actor that must be woken for it.
    let late = Client::new(cluster.http);
    assert_eq!(late.get(COUNTER, "/").await.count().nonce, first.nonce);
    late.get("sleeper.demo.actors.localhost", "/").await.count();
    assert!(!slow.is_finished(), "the test was too slow to see anything");
    let slow = slow.await.expect("joined");
    assert_eq!(slow.status, 200, "{slow:?}");
    assert!(cluster.ended().await.success());

    cluster.up().await;
    let after = cluster.client.get(COUNTER, "/").await.count();
    assert_eq!((after.count, &after.nonce), (3, &first.nonce));
    cluster.stop().await;
}
