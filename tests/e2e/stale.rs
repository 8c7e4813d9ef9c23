//! A router that holds a binding nobody answers at: what could not be connected is answered all the same, once and in the
//! same client request.

use std::{process::Command, time::Duration};

use nix::sys::signal::Signal;
use tokio::task::JoinHandle;

use crate::{
    COUNTER,
    crashes::kill_sandboxes,
    harness::{
        client::{Answer, Client},
        cluster::{Cluster, Options},
        eventually, machine_can_run_it,
        manifest::Manifests,
        processes,
    },
};

/// Above the 5 s that Envoy gives a connection, below the 30 s of grace that the control plane gives a node.
const EVICTED: Duration = Duration::from_secs(15);

/// With an actor that has a snapshot and runs, and to which Envoy has no open connection: a request on one of those
/// may have reached it.
async fn cluster() -> (Cluster, String) {
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let first = cluster.client.get(COUNTER, "/").await.count();
    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    assert_eq!(cluster.client.get(COUNTER, "/").await.count().count, 2);
    eventually("no connection to the actor", Duration::from_secs(20), || async {
        let text = admin(&cluster, "/stats?filter=cluster.actors-http1.upstream_cx_active").await;
        if text.trim_end().ends_with(": 0") { Ok(()) } else { Err(text) }
    })
    .await;
    (cluster, first.nonce)
}

async fn admin(cluster: &Cluster, path: &str) -> String {
    Client::new(cluster.admin).get("localhost", path).await.text()
}

/// What the router says of itself.
async fn status(cluster: &Cluster) -> serde_json::Value {
    let client = Client::new(cluster.status);
    let request = hyper::Request::get(client.uri("/statusz")).header("accept", "application/json");
    client.send(request, "").await.json()
}

fn asking(cluster: &Cluster) -> JoinHandle<Answer> {
    let client = cluster.client.clone();
    tokio::task::spawn(async move { client.get(COUNTER, "/").await })
}

/// Drops what is sent to an actor, as a network between two machines does that is cut. Gone with this.
struct Cut(String);

impl Cut {
    fn from(address: &str) -> Self {
        let table = format!("reveille_test_{}_{}", std::process::id(), address.replace('.', "_"));
        let rules = format!(
            "table ip {table} {{ chain out {{ type filter hook output priority -300; ip daddr {address} drop; }}; }}"
        );
        nft(&[&rules]);
        Self(table)
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        nft(&["delete", "table", "ip", &self.0]);
    }
}

fn nft(rules: &[&str]) {
    let status = Command::new("nft").args(rules).status().expect("nft runs");
    assert!(status.success(), "{rules:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_after_a_sandbox_was_killed_is_answered_from_the_last_snapshot() {
    if !machine_can_run_it("a killed sandbox") {
        return;
    }
    let (cluster, nonce) = cluster().await;
    kill_sandboxes(&cluster);
    let answer = cluster.client.get(COUNTER, "/").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!((answer.count().count, answer.count().nonce), (2, nonce));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_dies_while_its_agent_is_stopped_holds_the_request_until_the_agent_is_back()
{
    if !machine_can_run_it("a stopped agent") {
        return;
    }
    let (cluster, nonce) = cluster().await;
    let agent = cluster.pid_of("node").expect("it runs");
    processes::signal(agent, Signal::SIGSTOP);
    kill_sandboxes(&cluster);
    let asking = asking(&cluster);
    evicted(&cluster).await;
    assert!(!asking.is_finished(), "{:?}", asking.await);
    processes::signal(agent, Signal::SIGCONT);
    let answer = asking.await.expect("joined");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!((answer.count().count, answer.count().nonce), (2, nonce));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_on_a_node_that_is_cut_off_is_held_and_then_goes_on_as_if_nothing_had_been() {
    if !machine_can_run_it("a node that is cut off") {
        return;
    }
    let (cluster, nonce) = cluster().await;
    let actor = cluster.actor("demo", "counter").await;
    let endpoint = actor["endpoint"].as_str().expect("it runs").to_owned();
    let (address, _) = endpoint.split_once(':').expect("address and port");
    let agent = cluster.pid_of("node").expect("it runs");
    processes::signal(agent, Signal::SIGSTOP);
    let cut = Cut::from(address);
    let first = asking(&cluster);
    evicted(&cluster).await;
    // Who comes now does not try what is known to fail.
    let second = asking(&cluster);
    eventually("both wait", Duration::from_secs(5), || async {
        let status = status(&cluster).await;
        if status["parked"] == 2 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    drop(cut);
    processes::signal(agent, Signal::SIGCONT);
    let mut counts = Vec::new();
    for asked in [first, second] {
        let answer = asked.await.expect("joined");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.count().nonce, nonce);
        counts.push(answer.count().count);
    }
    counts.sort_unstable();
    assert_eq!(counts, [3, 4], "the same process, each request once");
    let after = cluster.actor("demo", "counter").await;
    assert_eq!((&after["epoch"], &after["endpoint"]), (&actor["epoch"], &actor["endpoint"]));
    cluster.stop().await;
}

/// Waits until the router gives the binding out no more, with somebody waiting for the actor.
async fn evicted(cluster: &Cluster) {
    eventually("the binding is evicted", EVICTED, || async {
        let status = status(cluster).await;
        if status["bound"] == 0 && status["parked"] == 1 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}
