//! A control plane, a node, and several routers and Envoys, each a process of its own.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{client::Client, cluster, eventually, manifest::Manifests, processes, repository};

/// Set in the process that runs in a network of its own.
const OWN_NETWORK: &str = "REVEILLE_TEST_OWN_NETWORK";
/// Longer than any part may take to start or to end on two busy cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the test again in a network namespace of its own, and returns false; true in there.
///
/// Two Envoys share a port there, and `tcp_migrate_req` may be set: a connection that waits at the one that stops
/// listening goes to the other. It holds for all of a namespace, so not for that of the machine.
pub async fn in_a_network_of_its_own(test: &str) -> bool {
    if env::var_os(OWN_NETWORK).is_some() {
        return true;
    }
    let _place = cluster::place().await;
    let mut command = Command::new("unshare");
    command
        .args(["--net", "sh", "-c"])
        .arg("ip link set lo up && echo 1 > /proc/sys/net/ipv4/tcp_migrate_req && exec \"$@\"")
        .arg("sh")
        .arg(env::current_exe().expect("this program"))
        .args([test, "--exact", "--nocapture"])
        .env(OWN_NETWORK, "1");
    let ended = tokio::task::spawn_blocking(move || command.output()).await;
    let ended = ended.expect("joined").expect("unshare runs");
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && text.contains("1 passed"), "{text}\n{errors}");
    false
}

/// The parts by name: `controlplane`, `node`, `router-1`, `envoy-1`, …
pub struct Fleet {
    pub dir: TempDir,
    /// Of both Envoys.
    pub http: SocketAddr,
    parts: BTreeMap<String, Child>,
    ladder: Vec<String>,
}

impl Fleet {
    /// Two routers, two Envoys: each Envoy prefers the router of its number.
    pub async fn start(manifests: &Manifests, workers: u32, ladder: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("rvf").tempdir().expect("a temporary directory");
        let mut fleet = Self {
            dir,
            http: ([127, 0, 0, 1], 8080).into(),
            parts: BTreeMap::new(),
            ladder: ladder.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        fs::create_dir_all(fleet.path("data/run")).expect("made");
        fs::write(fleet.path("actors.yaml"), manifests.text()).expect("written");
        let (data, control) = (fleet.text("data"), fleet.socket("control"));
        let mut args = vec!["--data-dir", &data, "--listen", &control];
        args.extend(ladder);
        fleet.spawn("controlplane", "controlplane", &args);
        let workers = workers.to_string();
        fleet.spawn_node("node", &data, &["--workers", &workers, "--worker-cidr", "10.213.0.0/24"]);
        fleet.node_is_ready("local").await;
        fleet.ok(&["apply", "-f", &fleet.text("actors.yaml")]).await;
        for number in [1, 2] {
            fleet.start_router(number).await;
        }
        for number in [1, 2] {
            fleet.start_envoy(number).await;
        }
        fleet
    }

    /// One more node of this name, with a worker.
    pub async fn start_node(&mut self, name: &str, cidr: &str, flags: &[&str]) {
        let own = ["--name", name, "--workers", "1", "--worker-cidr", cidr];
        self.spawn_node(name, &self.text(name), &[&own[..], flags].concat());
        self.node_is_ready(name).await;
    }

    fn spawn_node(&mut self, name: &str, data: &str, flags: &[&str]) {
        let runsc = repository().join(".deps/bin/runsc").display().to_string();
        let rootfs = repository().join(".deps/rootfs").display().to_string();
        let (listen, control) = (self.socket(name), self.socket("control"));
        let mut args = vec!["--data-dir", data, "--listen", &listen, "--control-plane", &control];
        args.extend(["--runsc", &runsc, "--allow-rootfs", &rootfs]);
        args.extend(flags);
        self.spawn(name, "node", &args);
    }

    async fn node_is_ready(&self, name: &str) {
        eventually("the node is ready", PATIENCE, || async {
            let output = self.cli(&["get", "nodes", "-o", "json"]).await;
            let nodes: serde_json::Value =
                serde_json::from_slice(&output.stdout).unwrap_or_default();
            let mut known = nodes["items"].as_array().into_iter().flatten();
            let ready = known.any(|node| node["name"] == name && node["ready"] == true);
            if ready { Ok(()) } else { Err((nodes, self.tails())) }
        })
        .await;
    }

    pub async fn start_router(&mut self, number: u16) {
        let name = format!("router-{number}");
        let (listen, control) = (self.socket(&name), self.socket("control"));
        let status = Self::status(&name).to_string();
        let (http, log) = (self.http.to_string(), self.text("access.log"));
        let mut args = vec![
            "--listen",
            &listen,
            "--control-plane",
            &control,
            "--domain",
            "actors.localhost",
            "--http",
            &http,
            "--status",
            &status,
            "--name",
            &name,
            "--access-log",
            &log,
        ];
        let ladder = self.ladder.clone();
        args.extend(ladder.iter().map(String::as_str));
        self.spawn(&name, "router", &args);
        self.ready(&name).await;
    }

    pub async fn start_envoy(&mut self, number: u16) {
        let name = format!("envoy-{number}");
        let (data, own) = (self.text(&name), self.socket(&format!("router-{number}")));
        let other = self.socket(&format!("router-{}", 3 - number));
        let status = Self::status(&name).to_string();
        let envoy = repository().join(".deps/bin/envoy").display().to_string();
        self.spawn(
            &name,
            "envoy",
            &[
                "--data-dir",
                &data,
                "--router",
                &own,
                "--router",
                &other,
                "--envoy",
                &envoy,
                "--name",
                &name,
                "--status",
                &status,
                "--concurrency",
                "1",
                "--grace",
                "1s",
            ],
        );
        self.ready(&name).await;
    }

    /// SIGTERM, to the end, which must be a good one.
    pub async fn stop(&mut self, name: &str) {
        processes::signal(self.pid(name), Signal::SIGTERM);
        let mut child = self.parts.remove(name).expect("it runs");
        let status = eventually(&format!("{name} ends"), PATIENCE, || {
            let status = child.try_wait().expect("waited");
            async move { status.ok_or(()) }
        })
        .await;
        assert!(status.success(), "{name}: {status}\n{}", self.tails());
    }

    pub fn pid(&self, name: &str) -> i32 {
        self.parts[name].id() as i32
    }

    /// What `/readyz` of a part says.
    pub async fn readyz(&self, name: &str) -> u16 {
        let client = Client::new(Self::status(name));
        let request = hyper::Request::get(client.uri("/readyz")).header("host", "localhost");
        client.try_send(request, "").await.map_or(0, |answer| answer.status.as_u16())
    }

    async fn ready(&self, name: &str) {
        eventually(&format!("{name} is ready"), PATIENCE, || async {
            match self.readyz(name).await {
                200 => Ok(()),
                status => Err((status, self.tails())),
            }
        })
        .await;
    }

    /// The value of one series of a router.
    pub async fn metric(&self, router: &str, series: &str) -> f64 {
        let text = Client::new(Self::status(router)).get("localhost", "/metrics").await.text();
        let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().expect("a number")
    }

    pub async fn cli(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
        command.env("REVEILLE_DATA_DIR", self.path("data")).env_remove("REVEILLE_SERVER");
        command.args(args);
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        output.expect("joined").expect("reveille runs")
    }

    pub async fn ok(&self, args: &[&str]) -> String {
        let output = self.cli(args).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}\n{}", self.tails());
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    pub async fn actor(&self, name: &str) -> serde_json::Value {
        let text = self.ok(&["get", "actor", name, "-n", "demo", "-o", "json"]).await;
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// Ends everything; nothing may be left.
    pub async fn end(mut self) {
        for name in ["envoy-1", "envoy-2", "router-1", "router-2"] {
            self.stop(name).await;
        }
        for node in self.nodes() {
            self.end_node(&node).await;
        }
        self.stop("controlplane").await;
        let left = processes::traces(self.dir.path(), "10.213.");
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// For good: with every namespace and rule.
    pub async fn end_node(&mut self, name: &str) {
        processes::signal(self.pid(name), Signal::SIGINT);
        let mut child = self.parts.remove(name).expect("it runs");
        eventually("the node ends", PATIENCE, || {
            let status = child.try_wait().expect("waited");
            async move { status.ok_or(()) }
        })
        .await;
    }

    fn nodes(&self) -> Vec<String> {
        self.parts.keys().filter(|name| name.starts_with("node")).cloned().collect()
    }

    /// Each part has an address of its own for its probes.
    fn status(name: &str) -> SocketAddr {
        let (kind, number) = name.split_once('-').expect("router-1, envoy-1, …");
        let port = if kind == "router" { 8100 } else { 8200 };
        ([127, 0, 0, 1], port + number.parse::<u16>().expect("a number")).into()
    }

    fn spawn(&mut self, name: &str, role: &str, args: &[&str]) {
        let log = self.path(&format!("{name}.log"));
        let log = File::options().create(true).append(true).open(log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
        command
            .arg(role)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("cloned"))
            .stderr(log);
        let child = command.spawn().expect("reveille starts");
        assert!(self.parts.insert(name.to_owned(), child).is_none(), "{name} runs already");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn socket(&self, name: &str) -> String {
        format!("unix:{}", self.text(&format!("data/run/{name}.sock")))
    }

    /// The last lines of every part's log, and of the access log those that tell of a failure.
    pub fn tails(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(self.dir.path()).expect("a directory").flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|kind| kind != "log") {
                continue;
            }
            let log = fs::read_to_string(&path).unwrap_or_default();
            let worth =
                |line: &&str| !path.ends_with("access.log") || !line.contains("\"status\":200");
            let lines: Vec<_> = log.lines().filter(worth).collect();
            let tail = lines[lines.len().saturating_sub(20)..].join("\n");
            text += &format!("--- {}\n{tail}\n", path.display());
        }
        text
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.parts.values_mut() {
            processes::signal(child.id() as i32, Signal::SIGCONT);
        }
        for node in self.nodes() {
            processes::signal(self.pid(&node), Signal::SIGINT);
            let _ = self.parts.get_mut(&node).map(Child::wait);
        }
        for child in self.parts.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
