//! `reveille explain`, of a whole instance.

use crate::{
    COUNTER,
    harness::{
        cluster::{Cluster, Options},
        machine_can_run_it,
        manifest::Manifests,
    },
};

async fn explain(cluster: &Cluster) -> serde_json::Value {
    let text = cluster.ok(&["explain", "actor", "demo/counter", "-o", "json"]).await;
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_who_woke_an_actor_why_it_is_awake_and_what_a_request_will_meet() {
    if !machine_can_run_it("explain") {
        return;
    }
    let manifests = Manifests::new()
        .counter("demo", "counter", "idle: { suspendAfter: 1h }")
        .actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let asleep = explain(&cluster).await;
    assert_eq!(asleep["why"][0], "nobody has asked for it yet: it was never started", "{asleep}");
    assert_eq!(asleep["requestNow"]["fate"], "Waits", "{asleep}");
    assert_eq!(asleep["requestNow"]["wake"], "ColdStart", "{asleep}");

    let answer = cluster.client.get(COUNTER, "/").await;
    let id = answer.header("x-request-id").expect("an id").to_owned();
    let awake = explain(&cluster).await;
    let asked = &awake["actor"]["lastWake"]["asked"];
    assert_eq!((&asked["by"], &asked["requestId"]), (&"Request".into(), &id.into()), "{awake}");
    assert!(asked["router"].is_string(), "{awake}");
    assert_eq!(awake["requestNow"]["fate"], "Served", "{awake}");
    assert_eq!(awake["requestNow"]["endpoint"], awake["actor"]["endpoint"], "{awake}");
    assert_eq!(awake["sleep"]["next"], "suspend", "{awake}");
    let text = cluster.ok(&["explain", "actor", "counter", "-n", "demo"]).await;
    assert!(text.contains("Last wake: ColdStart in "), "{text}");
    assert!(text.contains("(idle.suspendAfter)"), "{text}");

    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    let suspended = explain(&cluster).await;
    let why = suspended["why"][0].as_str().expect("a sentence");
    assert!(why.starts_with("it was suspended"), "{suspended}");
    let next = &suspended["requestNow"];
    assert_eq!(
        (&next["wake"], &next["snapshot"]),
        (&"Restored".into(), &suspended["actor"]["snapshot"])
    );
    let nobody = cluster.cli(&["explain", "actor", "nobody", "-n", "demo"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    cluster.stop().await;
}
