//! With the real Envoy, configured by this router, in front of a small actor.

use std::{env, net::SocketAddr, path::PathBuf, time::Duration};

use axum::{Router as Routes, body::Body, http::HeaderMap, routing::get};
use futures::StreamExt;
use reveille_api::{
    Reason,
    proto::{Revoke, router_command::Command},
    task,
};
use reveille_envoy::supervisor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{HOST, binding, counter, eventually, fake::Fake, reply, rig::Rig};

/// Without a binary the test is skipped, and says so; in CI it fails.
fn envoy() -> Option<PathBuf> {
    let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.deps/bin/envoy");
    let path = env::var_os("REVEILLE_ENVOY").map_or_else(default, PathBuf::from);
    if path.is_file() {
        return path.canonicalize().ok();
    }
    assert!(env::var_os("CI").is_none(), "{} is missing: deploy/setup.sh envoy", path.display());
    eprintln!("SKIPPED: {} is missing; deploy/setup.sh envoy installs it", path.display());
    None
}

struct Front {
    rig: Rig,
    fake: Fake,
    http: SocketAddr,
    actor: SocketAddr,
    shutdown: CancellationToken,
    running: JoinSet<()>,
    /// Bound and never listening: the port is Envoy's alone, which shares it.
    _kept: TcpSocket,
    _folder: tempfile::TempDir,
}

impl Front {
    async fn start(binary: PathBuf) -> Self {
        let kept = TcpSocket::new_v4().unwrap();
        kept.set_reuseport(true).unwrap();
        kept.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let http = kept.local_addr().unwrap();
        let (rig, fake) = Rig::with(|config| config.http = vec![http]).await;
        let folder = tempfile::tempdir().unwrap();
        let grpc = rig.grpc.clone();
        let app = supervisor::Config::new(binary, folder.path(), vec![grpc]).build().await.unwrap();
        let shutdown = CancellationToken::new();
        let mut state = app.state();
        let mut running = JoinSet::new();
        let stop = shutdown.clone();
        task::spawn(&mut running, "envoy", async move { app.run(stop).await.unwrap() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let actor = listener.local_addr().unwrap();
        let slow = async || {
            tokio::time::sleep(Duration::from_millis(400)).await;
            "slow"
        };
        let host = async |headers: HeaderMap| format!("{:?}", headers["host"]);
        let stuck = async || std::future::pending::<()>().await;
        let half = async || {
            let first = futures::stream::iter([Ok::<_, std::io::Error>("half")]);
            Body::from_stream(first.chain(futures::stream::pending()))
        };
        let routes = Routes::new()
            .route("/", get(host))
            .route("/slow", get(slow))
            .route("/stuck", get(stuck))
            .route("/half", get(half));
        task::spawn(&mut running, "actor", async move {
            axum::serve(listener, routes).await.unwrap();
        });
        state.wait_for(|state| *state == supervisor::State::Ready).await.unwrap();
        Self { rig, fake, http, actor, shutdown, running, _kept: kept, _folder: folder }
    }

    /// The whole answer to a request.
    async fn ask(&self, request: &str, headers: &str) -> String {
        answer(self.begin(request, headers).await).await
    }

    async fn begin(&self, request: &str, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let text =
            format!("{request} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    async fn bind(&mut self, epoch: u64) {
        let endpoint = self.actor.to_string();
        let bound = reveille_api::proto::Binding { endpoint, ..binding(&counter(), epoch, 0) };
        self.fake.wake().await.reply(reply(bound));
    }

    async fn end(mut self) {
        self.shutdown.cancel();
        self.running.join_next().await.unwrap().unwrap();
    }
}

async fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_request_goes_on_to_its_actor_and_counts_until_its_answer_ended() {
    let Some(binary) = envoy() else { return };
    let mut front = Front::start(binary).await;
    let first = front.begin("GET /", "").await;
    let leaver = front.begin("GET /", "").await;
    eventually(2, || front.rig.router.metrics.parked.get()).await;
    drop(leaver);
    eventually(1, || front.rig.router.metrics.parked.get()).await;
    front.bind(1).await;
    let text = answer(first).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    for part in ["x-reveille-wake: restored", "server-timing: park;dur=", HOST] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    eventually(0, || front.rig.router.metrics.in_flight.get()).await;
    let slow = front.begin("GET /slow", "").await;
    eventually(1, || front.rig.router.metrics.in_flight.get()).await;
    let text = answer(slow).await;
    assert!(text.ends_with("slow\r\n0\r\n\r\n") || text.ends_with("slow"), "{text}");
    assert!(!text.contains("x-reveille-wake") && !text.contains("server-timing"), "{text}");
    eventually(0, || front.rig.router.metrics.in_flight.get()).await;
    assert!(front.fake.wakes.try_recv().is_err(), "a second wake");
    let (_, page) = front.rig.page("/statusz", "application/json").await;
    assert!(page.contains("\"node_id\":\"envoy\"") && page.contains("\"nacks\":[]"), "{page}");
    front.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_every_kind_of_caller_in_its_shape() {
    let Some(binary) = envoy() else { return };
    let mut front = Front::start(binary).await;
    let waiting = front.begin("GET /", "").await;
    front.fake.wake().await.fail(Reason::NoCapacity);
    let text = answer(waiting).await;
    assert!(text.starts_with("HTTP/1.1 503"), "{text}");
    for part in [
        "x-reveille-reason: no_capacity",
        "retry-after: ",
        "proxy-status: reveille; error=destination_unavailable; details=\"no_capacity\"",
        "content-type: application/problem+json",
        "\"reason\":\"no_capacity\"",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let waiting = front.begin("GET /", "").await;
    front.fake.wake().await.fail(Reason::ActorNotFound);
    answer(waiting).await;
    // For a second that is remembered.
    let head = front.ask("HEAD /", "").await;
    assert!(head.starts_with("HTTP/1.1 404") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("content-type: application/problem+json"), "{head}");
    let grpc = front.ask("POST /", "content-type: application/grpc\r\ncontent-length: 0\r\n").await;
    assert!(grpc.starts_with("HTTP/1.1 200") && grpc.contains("grpc-status: 5"), "{grpc}");
    assert!(grpc.contains("x-reveille-reason: actor_not_found"), "{grpc}");
    let page = front.ask("GET /", "accept: text/html\r\n").await;
    assert!(page.contains("content-type: text/html") && page.contains("<!doctype html>"), "{page}");
    front.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_process_is_gone_its_requests_end_at_once_as_a_reset_or_in_our_shape() {
    let Some(binary) = envoy() else { return };
    let mut front = Front::start(binary).await;
    let session = front.fake.welcomed().await;
    let first = front.begin("GET /", "").await;
    front.bind(1).await;
    answer(first).await;
    let stuck = front.begin("GET /stuck", "").await;
    let grpc = "content-type: application/grpc\r\ncontent-length: 0\r\n";
    let call = front.begin("GET /stuck", grpc).await;
    let mut half = front.begin("GET /half", "").await;
    let mut begun = String::new();
    while !begun.contains("half") {
        let mut bytes = [0; 1024];
        let read = half.read(&mut bytes).await.unwrap();
        begun.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    eventually(3, || front.rig.router.metrics.in_flight.get()).await;
    let actor = Some((&counter()).into());
    let revoke = Revoke { actor, epoch: 1, gone: true, ..Revoke::default() };
    session.command(Command::Revoke(revoke)).await;
    let text = answer(stuck).await;
    assert!(text.starts_with("HTTP/1.1 503"), "{text}");
    assert!(text.contains("x-reveille-reason: upstream_reset"), "{text}");
    let text = answer(call).await;
    assert!(text.contains("grpc-status: 14") && text.contains("upstream_reset"), "{text}");
    // What has begun cannot be answered again: the body does not come to its end.
    let mut rest = Vec::new();
    let _ = half.read_to_end(&mut rest).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    eventually(0, || front.rig.router.metrics.in_flight.get()).await;
    front.end().await;
}
