//! One request, one trace: from the client's `traceparent` through Envoy, router, control plane and node, and on to the actor.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use futures::future::join_all;
use hyper::{Request, header::HOST};

use crate::{
    COUNTER,
    harness::{
        client::Client,
        cluster::{Cluster, Options, free_address},
        collector::{Collector, Span, outline},
        eventually, machine_can_run_it,
        manifest::Manifests,
        processes::Running,
    },
};

const ENVOY: &str = "reveille-envoy";
const ROUTER: &str = "reveille-router";
const CONTROL_PLANE: &str = "reveille-controlplane";
const NODE: &str = "reveille-node";
/// What a wake has, from the first to the last.
const WAKE: [(&str, &str); 8] = [
    (ENVOY, "GET"),
    (ROUTER, "route"),
    (ROUTER, "wake"),
    (CONTROL_PLANE, "Routers/Wake"),
    (CONTROL_PLANE, "wake"),
    (CONTROL_PLANE, "activate"),
    (NODE, "NodeAgent/Activate"),
    (NODE, "ready"),
];

/// What a suspend has, from the last up to the first; and a step beside them.
const SUSPEND: [(&str, &str); 5] = [
    (NODE, "NodeAgent/Suspend"),
    (CONTROL_PLANE, "checkpoint"),
    (CONTROL_PLANE, "suspend"),
    (CONTROL_PLANE, "Control/SuspendActor"),
    (CONTROL_PLANE, "drain"),
];

/// A verb about the actor, by somebody who is in a trace.
async fn verb(cluster: &Cluster, verb: &str, trace: &str) {
    let mut command = cluster.reveille();
    command.args([verb, "actor", "demo/counter"]);
    command.env("TRACEPARENT", format!("00-{trace}-{CLIENT}-01"));
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.expect("joined").expect("reveille runs");
    assert!(output.status.success(), "{output:?}");
}

async fn traced(collector: &Collector, extra: &[&str]) -> Cluster {
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    let mut options = Options::new(manifests);
    options.extra = vec!["--otlp-endpoint".into(), collector.url()];
    options.extra.extend(extra.iter().map(|flag| (*flag).to_owned()));
    Cluster::start(options).await
}

fn trace(n: u8) -> String {
    format!("{n:02x}f7651916cd43dd8448eb211c80319c")
}

/// Without a trace.
fn plain(cluster: &Cluster) -> hyper::http::request::Builder {
    Request::get(cluster.client.uri("/headers?secret=yes"))
        .header(HOST, COUNTER)
        .header("authorization", "Bearer hush-hush")
        .header("cookie", "session=hush-hush")
}

/// With the client's own span.
fn request(cluster: &Cluster, trace: &str, flags: &str) -> hyper::http::request::Builder {
    plain(cluster).header("traceparent", format!("00-{trace}-{CLIENT}-{flags}"))
}

const CLIENT: &str = "b7ad6b7169203331";

fn find<'a>(spans: &'a [Span], service: &str, name: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.service == service && span.name == name);
    found.next().unwrap_or_else(|| panic!("no {service} {name}: {:#?}", outline(spans)))
}

/// From a span up to the client.
fn path(spans: &[Span], from: &Span) -> Vec<String> {
    let mut path = vec![format!("{} {}", from.service, from.name)];
    let mut at = from;
    while at.parent != CLIENT {
        at = spans.iter().find(|span| span.id == at.parent).unwrap_or_else(|| {
            panic!("{} {} has no parent: {:#?}", at.service, at.name, outline(spans))
        });
        path.push(format!("{} {}", at.service, at.name));
    }
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_is_one_trace_from_the_client_to_the_node_and_the_actor_is_in_it() {
    if !machine_can_run_it("traces") {
        return;
    }
    let collector = Collector::start().await;
    let cluster = traced(&collector, &["--log-format", "json"]).await;
    let id = trace(1);
    let answer = cluster.client.send(request(&cluster, &id, "01"), "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // Another span's, of the same trace.
    let headers: serde_json::Value = answer.json();
    let told = headers["traceparent"].as_str().expect("a traceparent").to_owned();
    assert!(told.starts_with(&format!("00-{id}-")) && told.ends_with("-01"), "{told}");
    assert!(!told.contains(CLIENT), "{told}");

    let spans = collector.whole(&id, &WAKE).await;
    let ready = path(&spans, find(&spans, NODE, "ready"));
    let services: Vec<_> = ready.iter().map(|step| step.split(' ').next().unwrap()).collect();
    let mut order = services.clone();
    order.dedup();
    assert_eq!(order, [NODE, CONTROL_PLANE, ROUTER, ENVOY], "{ready:?}");
    for span in &spans {
        path(&spans, span);
        assert!(!span.instance.is_empty(), "{span:?}");
    }
    assert_eq!(find(&spans, ENVOY, "GET").instance, "envoy");
    for (service, name) in [(NODE, "fetch"), (NODE, "restore"), (CONTROL_PLANE, "place")] {
        find(&spans, service, name);
    }
    let upstream = spans.iter().find(|span| told.contains(&span.id)).expect("the actor's parent");
    assert_eq!(upstream.service, ENVOY);
    assert_eq!(
        find(&spans, NODE, "NodeAgent/Activate").attributes["reveille.actor"],
        "demo/counter"
    );
    let request_span = spans.iter().find(|span| span.parent == CLIENT).expect("Envoy's");
    assert_eq!(request_span.attributes["url.path"], "/headers");
    for span in &spans {
        for secret in ["secret=yes", "hush-hush", "session="] {
            assert!(!span.text.contains(secret), "{secret}: {}", span.text);
        }
    }

    let logged = || async {
        let logs = cluster.log_text();
        let lines = logs.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
        let parts: BTreeSet<String> = lines
            .filter(|line| line["trace_id"] == id)
            .filter_map(|line| line["part"].as_str().map(str::to_owned))
            .collect();
        let all = ["controlplane", "node"].iter().all(|part| parts.contains(*part));
        if all { Ok(()) } else { Err((parts, logs)) }
    };
    eventually("the parts log the trace", Duration::from_secs(5), logged).await;
    let access = || async {
        let log =
            std::fs::read_to_string(cluster.data_dir().join("access.log")).unwrap_or_default();
        let mut lines =
            log.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
        if lines.any(|line| line["trace_id"] == id) { Ok(()) } else { Err(log) }
    };
    eventually("Envoy logs the trace", Duration::from_secs(10), access).await;

    // Warm: nothing but Envoy and the router. Not recorded, where the client says so: nothing at all.
    let (warm, unrecorded) = (trace(2), trace(3));
    assert_eq!(cluster.client.send(request(&cluster, &unrecorded, "00"), "").await.status, 200);
    assert_eq!(cluster.client.send(request(&cluster, &warm, "01"), "").await.status, 200);
    let spans = collector.whole(&warm, &[(ENVOY, "GET"), (ROUTER, "route")]).await;
    let services: BTreeSet<_> = spans.iter().map(|span| span.service.as_str()).collect();
    assert_eq!(services, BTreeSet::from([ENVOY, ROUTER]), "{:#?}", outline(&spans));
    assert_eq!(collector.trace(&unrecorded).len(), 0);

    // Verbs, in the trace of whoever runs them; and what wakes from the lightest sleep.
    let (freeze, thaw, suspend) = (trace(4), trace(5), trace(6));
    verb(&cluster, "freeze", &freeze).await;
    let last = [(NODE, "NodeAgent/Freeze"), (CONTROL_PLANE, "Control/FreezeActor")];
    let spans = collector.whole(&freeze, &last).await;
    path(&spans, find(&spans, NODE, "NodeAgent/Freeze"));
    assert_eq!(cluster.client.send(request(&cluster, &thaw, "01"), "").await.status, 200);
    let last = [
        (NODE, "NodeAgent/Resume"),
        (CONTROL_PLANE, "Routers/Wake"),
        (ROUTER, "route"),
        (ENVOY, "GET"),
    ];
    let spans = collector.whole(&thaw, &last).await;
    let resume = path(&spans, find(&spans, NODE, "NodeAgent/Resume"));
    let steps = ["NodeAgent/Resume", "thaw", "wake", "Routers/Wake", "wake", "route"];
    for (step, name) in resume.iter().zip(steps) {
        assert!(step.ends_with(name), "{resume:?}");
    }
    verb(&cluster, "suspend", &suspend).await;
    let spans = collector.whole(&suspend, &SUSPEND).await;
    let steps = path(&spans, find(&spans, NODE, "NodeAgent/Suspend"));
    let above = SUSPEND.map(|(service, name)| format!("{service} {name}"));
    assert_eq!(steps, above[..4], "{:#?}", outline(&spans));

    let series = [
        ("reveille-router", "reveille_router_requests"),
        ("reveille-controlplane", "reveille_controlplane_wakes"),
        ("reveille-node", "reveille_node_activations"),
        ("reveille-envoy", "reveille_envoy_starts"),
        ("reveille-dns", "reveille_dns_queries"),
    ];
    collector.metrics(&series).await;

    // Envoy can be asked what it was told of the collector.
    let admin = cluster.admin.to_string();
    let dump = cluster.ok(&["envoy", "dump", "--admin", &admin, "-o", "json"]).await;
    let dump: serde_json::Value = serde_json::from_str(&dump).expect("JSON");
    let clusters = dump["items"][0]["clusters"].as_array().expect("clusters");
    let told = clusters.iter().find(|found| found["name"] == "collector").expect("a collector");
    assert_eq!(told["endpoints"][0]["address"], collector.address.to_string(), "{told}");
    let listeners = dump["items"][0]["listeners"].as_array().expect("listeners");
    let http = listeners.iter().find(|found| found["name"] == "http").expect("a listener");
    assert_eq!(http["addresses"][0], cluster.http.to_string(), "{http}");
    let ways = serde_json::json!(["actors-http1", "again"]);
    assert!(http["routes"].as_array().unwrap().iter().any(|way| way["clusters"] == ways), "{http}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ratio_is_for_those_of_whom_the_client_has_not_decided_and_nobody_forges_a_decision() {
    if !machine_can_run_it("a ratio of traces") {
        return;
    }
    let collector = Collector::start().await;
    let cluster = traced(&collector, &["--trace-ratio", "0"]).await;
    let told = async |request| {
        let answer = cluster.client.send(request, "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json::<serde_json::Value>()["traceparent"]
            .as_str()
            .expect("a traceparent")
            .to_owned()
    };
    let (forged, unrecorded, recorded) = (trace(1), trace(2), trace(3));
    // The one that wakes. Envoy does not read it, so it has not decided anything.
    let later = format!("01-{forged}-{CLIENT}-01-more");
    assert_eq!(told(plain(&cluster).header("traceparent", &later)).await, later);
    let undecided = told(plain(&cluster)).await;
    assert!(undecided.ends_with("-00"), "{undecided}");
    let handed_on = told(request(&cluster, &unrecorded, "00")).await;
    assert!(handed_on.ends_with("-00"), "{handed_on}");
    let handed_on = told(request(&cluster, &recorded, "01")).await;
    assert!(handed_on.contains(&recorded) && handed_on.ends_with("-01"), "{handed_on}");
    // Nothing of the earlier ones comes after it.
    collector.whole(&recorded, &[(ENVOY, "GET"), (ROUTER, "route")]).await;
    for id in [&forged, &unrecorded, &undecided[3..35]] {
        assert_eq!(outline(&collector.trace(id)), [""; 0], "{id}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_with_tls_gets_the_spans_of_every_part_and_of_envoy() {
    if !machine_can_run_it("traces with TLS") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let ca = dir.path().join("ca.pem");
    let collector = Collector::with_tls(&ca).await;
    let cluster = traced(&collector, &["--otlp-ca", &ca.to_string_lossy()]).await;
    let id = trace(1);
    assert_eq!(cluster.client.send(request(&cluster, &id, "01"), "").await.status, 200);
    let spans = collector.whole(&id, &WAKE).await;
    path(&spans, find(&spans, NODE, "ready"));
    collector.metrics(&[("reveille-dns", "reveille_dns_queries")]).await;
    cluster.stop().await;
}

/// A part that knows a collector by its name, and takes these CAs; and its page.
fn part(collector: &Collector, ca: &Path) -> (Running, Client) {
    let status = free_address();
    let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
    command
        .args(["dns", "--listen", "127.0.0.1:0", "--status", &status.to_string()])
        .args(["--otlp-endpoint", &format!("https://localhost:{}", collector.address.port())])
        .arg("--otlp-ca")
        .arg(ca)
        .stdin(Stdio::null());
    (Running(command.spawn().expect("reveille starts")), Client::new(status))
}

/// Values of metrics that its collector did not get.
async fn lost(page: &Client) -> Result<u64, String> {
    let page = page.try_send(Request::get(page.uri("/metrics")), "").await?.text();
    let series = "reveille_dns_telemetry_dropped_total{signal=\"metric_points\"} ";
    let value = page.lines().find_map(|line| line.strip_prefix(series));
    value.and_then(|value| value.parse().ok()).ok_or(page)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_with_another_certificate_does_not_get_is_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let [right, other] = ["ca.pem", "other.pem"].map(|name| dir.path().join(name));
    let collector = Collector::with_tls(&right).await;
    let _other = Collector::with_tls(&other).await;
    let (running, page) = part(&collector, &other);
    eventually("they are lost", Duration::from_secs(30), || async {
        match lost(&page).await {
            Ok(1..) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    drop(running);
    let (_running, page) = part(&collector, &right);
    collector.metrics(&[("reveille-dns", "reveille_dns_telemetry_dropped")]).await;
    assert_eq!(lost(&page).await, Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_join_a_wake_link_to_it_from_traces_of_their_own() {
    if !machine_can_run_it("joined traces") {
        return;
    }
    let collector = Collector::start().await;
    let cluster = traced(&collector, &[]).await;
    let ids: Vec<_> = (1..=8).map(trace).collect();
    let answers = ids.iter().map(|id| cluster.client.send(request(&cluster, id, "01"), ""));
    for answer in join_all(answers).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let mut routes = Vec::new();
    for id in &ids {
        let spans = collector.whole(id, &[(ENVOY, "GET"), (ROUTER, "route")]).await;
        routes.push(find(&spans, ROUTER, "route").clone());
    }
    let owner = eventually("the wake is told", Duration::from_secs(20), || async {
        let all: Vec<_> = ids.iter().flat_map(|id| collector.trace(id)).collect();
        let wakes = all.iter().filter(|s| s.service == ROUTER && s.name == "wake");
        let wakes: Vec<_> = wakes.cloned().collect();
        let started = all.iter().filter(|s| s.service == NODE && s.name == "ready").count();
        match wakes.as_slice() {
            [wake] if started == 1 => Ok(wake.clone()),
            _ => Err(outline(&all)),
        }
    })
    .await;
    for route in routes {
        let linked = route.links.contains(&(owner.trace.clone(), owner.id.clone()));
        let owns = owner.parent == route.id;
        assert!(linked != owns, "{route:?}\n{owner:?}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_nothing_is_added_and_the_actor_gets_the_clients_traceparent() {
    if !machine_can_run_it("no traces") {
        return;
    }
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    let mut options = Options::new(manifests);
    options.extra = vec!["--log-format".into(), "json".into()];
    let cluster = Cluster::start(options).await;
    let id = trace(1);
    let answer = cluster.client.send(request(&cluster, &id, "01"), "").await;
    let headers: serde_json::Value = answer.json();
    assert_eq!(headers["traceparent"], format!("00-{id}-{CLIENT}-01"), "{headers}");
    let answer = cluster.client.get(COUNTER, "/headers").await;
    assert!(!answer.text().contains("traceparent"), "{answer:?}");
    // The log names it all the same. Each part says what it logs, and can be told otherwise.
    let levels = cluster.ok(&["log-level", "-o", "json"]).await;
    let levels: serde_json::Value = serde_json::from_str(&levels).expect("JSON");
    let parts = levels["items"].as_array().expect("items").iter();
    let parts: BTreeSet<_> = parts.filter_map(|item| item["part"].as_str()).collect();
    let all = ["controlplane", "dns", "envoy", "node", "router", "up"];
    assert_eq!(parts, BTreeSet::from(all));
    assert!(!cluster.log_text().contains("\"level\":\"DEBUG\""));
    cluster.ok(&["log-level", "router", "debug"]).await;
    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    let id = trace(2);
    assert_eq!(cluster.client.send(request(&cluster, &id, "01"), "").await.status, 200);
    let debug = |line: &str| {
        ["\"DEBUG\"", "\"part\":\"router\"", &id].iter().all(|what| line.contains(what))
    };
    let logged = || async {
        let log = cluster.log_text();
        if log.lines().any(debug) { Ok(()) } else { Err(log) }
    };
    eventually("the router says more", Duration::from_secs(10), logged).await;
    let of_node = |line: &str| line.contains(&id) && line.contains("\"part\":\"node\"");
    assert!(cluster.log_text().lines().any(of_node), "{}", cluster.log_tail());
    cluster.stop().await;
}
