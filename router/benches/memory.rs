//! How much memory a router needs: for each request that waits, and for each binding.
//!
//! ```text
//!   this process: Envoy's side and the control plane's ──Unix sockets──▶ the router, a process of its own
//!                 reads its resident memory before and after
//! ```
//!
//! `cargo bench -p reveille-router --bench memory -- [--json] [--bindings N] [--parked N]`

// It is a program that may fail by a panic.
#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, Command},
    time::Duration,
};

use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue},
    service::ext_proc::v3::{
        HttpHeaders, ProcessingRequest, ProcessingResponse,
        external_processor_client::ExternalProcessorClient, processing_request::Request as Part,
    },
};
use futures::{Stream, StreamExt, stream};
use reveille_api::{
    Ladder,
    net::{Address, Transport},
    proto::{
        ActorPolicy, Binding, Protocol, RouterCommand, RouterReport, WakeKind, WakePhases,
        WakeReply, WakeRequest, Welcome,
        router_command::Command as Word,
        routers_server::{Routers, RoutersServer},
    },
    task,
};
use reveille_router::Config;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Server},
};

const DOMAIN: &str = "actors.test";
/// Actors of this namespace wake at once; all others never.
const AWAKE: &str = "awake";
/// What the figures have to reach.
const PER_PARKED: u64 = 20 * 1024;
const PER_BINDING: u64 = 400;
/// Requests made at a time to bind actors.
const AT_A_TIME: usize = 256;
/// Requests that wait for one actor.
const PER_ACTOR: usize = 100;
/// Set in the router's process: the folder of its sockets.
const ROUTER: &str = "REVEILLE_BENCH_ROUTER";

struct Options {
    json: bool,
    bindings: u64,
    parked: u64,
}

impl Options {
    fn read() -> Self {
        let mut options = Self { json: false, bindings: 1_000_000, parked: 10_000 };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut number = || args.next().and_then(|n| n.parse().ok()).expect("a number");
            match arg.as_str() {
                "--json" => options.json = true,
                "--bindings" => options.bindings = number(),
                "--parked" => options.parked = number(),
                // Cargo's own.
                "--bench" => {}
                other => panic!("{other:?}: write --json, --bindings N, --parked N"),
            }
        }
        options
    }
}

#[tokio::main]
async fn main() {
    if let Some(folder) = std::env::var_os(ROUTER) {
        return router(Path::new(&folder)).await;
    }
    let options = Options::read();
    let folder = tempfile::tempdir().expect("a folder");
    let mut around = JoinSet::new();
    let control = socket(folder.path(), "control").listen().await.expect("a socket");
    task::spawn(&mut around, "control plane", async move {
        let server = Server::builder().add_service(RoutersServer::new(ControlPlane));
        server.serve_with_incoming(control.incoming()).await.expect("a server");
    });
    let parked = {
        let rig = Rig::start(folder.path()).await;
        // What the first ones need besides themselves is not theirs.
        let first = rig.park(0..PER_ACTOR as u64).await;
        let before = rig.resident();
        let waiting = rig.park(PER_ACTOR as u64..options.parked + PER_ACTOR as u64).await;
        let each = rig.resident().saturating_sub(before) / options.parked.max(1);
        drop((first, waiting));
        each
    };
    let binding = {
        let rig = Rig::start(folder.path()).await;
        rig.bind(0..1_000).await;
        let before = rig.resident();
        rig.bind(1_000..options.bindings + 1_000).await;
        rig.resident().saturating_sub(before) / options.bindings.max(1)
    };
    let reached = parked <= PER_PARKED && binding <= PER_BINDING;
    if options.json {
        let figures = serde_json::json!({
            "bytes_per_parked_request": parked, "parked_requests": options.parked,
            "bytes_per_binding": binding, "bindings": options.bindings, "reached": reached,
        });
        println!("{figures}");
    } else {
        println!("bytes per parked request: {parked} of {PER_PARKED} ({} waiting)", options.parked);
        println!("bytes per binding: {binding} of {PER_BINDING} ({} bound)", options.bindings);
    }
    std::process::exit(i32::from(!reached));
}

fn socket(folder: &Path, name: &str) -> Address {
    Address::Unix(folder.join(format!("{name}.sock")))
}

/// The router's process.
async fn router(folder: &Path) {
    let second = Duration::from_secs(1);
    let config = Config {
        transport: Transport::unix(),
        listen: socket(folder, "router"),
        status: "127.0.0.1:0".parse().expect("an address"),
        others: Vec::new(),
        control_plane: socket(folder, "control"),
        zone: DOMAIN.parse().expect("a domain"),
        ladder: Ladder::new(600 * second, 900 * second, 200_000, 400_000).expect("a ladder"),
        router: "bench".into(),
        http: vec!["127.0.0.1:8080".parse().expect("an address")],
        https: None,
        access_log: None,
        traces: None,
        namespace_share: 100,
    };
    let app = config.build().await.expect("a router");
    app.run(CancellationToken::new()).await.expect("it runs");
}

struct Rig {
    process: Child,
    channel: Channel,
}

/// One request; its end is this value's.
struct Exchange {
    _messages: mpsc::Sender<ProcessingRequest>,
    /// Nothing of the answer comes before its first message.
    answering: JoinSet<Result<ProcessingResponse, Status>>,
}

impl Exchange {
    async fn answer(&mut self) -> Result<ProcessingResponse, Status> {
        self.answering.join_next().await.expect("a task").expect("no panic")
    }
}

impl Rig {
    async fn start(folder: &Path) -> Self {
        let path: PathBuf = std::env::current_exe().expect("this program");
        let process = Command::new(path).env(ROUTER, folder).spawn().expect("a process");
        let rig = Self { process, channel: socket(folder, "router").channel() };
        // It answers once it listens.
        while rig.ask(&format!("a.{AWAKE}")).answer().await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
        rig
    }

    /// Bytes.
    fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    fn ask(&self, prefix: &str) -> Exchange {
        let (messages, outbound) = mpsc::channel(1);
        let host = format!("{prefix}.{DOMAIN}");
        let headers = [
            (":authority", host.as_str()),
            (":method", "GET"),
            ("accept", "*/*"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ];
        let headers = headers.map(|(key, value)| HeaderValue {
            key: key.into(),
            raw_value: value.into(),
            ..Default::default()
        });
        let headers = Some(HeaderMap { headers: headers.into() });
        let part = Part::RequestHeaders(HttpHeaders { headers, ..Default::default() });
        let message = ProcessingRequest { request: Some(part), ..Default::default() };
        messages.try_send(message).expect("room");
        let mut client = ExternalProcessorClient::new(self.channel.clone());
        let mut answering = JoinSet::new();
        task::spawn(&mut answering, "exchange", async move {
            let mut answers = client.process(ReceiverStream::new(outbound)).await?.into_inner();
            answers.message().await?.ok_or_else(|| Status::unknown("no answer"))
        });
        Exchange { _messages: messages, answering }
    }

    /// Binds one actor for each number.
    async fn bind(&self, numbers: std::ops::Range<u64>) {
        let all = stream::iter(numbers).map(|n| async move {
            let mut exchange = self.ask(&format!("a{n}.{AWAKE}"));
            let answer = exchange.answer().await.expect("an answer");
            assert!(answer.dynamic_metadata.is_some(), "refused");
        });
        all.buffer_unordered(AT_A_TIME).for_each(async |()| {}).await;
        sleep(Duration::from_secs(1)).await;
    }

    /// Requests that wait for ever.
    async fn park(&self, numbers: std::ops::Range<u64>) -> Vec<Exchange> {
        let waits = |n: u64| self.ask(&format!("a{}.asleep", n / PER_ACTOR as u64));
        let all = numbers.map(waits).collect();
        sleep(Duration::from_secs(5)).await;
        all
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct ControlPlane;

#[tonic::async_trait]
impl Routers for ControlPlane {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<RouterCommand, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<RouterReport>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut reports = request.into_inner();
        task::detach("reports", async move { while let Ok(Some(_)) = reports.message().await {} });
        let welcome = Welcome { control_plane_instance: "bench".into(), report_interval_ms: 200 };
        let command = RouterCommand { command: Some(Word::Welcome(welcome)) };
        let commands = stream::iter([Ok(command)]).chain(stream::pending());
        Ok(Response::new(Box::pin(commands)))
    }

    async fn wake(&self, request: Request<WakeRequest>) -> Result<Response<WakeReply>, Status> {
        let actor = request.into_inner().actor.expect("an actor");
        if actor.namespace != AWAKE {
            return std::future::pending().await;
        }
        let binding = Binding {
            actor: Some(actor.clone()),
            epoch: 1,
            term: 0,
            endpoint: "10.213.1.2:20001".into(),
            protocol: Protocol::Http1.into(),
            woken_by: WakeKind::Restored.into(),
        };
        let policy = ActorPolicy { max_parked: 1_000, park_ms: 30_000, ..Default::default() };
        Ok(Response::new(WakeReply {
            binding: Some(binding),
            policy: Some(ActorPolicy { actor: Some(actor), ..policy }),
            phases: Some(WakePhases::default()),
        }))
    }
}
