//! A real Prometheus with our rules, at a running instance in which everything goes wrong: each reason shows in the panel and fires
//! the alert that are for it, and every query of the dashboard has something to show.
//!
//! Not provoked here, for they need a filter of the operator's in front of ours: `unauthenticated`, `access_denied`, `internal`. Their
//! alerts are tried in `tests/observability`.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures::{StreamExt, future::join_all, stream};
use hyper::Request;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    harness::{
        client::Client,
        cluster::{Cluster, Options, free_address},
        eventually, machine_can_run_it,
        manifest::Manifests,
        processes, repository,
    },
    observability_files::{self as files, CAUSES},
    reasons::{NEVER_READY, ODD, flip_a_byte},
};

/// Within every actor's limits, and short: some of it has to be waited for.
const WAKE: &str = "wake: { timeout: 6s, park: 7s }\n";
const LADDER: &str = "wake = \"6s\"\npark = \"7s\"\nmax-parked = 40\n\
                      [up]\nwake-budget = 40\n[router]\nstream-idle = \"13s\"\n";
/// More than one a second over the window of the rules.
const MANY: usize = 400;
const NOT_PROVOKED: &[&str] = &["unauthenticated", "access_denied", "internal"];

/// A Prometheus of our own, with our rules, which wait for nothing.
struct Prometheus {
    process: Child,
    client: Client,
    _dir: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    fn start(program: &std::path::Path, target: SocketAddr) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let rules = fs::read_to_string(files::folder().join("alerts.yaml")).expect("the rules");
        let at_once = rules.lines().filter(|line| !line.trim_start().starts_with("for: "));
        let at_once: Vec<_> = at_once.collect();
        fs::write(dir.path().join("alerts.yaml"), at_once.join("\n")).expect("written");
        let config = fs::read_to_string(files::folder().join("prometheus.yaml")).expect("there");
        let config = config.replace("15s", "1s").replace("127.0.0.1:8081", &target.to_string());
        fs::write(dir.path().join("prometheus.yaml"), config).expect("written");
        let address = free_address();
        let process = Command::new(program)
            .arg(format!("--config.file={}", dir.path().join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--log.level=error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        Self { process, client: Client::new(address), _dir: dir }
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        let request = Request::get(self.client.uri(path)).header("host", "prometheus");
        let answer = self.client.try_send(request, "").await?;
        let value: Value = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
        if value["status"] == "success" {
            Ok(value["data"].clone())
        } else {
            Err(value.to_string())
        }
    }

    /// What a query of the dashboard has to show now.
    async fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        let query: String = query
            .replace("$__rate_interval", "5m")
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
                byte => format!("%{byte:02X}"),
            })
            .collect();
        let data = self.get(&format!("/api/v1/query?query={query}")).await?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }

    /// Whether this alert fires, for a reason or for whatever it is.
    async fn fires(&self, alert: &str, reason: Option<&str>) -> Result<(), String> {
        let data = self.get("/api/v1/alerts").await?;
        let alerts = data["alerts"].as_array().cloned().unwrap_or_default();
        let found = alerts.iter().any(|found| {
            let labels = &found["labels"];
            labels["alertname"] == alert
                && found["state"] == "firing"
                && reason.is_none_or(|reason| labels["reason"] == reason)
        });
        if found { Ok(()) } else { Err(format!("{alert} {reason:?} does not fire: {alerts:?}")) }
    }

    /// A reason shows in the panel of its status.
    async fn shows(&self, panels: &[files::Panel], reason: &str) -> Result<(), String> {
        for panel in panels.iter().filter(|panel| panel.title.ends_with("by reason")) {
            for query in &panel.queries {
                let found = self.query(query).await?;
                let is_it = |series: &&Value| series["metric"]["reason"] == reason;
                let value = |series: &Value| series["value"][1].as_str()?.parse::<f64>().ok();
                if found.iter().find(is_it).and_then(value).is_some_and(|value| value > 0.0) {
                    return Ok(());
                }
            }
        }
        Err(format!("{reason} is in no panel"))
    }
}

fn manifests() -> Manifests {
    let nothing = format!(
        "rootfs: {{ directory: {} }}\ncommand: [/no-such-program]\n{WAKE}",
        repository().join(".deps/rootfs/counter").display()
    );
    let mut manifests = Manifests::new()
        .counter("demo", "counter", WAKE)
        .counter("demo", "narrow", "wake: { timeout: 6s, park: 7s, maxParked: 5 }\n")
        .counter(
            "demo",
            "nowhere",
            &format!("workerSelector: {{ matchLabels: {{ tier: none }} }}\n{WAKE}"),
        )
        .python("demo", "odd", ODD, &format!("readiness: {{ timeout: 4s }}\n{WAKE}"))
        .template("demo", "nothing", &nothing)
        .python("full", "sleeper", NEVER_READY, WAKE)
        .template("poor", "nothing", &nothing);
    for (actor, template) in [
        ("corrupt", "counter"),
        ("asleep", "counter"),
        ("stopped", "counter"),
        ("narrow", "narrow"),
        ("nowhere", "nowhere"),
        ("deaf", "odd"),
        ("silent", "odd"),
        ("hangs", "odd"),
        ("lost", "odd"),
        ("unwakeable", "odd"),
        ("nothing", "nothing"),
    ] {
        manifests = manifests.actor("demo", actor, template);
    }
    for name in POOR {
        manifests = manifests.actor("poor", name, "nothing");
    }
    ["a", "b", "c"].iter().fold(manifests, |all, name| all.actor("full", name, "sleeper"))
}

/// Actors of a namespace that spends its wakes.
const POOR: [&str; 5] = ["v", "w", "x", "y", "z"];

/// An instance, and what was answered in it.
struct Faults<'a>(&'a Cluster);

impl Faults<'_> {
    async fn reason(&self, actor: &str, path: &str) -> String {
        let host = format!("{actor}.actors.localhost");
        let answer = self.0.client.get(&host, path).await;
        answer.reason().unwrap_or("answered").to_owned()
    }

    async fn get(&self, actor: &str, path: &str) {
        assert_eq!(self.reason(actor, path).await, "answered", "{actor}");
    }

    async fn wants(&self, actor: &str, path: &str, reason: &str) {
        assert_eq!(self.reason(actor, path).await, reason, "{actor}{path}");
    }

    async fn suspend(&self, actor: &str) {
        self.0.ok(&["suspend", "actor", actor, "-n", "demo"]).await;
    }

    /// What takes long, each beside the others.
    async fn slow(&self) {
        let hangs = async {
            self.get("hangs.demo", "/").await;
            self.wants("hangs.demo", "/hang", "upstream_timeout").await;
        };
        let restore = async {
            self.get("unwakeable.demo", "/deaf").await;
            self.suspend("unwakeable").await;
            self.wants("unwakeable.demo", "/", "restore_failed").await;
        };
        let capacity = self.wants("nowhere.demo", "/", "no_capacity");
        // A namespace has half of the places, and an actor half of those.
        let full = async {
            let names = ["a.full", "b.full", "c.full"];
            let all = names.iter().flat_map(|name| (0..10).map(|_| self.reason(name, "/")));
            let all = join_all(all).await;
            for reason in ["parking_full", "wake_timeout"] {
                assert!(all.iter().any(|found| found == reason), "{reason}: {all:?}");
            }
        };
        let poor = async {
            // Together they spend wakes quicker than the budget grows, however long a start takes to fail.
            let mut seen = Vec::new();
            while !seen.iter().any(|reason| reason == "quota_exceeded") && seen.len() < 200 {
                let all =
                    POOR.map(|name| async move { self.reason(&format!("{name}.poor"), "/").await });
                seen.extend(join_all(all).await);
            }
            assert!(seen.iter().any(|reason| reason == "quota_exceeded"), "{seen:?}");
        };
        tokio::join!(hangs, restore, capacity, full, poor);
    }

    async fn quick(&self) {
        self.wants("nothing.demo", "/", "start_failed").await;
        let narrow = join_all((0..30).map(|_| self.reason("narrow.demo", "/"))).await;
        assert!(narrow.iter().any(|reason| reason == "actor_parking_full"), "{narrow:?}");
        self.0.ok(&["stop", "actor", "stopped", "-n", "demo"]).await;
        self.wants("stopped.demo", "/", "actor_stopped").await;
        self.get("deaf.demo", "/deaf").await;
        self.wants("deaf.demo", "/", "upstream_connect_failed").await;
        self.get("silent.demo", "/").await;
        self.wants("silent.demo", "/nothing", "upstream_reset").await;
        self.get("corrupt.demo", "/").await;
        self.suspend("corrupt").await;
        flip_a_byte(self.0, "corrupt");
        self.wants("corrupt.demo", "/", "snapshot_corrupt").await;
        self.reason("lost.demo", "/exit").await;
        self.0.reaches("demo", "lost", "Lost").await;
        self.wants("lost.demo", "/", "actor_lost").await;
    }

    /// What is only worth an alert when it is much.
    async fn many(&self) {
        let malformed = || async {
            let request = Request::get(self.0.client.uri("/")).header("host", crate::COUNTER);
            let request = request.header("connection", "upgrade").header("upgrade", "rot13");
            self.0.client.send(request, "").await.reason().unwrap_or("answered").to_owned()
        };
        let all = (0..3 * MANY).map(|n| async move {
            match n % 3 {
                0 => self.reason("demo", "/").await,
                1 => self.reason("nobody.demo", "/").await,
                _ => malformed().await,
            }
        });
        let all: Vec<_> = stream::iter(all).buffer_unordered(8).collect().await;
        for reason in ["invalid_host", "actor_not_found", "invalid_request"] {
            assert_eq!(all.iter().filter(|found| *found == reason).count(), MANY, "{reason}");
        }
    }

    /// Nobody starts the control plane again, until what it is for has been seen.
    async fn without_control_plane(&self, seen: impl Future<Output = ()>) {
        processes::signal(self.0.up_pid(), Signal::SIGSTOP);
        let control_plane = self.0.pid_of("controlplane").expect("it runs");
        processes::signal(control_plane, Signal::SIGKILL);
        self.wants("asleep.demo", "/", "control_plane_unavailable").await;
        seen.await;
        processes::signal(self.0.up_pid(), Signal::SIGCONT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_shows_in_its_panel_and_fires_its_alert() {
    let Some(program) = files::tool("prometheus", "observability") else { return };
    if !machine_can_run_it("observability") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("reveille.toml");
    fs::write(&config, LADDER).expect("written");
    let extra = vec!["--config".into(), config.to_string_lossy().into_owned()];
    let cluster = Cluster::start(Options { manifests: manifests(), workers: 16, extra }).await;
    let prometheus = Prometheus::start(&program, cluster.status);
    // Before anything goes wrong: a rate needs the zero that was before.
    let limit = Duration::from_secs(30);
    eventually("Prometheus has all parts", limit, || async {
        let parts = prometheus.query("sum(reveille_part_up)").await?;
        if parts.iter().any(|sum| sum["value"][1] == "4") {
            Ok(())
        } else {
            Err(format!("{parts:?}"))
        }
    })
    .await;

    let faults = Faults(&cluster);
    tokio::join!(faults.slow(), faults.quick());
    // Alone, and fewer at a time than may wait for one actor.
    faults.many().await;
    let part_down = || async {
        prometheus.fires("ReveillePartDown", None).await?;
        prometheus.fires("ReveilleSessionDown", None).await
    };
    let seen = eventually("the control plane's absence is told", limit, part_down);
    faults.without_control_plane(seen).await;

    let panels = files::panels();
    for (alert, reasons) in CAUSES {
        for reason in reasons.iter().filter(|reason| !NOT_PROVOKED.contains(reason)) {
            eventually(&format!("{reason} is seen"), limit, || async {
                prometheus.shows(&panels, reason).await?;
                prometheus.fires(alert, Some(reason)).await
            })
            .await;
        }
    }
    for panel in &panels {
        for query in &panel.queries {
            // The control plane may just be coming back.
            eventually(&format!("{} shows {query}", panel.title), limit, || async {
                let found = prometheus.query(query).await?;
                if found.is_empty() { Err("nothing".to_owned()) } else { Ok(()) }
            })
            .await;
        }
    }
    drop(prometheus);
    cluster.stop().await;
}
