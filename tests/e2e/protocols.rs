//! HTTP as people speak it, through a wake: what a client sends arrives, and what the actor answers comes back.

use std::convert::Infallible;

use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Method, Request,
    body::{Bytes, Frame},
    header::HeaderValue,
};

use crate::{
    COUNTER,
    harness::{
        cluster::{Cluster, Options},
        machine_can_run_it,
        manifest::Manifests,
        wire::{self, Raw, exchange},
    },
};

const ODD: &str = include_str!("odd_actor.py");

async fn cluster() -> Cluster {
    let manifests = Manifests::new()
        .counter("demo", "counter", "")
        .python("demo", "odd", ODD, "")
        .actor("demo", "counter", "counter")
        .actor("demo", "asleep", "counter")
        .actor("demo", "odd", "odd");
    Cluster::start(Options::new(manifests)).await
}

/// A request of HTTP/1.1 for the counter; the connection ends with its answer.
fn request(line: &str, headers: &str, body: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: {COUNTER}\r\nConnection: close\r\n{headers}\r\n{body}")
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_answers_without_a_body_pass_unchanged() {
    if !machine_can_run_it("methods") {
        return;
    }
    let cluster = cluster().await;
    // HEAD wakes as GET does, and its answer has the length of a body that does not come.
    let head = exchange(cluster.http, request("HEAD /bytes?n=1234", "", "")).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-length: 1234\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    let options = exchange(cluster.http, request("OPTIONS /headers", "", "")).await;
    assert!(options.starts_with("HTTP/1.1 200 OK\r\n"), "{options}");
    for code in [204, 304, 205] {
        let answer =
            exchange(cluster.http, request(&format!("GET /status?code={code}"), "", "")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        assert!(!answer.contains("x-reveille-reason"), "{answer}");
    }
    // The actor's own failures are its own.
    for code in [401, 404, 500, 503] {
        let answer = cluster.client.get(COUNTER, &format!("/status?code={code}")).await;
        assert_eq!((answer.status.as_u16(), answer.reason()), (code, None));
    }
    // In chunks, as the client cut them or otherwise: the body is what counts.
    let chunked = "5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n";
    let echo = request("POST /echo", "Transfer-Encoding: chunked\r\n", chunked);
    let answer = exchange(cluster.http, echo).await;
    assert!(answer.contains("{\"length\":11,"), "{answer}");

    // Two requests in one segment, and the second on a connection that the first left open.
    let first = format!("GET /bytes?n=3 HTTP/1.1\r\nHost: {COUNTER}\r\n\r\n");
    let both = exchange(cluster.http, first + &request("GET /status?code=204", "", "")).await;
    assert!(both.starts_with("HTTP/1.1 200 OK\r\n"), "{both}");
    assert!(both.contains("\0\u{1}\u{2}HTTP/1.1 204 "), "{both}");

    // HTTP/1.0 is answered in kind.
    let old = exchange(cluster.http, format!("GET / HTTP/1.0\r\nHost: {COUNTER}\r\n\r\n")).await;
    assert!(old.starts_with("HTTP/1.0 200 OK\r\n") && old.contains("\"count\":"), "{old}");
    let old = cluster.client.get("odd.demo.actors.localhost", "/old").await;
    assert_eq!((old.status.as_u16(), old.text().as_str()), (200, "until the end"));

    // 103 comes before the answer that it announces.
    let early = request("GET /early", "", "").replace(COUNTER, "odd.demo.actors.localhost");
    let early = exchange(cluster.http, early).await;
    let (interim, answer) = early.split_once("\r\n\r\n").expect("two heads");
    assert!(interim.starts_with("HTTP/1.1 103 "), "{early}");
    assert!(interim.contains("link: </a.css>; rel=preload"), "{early}");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok"), "{early}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_expects_100_continue_sends_its_body_only_when_the_actor_wants_it() {
    if !machine_can_run_it("100-continue") {
        return;
    }
    let cluster = cluster().await;
    let expecting = |line: &str| request(line, "Expect: 100-continue\r\nContent-Length: 5\r\n", "");
    // Through a wake: the actor is the one that says it.
    let mut client = Raw::connect(cluster.http).await;
    client.send(expecting("POST /echo")).await;
    let interim = client.until("\r\n\r\n").await;
    assert!(interim.starts_with("HTTP/1.1 100 Continue\r\n"), "{interim}");
    client.send("hello").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("{\"length\":5,"), "{answer}");
    // It does not want it, and says so at once, with no 100 before.
    for code in [417, 401] {
        let request = expecting(&format!("POST /status?code={code}"));
        let request = request.replace(COUNTER, "asleep.demo.actors.localhost");
        let answer = exchange(cluster.http, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
        assert!(!answer.contains("x-reveille-reason"), "{answer}");
    }
    // Nor does anybody invite a body for an actor that there is not.
    let nobody = expecting("POST /echo").replace(COUNTER, "nobody.demo.actors.localhost");
    let answer = exchange(cluster.http, nobody).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_in_both_directions_and_carry_nothing_of_reveilles() {
    if !machine_can_run_it("trailers") {
        return;
    }
    let manifests = Manifests::new()
        .counter("demo", "counter", "")
        .counter("demo", "h2c", "protocol: h2c\n")
        .actor("demo", "counter", "counter")
        .actor("demo", "h2c", "h2c");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let headers =
        "TE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, x-reveille-endpoint\r\n";
    let body = "5\r\nhello\r\n0\r\nX-Sum: five\r\nX-Reveille-Endpoint: 127.0.0.1:1\r\n\r\n";
    let answer = exchange(cluster.http, request("POST /trailers", headers, body)).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\"x-sum\":\"five\""), "{answer}");
    assert!(answer.ends_with("0\r\nx-length: 5\r\n\r\n"), "{answer}");
    assert!(
        !answer.contains("x-reveille-endpoint"),
        "a forged trailer reached the actor: {answer}"
    );

    for host in [COUNTER, "h2c.demo.actors.localhost"] {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("three"));
        trailers.insert("x-reveille-wake", HeaderValue::from_static("forged"));
        let frames = [Frame::data(Bytes::from("abc")), Frame::trailers(trailers)];
        let body = wire::stream(stream::iter(frames.map(Ok::<_, Infallible>)));
        let request = Request::post(format!("http://{host}/trailers"))
            .header("te", "trailers")
            .header("trailer", "x-sum")
            .header("x-reveille-endpoint", "127.0.0.1:1");
        let request = request.body(body).expect("a request");
        let (answer, trailers) = wire::send_h2(cluster.http, request).await;
        let read: serde_json::Value = answer.json();
        assert_eq!(read, serde_json::json!({ "x-sum": "three" }), "{host}");
        assert_eq!(trailers.get("x-length").map(HeaderValue::as_bytes), Some(&b"3"[..]), "{host}");

        let request = Request::get(format!("http://{host}/headers"))
            .header("x-reveille-endpoint", "127.0.0.1:1")
            .header("x-reveille-protocol", "h2c")
            .body(wire::empty());
        let (answer, _) = wire::send_h2(cluster.http, request.expect("a request")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(!answer.text().contains("x-reveille"), "{host}: {}", answer.text());
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_clients_reach_actors_of_either_protocol_on_ports_of_their_own() {
    if !machine_can_run_it("HTTP/2") {
        return;
    }
    let at = |port: u16, protocol: &str| {
        format!("port: {port}\nprotocol: {protocol}\nenv: [{{ name: PORT, value: \"{port}\" }}]\n")
    };
    let manifests = Manifests::new()
        .counter("demo", "one", &at(3000, "http1"))
        .counter("demo", "two", &at(50051, "h2c"))
        .actor("demo", "one", "one")
        .actor("demo", "two", "two");
    let cluster = Cluster::start(Options::new(manifests)).await;
    for actor in ["one", "two"] {
        let host = format!("{actor}.demo.actors.localhost");
        let mut connection = wire::h2(cluster.http).await;
        // All of them wait for one wake, on one connection.
        let answers = (0..20).map(|_| {
            let request = Request::get(format!("http://{host}/")).body(wire::empty());
            connection.send_request(request.expect("a request"))
        });
        let mut counts = Vec::new();
        for answer in futures::future::join_all(answers).await {
            let (answer, _) = wire::whole(answer.expect("an answer")).await;
            counts.push(answer.count().count);
        }
        counts.sort_unstable();
        assert_eq!(counts, (1..=20).collect::<Vec<_>>(), "{actor}");
        // A client of HTTP/1.1 as well, on the same port of the front.
        assert_eq!(cluster.client.get(&host, "/").await.count().count, 21);
        // What Envoy speaks to it: HTTP/2 has no Host.
        let seen: serde_json::Value = cluster.client.get(&host, "/headers").await.json();
        assert_eq!(seen.get("host").is_some(), actor == "one", "{seen}");
        let request = Request::head(format!("http://{host}/bytes?n=7")).body(wire::empty());
        let (answer, _) = wire::send_h2(cluster.http, request.expect("a request")).await;
        assert_eq!((answer.header("content-length"), answer.body.len()), (Some("7"), 0));
        assert_eq!(cluster.actor("demo", actor).await["epoch"], 1);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_event_of_a_stream_comes_before_the_second_is_there() {
    if !machine_can_run_it("first event") {
        return;
    }
    let cluster = cluster().await;
    let wanted = || Request::get(format!("http://{COUNTER}/sse?events=2&ms=3600000"));
    // The second event is an hour away: nothing may wait for it.
    let http1 = wanted().header("host", COUNTER).body(wire::empty()).expect("a request");
    let mut connection = wire::h1(cluster.http).await;
    let answer = connection.send_request(http1).await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut events = answer.into_body().into_data_stream();
    assert_eq!(events.next().await.expect("open").expect("an event"), "data: 1\n\n");

    let http2 = wanted().body(wire::empty()).expect("a request");
    let answer = wire::h2(cluster.http).await.send_request(http2).await.expect("an answer");
    let mut more = answer.into_body().into_data_stream();
    assert_eq!(more.next().await.expect("open").expect("an event"), "data: 1\n\n");
    drop((events, more));
    cluster.stop().await;
}

/// What two servers could read as two different things, only one of them may get to read.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_could_be_read_in_two_ways_are_refused() {
    if !machine_can_run_it("smuggling") {
        return;
    }
    let cluster = cluster().await;
    assert_eq!(cluster.client.get(COUNTER, "/").await.count().count, 1);
    let hidden = format!("GET / HTTP/1.1\r\nHost: {COUNTER}\r\n\r\n");
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    let probes = [
        ("both lengths", both, "0\r\n\r\n"),
        (
            "both, the other way round",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "0\r\n\r\n",
        ),
        ("two lengths", "Content-Length: 0\r\nContent-Length: 44\r\n", ""),
        ("two equal lengths", "Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        ("a list of lengths", "Content-Length: 5, 5\r\n", "hello"),
        ("a signed length", "Content-Length: +5\r\n", "hello"),
        ("a negative length", "Content-Length: -1\r\n", ""),
        ("a hexadecimal length", "Content-Length: 0x5\r\n", "hello"),
        ("a space before the colon", "Content-Length : 5\r\n", "hello"),
        ("an unknown coding", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        (
            "two codings",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            "0\r\n\r\n",
        ),
        ("a hidden coding", "Transfer-Encoding: \u{b}chunked\r\n", "0\r\n\r\n"),
        ("no length of a chunk", "Transfer-Encoding: chunked\r\n", "zz\r\n\r\n"),
        ("a negative length of a chunk", "Transfer-Encoding: chunked\r\n", "-1\r\n\r\n"),
        ("a NUL", "X: a\0b\r\n", ""),
        ("two hosts", "Host: other.demo.actors.localhost\r\n", ""),
    ];
    for (what, headers, body) in probes {
        let probe = format!("POST / HTTP/1.1\r\nHost: {COUNTER}\r\n{headers}\r\n{body}");
        // The connection is closed, so that what follows is never taken for a request.
        let last = hidden.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        let answer = exchange(cluster.http, probe + &hidden + &last).await;
        let heads = answer.matches("HTTP/1.1 ").count();
        let refused = ["400", "404", "501"].iter().any(|code| answer[9..].starts_with(code));
        assert!(refused && answer.contains("x-reveille-reason: "), "{what}: {answer}");
        if what != "two hosts" {
            assert_eq!(heads, 1, "{what}: {answer}");
        }
    }
    // These two Envoy mends, in ways that leave nothing to read twice: a folded line becomes one line (RFC 9112, §5.2),
    // and a bare CR is taken out (§2.2).
    let folded = "X-Folded: a\r\n b\r\nTransfer-Encoding:\r\n chunked\r\n";
    let answer = exchange(cluster.http, request("GET /headers", folded, "0\r\n\r\n")).await;
    assert!(answer.contains("\"x-folded\":\"a b\""), "{answer}");
    let bare = request("GET /headers", "X-Bare: a\rContent-Length: 5\r\n", "");
    let answer = exchange(cluster.http, bare).await;
    assert!(answer.contains("\"x-bare\":\"aContent-Length: 5\""), "{answer}");
    assert!(!answer.contains("\"content-length\""), "{answer}");
    // Neither the probes nor what was hidden behind them was counted, but for those two after "two hosts".
    assert_eq!(cluster.client.get(COUNTER, "/").await.count().count, 4);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_read_as_http_has_them() {
    if !machine_can_run_it("hosts") {
        return;
    }
    let cluster = cluster().await;
    for host in [
        COUNTER.to_owned(),
        format!("{COUNTER}:{}", cluster.http.port()),
        format!("{COUNTER}:1"),
        format!("{COUNTER}."),
        format!("{COUNTER}.:443"),
        COUNTER.to_uppercase(),
    ] {
        let (http1, http2) = tokio::join!(cluster.client.get(&host, "/"), async {
            let request = Request::get(format!("http://{host}/")).body(wire::empty());
            wire::send_h2(cluster.http, request.expect("a request")).await.0
        });
        // As the client wrote it.
        assert_eq!((http1.count().host, http2.count().host), (host.clone(), host));
    }
    let long = format!("{}.demo.actors.localhost", "a".repeat(64));
    for host in [
        "localhost",
        "demo.actors.localhost",
        "a.b.c.actors.localhost",
        "x_y.demo.actors.localhost",
        "counter.demo.example.com",
        "counter.demo.actors.localhost:",
        "counter.demo.actors.localhost:port",
        "counter.demo.actors.localhost:99999",
        "counter..demo.actors.localhost",
        "-a.demo.actors.localhost",
        "127.0.0.1",
        "[::1]:8080",
        long.as_str(),
    ] {
        let answer = cluster.client.get(host, "/").await;
        assert_eq!(
            (answer.status.as_u16(), answer.reason()),
            (404, Some("invalid_host")),
            "{host}"
        );
    }
    // The host in the request line is the one that counts (RFC 9112, §3.2.2).
    let absolute = exchange(
        cluster.http,
        format!("GET http://{COUNTER}/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    )
    .await;
    assert!(absolute.contains(&format!("\"host\":\"{COUNTER}\"")), "{absolute}");
    // Headers as large as Envoy's limit allows, 60 KiB in all, pass in both protocols.
    let large = "a".repeat(55_000);
    let request = Request::get(format!("http://{COUNTER}/headers")).header("x-large", &large);
    let (answer, _) =
        wire::send_h2(cluster.http, request.body(wire::empty()).expect("a request")).await;
    assert!(answer.text().contains(&large), "{:?}", answer.headers);
    let request = Request::builder().method(Method::GET).uri(cluster.client.uri("/headers"));
    let answer =
        cluster.client.send(request.header("host", COUNTER).header("x-large", &large), "").await;
    assert!(answer.text().contains(&large), "{:?}", answer.headers);
    cluster.stop().await;
}
