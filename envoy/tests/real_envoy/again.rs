//! Requests that could not be connected to their actor come a second time.

use http_body_util::Full;
use hyper::{Request, StatusCode};
use reveille_api::Reason;
use reveille_envoy::reply::Shape;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    actor::Actor,
    answers::assert_shape,
    harness::{
        Options, PATIENCE, Script, Stack, client, envoy_or_skip, exchange, free_port, h2_client,
    },
};

const HOST: &str = "a.demo.test";

/// An actor, and a router that first names an endpoint where nobody listens.
async fn moved(stack: &Stack, h2c: bool) -> (Actor, String) {
    let (actor, dead) = (Actor::start().await, free_port());
    // HTTP/2 clients name it so.
    for host in [HOST, &stack.front.to_string()] {
        stack.router.on(host, Script::GoOn { endpoint: dead, h2c: false, extra: Vec::new() });
        let extra = vec![("wake", "restored"), ("server_timing", "park;dur=3")];
        stack.router.on_again(host, Script::GoOn { endpoint: actor.addr, h2c, extra });
    }
    (actor, dead.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_not_connected_is_answered_by_the_second_try_as_if_there_had_been_no_first()
 {
    let binary = envoy_or_skip!();
    let stack = Stack::start(binary, Options::default()).await;
    for (h2, h2c) in [(false, false), (true, false), (false, true), (true, true)] {
        let (actor, dead) = moved(&stack, h2c).await;
        stack.router.seen.lock().unwrap().clear();
        let http = if h2 { h2_client() } else { client() };
        let request = |method: &str, path: &str| {
            let forged = Request::builder().header("x-reveille-failed", "192.0.2.1:1");
            let forged = forged.method(method).uri(stack.uri(path));
            if h2 { forged } else { forged.header("host", HOST) }
        };
        let get = request("GET", "/x?q=1").body(Full::default()).unwrap();
        let answer = exchange(&http, get).await;
        assert_eq!(answer.status, StatusCode::OK, "{h2} {h2c}: {:?}", answer.headers);
        let seen = answer.body.to_lowercase();
        assert!(seen.starts_with("get /x?q=1 http/"), "{seen}");
        for gone in ["x-reveille", "x-envoy"] {
            assert!(!seen.contains(gone), "{gone}: {seen}");
        }
        let forwarded = seen.lines().find(|line| line.starts_with("x-forwarded-for: ")).unwrap();
        assert!(!forwarded.contains(','), "{forwarded}");
        assert_eq!(answer.header("x-reveille-wake"), "restored");
        assert!(!answer.headers.contains_key("x-reveille-reason"), "{:?}", answer.headers);
        let timings: Vec<_> = answer.headers.get_all("server-timing").iter().collect();
        assert_eq!((timings.len(), timings[0].as_bytes()), (2, &b"app;dur=1"[..]));
        assert!(
            timings[1].to_str().unwrap().starts_with("park;dur=3, connect;dur="),
            "{timings:?}"
        );

        let tries = stack.router.seen.lock().unwrap().clone();
        assert_eq!(tries.len(), 2, "{tries:?}");
        assert!(!tries[0].contains_key("x-reveille-failed"), "a client said it");
        assert_eq!(tries[1]["x-reveille-failed"], dead);
        assert_eq!(tries[0]["x-request-id"], tries[1]["x-request-id"]);
        assert_eq!(tries[1]["x-request-id"], answer.header("x-request-id"));

        let post = request("POST", "/echo").body("said once".into()).unwrap();
        let answer = exchange(&http, post).await;
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "said once"));
        assert_eq!(actor.requests(), 2);
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_and_trailers_go_by_the_second_try() {
    let binary = envoy_or_skip!();
    let stack = Stack::start(binary, Options::default()).await;
    let (_actor, _) = moved(&stack, false).await;
    let mut socket = TcpStream::connect(stack.front).await.unwrap();
    let request = format!(
        "GET /upgrade HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        let byte = timeout(PATIENCE, socket.read_u8()).await.expect("an answer").unwrap();
        read.push(byte);
    }
    let head = String::from_utf8(read).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    socket.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    timeout(PATIENCE, socket.read_exact(&mut echo)).await.expect("an echo").unwrap();
    assert_eq!(&echo, b"ping");
    drop(socket);

    let (_actor, _) = moved(&stack, true).await;
    let request = Request::get(stack.uri("/trailers"));
    let answer = exchange(&h2_client(), request.body(Full::default()).unwrap()).await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "body"));
    assert_eq!(answer.trailers["grpc-status"], "0");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_router_says_to_the_second_try_is_what_the_client_gets() {
    let binary = envoy_or_skip!();
    let stack = Stack::start(binary, Options::default()).await;
    let dead = Script::GoOn { endpoint: free_port(), h2c: false, extra: Vec::new() };
    stack.router.on(HOST, dead);
    for reason in [Reason::ActorLost, Reason::NoCapacity, Reason::WakeTimeout] {
        stack.router.on_again(HOST, Script::Refuse(reason, Shape::Text));
        let answer = stack.get(HOST, "/").await;
        assert_eq!(answer.status.as_u16(), reason.http_status());
        assert_eq!(answer.header("x-reveille-reason"), reason.name());
        assert_eq!(answer.header("retry-after"), "7");
        assert_eq!(answer.header("content-type"), Shape::Text.content_type());
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_third_try_and_none_with_a_body_that_is_too_large_to_be_kept() {
    let binary = envoy_or_skip!();
    let stack = Stack::start(binary, Options::default()).await;
    let dead = Script::GoOn { endpoint: free_port(), h2c: false, extra: Vec::new() };
    stack.router.on(HOST, dead);
    let answer = stack.get(HOST, "/").await;
    assert_shape(&answer, Reason::UpstreamConnectFailed, Shape::Json);
    assert_eq!(stack.router.seen.lock().unwrap().len(), 2);

    let (actor, _) = moved(&stack, false).await;
    let large = Request::post(stack.uri("/echo")).header("host", HOST);
    let large = large.body(Full::from(vec![b'x'; 4 << 20])).unwrap();
    let answer = exchange(&client(), large).await;
    // All of it, or nothing.
    match answer.status {
        StatusCode::OK => assert_eq!(answer.body.len(), 4 << 20),
        _ => {
            assert_shape(&answer, Reason::UpstreamConnectFailed, Shape::Json);
            assert_eq!(actor.requests(), 0);
        }
    }
    stack.stop().await;
}
