//! A node agent on a directory of its own, and what tests ask it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reveille_api::{
    Stay,
    net::Address,
    proto::{self, node_agent_client::NodeAgentClient},
};
use reveille_node::{App, Config};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, service::interceptor::InterceptedService, transport::Channel};

/// Where the third-party programs and the demo's file system are, if this machine can run these tests.
pub(crate) struct Machine {
    bin: PathBuf,
    pub(crate) rootfs: PathBuf,
}

/// A runtime that tests are run with: `#[values(GVISOR, CRIU)] runtime`.
pub(crate) const GVISOR: &str = "gvisor";
pub(crate) const CRIU: &str = "criu";

impl Machine {
    /// `None`, and a loud word about it, where something is missing; a failure in CI.
    pub(crate) fn detect(runtime: &str) -> Option<Self> {
        let deps = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps");
        let machine = Self { bin: deps.join("bin"), rootfs: deps.join("rootfs/counter") };
        let missing = if !is_root() {
            "root"
        } else if runtime == GVISOR && !machine.bin.join("runsc").exists() {
            "runsc (deploy/setup.sh runsc)"
        } else if runtime == CRIU && !machine.bin.join("criu").exists() {
            "criu (deploy/setup.sh criu)"
        } else if runtime == CRIU && runc().is_none() {
            "runc (deploy/setup.sh runc)"
        } else if !machine.rootfs.join("counter").exists() {
            "the counter (deploy/setup.sh counter)"
        } else {
            return Some(machine);
        };
        assert!(std::env::var_os("CI").is_none(), "this test needs {missing}");
        eprintln!("SKIPPED: this test needs {missing}");
        None
    }
}

/// Of the system's package.
pub(crate) fn runc() -> Option<PathBuf> {
    let places = ["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/bin/runc"].map(PathBuf::from);
    places.into_iter().find(|path| path.exists())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// A data directory. What is left of it in the kernel at the end is the test's failure.
pub(crate) struct Place {
    pub(crate) machine: Machine,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) runtime: &'static str,
    cidr: String,
}

impl Place {
    /// For tests of what is the same in every runtime.
    pub(crate) fn new() -> Option<Self> {
        Self::of(GVISOR)
    }

    pub(crate) fn of(runtime: &'static str) -> Option<Self> {
        let machine = Machine::detect(runtime)?;
        let _ = tracing_subscriber::fmt()
            .with_test_writer()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .try_init();
        // Tests run side by side: each takes addresses of its own.
        let cidr =
            format!("10.{}.{}.0/24", rand::random_range(96..128), rand::random_range(0..=255));
        let dir = tempfile::Builder::new().prefix("rvnode").tempdir().unwrap();
        Some(Self { machine, dir, runtime, cidr })
    }

    pub(crate) fn config(&self, workers: u32) -> Config {
        Config {
            node: "n".into(),
            workers,
            worker_cidr: self.cidr.parse().unwrap(),
            runsc: self.machine.bin.join("runsc"),
            criu: self.machine.bin.join("criu"),
            required: vec![serde_json::from_value(self.runtime.into()).unwrap()],
            rootfs_allow: vec![self.machine.rootfs.clone(), self.dir.path().into()],
            ..Config::new(self.dir.path())
        }
    }

    /// CRIU's containers are the kernel's to limit, with a controller that is not everywhere in version 2.
    pub(crate) fn limits_processes(&self) -> bool {
        let controllers = fs::read_to_string(cgroups().join("cgroup.controllers"));
        self.runtime == GVISOR || controllers.unwrap().split_whitespace().any(|name| name == "pids")
    }

    /// From now on with the file system of the Python demo, if it is there.
    pub(crate) fn python(&mut self) -> bool {
        let rootfs = self.machine.rootfs.with_file_name("python");
        let found = rootfs.join("usr/bin/python3").exists();
        if !found {
            let missing = "the Python demo (deploy/setup.sh python-rootfs)";
            assert!(std::env::var_os("CI").is_none(), "this test needs {missing}");
            eprintln!("SKIPPED: this test needs {missing}");
        }
        self.machine.rootfs = rootfs;
        found
    }

    /// The addresses of the first worker's link: the host's end and the worker's.
    pub(crate) fn first_pair(&self) -> [String; 2] {
        let network = self.cidr.trim_end_matches("0/24");
        [1, 2].map(|last| format!("{network}{last}"))
    }

    pub(crate) async fn start(&self, workers: u32) -> Node {
        Node::start(self.config(workers)).await
    }

    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join(inside)
    }

    /// Everything of this data directory outside of it.
    pub(crate) fn traces(&self) -> BTreeSet<String> {
        let mark = self.dir.path().display().to_string();
        let prefix = prefix(self.dir.path());
        let mut traces = BTreeSet::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&mark) {
                traces.insert(format!("process {} {line}", entry.file_name().display()));
            }
        }
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
            let target = line.split(' ').nth(4).unwrap_or_default();
            if target.starts_with(&mark) {
                traces.insert(format!("mount {target}"));
            }
        }
        for entry in fs::read_dir("/sys/class/net").unwrap().flatten() {
            let name = entry.file_name().display().to_string();
            if name.starts_with(&prefix) {
                traces.insert(format!("link {name}"));
            }
        }
        let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
        for line in String::from_utf8_lossy(&tables.stdout).lines() {
            if line.contains(&prefix) {
                traces.insert(line.into());
            }
        }
        for dir in ["node/bundles", "node/runsc", "node/criu", "run/memory"] {
            for entry in fs::read_dir(self.path(dir)).into_iter().flatten().flatten() {
                traces.insert(format!("file {dir}/{}", entry.file_name().display()));
            }
        }
        for entry in fs::read_dir(cgroups()).into_iter().flatten().flatten() {
            let name = entry.file_name().display().to_string();
            if name.starts_with(&prefix) {
                let pids = fs::read_to_string(entry.path().join("cgroup.procs"));
                traces.insert(format!("group {name} {:?}", pids.unwrap_or_default()));
            }
        }
        traces
    }

    pub(crate) async fn eventually_traces(&self, expected: &BTreeSet<String>) {
        eventually("the traces are as before", async || {
            let traces = self.traces();
            if traces == *expected {
                Ok(())
            } else {
                Err(format!("{traces:#?} is not {expected:#?}"))
            }
        })
        .await;
    }
}

/// A test that fails leaves what it had: it must not be in the way of the next one.
impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let run = |program: &str, arguments: &[&str]| {
            let _ = Command::new(program).args(arguments).status();
        };
        for trace in self.traces() {
            match trace.split(' ').collect::<Vec<_>>()[..] {
                ["process", pid, ..] => run("kill", &["-9", pid]),
                ["mount", target] => run("umount", &["-l", target]),
                ["link", name] => run("ip", &["link", "del", name]),
                ["table", "ip", name] => run("nft", &["delete", "table", "ip", name]),
                ["group", name, ..] => {
                    let group = cgroups().join(name);
                    let _ = fs::write(group.join("cgroup.kill"), "1");
                    let gone = (0..10_000).any(|_| {
                        std::thread::yield_now();
                        fs::remove_dir(&group).is_ok()
                    });
                    eprintln!("group {name} removed: {gone}");
                }
                _ => {}
            }
        }
    }
}

/// Where version 2 is mounted.
pub(crate) fn cgroups() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    mounts.find(|fields| fields[2] == "cgroup2").map(|fields| fields[1].into()).unwrap_or_default()
}

fn prefix(data_dir: &Path) -> String {
    let real = data_dir.canonicalize().unwrap();
    format!("rv{}", &blake3::hash(real.as_os_str().as_encoded_bytes()).to_hex()[..6])
}

/// A running agent.
pub(crate) struct Node {
    shutdown: CancellationToken,
    destroy: Arc<AtomicBool>,
    tasks: JoinSet<()>,
    pub(crate) running: Vec<String>,
    /// Quotes no stay.
    pub(crate) client: NodeAgentClient<Channel>,
    channel: Channel,
}

impl Node {
    pub(crate) async fn start(config: Config) -> Self {
        // A call that an agent before this one left in a thread may hold its lock for a moment longer.
        let app: App = eventually("the agent starts", async || {
            config.clone().build().await.map_err(|error| error.to_string())
        })
        .await;
        let (shutdown, destroy) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let channel = app.addrs().channel();
        let client = NodeAgentClient::new(channel.clone());
        let running = app.running();
        let mut tasks = JoinSet::new();
        let run = app.run(shutdown.clone(), destroy.clone());
        tasks.spawn(async move { run.await.unwrap() });
        Self { shutdown, destroy, tasks, running, client, channel }
    }

    /// Calls it in this stay.
    pub(crate) fn of(&self, stay: Stay) -> NodeAgentClient<InterceptedService<Channel, Stay>> {
        NodeAgentClient::with_interceptor(self.channel.clone(), stay)
    }

    /// Returns while the only activation does not serve.
    pub(crate) async fn eventually_going_down(&self) {
        eventually("it goes down", async || {
            let activations = self.inventory().await.activations;
            let down = activations.iter().any(|activation| !activation.serving);
            if down { Ok(()) } else { Err(format!("{activations:?}")) }
        })
        .await;
    }

    /// Ends in order, and leaves what runs.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
    }

    /// Ends in order, and removes everything.
    pub(crate) async fn destroy(self) {
        self.destroy.store(true, Ordering::Release);
        self.stop().await;
    }

    /// Ends at once.
    pub(crate) async fn crash(mut self) {
        self.tasks.shutdown().await;
    }

    pub(crate) async fn activate(&self, wake: &Wake) -> Result<proto::ActivateReply, Status> {
        self.activate_within(wake, 20_000).await
    }

    pub(crate) async fn activate_within(
        &self,
        wake: &Wake,
        deadline_ms: u64,
    ) -> Result<proto::ActivateReply, Status> {
        let request = proto::ActivateRequest {
            actor: Some(proto::ActorKey { name: wake.actor.into(), ..actor() }),
            epoch: wake.epoch,
            worker: format!("n-{}", wake.worker),
            template: wake.template.to_string(),
            snapshot: wake.snapshot.into(),
            deadline_ms,
            traceparent: String::new(),
            template_name: "template".into(),
        };
        self.client.clone().activate(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn suspend(
        &self,
        epoch: u64,
        snapshot: &str,
    ) -> Result<proto::SuspendReply, Status> {
        let request = proto::SuspendRequest {
            actor: Some(actor()),
            epoch,
            snapshot: snapshot.into(),
            deadline_ms: 20_000,
            store_after_ms: Some(0),
            ..Default::default()
        };
        self.client.clone().suspend(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn resume(&self, epoch: u64) -> Result<bool, Status> {
        let reply = self.client.clone().resume(reference(epoch)).await;
        reply.map(|reply| reply.into_inner().resumed)
    }

    pub(crate) async fn freeze(&self, epoch: u64, term: u64) -> Result<(), Status> {
        let request = proto::ActivationRef { term, ..reference(epoch) };
        self.client.clone().freeze(request).await.map(|_| ())
    }

    pub(crate) async fn resume_term(&self, epoch: u64, term: u64) -> Result<bool, Status> {
        let request = proto::ActivationRef { term, ..reference(epoch) };
        let reply = self.client.clone().resume(request).await;
        reply.map(|reply| reply.into_inner().resumed)
    }

    pub(crate) async fn destroy_activation(&self, epoch: u64) -> Result<(), Status> {
        self.client.clone().destroy(reference(epoch)).await.map(|_| ())
    }

    pub(crate) async fn delete_snapshots(
        &self,
        epoch: u64,
        keep: &[&str],
        everything: bool,
    ) -> Result<(), Status> {
        let keep = keep.iter().map(ToString::to_string).collect();
        let request =
            proto::DeleteSnapshotsRequest { actor: Some(actor()), keep, everything, epoch };
        self.client.clone().delete_snapshots(request).await.map(|_| ())
    }

    pub(crate) async fn inventory(&self) -> proto::Inventory {
        let reply = self.client.clone().get_inventory(proto::GetInventoryRequest {}).await;
        reply.unwrap().into_inner()
    }
}

/// What to activate.
#[derive(Clone)]
pub(crate) struct Wake {
    pub(crate) actor: &'static str,
    pub(crate) epoch: u64,
    pub(crate) worker: u32,
    pub(crate) snapshot: &'static str,
    pub(crate) template: serde_json::Value,
}

impl Place {
    /// A cold start of the counter.
    pub(crate) fn wake(&self, epoch: u64) -> Wake {
        let template = serde_json::json!({
            "runtime": self.runtime,
            "rootfs": { "directory": self.machine.rootfs },
            "command": ["/counter"],
            "env": [{ "name": "LOG", "value": "info" }],
            "port": 8080,
            "readiness": { "httpGet": { "path": "/healthz" }, "timeout": "5s" },
        });
        Wake { actor: "counter", epoch, worker: 0, snapshot: "", template }
    }
}

impl Wake {
    pub(crate) fn from(self, snapshot: &'static str) -> Self {
        Self { snapshot, ..self }
    }

    pub(crate) fn with(mut self, field: &str, value: serde_json::Value) -> Self {
        self.template[field] = value;
        self
    }
}

pub(crate) fn actor() -> proto::ActorKey {
    proto::ActorKey { namespace: "demo".into(), name: "counter".into() }
}

pub(crate) fn reference(epoch: u64) -> proto::ActivationRef {
    proto::ActivationRef { actor: Some(actor()), epoch, term: 0, ..Default::default() }
}

/// What the counter answers.
#[derive(Debug, PartialEq, serde::Deserialize)]
pub(crate) struct Count {
    pub(crate) count: u64,
    pub(crate) nonce: String,
}

pub(crate) async fn count(endpoint: &str) -> Count {
    let answer = tokio::time::timeout(Duration::from_secs(5), get(endpoint, "/")).await;
    serde_json::from_str(&answer.expect("an answer within five seconds").unwrap()).unwrap()
}

pub(crate) async fn get(endpoint: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(endpoint).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: counter.demo\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// A connection on which this was sent.
pub(crate) async fn ask(endpoint: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(endpoint).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: counter.demo\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Waits for its end, much less long than anything but the node or the kernel would take.
pub(crate) async fn is_ended(place: &Place, mut stream: TcpStream) {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
    match end.expect("it is ended and not left waiting") {
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        // The kernel ends the connections of a process, however that died.
        Ok(_) => assert_eq!(place.runtime, CRIU, "it was not reset"),
    }
}

/// The reason a failed call names.
pub(crate) fn reason(status: &Status) -> String {
    let named = status.metadata().get("reveille-reason").and_then(|value| value.to_str().ok());
    named.unwrap_or_default().to_owned()
}

pub(crate) async fn eventually<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match look().await {
            Ok(found) => return found,
            Err(last) => assert!(Instant::now() < deadline, "not {what}: {last}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs a program in the outer namespace of the first worker.
pub(crate) fn in_worker(place: &Place, program: &str, arguments: &[&str]) -> String {
    let pin = place.path(&format!("run/netns/{}-0", prefix(place.dir.path())));
    let net = format!("--net={}", pin.display());
    let output = Command::new("nsenter").arg(net).arg(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn address(place: &Place, name: &str) -> Address {
    Address::Unix(place.path(name))
}

/// All that the actor has printed.
pub(crate) async fn logs(node: &Node) -> String {
    let request = proto::LogsRequest { actor: Some(actor()), follow: false, tail: 0 };
    let mut chunks = node.client.clone().logs(request).await.unwrap().into_inner();
    let mut text = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        text.extend(chunk.data);
    }
    String::from_utf8(text).unwrap()
}
