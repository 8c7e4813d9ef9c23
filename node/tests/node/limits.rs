//! What an actor may use, tried with a Python program that asks for more.

use std::time::Duration;

use reveille_api::proto::node_report::Report;
use rstest::rstest;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    control_plane::{next, serve},
    support::{CRIU, GVISOR, Node, Place, cgroups, eventually, get, logs},
};

/// Does what the path says, in the background, and answers at once.
const SCRIPT: &str = r#"
import http.server, os, threading, time
kept = []
def hog():
    # An end there must be, for the day this is not stopped.
    for _ in range(64):
        kept.append(b'x' * (8 << 20))
        time.sleep(0.02)
def fork():
    for n in range(64):
        try:
            if os.fork() == 0:
                time.sleep(600)
        except OSError as error:
            print('forked', n, type(error).__name__, flush=True)
            return
def spin():
    for _ in range(2):
        if os.fork() == 0:
            while True:
                pass
class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.0'
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        what = {'/hog': hog, '/fork': fork, '/spin': spin}.get(self.path)
        if what:
            threading.Thread(target=what).start()
http.server.HTTPServer(('', 8080), Server).serve_forever()
"#;

struct Limited {
    place: Place,
    node: Node,
    endpoint: String,
}

async fn limited(runtime: &'static str, resources: serde_json::Value) -> Option<Limited> {
    let mut place = Place::of(runtime)?;
    if !place.python() {
        return None;
    }
    let node = place.start(1).await;
    let wake = place
        .wake(1)
        .with("command", json!(["/usr/bin/python3", "-c", SCRIPT]))
        .with("resources", resources)
        .with("readiness", json!({ "timeout": "15s" }));
    let endpoint = node.activate(&wake).await.unwrap().endpoint;
    Some(Limited { place, node, endpoint })
}

impl Limited {
    /// Asks for something after which the actor is ended. Returns what the control plane is told.
    async fn ended_by(&self, path: &str) -> String {
        let (_server, mut reports) = serve(&self.place, &CancellationToken::new()).await;
        get(&self.endpoint, path).await.unwrap();
        let exited = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                if let Report::Exited(exited) = next(&mut reports).await {
                    return exited;
                }
            }
        });
        let exited = exited.await.expect("it is ended within half a minute");
        assert!(self.node.inventory().await.activations.is_empty());
        exited.message
    }

    async fn destroy(self) {
        self.node.destroy().await;
        self.place.eventually_traces(&Default::default()).await;
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_takes_more_memory_than_its_limit_is_killed_and_its_end_says_why(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(limited) = limited(runtime, json!({ "memory": "128Mi" })).await else { return };
    let message = limited.ended_by("/hog").await;
    let why = "killed for using more memory than its template's resources.memory, 128Mi";
    assert!(message.contains(why), "{message}");
    // Where the kernel does not hold it, not far beyond.
    if let Some((_, had)) = message.split_once("it had ") {
        let had: u64 = had.strip_suffix("Mi").unwrap().parse().unwrap();
        assert!((128..512).contains(&had), "{message}");
    }
    limited.destroy().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_uses_no_more_cpu_time_than_its_limit_and_answers_all_the_while(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(limited) = limited(runtime, json!({ "cpu": "250m" })).await else { return };
    let record = limited.place.path("node/records/demo/counter.json");
    let record = std::fs::read_to_string(record).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let group = cgroups().join(record["activation"]["sandbox"].as_str().unwrap());
    let used = || {
        let text = std::fs::read_to_string(group.join("cpu.stat")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap();
        Duration::from_micros(line.parse().unwrap())
    };
    get(&limited.endpoint, "/spin").await.unwrap();
    let (begin, before) = (Instant::now(), used());
    let spent = eventually("a second is used", async || {
        get(&limited.endpoint, "/").await.map_err(|error| error.to_string())?;
        let spent = used() - before;
        if spent > Duration::from_secs(1) { Ok(spent) } else { Err(format!("{spent:?}")) }
    })
    .await;
    // A busy machine only makes it slower.
    let share = spent.as_secs_f64() / begin.elapsed().as_secs_f64();
    assert!(share < 0.4, "{share}");
    limited.destroy().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_has_no_more_processes_than_its_limit(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(limited) = limited(runtime, json!({ "pids": 16 })).await else { return };
    if limited.place.limits_processes() {
        get(&limited.endpoint, "/fork").await.unwrap();
        eventually("a fork is refused", async || {
            let text = logs(&limited.node).await;
            if text.contains("BlockingIOError") { Ok(()) } else { Err(text) }
        })
        .await;
    } else {
        let message = limited.ended_by("/fork").await;
        let why = "killed for having more processes than its template's resources.pids, 16";
        assert!(message.contains(why), "{message}");
    }
    limited.destroy().await;
}
