//! A real Envoy under its supervisor, with a scripted router and a small actor.

use std::{
    collections::HashMap,
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderValue, HeaderValueOption},
        service::ext_proc::v3::{
            CommonResponse, GrpcStatus, HeaderMutation, HeadersResponse, ImmediateResponse,
            ProcessingRequest, ProcessingResponse, TrailersResponse,
            external_processor_server::{ExternalProcessor, ExternalProcessorServer},
            processing_request, processing_response,
        },
        r#type::v3::HttpStatus,
    },
    google::protobuf::{Struct, Value, value},
};
use futures::{Stream, StreamExt, stream::BoxStream};
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use reveille_api::{Ladder, Reason, net::Address, task};
use reveille_envoy::{
    ads::{AdsServer, Fleet},
    bootstrap::Protocol,
    reply::{self, Shape},
    resources::{self, AccessLog, Resources, names},
    supervisor::{self, State},
};
use tempfile::TempDir;
use tokio::{
    runtime::Runtime,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request as Call, Response as Reply, Status, Streaming, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

/// Long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Envoy's binary. Without one the test is skipped, and says so; in CI it fails.
pub(crate) fn envoy_binary() -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps/bin/envoy");
    let path = env::var_os("REVEILLE_ENVOY").map_or_else(default, PathBuf::from);
    if path.is_file() {
        return Some(path.canonicalize().unwrap());
    }
    assert!(env::var_os("CI").is_none(), "{} is missing: deploy/setup.sh envoy", path.display());
    eprintln!("SKIPPED: {} is missing; deploy/setup.sh envoy installs it", path.display());
    None
}

/// Ends the test, loudly, when there is no Envoy.
macro_rules! envoy_or_skip {
    () => {
        match $crate::harness::envoy_binary() {
            Some(binary) => binary,
            None => return,
        }
    };
}
pub(crate) use envoy_or_skip;

/// Waits until the closure gives something.
pub(crate) async fn eventually<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    mut check: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match check().await {
            Ok(value) => return value,
            Err(last) => assert!(Instant::now() < deadline, "{what}: still {last}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// What the scripted router does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    GoOn { endpoint: SocketAddr, h2c: bool, extra: Vec<(&'static str, &'static str)> },
    Refuse(Reason, Shape),
    Silence,
}

/// The router's ext_proc server: does as it is told for each host, and counts.
#[derive(Clone, Default)]
pub(crate) struct Router {
    scripts: Arc<Mutex<HashMap<String, Script>>>,
    pub(crate) seen: Arc<Mutex<Vec<HashMap<String, String>>>>,
    pub(crate) open: Arc<watch::Sender<usize>>,
    health: Arc<Mutex<Option<HealthReporter>>>,
}

impl Router {
    pub(crate) fn on(&self, host: &str, script: Script) {
        self.scripts.lock().unwrap().insert(host.into(), script);
    }

    pub(crate) async fn say(&self, status: ServingStatus) {
        let reporter = self.health.lock().unwrap().clone().expect("it is served");
        reporter.set_service_status("", status).await;
    }

    /// What it does with those that come a second time; else what it does with the first.
    pub(crate) fn on_again(&self, host: &str, script: Script) {
        self.on(&format!("{host} again"), script);
    }

    fn script(&self, request: &ProcessingRequest) -> Script {
        let Some(processing_request::Request::RequestHeaders(headers)) = &request.request else {
            return Script::Refuse(Reason::Internal, Shape::Json);
        };
        let headers = headers.headers.iter().flat_map(|map| &map.headers);
        let headers: HashMap<String, String> = headers
            .map(|h| (h.key.clone(), String::from_utf8_lossy(&h.raw_value).into_owned()))
            .collect();
        let host = headers.get(":authority").cloned().unwrap_or_default();
        let again = headers.contains_key(names::FAILED_HEADER).then(|| format!("{host} again"));
        self.seen.lock().unwrap().push(headers);
        let scripts = self.scripts.lock().unwrap();
        let again = again.and_then(|again| scripts.get(&again));
        again
            .or(scripts.get(&host))
            .cloned()
            .unwrap_or(Script::Refuse(Reason::ActorNotFound, Shape::Json))
    }
}

fn text(value: impl Into<String>) -> Value {
    Value { kind: Some(value::Kind::StringValue(value.into())) }
}

fn answer(script: Script) -> Option<ProcessingResponse> {
    match script {
        Script::GoOn { endpoint, h2c, extra } => {
            let again = h2c || !extra.is_empty();
            let mut fields: HashMap<_, _> =
                extra.into_iter().map(|(key, value)| (key.to_owned(), text(value))).collect();
            fields.insert(names::ENDPOINT.into(), text(endpoint.to_string()));
            if h2c {
                fields.insert(names::PROTOCOL.into(), text(names::H2C));
            }
            let namespace = Value { kind: Some(value::Kind::StructValue(Struct { fields })) };
            // A forged mutation of the request: it must have no effect.
            let header = HeaderValue {
                key: "x-from-router".into(),
                raw_value: b"1".to_vec(),
                ..Default::default()
            };
            let set = HeaderValueOption { header: Some(header), ..Default::default() };
            // As the router has it: none for these.
            let set_headers = if again { Vec::new() } else { vec![set] };
            let headers = HeadersResponse {
                response: Some(CommonResponse {
                    clear_route_cache: again,
                    header_mutation: Some(HeaderMutation { set_headers, ..Default::default() }),
                    ..Default::default()
                }),
            };
            Some(ProcessingResponse {
                response: Some(processing_response::Response::RequestHeaders(headers)),
                dynamic_metadata: Some(Struct {
                    fields: HashMap::from([
                        (names::METADATA.to_owned(), namespace.clone()),
                        ("foreign".to_owned(), namespace),
                    ]),
                }),
                ..Default::default()
            })
        }
        Script::Refuse(reason, shape) => {
            let header = |key: &str, value: &str| HeaderValueOption {
                header: Some(HeaderValue {
                    key: key.into(),
                    raw_value: value.as_bytes().to_vec(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            Some(ProcessingResponse {
                response: Some(processing_response::Response::ImmediateResponse(
                    ImmediateResponse {
                        status: Some(HttpStatus { code: i32::from(reason.http_status()) }),
                        headers: Some(HeaderMutation {
                            set_headers: vec![
                                header(names::REASON_HEADER, reason.name()),
                                header("content-type", shape.content_type()),
                                header("retry-after", "7"),
                            ],
                            ..Default::default()
                        }),
                        grpc_status: (shape == Shape::Grpc)
                            .then(|| GrpcStatus { status: reason.grpc_code() as i32 as u32 }),
                        body: reply::body(reason, shape).into_bytes(),
                        details: reason.name().into(),
                    },
                )),
                ..Default::default()
            })
        }
        Script::Silence => None,
    }
}

struct Open(Arc<watch::Sender<usize>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

#[tonic::async_trait]
impl ExternalProcessor for Router {
    type ProcessStream = BoxStream<'static, Result<ProcessingResponse, Status>>;

    async fn process(
        &self,
        call: Call<Streaming<ProcessingRequest>>,
    ) -> Result<Reply<Self::ProcessStream>, Status> {
        let router = self.clone();
        router.open.send_modify(|open| *open += 1);
        let open = Open(router.open.clone());
        let mut answers = call.into_inner().filter_map(move |request| {
            let _held = &open;
            let answer = match request {
                Err(_) => None,
                Ok(request) => match &request.request {
                    Some(processing_request::Request::ResponseTrailers(_)) => {
                        Some(ProcessingResponse {
                            response: Some(processing_response::Response::ResponseTrailers(
                                TrailersResponse::default(),
                            )),
                            ..Default::default()
                        })
                    }
                    _ => answer(router.script(&request)),
                },
            };
            std::future::ready(answer.map(Ok))
        });
        // As the real one: the answer begins with its first message.
        let first = answers.next().await;
        Ok(Reply::new(futures::stream::iter(first).chain(answers).boxed()))
    }
}

/// A server that can be killed: its connections break, and its socket goes. It has a runtime of its own, since
/// nothing else ends what a server has spawned.
pub(crate) struct Part(Option<Runtime>);

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) struct Options {
    pub(crate) protocol: Protocol,
    pub(crate) ladder: Ladder,
    pub(crate) drain: Duration,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) grace: Duration,
    pub(crate) status: Option<Address>,
    /// A second router, for when the first does not serve.
    pub(crate) second: bool,
    /// Besides the first address.
    pub(crate) listen: Vec<SocketAddr>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            protocol: Protocol::Delta,
            ladder: Ladder::default(),
            drain: Duration::from_secs(10),
            admin: None,
            grace: Duration::ZERO,
            status: None,
            second: false,
            listen: Vec::new(),
        }
    }
}

/// Everything, running.
pub(crate) struct Stack {
    pub(crate) dir: TempDir,
    pub(crate) front: SocketAddr,
    pub(crate) admin: Address,
    pub(crate) fleet: Fleet,
    pub(crate) router: Router,
    pub(crate) second: Router,
    pub(crate) resources: watch::Sender<Arc<Resources>>,
    pub(crate) state: watch::Receiver<State>,
    pub(crate) ext_proc: Option<Part>,
    _second_ext_proc: Option<Part>,
    pub(crate) ads: Option<Part>,
    shutdown: CancellationToken,
    supervisor: JoinSet<Result<(), supervisor::Error>>,
}

impl Stack {
    pub(crate) async fn start(binary: PathBuf, options: Options) -> Self {
        let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter("info").try_init();
        let dir = TempDir::new().unwrap();
        let front = free_port();
        let router_address = Address::Unix(dir.path().join("router.sock"));
        let xds = Address::Unix(dir.path().join("xds.sock"));
        let listen: Vec<_> = [front].into_iter().chain(options.listen).collect();
        let mut config = resources::Config::new(listen.clone());
        config.ladder = options.ladder;
        config.access_log = AccessLog::File(dir.path().join("access.log"));
        let (resources, _) = watch::channel(Arc::new(resources::build(&config).unwrap()));
        let (fleet, router) = (Fleet::default(), Router::default());
        let ads = serve_ads(&xds, &resources, &fleet).await;
        let ext_proc = serve_router(&router_address, &router).await;

        let (mut routers, second, mut second_part) =
            (vec![router_address], Router::default(), None);
        if options.second {
            let address = Address::Unix(dir.path().join("second.sock"));
            second_part = Some(serve_router(&address, &second).await);
            routers.push(address);
        }
        let mut config = supervisor::Config::new(binary, dir.path().join("envoy"), routers);
        config.xds = vec![xds];
        config.max_requests = options.ladder.max_requests();
        config.node_id = "envoy-under-test".into();
        config.protocol = options.protocol;
        config.listen = listen;
        config.admin = options.admin;
        config.grace = options.grace;
        config.status = options.status;
        config.concurrency = std::num::NonZero::new(2);
        config.drain = options.drain;
        let app = config.build().await.unwrap();
        let (admin, state) = (app.addrs().admin, app.state());
        let shutdown = CancellationToken::new();
        let mut supervisor = JoinSet::new();
        task::spawn(&mut supervisor, "supervisor", app.run(shutdown.clone()));
        let mut stack = Self {
            dir,
            front,
            admin,
            fleet,
            router,
            second,
            resources,
            state,
            ext_proc: Some(ext_proc),
            _second_ext_proc: second_part,
            ads: Some(ads),
            shutdown,
            supervisor,
        };
        stack.ready().await;
        stack
    }

    pub(crate) async fn ready(&mut self) {
        let ready = self.state.wait_for(|state| *state == State::Ready);
        let _ = timeout(PATIENCE, ready).await.expect("Envoy becomes ready").unwrap();
    }

    pub(crate) fn ask_to_stop(&self) {
        self.shutdown.cancel();
    }

    pub(crate) async fn stopped(&mut self) {
        let ended = timeout(PATIENCE, self.supervisor.join_next()).await.expect("it stops");
        ended.expect("it ran").unwrap().unwrap();
    }

    pub(crate) async fn stop(mut self) {
        self.ask_to_stop();
        self.stopped().await;
    }

    pub(crate) async fn restart_ads(&mut self) {
        self.ads = None;
        let xds = Address::Unix(self.dir.path().join("xds.sock"));
        self.ads = Some(serve_ads(&xds, &self.resources, &self.fleet).await);
    }

    pub(crate) async fn restart_router(&mut self) {
        let address = Address::Unix(self.dir.path().join("router.sock"));
        self.ext_proc = Some(serve_router(&address, &self.router).await);
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Resources)) {
        self.resources.send_modify(|resources| change(Arc::make_mut(resources)));
    }

    /// Lines of Envoy's access log.
    pub(crate) fn access_log(&self) -> Vec<serde_json::Value> {
        let log = fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The pid of the Envoy of this stack.
    pub(crate) fn envoy_pid(&self) -> i32 {
        envoy_pids(self.dir.path()).first().copied().expect("Envoy runs")
    }

    /// A counter or gauge of Envoy's.
    pub(crate) async fn stat(&self, name: &str) -> u64 {
        let answer = self.admin_get(&format!("/stats?filter=^{name}$")).await;
        let number = answer.trim().rsplit_once(": ").and_then(|(_, number)| number.parse().ok());
        number.unwrap_or_else(|| panic!("{name}: {answer:?}"))
    }

    pub(crate) async fn admin_get(&self, path: &str) -> String {
        let Address::Unix(socket) = &self.admin else { panic!("{:?}", self.admin) };
        let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        task::detach("admin", async {
            let _ = connection.await;
        });
        let request = Request::get(path).header("host", "admin").body(Full::<Bytes>::default());
        let body = sender.send_request(request.unwrap()).await.unwrap().into_body();
        String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap()
    }

    pub(crate) async fn get(&self, host: &str, path: &str) -> Answer {
        self.send(Request::get(self.uri(path)).header("host", host)).await
    }

    pub(crate) fn uri(&self, path: &str) -> String {
        format!("http://{}{path}", self.front)
    }

    pub(crate) async fn send(&self, request: hyper::http::request::Builder) -> Answer {
        exchange(&client(), request.body(Full::default()).unwrap()).await
    }
}

/// Envoys whose command line names this directory.
pub(crate) fn envoy_pids(dir: &Path) -> Vec<i32> {
    let dir = dir.canonicalize().unwrap();
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let is_envoy = exe.file_name()?.to_str()?.starts_with("envoy");
        (is_envoy && line.contains(dir.to_str()?)).then_some(pid)
    });
    pids.collect()
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) type Http = Client<HttpConnector, Full<Bytes>>;

pub(crate) fn client() -> Http {
    Client::builder(TokioExecutor::new()).timer(TokioTimer::new()).build_http()
}

pub(crate) fn h2_client() -> Http {
    Client::builder(TokioExecutor::new()).timer(TokioTimer::new()).http2_only(true).build_http()
}

pub(crate) async fn exchange(client: &Http, request: Request<Full<Bytes>>) -> Answer {
    let answer = timeout(PATIENCE, client.request(request)).await.expect("an answer").unwrap();
    let (head, body) = answer.into_parts();
    let body = timeout(PATIENCE, body.collect()).await.expect("the whole answer").unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Answer { status: head.status, headers: head.headers, body, trailers }
}

async fn serve_ads(at: &Address, resources: &watch::Sender<Arc<Resources>>, fleet: &Fleet) -> Part {
    let service = AdsServer::new(resources.subscribe(), fleet.clone()).into_service();
    let routes = Server::builder().add_service(service);
    serve(at, "ads", |incoming| routes.serve_with_incoming(incoming)).await
}

async fn serve_router(at: &Address, router: &Router) -> Part {
    let (reporter, health) = tonic_health::server::health_reporter();
    *router.health.lock().unwrap() = Some(reporter);
    let service = ExternalProcessorServer::new(router.clone());
    let routes = Server::builder().add_service(service).add_service(health);
    serve(at, "router", |incoming| routes.serve_with_incoming(incoming)).await
}

type Incoming =
    std::pin::Pin<Box<dyn Stream<Item = std::io::Result<reveille_api::net::Io>> + Send>>;

async fn serve<F>(at: &Address, name: &'static str, serve: impl FnOnce(Incoming) -> F) -> Part
where
    F: Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(name)
        .enable_all()
        .build()
        .unwrap();
    // A part that was killed may hold its socket for a moment longer.
    let listener = eventually("the socket is free", || async {
        let _inside = runtime.enter();
        at.listen().await.map_err(|error| format!("{error:?}"))
    })
    .await;
    let server = serve(Box::pin(listener.incoming()));
    runtime.spawn(async move {
        let _ = server.await;
    });
    Part(Some(runtime))
}
