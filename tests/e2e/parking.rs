//! Who waits for an actor that sleeps, how many, how long, and what they are told.

use std::time::Duration;

use futures::future::join_all;
use hyper::{Request, header::HOST};

use crate::{
    COUNTER,
    harness::{
        client::{Answer, Client},
        cluster::{Cluster, Options},
        eventually, machine_can_run_it,
        manifest::Manifests,
    },
};

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// One counter whose template has this `wake`.
async fn cluster(wake: &str, extra: &[&str]) -> Cluster {
    let manifests = Manifests::new()
        .counter("demo", "counter", &format!("wake: {{ {wake} }}\n"))
        .actor("demo", "counter", "counter");
    let mut options = Options::new(manifests);
    options.extra = extra.iter().map(|arg| (*arg).to_owned()).collect();
    Cluster::start(options).await
}

async fn open(client: &Client, method: &str, accept: &str) -> Answer {
    let request = Request::builder().method(method).uri(client.uri("/"));
    client.send(request.header(HOST, COUNTER).header("accept", accept), "").await
}

/// The value of one series of the router.
async fn metric(cluster: &Cluster, series: &str) -> f64 {
    let page = Client::new(cluster.status).get("status", "/metrics").await.text();
    let found = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_a_template_holds_from_its_very_first_wake() {
    if !machine_can_run_it("first wake") {
        return;
    }
    let cluster = cluster("maxParked: 5", &[]).await;
    let answers = cluster.client.get_many(COUNTER, "/", 60).await;
    let refused = answers.iter().filter(|a| a.reason() == Some("actor_parking_full")).count();
    let served = answers.iter().filter(|a| a.status == 200).count();
    assert_eq!(refused + served, 60, "{answers:?}");
    // Those who came once it was awake did not have to wait.
    assert!(refused > 0, "nobody was refused");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_waited_reach_the_actor_in_waves_and_each_exactly_once() {
    if !machine_can_run_it("waves") {
        return;
    }
    let cluster = cluster("concurrency: 3", &[]).await;
    let answers = cluster.client.get_many(COUNTER, "/", 200).await;
    let mut counts: Vec<u64> = answers.iter().map(|answer| answer.count().count).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=200).collect::<Vec<_>>());
    assert_eq!(metric(&cluster, "reveille_router_requests_parked").await, 0.0);
    assert_eq!(cluster.actor("demo", "counter").await["epoch"], 1, "one wake");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_shown_a_page_at_once_that_becomes_the_app_and_everybody_else_waits() {
    if !machine_can_run_it("waiting page") {
        return;
    }
    let cluster = cluster("page: true", &[]).await;
    let page = open(&cluster.client, "GET", BROWSER).await;
    assert_eq!((page.status.as_u16(), page.reason()), (503, Some("waking")), "{page:?}");
    assert_eq!(page.header("retry-after"), Some("1"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    let body = page.text();
    assert!(body.contains("http-equiv=\"refresh\"") && !body.contains("<script"), "{body}");
    // As the page itself does.
    let answer = eventually("the app", Duration::from_secs(30), || async {
        let answer = open(&cluster.client, "GET", BROWSER).await;
        if answer.status == 200 { Ok(answer) } else { Err(answer) }
    })
    .await;
    assert_eq!(answer.count().count, 1, "no load of the page reached the actor");
    assert_eq!(cluster.actor("demo", "counter").await["epoch"], 1, "one wake");
    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    let json = open(&cluster.client, "GET", "application/json, text/html;q=0.5, */*;q=0.1").await;
    assert_eq!(json.count().count, 2, "who prefers something else waits");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_has_spent_its_wakes_is_told_when_to_come_back() {
    if !machine_can_run_it("wake budget") {
        return;
    }
    let cluster = cluster("concurrency: 0", &["--wake-budget", "2"]).await;
    for count in 1..=2 {
        assert_eq!(cluster.client.get(COUNTER, "/").await.count().count, count);
        cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    }
    let refused = cluster.client.get(COUNTER, "/").await;
    assert_eq!((refused.status.as_u16(), refused.reason()), (429, Some("quota_exceeded")));
    let wait: u64 = refused.header("retry-after").expect("a wait").parse().expect("seconds");
    assert!((1..=38).contains(&wait), "{wait}");
    let output = cluster.cli(&["wake", "actor", "counter", "-n", "demo"]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("--wake-budget"), "{error}");
    let events = cluster.events("demo", "counter").await;
    let told = |event: &&serde_json::Value| event["kind"] == "WakeRefused";
    assert_eq!(events.iter().filter(told).count(), 1, "{events:#?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_leave_free_their_places_and_the_wake_serves_the_next() {
    if !machine_can_run_it("leaving callers") {
        return;
    }
    let cluster = cluster("maxParked: 10", &[]).await;
    let leave = join_all((0..10).map(|_| {
        let client = Client::new(cluster.http);
        async move {
            let waiting = client.get(COUNTER, "/");
            let _ = tokio::time::timeout(Duration::from_millis(15), waiting).await;
        }
    }));
    leave.await;
    eventually("free places", Duration::from_secs(10), || async {
        let parked = metric(&cluster, "reveille_router_requests_parked").await;
        if parked == 0.0 { Ok(()) } else { Err(parked) }
    })
    .await;
    assert_eq!(cluster.client.get(COUNTER, "/").await.status, 200);
    assert_eq!(cluster.actor("demo", "counter").await["epoch"], 1, "one wake");
    cluster.stop().await;
}
