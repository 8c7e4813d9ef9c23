//! Every part as a process of its own, as on several machines: by TCP, with certificates.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use reveille_api::net::{TlsFiles, Transport};
use tempfile::TempDir;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    client::Client,
    cluster::{free_address, free_range, place},
    eventually,
    manifest::Manifests,
    processes, repository,
};

/// What a part may take to end.
const STOP: Duration = Duration::from_secs(45);

/// Control plane, node `n1`, router `r1` and Envoy, each with its certificate and data directory.
pub struct Parts {
    pub dir: TempDir,
    pub client: Client,
    pub http: SocketAddr,
    pub admin: SocketAddr,
    pub control: SocketAddr,
    pub node: SocketAddr,
    pub router: SocketAddr,
    status: SocketAddr,
    range: String,
    running: Vec<(&'static str, Child)>,
    _place: OwnedSemaphorePermit,
}

/// The certificates: role, name.
pub const IDENTITIES: [(&str, Option<&str>); 6] = [
    ("controlplane", None),
    ("node", Some("n1")),
    ("router", Some("r1")),
    ("envoy", None),
    ("dns", None),
    ("client", None),
];

impl Parts {
    /// Starts them all, and waits until the control plane counts on the node and a request gets through to the router.
    pub async fn start(manifests: Manifests) -> Self {
        let place = place().await;
        let dir = tempfile::Builder::new().prefix("rv").tempdir().expect("a temporary directory");
        let http = free_address();
        let mut parts = Self {
            client: Client::new(http),
            http,
            admin: free_address(),
            control: free_address(),
            node: free_address(),
            router: free_address(),
            status: free_address(),
            range: free_range(),
            running: Vec::new(),
            dir,
            _place: place,
        };
        let certs = parts.certs();
        parts.ok(&["certs", "init", "--dir", &certs]).await;
        parts.issue(&[]).await;
        for part in ["controlplane", "node", "router", "envoy"] {
            parts.run(part);
        }
        let manifest = parts.dir.path().join("actors.yaml");
        fs::write(&manifest, manifests.text()).expect("written");
        let limit = Duration::from_secs(60);
        eventually("the node is ready", limit, || async {
            let nodes = parts.cli(&["get", "nodes", "-o", "json"]).await;
            let text = String::from_utf8_lossy(&nodes.stdout).into_owned();
            let ready = text.contains("\"n1\"") && text.contains("\"ready\": true");
            if ready { Ok(()) } else { Err((text, nodes.stderr, parts.log_tail())) }
        })
        .await;
        parts.ok(&["apply", "-f", &manifest.to_string_lossy()]).await;
        eventually("Envoy has its configuration", limit, || async {
            let request = hyper::Request::get(parts.client.uri("/")).header("host", "no.actor");
            match parts.client.try_send(request, "").await {
                Ok(answer) if answer.reason() == Some("invalid_host") => Ok(()),
                other => Err((other, parts.log_tail())),
            }
        })
        .await;
        parts
    }

    /// Folder of the certificates.
    pub fn certs(&self) -> String {
        self.dir.path().join("certs").to_string_lossy().into_owned()
    }

    /// Makes every part's certificate.
    pub async fn issue(&self, extra: &[&str]) {
        let certs = self.certs();
        for (role, name) in IDENTITIES {
            let mut args = vec!["certs", "issue", role, "--dir", &certs];
            args.extend(name.iter().flat_map(|name| ["--name", name]));
            args.extend(extra);
            self.ok(&args).await;
        }
    }

    /// The files of a part's certificate.
    pub fn files(&self, role: &str) -> TlsFiles {
        let name = IDENTITIES.iter().find(|(other, _)| *other == role).and_then(|(_, name)| *name);
        let stem = name.map_or_else(|| role.to_owned(), |name| format!("{role}-{name}"));
        let file = |file: String| Path::new(&self.certs()).join(file);
        TlsFiles {
            cert: file(format!("{stem}.pem")),
            key: file(format!("{stem}.key")),
            ca: file("ca.pem".into()),
        }
    }

    /// To call others as this role.
    pub fn transport(&self, role: &str) -> Transport {
        Transport::tls(self.files(role)).expect("a good certificate")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("parts.log")
    }

    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    fn command(&self, role: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("REVEILLE_") {
                command.env_remove(name);
            }
        }
        let files = self.files(role);
        command.env("REVEILLE_TLS_CERT", files.cert).env("REVEILLE_TLS_KEY", files.key);
        command.env("REVEILLE_TLS_CA", files.ca);
        command
    }

    /// Starts a part.
    pub fn run(&mut self, part: &'static str) {
        let data = self.dir.path().join(part);
        let (control, router) = (self.control.to_string(), self.router.to_string());
        let [envoy, runsc, rootfs] = ["bin/envoy", "bin/runsc", "rootfs"]
            .map(|file| repository().join(".deps").join(file).to_string_lossy().into_owned());
        let by_name = format!("localhost:{}", self.control.port());
        let mut command = self.command(part);
        command.arg(part).stdin(Stdio::null());
        let _ = match part {
            "controlplane" => command.args(["--tcp", &control]),
            "node" => command
                .args(["--name", "n1", "--listen", &self.node.to_string()])
                .args(["--control-plane", &by_name, "--workers", "2"])
                .args(["--worker-cidr", &self.range, "--runsc", &runsc, "--allow-rootfs", &rootfs]),
            "router" => command
                .args(["--name", "r1", "--listen", &router, "--control-plane", &control])
                .args(["--http", &self.http.to_string(), "--status", &self.status.to_string()])
                .args(["--domain", "actors.localhost", "--grace", "0s"]),
            "envoy" => command
                .args(["--router", &router, "--admin", &self.admin.to_string()])
                .args(["--envoy", &envoy, "--grace", "0s", "--drain", "1s"]),
            other => panic!("{other}"),
        };
        if part != "router" {
            command.arg("--data-dir").arg(data);
        }
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        self.running.push((part, command.spawn().expect("reveille starts")));
    }

    /// Ends a part, and waits for it.
    pub async fn end(&mut self, part: &str, signal: Signal) {
        let at = self.running.iter().position(|(name, _)| *name == part).expect("it runs");
        let (_, mut child) = self.running.remove(at);
        processes::signal(child.id() as i32, signal);
        let ended = Instant::now() + STOP;
        while child.try_wait().expect("waited").is_none() {
            if Instant::now() > ended {
                let _ = child.kill();
                panic!("{part} did not end within {STOP:?}\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs a client verb, as the operator.
    pub async fn cli(&self, args: &[&str]) -> Output {
        let mut command = self.command("client");
        command.env("REVEILLE_SERVER", self.control.to_string()).args(args);
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

    /// Ends everything, the node for good. Panics when anything is left behind.
    pub async fn stop(mut self) {
        for (part, signal) in [
            ("envoy", Signal::SIGTERM),
            ("router", Signal::SIGTERM),
            ("node", Signal::SIGINT),
            ("controlplane", Signal::SIGTERM),
        ] {
            self.end(part, signal).await;
        }
        let left = processes::traces(self.dir.path(), self.range.trim_end_matches("0/24"));
        assert!(left.is_empty(), "left behind: {left:#?}\n{}", self.log_tail());
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the parts' last lines:\n{}", self.log_tail());
        }
        for (_, child) in &self.running {
            processes::signal(child.id() as i32, Signal::SIGINT);
        }
        let end = Instant::now() + STOP;
        for (_, child) in &mut self.running {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::park_timeout(Duration::from_millis(50));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let dir = self.dir.path().to_string_lossy().into_owned();
        for process in processes::all() {
            if process.command.iter().any(|arg| arg.contains(&dir)) {
                processes::signal(process.pid, Signal::SIGKILL);
            }
        }
    }
}
