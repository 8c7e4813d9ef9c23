//! Who an actor is after a restore, what time it is and what is random, read by a Python program.

use std::time::{SystemTime, UNIX_EPOCH};

use rstest::rstest;
use serde_json::json;

use crate::support::{CRIU, GVISOR, Place, eventually, get};

/// Tells what it reads at each request, also from files that it has open all the while.
pub(crate) const SCRIPT: &str = r#"
import http.server, json, os, random, socket, time
boot = os.urandom(16).hex()
def path(name):
    return '/run/reveille/' + name
held = {name: open(path(name)) for name in os.listdir('/run/reveille')}
def again(file):
    file.seek(0)
    return file.read().strip()
try:
    open(path('epoch'), 'w')
    writable = True
except OSError:
    writable = False
class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.0'
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({
            'read': {name: open(path(name)).read().strip() for name in held},
            'held': {name: again(file) for name, file in held.items()},
            'writable': writable,
            'host': socket.gethostname(),
            'wall': time.time(),
            'monotonic': time.monotonic(),
            'kernel': os.urandom(16).hex(),
            'own': random.getrandbits(64),
            'boot': boot,
        }).encode())
http.server.HTTPServer(('', 8080), Server).serve_forever()
"#;

#[derive(Debug, serde::Deserialize)]
pub(crate) struct Told {
    pub(crate) read: serde_json::Value,
    pub(crate) held: serde_json::Value,
    writable: bool,
    pub(crate) host: String,
    wall: f64,
    monotonic: f64,
    /// Drawn for this answer, from the kernel and from the program's own generator.
    pub(crate) kernel: String,
    pub(crate) own: u64,
    /// Drawn from the kernel when the program started.
    pub(crate) boot: String,
}

pub(crate) async fn ask(endpoint: &str) -> Told {
    serde_json::from_str(&get(endpoint, "/").await.unwrap()).unwrap()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_actor_reads_its_present_epoch_the_time_it_is_and_random_numbers_of_its_own(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(mut place) = Place::of(runtime) else { return };
    if !place.python() {
        return;
    }
    let node = place.start(1).await;
    let wake = |epoch| {
        place
            .wake(epoch)
            .with("command", json!(["/usr/bin/python3", "-c", SCRIPT]))
            .with("readiness", json!({ "timeout": "15s" }))
    };
    let first = ask(&node.activate(&wake(9)).await.unwrap().endpoint).await;
    let identity = |epoch| json!({ "namespace": "demo", "actor": "counter", "epoch": epoch });
    assert_eq!((&first.read, &first.held), (&identity("9"), &identity("9")));
    assert_eq!((first.host.as_str(), first.writable), ("counter", false));
    node.suspend(9, "s1").await.unwrap();
    // Time goes by while it sleeps.
    let slept = now();
    eventually("a second has gone by", async || {
        if now() - slept > 1.0 { Ok(()) } else { Err(String::new()) }
    })
    .await;

    let mut told = Vec::new();
    for (epoch, text) in [(10, "10"), (11, "11")] {
        let before = now();
        let endpoint = node.activate(&wake(epoch).from("s1")).await.unwrap().endpoint;
        let second = ask(&endpoint).await;
        assert_eq!((&second.read, &second.held), (&identity(text), &identity(text)));
        assert_eq!(second.host, "counter");
        assert!((before..=now()).contains(&second.wall), "{second:?}");
        assert!(second.monotonic >= first.monotonic, "{second:?} after {first:?}");
        told.push(second);
        node.destroy_activation(epoch).await.unwrap();
    }
    // The same process goes on in both, with the same numbers of its own, and the kernel's are others.
    assert_eq!(told[0].own, told[1].own);
    assert_ne!(told[0].kernel, told[1].kernel);
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}
