//! The way of an actor through its activations.

use std::{fs, io::ErrorKind, time::Duration};

use reveille_api::{
    Stay,
    proto::{self, suspend_reply::Outcome},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tonic::Code;

use rstest::rstest;

use crate::support::{CRIU, GVISOR, Place, actor, count, eventually, get, in_worker, reference};

fn committed(reply: proto::SuspendReply) -> proto::Snapshot {
    match reply.outcome {
        Some(Outcome::Committed(snapshot)) => snapshot,
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_survives_a_suspend_and_the_old_endpoint_refuses_at_once(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(2).await;

    let cold = node.activate(&place.wake(1)).await.unwrap();
    let first = count(&cold.endpoint).await;
    assert_eq!(first.count, 1);
    // A repeated call returns what the first did, and does nothing.
    assert_eq!(node.activate(&place.wake(1)).await.unwrap(), cold);
    // A connection that is open and idle, as a proxy's pool has them.
    let mut pooled = TcpStream::connect(&cold.endpoint).await.unwrap();
    pooled.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(pooled.read(&mut [0; 4096]).await.unwrap() > 0);

    let snapshot = committed(node.suspend(1, "s1").await.unwrap());
    assert_eq!(
        (snapshot.id.as_str(), snapshot.epoch, snapshot.runtime.as_str()),
        ("s1", 1, runtime)
    );
    assert!(snapshot.bytes > 0);
    assert_eq!(committed(node.suspend(1, "s1").await.unwrap()), snapshot);
    let begin = Instant::now();
    let refused = get(&cold.endpoint, "/").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());

    // The same worker, whose slot gets a new inside meanwhile.
    let warm = node.activate(&place.wake(2).from("s1")).await.unwrap();
    assert_ne!(warm.endpoint, cold.endpoint);
    let second = count(&warm.endpoint).await;
    assert_eq!((second.count, second.nonce), (3, first.nonce.clone()));
    // The old connection was ended with the endpoint: a proxy need not find out by using it.
    let mut rest = [0; 4096];
    let broken = tokio::time::timeout(Duration::from_secs(1), pooled.read(&mut rest)).await;
    let broken = broken.expect("no hang");
    assert!(matches!(&broken, Err(e) if e.kind() == ErrorKind::ConnectionReset), "{broken:?}");

    // On another worker, from the older snapshot.
    let mut other = place.wake(3).from("s1");
    other.worker = 1;
    let third = node.activate(&other).await.unwrap();
    let third = count(&third.endpoint).await;
    assert_eq!((third.count, third.nonce), (3, first.nonce));
    // A higher epoch took the place of the lower one.
    assert!(get(&warm.endpoint, "/").await.is_err());
    let inventory = node.inventory().await;
    assert_eq!(inventory.activations.len(), 1);
    assert_eq!((inventory.activations[0].epoch, inventory.epochs[0].epoch), (3, 3));

    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_before_the_commit_keeps_the_actor_serving_at_its_endpoint(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    let wake = node.activate(&place.wake(1)).await.unwrap();
    let first = count(&wake.endpoint).await;
    // Something to write, so that there is a while before the commit.
    get(&wake.endpoint, "/fill?mb=64").await.unwrap();

    let mut resumed = 0;
    for (round, delay) in [10, 25, 50, 75, 100].into_iter().enumerate() {
        let snapshot = format!("s{round}");
        let resume = async {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            node.resume(1).await.unwrap()
        };
        let (suspended, was_resumed) = tokio::join!(node.suspend(1, &snapshot), resume);
        match suspended.unwrap().outcome.unwrap() {
            Outcome::Committed(_) => {
                assert!(!was_resumed, "committed after a resume");
                break;
            }
            Outcome::Resumed(_) => {
                assert!(was_resumed);
                resumed += 1;
                let again = count(&wake.endpoint).await;
                assert_eq!(again.nonce, first.nonce);
            }
        }
        // What was written so far goes too, if only when its last file is hashed.
        eventually("nothing is left of it", async || {
            let left = fs::read_dir(place.path("node/snapshots/demo/counter"));
            match left.into_iter().flatten().count() {
                0 => Ok(()),
                left => Err(format!("{left} directories")),
            }
        })
        .await;
    }
    assert!(resumed > 0, "no suspend was ever cancelled");
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_suspend_that_was_called_off_answers_so_again_and_does_nothing(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    let wake = node.activate(&place.wake(1)).await.unwrap();
    get(&wake.endpoint, "/fill?mb=64").await.unwrap();
    let resume = async {
        node.eventually_going_down().await;
        node.resume(1).await.unwrap()
    };
    let (suspended, resumed) = tokio::join!(node.suspend(1, "s1"), resume);
    assert!(resumed && suspended.unwrap().outcome == Some(Outcome::Resumed(proto::Resumed {})));
    let mut open = TcpStream::connect(&wake.endpoint).await.unwrap();
    let again = node.suspend(1, "s1").await.unwrap();
    assert_eq!(again.outcome, Some(Outcome::Resumed(proto::Resumed {})));
    // So also an agent that was started in between.
    node.stop().await;
    let node = place.start(1).await;
    let again = node.suspend(1, "s1").await.unwrap();
    assert_eq!(again.outcome, Some(Outcome::Resumed(proto::Resumed {})));
    open.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(open.read(&mut [0; 4096]).await.unwrap() > 0, "it was never reset");
    // The next one is another.
    assert_eq!(committed(node.suspend(1, "s2").await.unwrap()).id, "s2");
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_deletion_spares_what_was_committed_after_it_was_asked_for(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    node.activate(&place.wake(1)).await.unwrap();
    committed(node.suspend(1, "s1").await.unwrap());
    let have = async || {
        let mut have: Vec<_> = node.inventory().await.snapshots.into_iter().map(|s| s.id).collect();
        have.sort();
        have
    };
    // Asked while epoch 1 ran.
    node.delete_snapshots(1, &[], false).await.unwrap();
    assert_eq!(have().await, ["s1"]);
    node.activate(&place.wake(2).from("s1")).await.unwrap();
    committed(node.suspend(2, "s2").await.unwrap());
    let late = node.delete_snapshots(1, &["s1"], false).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition);
    assert_eq!(have().await, ["s1", "s2"]);
    node.delete_snapshots(2, &["s2"], false).await.unwrap();
    assert_eq!(have().await, ["s2"]);
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_stay_that_is_over_are_refused_also_when_they_have_waited(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    // Nothing listens there: it starts for as long as it may.
    let endless = place.wake(1).with("port", 9.into());
    let endless = endless.with("readiness", serde_json::json!({ "timeout": "20s" }));
    let mut new = node.of(Stay(1));
    let waits = async {
        node.eventually_going_down().await;
        node.suspend(1, "s1").await
    };
    let begins = async {
        node.eventually_going_down().await;
        // By then the other waits its turn.
        for _ in 0..50 {
            node.inventory().await;
        }
        let here = new.get_inventory(proto::GetInventoryRequest {}).await.unwrap().into_inner();
        assert_eq!(here.activations.len(), 1, "what was begun in an earlier stay is seen");
        new.destroy(reference(1)).await.unwrap();
    };
    let (started, waited, ()) = tokio::join!(node.activate(&endless), waits, begins);
    started.unwrap_err();
    assert_eq!(waited.unwrap_err().code(), Code::Aborted);

    let inventory = node.client.clone().get_inventory(proto::GetInventoryRequest {}).await;
    for (call, code) in [
        ("activate", node.activate(&place.wake(2)).await.unwrap_err().code()),
        ("suspend", node.suspend(2, "s2").await.unwrap_err().code()),
        ("resume", node.resume(2).await.unwrap_err().code()),
        ("destroy", node.destroy_activation(2).await.unwrap_err().code()),
        ("delete", node.delete_snapshots(2, &[], true).await.unwrap_err().code()),
        ("inventory", inventory.unwrap_err().code()),
    ] {
        assert_eq!(code, Code::Aborted, "{call}");
    }
    new.destroy(reference(2)).await.unwrap();
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroy_does_not_wait_for_the_suspend_it_makes_pointless(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    let wake = node.activate(&place.wake(1)).await.unwrap();
    get(&wake.endpoint, "/fill?mb=64").await.unwrap();
    let destroy = async {
        node.eventually_going_down().await;
        node.destroy_activation(1).await.unwrap();
    };
    let (suspended, ()) = tokio::join!(node.suspend(1, "s1"), destroy);
    assert!(matches!(suspended.unwrap().outcome.unwrap(), Outcome::Resumed(_)));
    assert!(get(&wake.endpoint, "/").await.is_err());
    let inventory = node.inventory().await;
    assert!(inventory.activations.is_empty() && inventory.snapshots.is_empty());
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_lower_than_the_highest_is_refused(#[values(GVISOR, CRIU)] runtime: &'static str) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(2).await;
    let wake = node.activate(&place.wake(5)).await.unwrap();
    let mut late = place.wake(4);
    late.worker = 1;
    for code in [
        node.activate(&late).await.unwrap_err().code(),
        node.suspend(4, "x").await.unwrap_err().code(),
        node.resume(4).await.unwrap_err().code(),
        node.destroy_activation(4).await.unwrap_err().code(),
    ] {
        assert_eq!(code, Code::FailedPrecondition);
    }
    count(&wake.endpoint).await;
    node.destroy_activation(5).await.unwrap();
    node.destroy_activation(5).await.unwrap();
    // A late copy of the first call must not start it again.
    assert_eq!(node.activate(&place.wake(5)).await.unwrap_err().code(), Code::FailedPrecondition);
    // Nor after a restart.
    node.stop().await;
    let node = place.start(2).await;
    assert_eq!(node.activate(&place.wake(4)).await.unwrap_err().code(), Code::FailedPrecondition);
    // Unless the actor is forgotten.
    node.delete_snapshots(5, &[], true).await.unwrap();
    node.activate(&place.wake(1)).await.unwrap();
    node.destroy().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_reaches_nobody_and_is_reached_only_at_its_endpoint(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    let wake = node.activate(&place.wake(1)).await.unwrap();
    let (host, port) = wake.endpoint.split_once(':').unwrap();
    let next = format!("{host}:{}", port.parse::<u16>().unwrap() + 1);
    for closed in [format!("{host}:8080"), format!("{host}:22"), next] {
        let begin = Instant::now();
        let refused = get(&closed, "/").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{closed}");
        assert!(begin.elapsed() < Duration::from_millis(100));
    }
    let rules = in_worker(&place, "nft", &["list", "ruleset"]);
    assert!(rules.contains("policy drop") && rules.contains(port), "{rules}");
    node.destroy().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_actor_prints_is_kept_over_its_activations_and_can_be_followed(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    node.activate(&place.wake(1)).await.unwrap();
    let request = proto::LogsRequest { actor: Some(actor()), follow: true, tail: 0 };
    let mut logs = node.client.clone().logs(request).await.unwrap().into_inner();
    let mut text = String::new();
    while text.matches("listens on").count() < 1 {
        text += &String::from_utf8(logs.message().await.unwrap().unwrap().data).unwrap();
    }
    node.destroy_activation(1).await.unwrap();
    node.activate(&place.wake(2)).await.unwrap();
    while text.matches("listens on").count() < 2 {
        text += &String::from_utf8(logs.message().await.unwrap().unwrap().data).unwrap();
    }
    node.destroy().await;
    eventually("the stream ends with the agent", async || match logs.message().await {
        Ok(Some(_)) => Err("another chunk".into()),
        _ => Ok(()),
    })
    .await;
}

/// Writes to its root directory, takes something away from it, and keeps a file open.
const WRITER: &str = r#"
import http.server, os
os.makedirs('/data')
log = open('/data/log', 'w+')
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if os.path.exists('/etc/passwd'):
            os.remove('/etc/passwd')
        log.write(self.path)
        log.flush()
        text = open('/data/log').read() + str(os.listdir('/etc').count('passwd'))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())
http.server.HTTPServer(('', 8080), Handler).serve_forever()
"#;

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_actor_wrote_is_in_its_snapshots_and_nowhere_else(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(mut place) = Place::of(runtime) else { return };
    if !place.python() {
        return;
    }
    let node = place.start(2).await;
    let wake = |epoch| {
        place
            .wake(epoch)
            .with("command", serde_json::json!(["/usr/bin/python3", "-c", WRITER]))
            .with("readiness", serde_json::json!({ "timeout": "15s" }))
    };
    let endpoint = node.activate(&wake(1)).await.unwrap().endpoint;
    assert_eq!(get(&endpoint, "/a").await.unwrap(), "/a0");
    committed(node.suspend(1, "s1").await.unwrap());
    let endpoint = node.activate(&wake(2).from("s1")).await.unwrap().endpoint;
    assert_eq!(get(&endpoint, "/b").await.unwrap(), "/a/b0");
    committed(node.suspend(2, "s2").await.unwrap());
    // From the older one, as if the second had never been.
    let endpoint = node.activate(&wake(3).from("s1")).await.unwrap().endpoint;
    assert_eq!(get(&endpoint, "/c").await.unwrap(), "/a/c0");
    assert!(place.machine.rootfs.join("etc/passwd").exists());
    assert!(!place.machine.rootfs.join("data").exists());
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}
