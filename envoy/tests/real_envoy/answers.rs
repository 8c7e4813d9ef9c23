//! The answers that are not the actor's.

use std::time::Duration;

use envoy_types::pb::{
    envoy::{
        config::{
            core::v3::{DataSource, data_source},
            listener::v3::{Listener, filter},
            rbac::v3::{Permission, Policy, Principal, Rbac as RbacRules, permission, principal},
            route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier},
        },
        extensions::filters::{
            http::{
                basic_auth::v3::BasicAuth,
                fault::v3::{FaultAbort, HttpFault, fault_abort},
                rbac::v3::Rbac,
            },
            network::http_connection_manager::v3::{
                HttpConnectionManager, HttpFilter, http_filter,
            },
        },
        r#type::{
            matcher::v3::{StringMatcher, string_matcher},
            v3::{FractionalPercent, fractional_percent::DenominatorType},
        },
    },
    google::protobuf::Any,
};
use hyper::{Request, StatusCode};
use prost::{Message, Name};
use reveille_api::{Ladder, Reason};
use reveille_envoy::reply::{self, Shape};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    actor::Actor,
    harness::{Answer, Options, PATIENCE, Script, Stack, envoy_or_skip, eventually, free_port},
};

/// The whole shape of an answer, as the design has it.
pub(crate) fn assert_shape(answer: &Answer, reason: Reason, shape: Shape) {
    assert_eq!(answer.header("x-reveille-reason"), reason.name(), "{:?}", answer.headers);
    let proxy_status = answer.header("proxy-status");
    assert!(proxy_status.starts_with("reveille; error="), "{proxy_status}");
    assert!(proxy_status.ends_with(&format!("details=\"{reason}\"")), "{proxy_status}");
    assert_eq!(answer.header("content-type"), shape.content_type());
    if shape == Shape::Grpc {
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("grpc-status"), i32::from(reason.grpc_code()).to_string());
        assert_eq!(answer.header("grpc-message"), reason.title());
    } else {
        assert_eq!(answer.status.as_u16(), reason.http_status());
        assert_eq!(answer.body, reply::body(reason, shape));
    }
    let retry_after = answer.header("retry-after");
    match reason.retry_after() {
        None => assert_eq!(retry_after, ""),
        Some(least) => {
            let secs: u64 = retry_after.parse().unwrap();
            assert!((least.as_secs()..=2 * least.as_secs()).contains(&secs), "{secs}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses_is_upstream_connect_failed_in_the_shape_the_client_asked_for() {
    let binary = envoy_or_skip!();
    let stack = Stack::start(binary, Options::default()).await;
    let gone = Script::GoOn { endpoint: free_port(), h2c: false, extra: Vec::new() };
    stack.router.on("a.demo.test", gone);
    let shapes = [
        ("accept", "*/*", Shape::Json),
        ("accept", "text/html,*/*;q=0.8", Shape::Html),
        ("accept", "text/html;q=0.4, text/plain;q=0.3, */*;q=0.2", Shape::Html),
        ("accept", "text/plain", Shape::Text),
        ("accept", "text/html;q=0.2,text/plain;q=0.7", Shape::Text),
        ("accept", "text/html;q=0.1, application/json;q=0.9", Shape::Json),
        ("accept", "text/html;q=0", Shape::Json),
        ("content-type", "application/grpc", Shape::Grpc),
    ];
    for (name, value, shape) in shapes {
        let request = Request::get(stack.uri("/?q=1")).header("host", "a.demo.test");
        let answer = stack.send(request.header(name, value)).await;
        assert_shape(&answer, Reason::UpstreamConnectFailed, shape);
        assert!(answer.header("proxy-status").contains("error=connection_refused;"));
        assert!(!answer.body.contains("127.0.0.1"), "{}", answer.body);
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_not_sent_again_after_the_actor_broke_its_connection() {
    let binary = envoy_or_skip!();
    let stack = Stack::start(binary, Options::default()).await;
    let actor = Actor::start().await;
    stack
        .router
        .on("a.demo.test", Script::GoOn { endpoint: actor.addr, h2c: false, extra: Vec::new() });
    let request = Request::get(stack.uri("/break"))
        .header("host", "a.demo.test")
        .header("x-envoy-retry-on", "reset")
        .header("x-envoy-max-retries", "5");
    let answer = stack.send(request).await;
    assert_shape(&answer, Reason::UpstreamReset, Shape::Json);
    assert_eq!(actor.requests(), 1);
    assert_eq!(stack.get("a.demo.test", "/").await.status, StatusCode::OK);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_router_refuses_is_answered_as_the_router_says() {
    let binary = envoy_or_skip!();
    let stack = Stack::start(binary, Options::default()).await;
    for reason in Reason::ALL {
        stack.router.on("a.demo.test", Script::Refuse(*reason, Shape::Json));
        let request = Request::get(stack.uri("/")).header("host", "a.demo.test");
        let answer = stack.send(request.header("accept", "text/html")).await;
        assert_eq!(answer.status.as_u16(), reason.http_status());
        assert_eq!(answer.header("x-reveille-reason"), reason.name());
        assert_eq!(answer.header("content-type"), Shape::Json.content_type());
        assert_eq!(answer.header("retry-after"), "7");
        assert_eq!(answer.body, reply::body(*reason, Shape::Json));

        stack.router.on("a.demo.test", Script::Refuse(*reason, Shape::Grpc));
        let request = Request::post(stack.uri("/")).header("host", "a.demo.test");
        let answer = stack.send(request.header("content-type", "application/grpc")).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("content-type"), "application/grpc");
        assert_eq!(answer.header("grpc-status"), i32::from(reason.grpc_code()).to_string());
        assert_eq!(answer.header("grpc-message"), reason.title());
        assert_eq!(answer.header("x-reveille-reason"), reason.name());
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_router_the_answer_is_control_plane_unavailable_until_it_is_back() {
    let binary = envoy_or_skip!();
    let mut stack = Stack::start(binary, Options::default()).await;
    let actor = Actor::start().await;
    stack
        .router
        .on("a.demo.test", Script::GoOn { endpoint: actor.addr, h2c: false, extra: Vec::new() });
    assert_eq!(stack.get("a.demo.test", "/").await.status, StatusCode::OK);
    stack.ext_proc = None;
    for _ in 0..3 {
        let answer = stack.get("a.demo.test", "/").await;
        assert_shape(&answer, Reason::ControlPlaneUnavailable, Shape::Json);
    }
    stack.restart_router().await;
    assert_eq!(stack.get("a.demo.test", "/").await.status, StatusCode::OK);
    stack.stop().await;
}

/// The router counts what is in flight by its streams. A request that outlived them would be counted by nobody,
/// and its actor put to sleep under it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_ends_with_the_router_that_counted_it() {
    let binary = envoy_or_skip!();
    let mut stack = Stack::start(binary, Options::default()).await;
    let actor = Actor::start().await;
    stack
        .router
        .on("a.demo.test", Script::GoOn { endpoint: actor.addr, h2c: false, extra: Vec::new() });
    let mut client = TcpStream::connect(stack.front).await.unwrap();
    client.write_all(b"GET /stream HTTP/1.1\r\nHost: a.demo.test\r\n\r\n").await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"tick\n\r\n") {
        timeout(PATIENCE, client.read_buf(&mut read)).await.unwrap().unwrap();
    }
    let mut waits = TcpStream::connect(stack.front).await.unwrap();
    let hang = b"GET /hang HTTP/1.1\r\nHost: a.demo.test\r\nConnection: close\r\n\r\n";
    waits.write_all(hang).await.unwrap();
    eventually("the actor has both", || async {
        if actor.requests() == 2 { Ok(()) } else { Err(actor.requests().to_string()) }
    })
    .await;
    stack.ext_proc = None;
    let _ = timeout(PATIENCE, client.read_to_end(&mut read)).await.expect("it is cut");
    assert!(!read.ends_with(b"0\r\n\r\n"), "not a whole answer");
    // It may have been there: not what is said of those that were not.
    let mut answer = String::new();
    timeout(PATIENCE, waits.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("upstream_reset"), "{answer}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_does_not_answer_is_wake_timeout_and_too_many_requests_are_parking_full() {
    let binary = envoy_or_skip!();
    let ms = Duration::from_millis(1);
    let ladder = Ladder::new(ms, 2 * ms, 1, 2).unwrap();
    let stack = Stack::start(binary, Options { ladder, ..Options::default() }).await;
    stack.router.on("a.demo.test", Script::Silence);
    let started = tokio::time::Instant::now();
    let mut open = stack.router.open.subscribe();
    let third = async {
        timeout(PATIENCE, open.wait_for(|open| *open == 2)).await.unwrap().unwrap();
        stack.get("a.demo.test", "/").await
    };
    let (one, two, third) =
        tokio::join!(stack.get("a.demo.test", "/"), stack.get("a.demo.test", "/"), third);
    assert_shape(&third, Reason::ParkingFull, Shape::Json);
    for late in [one, two] {
        assert_shape(&late, Reason::WakeTimeout, Shape::Json);
    }
    // Envoy's timers are no finer than a millisecond.
    assert!(started.elapsed() + 50 * ms >= ladder.ext_proc(), "{:?}", started.elapsed());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_upstream_timeout_and_a_stream_that_speaks_has_no_limit() {
    let binary = envoy_or_skip!();
    let ms = Duration::from_millis(1);
    let ladder = Ladder::new(ms, 2 * ms, 1, 100).unwrap();
    let ladder = ladder.with_stream_idle(ladder.ext_proc() + 500 * ms).unwrap();
    let stack = Stack::start(binary, Options { ladder, ..Options::default() }).await;
    let actor = Actor::start().await;
    stack
        .router
        .on("a.demo.test", Script::GoOn { endpoint: actor.addr, h2c: false, extra: Vec::new() });
    let (silent, stream) =
        tokio::join!(stack.get("a.demo.test", "/hang"), stack.get("a.demo.test", "/stream?n=140"));
    assert_shape(&silent, Reason::UpstreamTimeout, Shape::Json);
    assert_eq!(stream.body.lines().count(), 140);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_does_not_answer_a_connection_is_upstream_connect_failed_in_seconds() {
    let binary = envoy_or_skip!();
    let stack = Stack::start(binary, Options::default()).await;
    // A listener that accepts nothing, and whose queue is full.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(0).unwrap();
    let endpoint = full.local_addr().unwrap();
    let mut fillers = Vec::new();
    while let Ok(Ok(filler)) =
        timeout(Duration::from_millis(300), TcpStream::connect(endpoint)).await
    {
        fillers.push(filler);
    }
    stack.router.on("a.demo.test", Script::GoOn { endpoint, h2c: false, extra: Vec::new() });
    let started = tokio::time::Instant::now();
    let answer = stack.get("a.demo.test", "/").await;
    assert_shape(&answer, Reason::UpstreamConnectFailed, Shape::Json);
    assert!(answer.header("proxy-status").contains("error=connection_timeout;"));
    let took = started.elapsed();
    assert!((Duration::from_millis(9500)..Duration::from_secs(20)).contains(&took), "{took:?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_be_one_is_invalid_host_and_what_is_no_request_is_invalid_request() {
    let binary = envoy_or_skip!();
    let stack = Stack::start(binary, Options::default()).await;
    for host in ["", "Host: a/b\r\n", "Host: a b\r\n", "Host: \u{e4}\r\n"] {
        let answer =
            raw(&stack, &format!("GET / HTTP/1.1\r\n{host}Connection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{host}: {answer}");
        assert!(answer.contains("x-reveille-reason: invalid_host"), "{host}: {answer}");
    }
    assert!(stack.router.seen.lock().unwrap().is_empty());
    let head = "GET / HTTP/1.1\r\nHost: a.demo.test\r\n";
    let malformed = [
        ("garbage\r\n\r\n".to_owned(), "400"),
        (format!("{head}Transfer-Encoding: foo\r\n\r\n"), "501"),
        (format!("{head}X-Large: {}\r\n\r\n", "a".repeat(70_000)), "431"),
        (format!("{head}Connection: upgrade, close\r\nUpgrade: foo\r\n\r\n"), "403"),
    ];
    for (request, status) in malformed {
        let answer = raw(&stack, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains("x-reveille-reason: invalid_request"), "{answer}");
        let body = reply::body(Reason::InvalidRequest, Shape::Json).replace("400", status);
        assert!(answer.ends_with(&body), "{answer}");
    }
    assert!(stack.router.seen.lock().unwrap().is_empty(), "it wakes nobody");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operators_filter_in_front_answers_has_a_reason_of_ours() {
    let binary = envoy_or_skip!();
    let stack = Stack::start(binary, Options::default()).await;
    let actor = Actor::start().await;
    let go_on = Script::GoOn { endpoint: actor.addr, h2c: false, extra: Vec::new() };
    stack.router.on("a.demo.test", go_on);
    // Passwords, nobody but GET, and no POST without a fault.
    let password = BasicAuth {
        users: Some(inline("user:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=")),
        ..Default::default()
    };
    let only_get = Rbac { rules: Some(only_get()), ..Default::default() };
    let faulty = HttpFault {
        abort: Some(FaultAbort {
            percentage: Some(FractionalPercent {
                numerator: 100,
                denominator: DenominatorType::Hundred.into(),
            }),
            error_type: Some(fault_abort::ErrorType::HttpStatus(500)),
            ..Default::default()
        }),
        headers: vec![method("POST")],
        ..Default::default()
    };
    stack.change(|resources| {
        for listener in &mut resources.listeners {
            in_front(listener, "envoy.filters.http.rbac", &only_get);
            in_front(listener, "envoy.filters.http.basic_auth", &password);
            in_front(listener, "envoy.filters.http.fault", &faulty);
        }
    });
    let shapes = [("accept", "*/*", Shape::Json), ("accept", "text/html", Shape::Html), GRPC];
    for (name, value, shape) in shapes {
        let request = || Request::delete(stack.uri("/")).header("host", "a.demo.test");
        eventually("the filters are there", || async {
            let answer = stack.send(request().header(name, value)).await;
            if answer.header("x-reveille-reason") == "unauthenticated" {
                assert_shape(&answer, Reason::Unauthenticated, shape);
                return Ok(());
            }
            Err(format!("{:?}", answer.headers))
        })
        .await;
        // "password".
        let known = request().header("authorization", "Basic dXNlcjpwYXNzd29yZA==");
        let answer = stack.send(known.header(name, value)).await;
        assert_shape(&answer, Reason::AccessDenied, shape);
        let post = Request::post(stack.uri("/")).header("host", "a.demo.test");
        assert_shape(&stack.send(post.header(name, value)).await, Reason::Internal, shape);
    }
    let seen = stack.router.seen.lock().unwrap().len();
    let known = Request::get(stack.uri("/")).header("host", "a.demo.test");
    let answer = stack.send(known.header("authorization", "Basic dXNlcjpwYXNzd29yZA==")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(stack.router.seen.lock().unwrap().len(), seen + 1, "who is refused wakes nobody");
    stack.stop().await;
}

const GRPC: (&str, &str, Shape) = ("content-type", "application/grpc", Shape::Grpc);

fn inline(text: &str) -> DataSource {
    let specifier = Some(data_source::Specifier::InlineString(text.into()));
    DataSource { specifier, ..Default::default() }
}

fn method(name: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: ":method".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(string_matcher::MatchPattern::Exact(name.into())),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn only_get() -> RbacRules {
    let permission = Permission { rule: Some(permission::Rule::Header(method("GET"))) };
    let anybody = Principal { identifier: Some(principal::Identifier::Any(true)) };
    let policy =
        Policy { permissions: vec![permission], principals: vec![anybody], ..Default::default() };
    RbacRules { policies: [("get".to_owned(), policy)].into(), ..Default::default() }
}

/// Puts a filter in front of ours.
fn in_front<M: Message + Name>(listener: &mut Listener, name: &str, config: &M) {
    let Some(filter::ConfigType::TypedConfig(typed)) =
        &mut listener.filter_chains[0].filters[0].config_type
    else {
        panic!("no HTTP connection manager");
    };
    let mut manager = HttpConnectionManager::decode(&*typed.value).unwrap();
    let config = Any { type_url: M::type_url(), value: config.encode_to_vec() };
    let filter = HttpFilter {
        name: name.into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    };
    manager.http_filters.insert(0, filter);
    typed.value = manager.encode_to_vec();
}

/// The answer until the connection is closed.
async fn raw(stack: &Stack, request: &str) -> String {
    let mut client = TcpStream::connect(stack.front).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, client.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}
