//! A template that is booted once, for all its actors.

use rstest::rstest;

use crate::harness::{
    cluster::{Cluster, Options},
    machine_can_run_it,
    manifest::Manifests,
};

/// Takes its time to come up, and then tells what it drew while it did, and who it is.
const PROGRAM: &str = r#"
import http.server, os, time
boot = os.urandom(8).hex()
time.sleep(1.5)
class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        actor = open('/run/reveille/actor').read().strip()
        text = f'{boot} {actor}'.encode()
        self.send_response(200)
        self.send_header('content-length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)
http.server.ThreadingHTTPServer(('', 8080), Server).serve_forever()
"#;

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn actors_of_a_golden_template_start_as_clones_that_know_who_they_are(
    #[values("gvisor", "criu")] runtime: &'static str,
) {
    if !machine_can_run_it("golden snapshots") {
        return;
    }
    let manifests = Manifests::of(runtime)
        .python("demo", "slow", PROGRAM, "golden: true\n")
        .actor("demo", "ann", "slow")
        .actor("demo", "ben", "slow");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let mut told = Vec::new();
    for name in ["ann", "ben"] {
        let answer = cluster.client.get(&format!("{name}.demo.actors.localhost"), "/").await;
        assert_eq!(answer.header("x-reveille-wake"), Some("cloned"), "{answer:?}");
        let text = answer.text();
        let (boot, actor) = text.split_once(' ').unwrap();
        assert_eq!(actor, name);
        told.push(boot.to_owned());
    }
    assert_eq!(told[0], told[1], "booted once");
    let (ann, ben) = (cluster.actor("demo", "ann").await, cluster.actor("demo", "ben").await);
    assert_eq!(
        (&ann["lastWake"]["kind"], &ben["lastWake"]["kind"]),
        (&"Cloned".into(), &"Cloned".into())
    );
    // The first one paid for the boot.
    let took = |actor: &serde_json::Value| actor["lastWake"]["totalUs"].as_u64().unwrap();
    assert!(took(&ann) > 1_500_000 && took(&ben) < took(&ann), "{ann} {ben}");
    assert!(cluster.ok(&["describe", "actor", "ben", "-n", "demo"]).await.contains("Cloned"));
    let events = cluster.events("demo", "ben").await;
    assert!(events.iter().any(|event| event["kind"] == "Cloned"), "{events:?}");

    // From here on each has its own memory, and its own snapshots.
    cluster.ok(&["suspend", "actor", "ben", "-n", "demo"]).await;
    let again = cluster.client.get("ben.demo.actors.localhost", "/").await;
    assert_eq!(again.header("x-reveille-wake"), Some("restored"));
    assert_eq!(again.text(), format!("{} ben", told[0]));
    cluster.stop().await;
}
