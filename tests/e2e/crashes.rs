//! kill -9 of anything at any time: nothing is lost, nothing stays stuck.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::task::JoinHandle;

use crate::{
    COUNTER,
    harness::{
        client::{Answer, Count},
        cluster::{Cluster, Options},
        eventually, machine_can_run_it,
        manifest::Manifests,
        processes,
    },
    sleep::eventually_in_flight,
};

async fn cluster() -> Cluster {
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    Cluster::start(Options::new(manifests)).await
}

/// The counter's next 200, within what a restart of any part may take.
async fn answers_again(cluster: &Cluster, after: &str) -> Count {
    eventually(&format!("an answer after kill -9 of {after}"), Duration::from_secs(30), || async {
        let request = hyper::Request::get(cluster.client.uri("/")).header("host", COUNTER);
        let answer = cluster.client.try_send(request, "").await?;
        if answer.status == 200 { Ok(answer.count()) } else { Err(format!("{answer:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_process_may_be_killed_and_the_same_memory_answers_afterwards() {
    if !machine_can_run_it("kill -9") {
        return;
    }
    let cluster = cluster().await;
    let first = cluster.client.get(COUNTER, "/").await.count();
    let mut last = first.count;
    for role in ["controlplane", "node", "router", "envoy", "envoy-supervisor", "dns"] {
        let pid = cluster.pid_of(role).unwrap_or_else(|| panic!("{role} runs"));
        processes::signal(pid, Signal::SIGKILL);
        let count = answers_again(&cluster, role).await;
        assert_eq!(count.nonce, first.nonce, "{role}: restarted, not kept");
        assert!(count.count > last, "{role}: the count went back");
        eventually(&format!("{role} runs again"), Duration::from_secs(30), || async {
            cluster.pid_of(role).filter(|new| *new != pid).ok_or("not yet")
        })
        .await;
        // Nothing is stuck: it can be suspended and woken.
        eventually(&format!("a suspend after {role}"), Duration::from_secs(60), || async {
            let output = cluster.cli(&["suspend", "actor", "counter", "-n", "demo"]).await;
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() { Ok(()) } else { Err(error) }
        })
        .await;
        let count = answers_again(&cluster, role).await;
        assert_eq!(count.nonce, first.nonce, "{role}: restarted after a suspend");
        last = count.count;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_somebody_else_stops_ends_and_is_started_again() {
    if !machine_can_run_it("a stop of the router") {
        return;
    }
    let cluster = cluster().await;
    cluster.client.get(COUNTER, "/").await.count();
    let pid = cluster.pid_of("router").expect("it runs");
    processes::signal(pid, Signal::SIGTERM);
    eventually("another router runs", Duration::from_secs(30), || async {
        cluster.pid_of("router").filter(|new| *new != pid).ok_or("not yet")
    })
    .await;
    answers_again(&cluster, "router").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_control_plane_stopped_running_actors_keep_answering_and_sleeping_ones_say_why_not()
 {
    if !machine_can_run_it("control plane stopped") {
        return;
    }
    let manifests = Manifests::new()
        .counter("demo", "counter", "")
        .actor("demo", "counter", "counter")
        .actor("demo", "sleeper", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let first = cluster.client.get(COUNTER, "/").await.count();
    let pid = cluster.pid_of("controlplane").expect("it runs");
    processes::signal(pid, Signal::SIGSTOP);
    for n in 1..=20 {
        assert_eq!(cluster.client.get(COUNTER, "/").await.count().count, first.count + n);
    }
    // It takes calls, as one that is killed does not, and answers none.
    let sleeper = "sleeper.demo.actors.localhost";
    let answer = cluster.client.get(sleeper, "/").await;
    let told = (answer.status.as_u16(), answer.reason());
    assert_eq!(told, (503, Some("control_plane_unavailable")), "{answer:?}");
    processes::signal(pid, Signal::SIGCONT);
    eventually("the sleeper wakes", Duration::from_secs(30), || async {
        let answer = cluster.client.get(sleeper, "/").await;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_loss_an_actor_wakes_from_its_last_snapshot_and_says_so() {
    if !machine_can_run_it("power loss") {
        return;
    }
    let mut cluster = cluster().await;
    let first = cluster.client.get(COUNTER, "/").await.count();
    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    assert_eq!(cluster.client.get(COUNTER, "/").await.count().count, 2);
    assert_eq!(cluster.client.get(COUNTER, "/").await.count().count, 3);
    cluster.kill_everything().await;
    cluster.up().await;

    let lost = cluster.reaches("demo", "counter", "Lost").await;
    assert!(lost["snapshot"].as_str().is_some_and(|id| !id.is_empty()), "{lost}");
    let woken = cluster.client.get(COUNTER, "/").await.count();
    assert_eq!((woken.count, &woken.nonce), (2, &first.nonce), "the state of the snapshot");
    let events = cluster.events("demo", "counter").await;
    assert!(events.iter().any(|e| e["kind"] == "Lost"), "{events:#?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_up_takes_its_roles_along_and_the_next_one_goes_on() {
    if !machine_can_run_it("kill -9 of up") {
        return;
    }
    let mut cluster = cluster().await;
    let first = cluster.client.get(COUNTER, "/").await.count();
    let roles = processes::descendants(cluster.up_pid());
    cluster.kill_up().await;
    eventually("the roles end with it", Duration::from_secs(20), || async {
        let reveille = |p: &&processes::Process| !p.command.concat().contains("runsc");
        let left: Vec<_> =
            roles.iter().filter(reveille).filter(|p| processes::alive(p.pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    cluster.up().await;
    let after = answers_again(&cluster, "up").await;
    assert_eq!((after.count, &after.nonce), (2, &first.nonce));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_without_a_control_plane_leaves_what_runs_to_the_next_up() {
    if !machine_can_run_it("Ctrl-C without a control plane") {
        return;
    }
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    let mut options = Options::new(manifests);
    options.extra = vec!["--drain".into(), "1s".into()];
    let mut cluster = Cluster::start(options).await;
    let first = cluster.client.get(COUNTER, "/").await.count();
    processes::signal(cluster.pid_of("controlplane").expect("it runs"), Signal::SIGSTOP);
    cluster.ctrl_c().await;
    cluster.up().await;
    let after = answers_again(&cluster, "up").await;
    assert_eq!((after.count, &after.nonce), (2, &first.nonce));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_dies_is_seen_and_the_next_request_wakes_the_last_snapshot() {
    if !machine_can_run_it("sandbox death") {
        return;
    }
    let cluster = cluster().await;
    let first = cluster.client.get(COUNTER, "/").await.count();
    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    cluster.client.get(COUNTER, "/").await.count();
    kill_sandboxes(&cluster);
    let woken = answers_again(&cluster, "the sandbox").await;
    assert_eq!((woken.count, &woken.nonce), (2, &first.nonce));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_at_a_sandbox_that_goes_away_gets_its_503_at_once() {
    if !machine_can_run_it("requests in flight") {
        return;
    }
    let cluster = cluster().await;
    // A snapshot to come back to.
    cluster.client.get(COUNTER, "/").await.count();
    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    #[expect(clippy::async_yields_async, reason = "it is awaited when the sandbox is gone")]
    let in_flight = async || {
        answers_again(&cluster, "nothing").await;
        let client = cluster.client.clone();
        let slow = tokio::task::spawn(async move { client.get(COUNTER, "/slow?ms=60000").await });
        eventually_in_flight(&cluster).await;
        slow
    };
    let at_once = async |slow: JoinHandle<Answer>, what: &str| {
        // Far above what it takes, far below any timeout of Envoy's.
        let answer = tokio::time::timeout(Duration::from_secs(8), slow).await;
        let answer = answer.unwrap_or_else(|_| panic!("{what}: it waits on")).expect("joined");
        assert_eq!((answer.status.as_u16(), answer.reason()), (503, Some("upstream_reset")));
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    };
    let slow = in_flight().await;
    kill_sandboxes(&cluster);
    at_once(slow, "killed").await;
    let slow = in_flight().await;
    cluster.ok(&["delete", "actor", "counter", "-n", "demo"]).await;
    at_once(slow, "deleted").await;
    cluster.stop().await;
}

pub(crate) fn kill_sandboxes(cluster: &Cluster) {
    let dir = cluster.data_dir().to_string_lossy().into_owned();
    let sandboxes: Vec<_> = processes::all()
        .into_iter()
        .filter(|p| p.command.first().is_some_and(|c| c.contains("runsc-sandbox")))
        .filter(|p| p.command.iter().any(|arg| arg.contains(&dir)))
        .collect();
    assert!(!sandboxes.is_empty(), "a sandbox runs");
    for sandbox in sandboxes {
        processes::signal(sandbox.pid, Signal::SIGKILL);
    }
}
