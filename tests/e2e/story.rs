//! The README's story, and what a machine looks like after it.

use std::time::Duration;

use rstest::rstest;

use crate::{
    COUNTER,
    harness::{
        client::Count,
        cluster::{Cluster, Options},
        machine_can_run_it,
        manifest::Manifests,
        repository,
    },
};

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn an_actor_wakes_sleeps_by_itself_and_goes_on_from_the_same_memory(
    #[values("gvisor", "criu")] runtime: &'static str,
) {
    if !machine_can_run_it("story") {
        return;
    }
    let manifests = Manifests::of(runtime)
        .counter("demo", "counter", "idle: { suspendAfter: 2s }\n")
        .actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;

    let answer = cluster.client.get(COUNTER, "/").await;
    assert_eq!(answer.header("x-reveille-wake"), Some("cold_start"));
    let cold: Count = answer.count();
    assert_eq!((cold.count, cold.host.as_str()), (1, COUNTER));

    let answer = cluster.client.get(COUNTER, "/").await;
    assert_eq!(answer.header("x-reveille-wake"), None, "a warm request woke nothing");
    let warm = answer.count();
    assert_eq!((warm.count, &warm.nonce), (2, &cold.nonce));

    let asleep = cluster.reaches("demo", "counter", "Suspended").await;
    assert_eq!(asleep["epoch"], 1);
    assert!(asleep["snapshot"].as_str().is_some_and(|id| !id.is_empty()), "{asleep}");
    assert_eq!(asleep["endpoint"], serde_json::Value::Null, "an actor asleep has no endpoint");

    let answer = cluster.client.get(COUNTER, "/").await;
    assert_eq!(answer.header("x-reveille-wake"), Some("restored"));
    assert!(answer.header("server-timing").is_some_and(|t| t.contains("restore;dur=")));
    let woken = answer.count();
    assert_eq!((woken.count, &woken.nonce), (3, &cold.nonce), "restored, not restarted");
    assert!(woken.ticks >= warm.ticks, "its timer went on from where it was");
    assert_eq!(cluster.actor("demo", "counter").await["epoch"], 2);

    cluster.stop().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn state_survives_ctrl_c_and_another_up(#[values("gvisor", "criu")] runtime: &'static str) {
    if !machine_can_run_it("restart of up") {
        return;
    }
    let manifests =
        Manifests::of(runtime).counter("demo", "counter", "").actor("demo", "counter", "counter");
    let mut cluster = Cluster::start(Options::new(manifests)).await;
    let before = cluster.client.get(COUNTER, "/").await.count();
    cluster.ctrl_c().await;
    cluster.up().await;
    assert_eq!(cluster.actor("demo", "counter").await["state"], "Suspended");
    let after = cluster.client.get(COUNTER, "/").await.count();
    assert_eq!((after.count, &after.nonce), (2, &before.nonce));
    cluster.stop().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_second_language_keeps_its_memory_too(#[values("gvisor", "criu")] runtime: &'static str) {
    if !machine_can_run_it("python") {
        return;
    }
    let fields = format!(
        "rootfs: {{ directory: {} }}\ncommand: [/usr/bin/python3, /app/server.py]\n\
         readiness: {{ httpGet: {{ path: /healthz }}, timeout: 20s }}\n",
        repository().join(".deps/rootfs/python").display()
    );
    let manifests = Manifests::of(runtime)
        .template("demo", "python", &fields)
        .actor("demo", "python", "python");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let host = "python.demo.actors.localhost";
    let before = cluster.client.get(host, "/").await.count();
    cluster.ok(&["suspend", "actor", "python", "-n", "demo"]).await;
    let after = cluster.client.get(host, "/").await.count();
    assert_eq!((after.count, &after.nonce), (before.count + 1, &before.nonce));
    cluster.stop().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_to_a_sleeping_actor_cause_one_restore(
    #[values("gvisor", "criu")] runtime: &'static str,
) {
    if !machine_can_run_it("joined wakes") {
        return;
    }
    let manifests =
        Manifests::of(runtime).counter("demo", "counter", "").actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let first = cluster.client.get(COUNTER, "/").await.count();
    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;

    let answers = cluster.client.get_many(COUNTER, "/", 1000).await;
    let mut counts: Vec<u64> = answers
        .iter()
        .map(|answer| {
            let count = answer.count();
            assert_eq!(count.nonce, first.nonce);
            count.count
        })
        .collect();
    counts.sort_unstable();
    assert!(counts.iter().copied().eq(2..=1001), "each request was served exactly once");
    let actor = cluster.actor("demo", "counter").await;
    assert_eq!(actor["epoch"], 2, "one restore: {actor}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_name_in_two_namespaces_is_two_actors() {
    if !machine_can_run_it("namespaces") {
        return;
    }
    let manifests = Manifests::new()
        .counter("demo", "counter", "")
        .actor("demo", "counter", "counter")
        .counter("other", "counter", "")
        .actor("other", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let one = cluster.client.get(COUNTER, "/").await.count();
    let two = cluster.client.get("counter.other.actors.localhost", "/").await.count();
    assert_ne!(one.nonce, two.nonce);
    assert_eq!((one.count, two.count), (1, 1));
    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    let other = cluster.actor("other", "counter").await;
    assert_eq!(other["state"], "Running", "the other one sleeps not: {other}");
    let again = cluster.client.get("counter.other.actors.localhost", "/").await.count();
    assert_eq!((again.count, &again.nonce), (2, &two.nonce));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_actors_than_workers_all_answer() {
    if !machine_can_run_it("few workers") {
        return;
    }
    let mut manifests = Manifests::new().counter("demo", "counter", "");
    for n in 0..4 {
        manifests = manifests.actor("demo", &format!("c{n}"), "counter");
    }
    let mut options = Options::new(manifests);
    options.workers = 2;
    let cluster = Cluster::start(options).await;
    let mut nonces = vec![String::new(); 4];
    for round in 1..=2 {
        for (n, nonce) in nonces.iter_mut().enumerate() {
            let host = format!("c{n}.demo.actors.localhost");
            let count = cluster.client.get(&host, "/").await.count();
            assert_eq!(count.count, round, "c{n}");
            assert!(nonce.is_empty() || *nonce == count.nonce, "c{n} was restarted");
            *nonce = count.nonce;
        }
    }
    let running = cluster.ok(&["get", "workers", "-o", "json"]).await;
    assert!(running.matches("\"name\"").count() >= 2, "{running}");
    tokio::time::timeout(Duration::from_secs(60), cluster.stop()).await.expect("stops");
}
