//! A whole `reveille up`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{client::Client, eventually, manifest::Manifests, processes, repository};

/// A start with nothing cached takes a few seconds on two cores.
const START: Duration = Duration::from_secs(60);
/// Ctrl-C suspends what runs; with a handful of actors that is a matter of seconds.
const STOP: Duration = Duration::from_secs(60);

/// Two instances fill the cores of the machine that tests must pass on.
static PLACES: LazyLock<std::sync::Arc<Semaphore>> =
    LazyLock::new(|| std::sync::Arc::new(Semaphore::new(2)));
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A whole `reveille up` with a data directory, ports and addresses of its own.
pub struct Cluster {
    pub dir: TempDir,
    pub client: Client,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub status: SocketAddr,
    pub dns: SocketAddr,
    pub admin: SocketAddr,
    grpc: SocketAddr,
    cidr: String,
    workers: u32,
    extra: Vec<String>,
    up: Option<Child>,
    _place: OwnedSemaphorePermit,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    pub manifests: Manifests,
    pub workers: u32,
    /// More flags of `up`.
    pub extra: Vec<String>,
}

impl Options {
    pub fn new(manifests: Manifests) -> Self {
        Self { manifests, workers: 4, extra: Vec::new() }
    }
}

/// A port that is free, and was not given before: nobody may listen on that one yet.
pub fn free_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        if GIVEN.lock().expect("not poisoned").insert(address.port()) {
            return address;
        }
    }
}

/// Waits until the machine has room for one more instance.
pub(super) async fn place() -> OwnedSemaphorePermit {
    PLACES.clone().acquire_owned().await.expect("never closed")
}

/// A range for workers that no other instance of this process has.
pub fn free_range() -> String {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("10.{}.{}.0/24", 214 + number / 256 % 8, (std::process::id() + number) % 256)
}

impl Cluster {
    /// Starts and waits for the ready line.
    pub async fn start(options: Options) -> Self {
        let place = place().await;
        let dir = tempfile::Builder::new().prefix("rv").tempdir().expect("a temporary directory");
        fs::write(dir.path().join("actors.yaml"), options.manifests.text()).expect("written");
        let http = free_address();
        let mut cluster = Self {
            client: Client::new(http),
            http,
            https: free_address(),
            status: free_address(),
            dns: free_address(),
            admin: free_address(),
            grpc: free_address(),
            // One with so many workers runs alone.
            cidr: if options.workers > 60 { "10.213.0.0/22".into() } else { free_range() },
            workers: options.workers,
            extra: options.extra,
            dir,
            up: None,
            _place: place,
        };
        cluster.up().await;
        cluster
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("up.log")
    }

    /// Starts `up` again on the same data.
    pub async fn up(&mut self) {
        assert!(self.up.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        let mut command = self.reveille();
        command
            .arg("up")
            .args(["--http", &self.http.to_string()])
            .args(["--https", &self.https.to_string()])
            .args(["--status", &self.status.to_string()])
            .args(["--grpc", &self.grpc.to_string()])
            .args(["--dns", &self.dns.to_string()])
            .args(["--admin", &self.admin.to_string()])
            .args(["--workers", &self.workers.to_string()])
            .args(["--worker-cidr", &self.cidr])
            .args(["--envoy", &repository().join(".deps/bin/envoy").to_string_lossy()])
            .args(["--apply", &self.dir.path().join("actors.yaml").to_string_lossy()])
            .args(&self.extra)
            // One among the extra flags comes first.
            .env("REVEILLE_RUNSC", repository().join(".deps/bin/runsc"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn().expect("reveille starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        self.up = Some(child);
        // The pipe is read to its end, so that `up` never blocks on it.
        let (ready, seen) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if line.contains("ready") {
                    let _ = ready.send(());
                }
            }
        });
        let wait = tokio::task::spawn_blocking(move || seen.recv_timeout(START)).await;
        assert!(matches!(wait, Ok(Ok(()))), "no ready line\n{}", self.log_tail());
    }

    /// The binary, pointed at this instance.
    pub fn reveille(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
        command.env("REVEILLE_DATA_DIR", self.data_dir()).env_remove("REVEILLE_SERVER");
        command
    }

    /// Runs a client verb.
    pub async fn cli(&self, args: &[&str]) -> Output {
        let mut command = self.reveille();
        command.args(args);
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        output.expect("joined").expect("reveille runs")
    }

    /// Runs a client verb that must succeed; its standard output.
    pub async fn ok(&self, args: &[&str]) -> String {
        let output = self.cli(args).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}\n{}", self.log_tail());
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// An actor as `get -o json` shows it.
    pub async fn actor(&self, namespace: &str, name: &str) -> serde_json::Value {
        let text = self.ok(&["get", "actor", name, "-n", namespace, "-o", "json"]).await;
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// Waits until an actor is in a state.
    pub async fn reaches(&self, namespace: &str, name: &str, state: &str) -> serde_json::Value {
        eventually(&format!("{name} is {state}"), Duration::from_secs(30), || async {
            let actor = self.actor(namespace, name).await;
            if actor["state"] == state { Ok(actor) } else { Err(actor.to_string()) }
        })
        .await
    }

    /// Kinds of an actor's events, oldest first.
    pub async fn events(&self, namespace: &str, name: &str) -> Vec<serde_json::Value> {
        let text = self.ok(&["events", name, "-n", namespace, "-o", "json"]).await;
        let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        list["items"].as_array().cloned().unwrap_or_default()
    }

    pub fn up_pid(&self) -> i32 {
        self.up.as_ref().expect("it runs").id() as i32
    }

    /// The process of a role; `envoy` is Envoy itself, `envoy-supervisor` the role that watches it.
    pub fn pid_of(&self, role: &str) -> Option<i32> {
        let family = processes::descendants(self.up_pid());
        let is = |p: &&processes::Process| {
            let program = p.command.first().map(String::as_str).unwrap_or_default();
            let envoy = program.ends_with("/envoy");
            match role {
                "envoy" => envoy,
                "envoy-supervisor" => !envoy && p.command.get(1).is_some_and(|a| a == "envoy"),
                role => !envoy && p.command.get(1).is_some_and(|arg| arg == role),
            }
        };
        family.iter().find(is).map(|p| p.pid)
    }

    /// Ctrl-C, to the end. Panics when it fails or leaves anything behind.
    pub async fn stop(mut self) {
        self.ctrl_c().await;
        let left = processes::traces(&self.data_dir(), self.address_prefix());
        assert!(left.is_empty(), "left behind: {left:#?}\n{}", self.log_tail());
        let files = processes::run_files(&self.data_dir().join("run"));
        assert!(files.is_empty(), "left behind: {files:#?}\n{}", self.log_tail());
    }

    /// Ctrl-C, and wait for the end; the data stays for another `up`.
    pub async fn ctrl_c(&mut self) {
        processes::signal(self.up_pid(), Signal::SIGINT);
        let status = self.wait().await;
        assert!(status.success(), "{status}\n{}", self.log_tail());
    }

    /// Ctrl-C; it goes on to end.
    pub fn interrupt(&self) {
        processes::signal(self.up_pid(), Signal::SIGINT);
    }

    /// The end of an `up` that was told to.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        self.wait().await
    }

    /// kill -9 of `up` alone.
    pub async fn kill_up(&mut self) {
        processes::signal(self.up_pid(), Signal::SIGKILL);
        self.wait().await;
    }

    /// kill -9 of everything this instance has, sandboxes too, as a power loss would.
    pub async fn kill_everything(&mut self) {
        let up = self.up_pid();
        let family = processes::descendants(up);
        processes::signal(up, Signal::SIGKILL);
        for process in family {
            processes::signal(process.pid, Signal::SIGKILL);
        }
        self.wait().await;
        self.kill_traces();
        eventually("every process is gone", Duration::from_secs(20), || async {
            let left = processes::traces(&self.data_dir(), "no address");
            let left: Vec<_> = left.into_iter().filter(|t| t.starts_with("process")).collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }

    fn kill_traces(&self) {
        let dir = self.data_dir().to_string_lossy().into_owned();
        for process in processes::all() {
            if process.command.iter().any(|arg| arg.contains(&dir)) {
                processes::signal(process.pid, Signal::SIGKILL);
            }
        }
    }

    async fn wait(&mut self) -> std::process::ExitStatus {
        let mut child = self.up.take().expect("it runs");
        let end = Instant::now() + STOP;
        loop {
            if let Some(status) = child.try_wait().expect("waited") {
                return status;
            }
            if Instant::now() > end {
                self.up = Some(child);
                panic!("`up` did not end within {STOP:?}\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// "10.214.7." of this instance's range.
    fn address_prefix(&self) -> &str {
        self.cidr.trim_end_matches("0/24")
    }

    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the instance's last lines:\n{}", self.log_tail());
        }
        let Some(mut up) = self.up.take() else { return };
        processes::signal(up.id() as i32, Signal::SIGINT);
        let end = Instant::now() + STOP;
        while matches!(up.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let _ = up.kill();
        let _ = up.wait();
        self.kill_traces();
    }
}
