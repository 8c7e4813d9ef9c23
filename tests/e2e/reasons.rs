//! Every reason of the design's table, provoked for real, as each kind of caller sees it.
//!
//! [`row`] is the table, written a second time on purpose. It has an arm for every [`Reason`], so that a new one does
//! not compile before it says where it is provoked.

use std::{collections::BTreeSet, fs, time::Duration};

use futures::future::join_all;
use hyper::{HeaderMap, Method, Request, StatusCode};
use nix::sys::signal::Signal;
use reveille_api::Reason;

use crate::{
    COUNTER,
    harness::{
        client::{Answer, Client},
        cluster::{Cluster, Options},
        eventually, machine_can_run_it,
        manifest::Manifests,
        processes, repository,
        wire::{self, exchange},
    },
};

pub(crate) const ODD: &str = include_str!("odd_actor.py");
pub(crate) const NEVER_READY: &str = "import time\ntime.sleep(1000)";

/// The instance in which a reason is provoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Actors that are broken, each in its own way.
    Broken,
    /// One worker, two parking places.
    Full,
    /// Short budgets.
    Slow,
    /// Not a matter of the actor: [`what_is_no_request_is_told_so_in_the_same_shape`].
    NoRequest,
    /// In `parking.rs`: not by an actor that every caller may ask, or not for every caller.
    Parking,
    /// In `envoy/tests/real_envoy/answers.rs`: by a filter that an operator puts in front of ours. It is the one known way to
    /// `internal`, too: one that comes from Reveille is a defect.
    Operator,
}

/// HTTP status, gRPC code, shortest `Retry-After`.
struct Row(u16, i32, Option<u64>, Place);

fn row(reason: Reason) -> Row {
    use Place::{Broken, Full, NoRequest, Operator, Parking, Slow};
    match reason {
        Reason::InvalidRequest => Row(400, 3, None, NoRequest),
        Reason::InvalidHost => Row(404, 5, None, Broken),
        Reason::ActorNotFound => Row(404, 5, None, Broken),
        Reason::Unauthenticated => Row(401, 16, None, Operator),
        Reason::AccessDenied => Row(403, 7, None, Operator),
        Reason::QuotaExceeded => Row(429, 8, Some(5), Parking),
        Reason::ParkingFull => Row(503, 14, Some(1), Full),
        Reason::ActorParkingFull => Row(503, 14, Some(1), Broken),
        Reason::NoCapacity => Row(503, 14, Some(5), Full),
        Reason::ControlPlaneUnavailable => Row(503, 14, Some(2), Broken),
        Reason::Waking => Row(503, 14, Some(1), Parking),
        Reason::ActorStopped => Row(503, 9, None, Broken),
        Reason::ActorLost => Row(503, 9, None, Broken),
        Reason::UpstreamConnectFailed => Row(503, 14, Some(1), Broken),
        Reason::UpstreamReset => Row(503, 14, Some(1), Broken),
        Reason::RestoreFailed => Row(502, 14, None, Broken),
        Reason::SnapshotCorrupt => Row(502, 15, None, Broken),
        Reason::StartFailed => Row(502, 14, None, Broken),
        Reason::WakeTimeout => Row(504, 4, Some(1), Slow),
        Reason::UpstreamTimeout => Row(504, 4, Some(1), Slow),
        Reason::Internal => Row(500, 13, None, Operator),
    }
}

/// A kind of caller: what it says, and the media type it must get.
#[derive(Clone, Copy, Debug)]
enum Caller {
    Http1(Option<&'static str>, &'static str),
    Http2(Option<&'static str>, &'static str),
    Grpc,
}

const JSON: &str = "application/problem+json";
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

const CALLERS: &[Caller] = &[
    Caller::Http1(None, JSON),
    Caller::Http1(Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), HTML),
    Caller::Http1(Some("text/html;q=0.3, text/plain;q=0.7, */*;q=0.1"), TEXT),
    Caller::Http1(Some("text/html;q=0.2, application/json;q=0.9"), JSON),
    Caller::Http2(None, JSON),
    Caller::Http2(Some("text/html;q=0, text/plain"), TEXT),
    Caller::Grpc,
];

impl Caller {
    async fn call(self, cluster: &Cluster, host: &str, path: &str) -> (Answer, HeaderMap) {
        let request = |accept: Option<&str>| {
            let request = Request::get(format!("http://{host}{path}"));
            accept.iter().fold(request, |request, accept| request.header("accept", *accept))
        };
        match self {
            Self::Http1(accept, _) => {
                // A client of its own: no connection is shared, none is left open.
                let client = Client::new(cluster.http);
                let request = Request::get(client.uri(path)).header("host", host);
                let request = accept
                    .iter()
                    .fold(request, |request, accept| request.header("accept", *accept));
                (client.send(request, "").await, HeaderMap::new())
            }
            Self::Http2(accept, _) => {
                let request = request(accept).body(wire::empty()).expect("a request");
                wire::send_h2(cluster.http, request).await
            }
            Self::Grpc => {
                let request = request(None)
                    .method(Method::POST)
                    .header("content-type", "application/grpc")
                    .header("te", "trailers");
                let request = request.body(wire::full(vec![0; 5])).expect("a request");
                wire::send_h2(cluster.http, request).await
            }
        }
    }
}

/// Holds an answer against the table. The wait that it asks for, above the shortest.
fn check(reason: Reason, caller: Caller, (answer, trailers): &(Answer, HeaderMap)) -> Option<u64> {
    let Row(status, grpc, least, _) = row(reason);
    let context = format!("{reason} to {caller:?}: {answer:?}");
    assert_eq!(answer.reason(), Some(reason.name()), "{context}");
    let body = answer.text();
    let own = match caller {
        Caller::Grpc => {
            assert_eq!(answer.status, StatusCode::OK, "{context}");
            assert_eq!(answer.header("content-type"), Some("application/grpc"), "{context}");
            assert_eq!(answer.header("grpc-status"), Some(grpc.to_string().as_str()), "{context}");
            assert!(body.is_empty() && trailers.is_empty(), "not trailers only: {context}");
            answer.header("grpc-message").expect("a message").to_owned()
        }
        Caller::Http1(_, kind) | Caller::Http2(_, kind) => {
            assert_eq!(answer.status.as_u16(), status, "{context}");
            assert_eq!(answer.header("content-type"), Some(kind), "{context}");
            match kind {
                JSON => {
                    let problem: serde_json::Value = answer.json();
                    let object = problem.as_object().expect("an object");
                    let names: Vec<_> = object.keys().map(String::as_str).collect();
                    assert_eq!(names, ["reason", "status", "title", "type"], "{context}");
                    assert_eq!(
                        (&problem["type"], &problem["status"]),
                        (&"about:blank".into(), &status.into())
                    );
                    assert_eq!(problem["reason"], reason.name(), "{context}");
                    problem["title"].as_str().expect("a title").to_owned()
                }
                HTML => {
                    let title =
                        body.split("<h1>").nth(1).and_then(|rest| rest.split("</h1>").next());
                    assert!(body.starts_with("<!doctype html>"), "{context}");
                    title.expect("a heading").to_owned()
                }
                _ => body.trim_end().to_owned(),
            }
        }
    };
    assert_eq!(own, reason.title(), "{context}");
    let proxy_status = answer.header("proxy-status").expect("a Proxy-Status");
    let error = proxy_status.strip_prefix("reveille; error=").expect(proxy_status);
    let (error, details) = error.split_once("; ").expect(proxy_status);
    assert!(ERRORS.contains(&error), "{error} is not registered: {context}");
    assert_eq!(details, format!("details=\"{reason}\""), "{context}");
    // Neither a path, an address nor a word of the machinery.
    let shown = format!("{:?}{body}", answer.headers);
    for internal in
        ["10.2", "127.0.0.1", "runsc", "/tmp", "ext_proc", "upstream_reset_before", "Envoy"]
    {
        assert!(!shown.contains(internal), "{internal} shows: {context}");
    }
    let retry =
        answer.header("retry-after").map(|seconds| seconds.parse::<u64>().expect("seconds"));
    match (least, retry) {
        (None, None) => None,
        (Some(least), Some(retry)) => {
            assert!((least..=2 * least).contains(&retry), "{context}");
            Some(retry - least)
        }
        _ => panic!("Retry-After {retry:?}: {context}"),
    }
}

/// RFC 9209, §2.3.
const ERRORS: &[&str] = &[
    "connection_limit_reached",
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "destination_not_found",
    "destination_unavailable",
    "http_protocol_error",
    "http_request_denied",
    "http_request_error",
    "http_response_timeout",
    "proxy_internal_error",
];

type Answers = Vec<(Caller, (Answer, HeaderMap))>;

/// Every caller at once, at an actor's host.
async fn at(cluster: &Cluster, host: &str, path: &str) -> Answers {
    let callers = CALLERS.iter();
    join_all(callers.map(async |caller| (*caller, caller.call(cluster, host, path).await))).await
}

fn host(actor: &str) -> String {
    format!("{actor}.demo.actors.localhost")
}

/// Provokes the reasons of a place, one after the other.
async fn provoke_all(place: Place, provoke: impl AsyncFn(Reason) -> Answers) {
    let mut jitter = BTreeSet::new();
    for reason in Reason::ALL.iter().copied().filter(|reason| row(*reason).3 == place) {
        let answers = provoke(reason).await;
        assert_eq!(answers.len(), CALLERS.len(), "{reason}");
        jitter.extend(answers.iter().filter_map(|(caller, answer)| check(reason, *caller, answer)));
    }
    assert!(jitter.len() > 1, "every Retry-After is the shortest, or twice it: {jitter:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_or_is_not_there_has_its_reason_for_every_caller() {
    if !machine_can_run_it("reasons") {
        return;
    }
    let rootfs = repository().join(".deps/rootfs/counter");
    let nothing =
        format!("rootfs: {{ directory: {} }}\ncommand: [/no-such-program]\n", rootfs.display());
    let narrow = "readiness: { timeout: 10s }\nwake: { maxParked: 1 }\n";
    let mut manifests = Manifests::new()
        .counter("demo", "counter", "")
        .python("demo", "odd", ODD, "readiness: { timeout: 5s }\n")
        .python("demo", "narrow", ODD, narrow)
        .template("demo", "nothing", &nothing);
    for (actor, template) in [
        ("counter", "counter"),
        ("asleep", "counter"),
        ("stopped", "counter"),
        ("deaf", "odd"),
        ("odd", "odd"),
        ("lost", "odd"),
        ("unwakeable", "odd"),
        ("narrow", "narrow"),
        ("nothing", "nothing"),
    ] {
        manifests = manifests.actor("demo", actor, template);
    }
    let cluster = Cluster::start(Options { workers: 8, ..Options::new(manifests) }).await;
    let get = async |actor: &str, path: &str| {
        let answer = cluster.client.get(&host(actor), path).await;
        assert_eq!(answer.status, 200, "{actor}: {answer:?}");
    };
    let suspend = async |actor: &str| {
        cluster.ok(&["suspend", "actor", actor, "-n", "demo"]).await;
    };

    provoke_all(Place::Broken, async |reason| match reason {
        Reason::InvalidHost => at(&cluster, "demo.actors.localhost", "/").await,
        Reason::ActorNotFound => at(&cluster, &host("nobody"), "/").await,
        Reason::ActorParkingFull => {
            // The router learns of the limit with the first binding. Then the one place is taken as long as this
            // waits, for an actor that does not get ready.
            get("narrow", "/deaf").await;
            suspend("narrow").await;
            let mut first = wire::h2(cluster.http).await;
            let request = Request::get(format!("http://{}/", host("narrow")));
            let first = first.send_request(request.body(wire::empty()).expect("a request"));
            let parked = tokio::task::spawn(first);
            in_metrics(&cluster, "reveille_router_requests_parked", "1").await;
            let answers = at(&cluster, &host("narrow"), "/").await;
            parked.abort();
            answers
        }
        Reason::ControlPlaneUnavailable => {
            // Nobody starts it again meanwhile.
            processes::signal(cluster.up_pid(), Signal::SIGSTOP);
            let control_plane = cluster.pid_of("controlplane").expect("it runs");
            processes::signal(control_plane, Signal::SIGKILL);
            let answers = at(&cluster, &host("asleep"), "/").await;
            processes::signal(cluster.up_pid(), Signal::SIGCONT);
            eventually("it answers again", Duration::from_secs(30), || async {
                let output = cluster.cli(&["get", "actors", "-A"]).await;
                if output.status.success() { Ok(()) } else { Err(output) }
            })
            .await;
            answers
        }
        Reason::ActorStopped => {
            cluster.ok(&["stop", "actor", "stopped", "-n", "demo"]).await;
            at(&cluster, &host("stopped"), "/").await
        }
        Reason::ActorLost => {
            cluster.client.get(&host("lost"), "/exit").await;
            cluster.reaches("demo", "lost", "Lost").await;
            at(&cluster, &host("lost"), "/").await
        }
        Reason::UpstreamConnectFailed => {
            get("deaf", "/deaf").await;
            at(&cluster, &host("deaf"), "/").await
        }
        Reason::UpstreamReset => {
            // It answers nothing at all to this path.
            at(&cluster, &host("odd"), "/nothing").await
        }
        Reason::RestoreFailed => {
            get("unwakeable", "/deaf").await;
            suspend("unwakeable").await;
            at(&cluster, &host("unwakeable"), "/").await
        }
        Reason::SnapshotCorrupt => {
            get("counter", "/").await;
            suspend("counter").await;
            flip_a_byte(&cluster, "counter");
            at(&cluster, COUNTER, "/").await
        }
        Reason::StartFailed => at(&cluster, &host("nothing"), "/").await,
        other => panic!("nothing provokes {other}"),
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_full_has_its_reason_for_every_caller() {
    if !machine_can_run_it("reasons of what is full") {
        return;
    }
    let manifests = Manifests::new()
        .counter("demo", "counter", "")
        .counter("demo", "hasty", "wake: { timeout: 1s, park: 2s }\n")
        .actor("demo", "counter", "counter")
        .actor("demo", "patient", "counter")
        .actor("demo", "hasty", "hasty");
    let mut options = Options::new(manifests);
    options.workers = 1;
    // A namespace may take half of them.
    options.extra = ["--max-parked", "2"].map(str::to_owned).to_vec();
    let cluster = Cluster::start(options).await;
    // The only worker is in use as long as this stream is open.
    let request = Request::get(format!("http://{COUNTER}/sse?events=1000&ms=1000"));
    let request = request.body(wire::empty()).expect("a request");
    let mut busy = wire::h2(cluster.http).await;
    let busy = busy.send_request(request).await.expect("an answer");
    assert_eq!(busy.status(), 200);

    provoke_all(Place::Full, async |reason| match reason {
        Reason::NoCapacity => {
            let mut answers = Vec::new();
            for caller in CALLERS {
                answers.push((*caller, caller.call(&cluster, &host("hasty"), "/").await));
            }
            answers
        }
        Reason::ParkingFull => {
            let request = Request::get(format!("http://{}/", host("patient")));
            let request = request.body(wire::empty()).expect("a request");
            let mut connection = wire::h2(cluster.http).await;
            let parked = tokio::task::spawn(connection.send_request(request));
            in_metrics(&cluster, "reveille_router_requests_parked", "1").await;
            let answers = at(&cluster, &host("hasty"), "/").await;
            parked.abort();
            in_metrics(&cluster, "reveille_router_requests_parked", "0").await;
            answers
        }
        other => panic!("nothing provokes {other}"),
    })
    .await;
    drop(busy);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_has_its_reason_for_every_caller() {
    if !machine_can_run_it("reasons of what is slow") {
        return;
    }
    let manifests = Manifests::new()
        .python("demo", "odd", ODD, "wake: { timeout: 9s, park: 10s }\n")
        .python("demo", "sleeper", NEVER_READY, "wake: { timeout: 1s, park: 2s }\n")
        .actor("demo", "odd", "odd")
        .actor("demo", "sleeper", "sleeper");
    let mut options = Options::new(manifests);
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("reveille.toml");
    fs::write(&config, "wake = \"9s\"\npark = \"10s\"\n[router]\nstream-idle = \"16s\"\n")
        .expect("written");
    options.extra = vec!["--config".into(), config.to_string_lossy().into_owned()];
    let cluster = Cluster::start(options).await;
    assert_eq!(cluster.client.get(&host("odd"), "/").await.status, 200);

    provoke_all(Place::Slow, async |reason| match reason {
        Reason::WakeTimeout => at(&cluster, &host("sleeper"), "/").await,
        Reason::UpstreamTimeout => at(&cluster, &host("odd"), "/hang").await,
        other => panic!("nothing provokes {other}"),
    })
    .await;
    cluster.stop().await;
}

/// A request is refused before Envoy knows, or cares, whom it is for. Envoy's status says why.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_told_so_in_the_same_shape() {
    if !machine_can_run_it("malformed requests") {
        return;
    }
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let head = format!("GET / HTTP/1.1\r\nHost: {COUNTER}\r\n");
    let many: String = (0..150).map(|n| format!("X-{n}: a\r\n")).collect();
    let cases = [
        ("garbage\r\n\r\n".to_owned(), 400),
        (format!("{head}X: {}\r\n\r\n", "a".repeat(70_000)), 431),
        (format!("{head}{many}\r\n"), 431),
        (format!("{head}Transfer-Encoding: rot13\r\n\r\n"), 501),
        (format!("{head}Connection: upgrade, close\r\nUpgrade: rot13\r\n\r\n"), 403),
        (
            format!(
                "CONNECT {COUNTER}:80 HTTP/1.1\r\nHost: {COUNTER}\r\nConnection: close\r\n\r\n"
            ),
            404,
        ),
        (format!("OPTIONS * HTTP/1.1\r\nHost: {COUNTER}\r\nConnection: close\r\n\r\n"), 404),
        (format!("GET /#fragment HTTP/1.1\r\nHost: {COUNTER}\r\nConnection: close\r\n\r\n"), 400),
    ];
    // Headers that never end: Envoy gives them half a minute.
    let never = exchange(cluster.http, &head);
    let cases = async {
        for (request, status) in cases {
            no_request(&request, &exchange(cluster.http, &request).await, status);
        }
    };
    let (never, ()) = tokio::join!(never, cases);
    no_request(&head, &never, 408);

    // Where the headers could be read, the shape is what they ask for.
    let upgrade =
        format!("{head}Accept: text/html\r\nConnection: upgrade, close\r\nUpgrade: rot13\r\n\r\n");
    let answer = exchange(cluster.http, upgrade).await;
    assert!(answer.contains("content-type: text/html") && answer.contains("<p>403 ·"), "{answer}");

    // HTTP/2 frames its requests; what Envoy finds too large there it ends without an answer.
    let connect = Request::connect(format!("{COUNTER}:80")).header("accept", "text/plain");
    let connect = connect.body(wire::empty()).expect("a request");
    let (answer, _) = wire::send_h2(cluster.http, connect).await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (404, Some("invalid_request")));
    assert_eq!(answer.text(), format!("{}\n", Reason::InvalidRequest.title()));
    let large = Request::get(format!("http://{COUNTER}/")).header("x", "a".repeat(70_000));
    let large = large.body(wire::empty()).expect("a request");
    let reset = wire::h2(cluster.http).await.send_request(large).await;
    assert!(reset.is_err(), "{reset:?}");
    // None of it was a request to the actor.
    assert_eq!(cluster.client.get(COUNTER, "/").await.count().count, 1);
    cluster.stop().await;
}

fn no_request(request: &str, answer: &str, status: u16) {
    let line = &request[..request.len().min(200)];
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
    assert!(answer.contains("\r\nx-reveille-reason: invalid_request\r\n"), "{line}: {answer}");
    assert!(answer.contains(&format!("content-type: {JSON}\r\n")), "{line}: {answer}");
    assert!(
        answer.contains("proxy-status: reveille; error=http_request_error;"),
        "{line}: {answer}"
    );
    let body = answer.split("\r\n\r\n").nth(1).expect("a body");
    let problem: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(problem["status"], status, "{line}: {answer}");
}

/// An answer that has begun cannot become another one: the client sees that it is not whole.
#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_in_the_middle_of_an_answer_is_no_whole_answer_for_any_caller() {
    if !machine_can_run_it("half answers") {
        return;
    }
    let manifests = Manifests::new().python("demo", "odd", ODD, "").actor("demo", "odd", "odd");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let odd = host("odd");
    let request = format!("GET /half HTTP/1.1\r\nHost: {odd}\r\n\r\n");
    let answer = exchange(cluster.http, request).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nhalf"), "{answer}");
    for kind in ["text/plain", "application/grpc"] {
        let request = Request::post(format!("http://{odd}/half")).header("content-type", kind);
        let request = request.body(wire::empty()).expect("a request");
        let answer = wire::h2(cluster.http).await.send_request(request).await.expect("headers");
        assert_eq!(answer.status(), 200);
        let body = http_body_util::BodyExt::collect(answer.into_body()).await;
        assert!(body.is_err(), "{kind}: {body:?}");
    }
    // What is no HTTP, or too much of it, is a connection that broke.
    for path in ["/junk", "/large-header"] {
        let answer = cluster.client.get(&odd, path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.reason()),
            (503, Some("upstream_reset")),
            "{path}"
        );
        let proxy_status = answer.header("proxy-status").expect("there");
        assert!(proxy_status.contains("error=http_protocol_error;"), "{proxy_status}");
    }
    cluster.stop().await;
}

/// Waits until a metric of the router has this value.
async fn in_metrics(cluster: &Cluster, name: &str, value: &str) {
    let client = Client::new(cluster.status);
    eventually(&format!("{name} is {value}"), Duration::from_secs(20), || async {
        let metrics = client.get("localhost", "/metrics").await.text();
        let line = metrics.lines().find(|line| line.split(' ').next() == Some(name));
        let found = line.and_then(|line| line.split(' ').nth(1)) == Some(value);
        if found { Ok(()) } else { Err(line.map(str::to_owned)) }
    })
    .await;
}

/// Damages the largest file of an actor's snapshots.
pub(crate) fn flip_a_byte(cluster: &Cluster, actor: &str) {
    let files = files(&cluster.data_dir().join("node/snapshots"));
    let ours = files.into_iter().filter(|path| path.iter().any(|part| part == actor));
    let image = ours.max_by_key(|path| fs::metadata(path).map_or(0, |file| file.len()));
    let image = image.expect("a snapshot has files");
    let mut bytes = fs::read(&image).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&image, bytes).expect("writable");
}

fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory").flatten();
    let inner = |path: std::path::PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    entries.flat_map(|entry| inner(entry.path())).collect()
}
