//! What passes between client, router and actor.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    actor::Actor,
    harness::{
        Options, PATIENCE, Script, Stack, client, eventually, exchange, free_port, h2_client,
    },
};

fn go_on(actor: &Actor) -> Script {
    Script::GoOn { endpoint: actor.addr, h2c: false, extra: Vec::new() }
}

fn go_on_h2c(actor: &Actor) -> Script {
    Script::GoOn { endpoint: actor.addr, h2c: true, extra: Vec::new() }
}

async fn stack() -> Option<(Stack, Actor)> {
    let binary = crate::harness::envoy_binary()?;
    Some((Stack::start(binary, Options::default()).await, Actor::start().await))
}

macro_rules! stack_or_skip {
    () => {
        match stack().await {
            Some(stack) => stack,
            None => return,
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn the_actor_sees_the_clients_own_request_without_what_is_reveilles_or_envoys() {
    let (stack, actor) = stack_or_skip!();
    let host = "Counter.demo.test.:8080";
    stack.router.on(host, go_on(&actor));
    let request = Request::get(stack.uri("//a/../b%2Fc/./d?q=1"))
        .header("host", host)
        .header("authorization", "Bearer secret")
        .header("cookie", "a=b")
        .header("x-forwarded-for", "192.0.2.77")
        .header("x-request-id", "mine")
        .header("X-Reveille-Endpoint", "192.0.2.1:1")
        .header("x-reveille-wake", "forged")
        .header("X_Reveille_Epoch", "9")
        .header("x-reveille_epoch", "9")
        .header("x_other", "kept")
        .header("x-envoy-retry-on", "5xx")
        .header("x-envoy-upstream-rq-timeout-ms", "1")
        .header("x-envoy-original-dst-host", "192.0.2.1:1");
    let answer = stack.send(request).await;
    assert_eq!(answer.status, StatusCode::OK);
    let seen = answer.body.to_lowercase();
    assert!(answer.body.starts_with("GET //a/../b%2Fc/./d?q=1 HTTP/1.1\n"), "{seen}");
    assert!(answer.body.contains(&format!("host: {host}\n")), "{seen}");
    for kept in [
        "authorization: bearer secret\n",
        "cookie: a=b\n",
        "x-forwarded-proto: http\n",
        "x_other: kept\n",
    ] {
        assert!(seen.contains(kept), "{kept}: {seen}");
    }
    assert!(seen.contains("x-forwarded-for: 192.0.2.77,"), "{seen}");
    for gone in ["x-reveille", "x_reveille", "x-envoy", "x-request-id: mine", "x-from-router"] {
        assert!(!seen.contains(gone), "{gone}: {seen}");
    }
    assert!(seen.contains(&format!("x-request-id: {}\n", answer.header("x-request-id"))));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_sees_only_the_headers_it_needs() {
    let (stack, actor) = stack_or_skip!();
    stack.router.on("a.demo.test", go_on(&actor));
    let request = Request::get(stack.uri("/secret?token=1"))
        .header("host", "a.demo.test")
        .header("authorization", "Bearer secret")
        .header("cookie", "a=b")
        .header("accept", "text/html")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    stack.send(request).await;
    let seen = stack.router.seen.lock().unwrap()[0].clone();
    let mut names: Vec<_> = seen.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, [":authority", ":method", "accept", "traceparent", "x-request-id"]);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_sees_the_actors_own_answer_and_how_it_was_woken() {
    let (stack, actor) = stack_or_skip!();
    stack.router.on("warm.demo.test", go_on(&actor));
    let extra = || vec![("wake", "restored"), ("server_timing", "park;dur=3")];
    for (host, h2c) in [("woken.demo.test", false), ("h2c.demo.test", true)] {
        let woken = Script::GoOn { endpoint: actor.addr, h2c, extra: extra() };
        stack.router.on(host, woken);
    }
    let gone = Script::GoOn { endpoint: free_port(), h2c: false, extra: extra() };
    stack.router.on("gone.demo.test", gone);

    let warm = stack.get("warm.demo.test", "/").await;
    assert_eq!(warm.header("server"), "small-actor");
    assert!(!warm.headers.contains_key("x-reveille-wake"), "{:?}", warm.headers);
    assert!(!warm.headers.contains_key("x-reveille-reason"), "{:?}", warm.headers);
    assert_eq!(warm.headers.get_all("server-timing").iter().count(), 1);

    for host in ["woken.demo.test", "h2c.demo.test"] {
        let woken = stack.get(host, "/").await;
        let wakes: Vec<_> = woken.headers.get_all("x-reveille-wake").iter().collect();
        assert_eq!(wakes, ["restored"]);
        let timings: Vec<_> = woken.headers.get_all("server-timing").iter().collect();
        let [actors, ours] = timings[..] else { panic!("{timings:?}") };
        assert_eq!(actors, "app;dur=1");
        let envoys = ours.to_str().unwrap().strip_prefix("park;dur=3, ").expect("the router's");
        let duration = |(metric, name): (&str, &str)| {
            let duration = metric.strip_prefix(name).and_then(|rest| rest.strip_prefix(";dur="));
            duration.and_then(|ms| ms.parse::<f64>().ok()).unwrap_or_else(|| panic!("{envoys}"))
        };
        let names = ["connect", "first_byte", "total"];
        let [connect, first_byte, total] =
            *envoys.split(", ").zip(names).map(duration).collect::<Vec<_>>()
        else {
            panic!("{envoys}")
        };
        assert!(first_byte > 0.0 && connect + first_byte <= total, "{envoys}");
    }

    // Of an answer that never began there is nothing to be told but the wait.
    let gone = stack.get("gone.demo.test", "/").await;
    assert_eq!(gone.header("x-reveille-reason"), "upstream_connect_failed");
    assert_eq!(gone.header("server-timing"), "park;dur=3");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_in_the_metadata_decides_where_a_request_goes() {
    let (stack, one) = stack_or_skip!();
    let two = Actor::start().await;
    for n in 0..20 {
        stack.router.on("a.demo.test", go_on(if n % 2 == 0 { &one } else { &two }));
        assert_eq!(stack.get("a.demo.test", "/").await.status, StatusCode::OK);
    }
    eventually("both are logged", || async {
        let log = stack.access_log();
        let to = |actor: &Actor| {
            let addr = actor.addr.to_string();
            log.iter().filter(|line| line["upstream"] == addr.as_str()).count()
        };
        let counts = (to(&one), to(&two));
        if counts == (10, 10) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_h2c_actor_is_spoken_to_in_http2_with_trailers_whatever_the_client_speaks() {
    let (stack, actor) = stack_or_skip!();
    stack.router.on("h.demo.test", go_on_h2c(&actor));
    stack.router.on("a.demo.test", go_on(&actor));
    let h1 = stack.get("h.demo.test", "/x").await;
    assert!(h1.body.starts_with("GET /x HTTP/2.0\n:authority: h.demo.test\n"), "{}", h1.body);

    // A client with prior knowledge takes the host from the URI.
    let h2 = h2_client();
    let send = |path: &str| {
        let request =
            Request::post(stack.uri(path)).version(hyper::Version::HTTP_2).header("te", "trailers");
        exchange(&h2, request.body(Full::new(Bytes::from("hello"))).unwrap())
    };
    stack.router.on(&stack.front.to_string(), go_on_h2c(&actor));
    assert_eq!(send("/echo").await.body, "hello");
    let answer = send("/trailers").await;
    assert_eq!(answer.trailers.get("grpc-status").unwrap(), "0");
    stack.router.on(&stack.front.to_string(), go_on(&actor));
    assert!(send("/x").await.body.starts_with("POST /x HTTP/1.1\n"));
    let answer = send("/trailers").await;
    assert_eq!(answer.trailers.get("grpc-status").unwrap(), "0", "HTTP/1.1 trailers pass too");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_to_the_router_lasts_as_long_as_the_request() {
    let (stack, actor) = stack_or_skip!();
    stack.router.on("a.demo.test", go_on(&actor));
    let mut open = stack.router.open.subscribe();
    // Half of a stream of two seconds; then the client goes away.
    let mut client = TcpStream::connect(stack.front).await.unwrap();
    client.write_all(b"GET /stream HTTP/1.1\r\nHost: a.demo.test\r\n\r\n").await.unwrap();
    let mut read = Vec::new();
    while read.windows(4).filter(|window| window == b"tick").count() < 20 {
        let more = timeout(PATIENCE, client.read_buf(&mut read)).await.unwrap().unwrap();
        assert!(more > 0, "cut");
        assert_eq!(*open.borrow_and_update(), 1);
    }
    drop(client);
    timeout(PATIENCE, open.wait_for(|open| *open == 0)).await.unwrap().unwrap();
    // A whole one.
    assert_eq!(stack.get("a.demo.test", "/").await.status, StatusCode::OK);
    timeout(PATIENCE, open.wait_for(|open| *open == 0)).await.unwrap().unwrap();
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_is_one_request_until_it_is_closed() {
    let (stack, actor) = stack_or_skip!();
    stack.router.on("a.demo.test", go_on(&actor));
    let mut open = stack.router.open.subscribe();
    let mut client = TcpStream::connect(stack.front).await.unwrap();
    let request = "GET /upgrade HTTP/1.1\r\nHost: a.demo.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, client.read_u8()).await.unwrap().unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    for _ in 0..3 {
        client.write_all(b"frame").await.unwrap();
        let mut echo = [0; 5];
        timeout(PATIENCE, client.read_exact(&mut echo)).await.unwrap().unwrap();
        assert_eq!(&echo, b"frame");
        assert_eq!(*open.borrow_and_update(), 1);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(client);
    timeout(PATIENCE, open.wait_for(|open| *open == 0)).await.unwrap().unwrap();
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_of_http1_is_accepted_by_an_actor_that_speaks_http2() {
    let (stack, actor) = stack_or_skip!();
    let extra = vec![("websocket_accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")];
    stack.router.on("a.demo.test", Script::GoOn { endpoint: actor.addr, h2c: true, extra });
    let mut client = TcpStream::connect(stack.front).await.unwrap();
    let request = "GET /upgrade HTTP/1.1\r\nHost: a.demo.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, client.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let accepts = head.matches("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n");
    assert_eq!(accepts.count(), 1, "{head}");
    client.write_all(b"frame").await.unwrap();
    let mut echo = [0; 5];
    timeout(PATIENCE, client.read_exact(&mut echo)).await.unwrap().unwrap();
    assert_eq!(&echo, b"frame");
    let seen = stack.router.seen.lock().unwrap()[0].clone();
    assert_eq!(seen["sec-websocket-key"], "dGhlIHNhbXBsZSBub25jZQ==");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_expectations_and_old_http_pass() {
    let (stack, actor) = stack_or_skip!();
    stack.router.on("a.demo.test", go_on(&actor));
    for method in ["HEAD", "OPTIONS", "PATCH", "DELETE"] {
        let request = Request::builder().method(method).uri(stack.uri("/"));
        let answer = stack.send(request.header("host", "a.demo.test")).await;
        assert_eq!(answer.status, StatusCode::OK, "{method}");
        assert!(answer.body.starts_with(method) || method == "HEAD", "{}", answer.body);
    }
    let old = raw(&stack, "GET / HTTP/1.0\r\nHost: a.demo.test\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200"), "{old}");
    let mut client = TcpStream::connect(stack.front).await.unwrap();
    let head = "POST /echo HTTP/1.1\r\nHost: a.demo.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 12];
    timeout(PATIENCE, client.read_exact(&mut interim)).await.unwrap().unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100");
    client.write_all(b"hello").await.unwrap();
    let mut rest = String::new();
    timeout(PATIENCE, client.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert!(rest.contains("HTTP/1.1 200") && rest.ends_with("hello"), "{rest}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_with_envoys_memory_flat() {
    const SIZE: u64 = 200 << 20;
    let (stack, actor) = stack_or_skip!();
    stack.router.on("a.demo.test", go_on(&actor));
    let before = memory(&stack);
    let mut peak = before;
    let path = format!("/bytes?n={SIZE}");
    let request = Request::get(stack.uri(&path)).header("host", "a.demo.test");
    let mut body = client().request(request.body(Full::default()).unwrap()).await.unwrap();
    let mut down = 0;
    while let Some(frame) = http_body_util::BodyExt::frame(body.body_mut()).await {
        down += frame.unwrap().into_data().map_or(0, |data| data.len() as u64);
        peak = peak.max(memory(&stack));
    }
    assert_eq!(down, SIZE);

    let mut upload = TcpStream::connect(stack.front).await.unwrap();
    let head = format!(
        "POST /sink HTTP/1.1\r\nHost: a.demo.test\r\nContent-Length: {SIZE}\r\nConnection: close\r\n\r\n"
    );
    upload.write_all(head.as_bytes()).await.unwrap();
    let chunk = vec![7; 1 << 20];
    for _ in 0..SIZE >> 20 {
        timeout(PATIENCE, upload.write_all(&chunk)).await.unwrap().unwrap();
        peak = peak.max(memory(&stack));
    }
    let mut answer = String::new();
    timeout(PATIENCE, upload.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.ends_with(&SIZE.to_string()), "{answer}");
    assert!(peak - before < 32 << 20, "Envoy grew by {} MiB", (peak - before) >> 20);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_has_no_query_and_no_secret() {
    let (stack, actor) = stack_or_skip!();
    stack.router.on("a.demo.test", go_on(&actor));
    let request = Request::get(stack.uri("/path?token=hidden"))
        .header("host", "a.demo.test")
        .header("authorization", "Bearer hidden")
        .header("cookie", "session=hidden")
        .header("referer", "http://x/?hidden");
    stack.send(request).await;
    stack.get("unknown.demo.test", "/?hidden").await;
    let log = eventually("both are logged", || async {
        let log = stack.access_log();
        if log.len() == 2 { Ok(log) } else { Err(format!("{log:?}")) }
    })
    .await;
    assert_eq!((log[0]["path"].as_str(), log[0]["status"].as_u64()), (Some("/path"), Some(200)));
    assert_eq!(log[0]["upstream"], actor.addr.to_string());
    assert_eq!(log[1]["reason"], "actor_not_found");
    assert!(!format!("{log:?}").contains("hidden"), "{log:?}");
    stack.stop().await;
}

/// One request as it stands; the answer until the connection is closed.
async fn raw(stack: &Stack, request: &str) -> String {
    let mut client = TcpStream::connect(stack.front).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, client.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

/// Bytes of memory that Envoy has resident.
fn memory(stack: &Stack) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/statm", stack.envoy_pid())).unwrap();
    let pages: u64 = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
