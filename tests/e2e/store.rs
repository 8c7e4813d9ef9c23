//! Two nodes with one store: an actor that went to sleep on one of them wakes on the other.

use std::time::Duration;

use crate::harness::{
    client::Client,
    eventually,
    fleet::{Fleet, in_a_network_of_its_own},
    machine_can_run_it,
    manifest::Manifests,
};

const HOST: &str = "a.demo.actors.localhost";

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_whose_node_is_gone_wakes_on_another_from_the_store_with_its_memory() {
    let test = "store::an_actor_whose_node_is_gone_wakes_on_another_from_the_store_with_its_memory";
    if !machine_can_run_it("migration") || !in_a_network_of_its_own(test).await {
        return;
    }
    let template = "workerSelector: { matchLabels: { store: shared } }\n\
                    idle: { pauseAfter: 1s, suspendAfter: 6s }\n\
                    wake: { timeout: 20s, park: 30s }\n";
    let manifests =
        Manifests::new().counter("demo", "counter", template).actor("demo", "a", "counter");
    let mut fleet = Fleet::start(&manifests, 1, &["--park", "40s"]).await;
    let store = format!("file://{}", fleet.dir.path().join("store").display());
    let flags = ["--store", &store, "--label", "store=shared"];
    fleet.start_node("node-2", "10.213.2.0/24", &flags).await;
    fleet.start_node("node-3", "10.213.3.0/24", &flags).await;

    let first = Client::new(fleet.http).get(HOST, "/").await.count();
    // By the ladder: first on its node only, and a while later in the store.
    let limit = Duration::from_secs(60);
    let paused = eventually("it is paused", limit, || async {
        let actor = fleet.actor("a").await;
        if actor["state"] == "Paused" { Ok(actor) } else { Err((actor, fleet.tails())) }
    })
    .await;
    assert_eq!(paused["snapshotStorage"], "Waiting");
    eventually("it is suspended", limit, || async {
        let actor = fleet.actor("a").await;
        if actor["state"] == "Suspended" { Ok(()) } else { Err((actor, fleet.tails())) }
    })
    .await;
    let snapshots = fleet.ok(&["get", "snapshots", "-n", "demo", "-o", "json"]).await;
    let snapshots: serde_json::Value = serde_json::from_str(&snapshots).unwrap();
    assert_eq!(snapshots["items"][0]["storage"], "Stored", "{snapshots}");
    let home = snapshots["items"][0]["node"].as_str().unwrap().to_owned();
    let other = if home == "node-2" { "node-3" } else { "node-2" };

    // While its node has a place, it wakes there, from the files that are there.
    let second = Client::new(fleet.http).get(HOST, "/").await.count();
    assert_eq!((second.count, &second.nonce), (first.count + 1, &first.nonce));
    assert_eq!(fleet.actor("a").await["node"], home.as_str());
    eventually("it is in the store again", limit, || async {
        let actor = fleet.actor("a").await;
        let again = actor["state"] == "Suspended" && actor["snapshotStorage"] == "Stored";
        if again { Ok(()) } else { Err((actor, fleet.tails())) }
    })
    .await;

    fleet.end_node(&home).await;
    let third = Client::new(fleet.http).get(HOST, "/").await.count();
    assert_eq!((third.count, &third.nonce), (first.count + 2, &first.nonce));
    let actor = fleet.actor("a").await;
    assert_eq!(actor["node"], other, "{actor}");
    assert!(actor["lastWake"]["fetchUs"].as_u64().unwrap() > 0, "{actor}");
    fleet.end().await;
}
