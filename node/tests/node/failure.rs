//! What fails, and what it leaves behind: nothing.

use std::{fs, path::Path, process::Command};

use serde_json::json;
use tokio::io::AsyncReadExt;

use rstest::rstest;

use crate::support::{
    CRIU, GVISOR, Node, Place, Wake, ask, count, eventually, get, is_ended, logs, reason,
};

async fn failed(node: &Node, wake: &Wake) -> (String, String) {
    let status = node.activate(wake).await.unwrap_err();
    (reason(&status), status.message().to_owned())
}

fn sandbox_pid(place: &Place) -> String {
    let record = fs::read_to_string(place.path("node/records/demo/counter.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    record["activation"]["process"]["pid"].to_string()
}

/// The file of an image that has the memory.
fn pages(runtime: &str) -> &'static str {
    if runtime == GVISOR { "pages.img" } else { "pages-1.img" }
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_refused_and_the_worker_is_of_use_again(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    node.activate(&place.wake(1)).await.unwrap();
    node.suspend(1, "s1").await.unwrap();
    let pages = pages(runtime);
    flip_a_byte(&place.path("node/snapshots/demo/counter/s1").join(pages));
    let (why, message) = failed(&node, &place.wake(2).from("s1")).await;
    assert_eq!(why, "snapshot_corrupt");
    assert!(message.contains(&format!("{pages} has other contents")), "{message}");
    let (why, _) = failed(&node, &place.wake(2).from("never")).await;
    assert_eq!(why, "snapshot_corrupt");
    assert!(place.path("node/snapshots/demo/counter/s1").exists(), "it is kept");

    let wake = node.activate(&place.wake(2)).await.unwrap();
    assert_eq!(count(&wake.endpoint).await.count, 1);
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_the_runtime_refuses_is_a_failed_restore(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    let before = place.traces();
    node.activate(&place.wake(1)).await.unwrap();
    node.suspend(1, "s1").await.unwrap();
    // Whole by its manifest, but of another version.
    let path = place.path("node/snapshots/demo/counter/s1/manifest.json");
    let manifest = fs::read_to_string(&path).unwrap();
    let other = manifest.replace("\"runtime_version\":\"", "\"runtime_version\":\"9");
    fs::write(&path, other).unwrap();
    let (why, message) = failed(&node, &place.wake(2).from("s1")).await;
    assert_eq!(why, "restore_failed");
    assert!(message.contains(&format!("was taken by {runtime} 9")), "{message}");
    // Whole by its manifest, but nothing the runtime can read.
    let (program, name) =
        if runtime == GVISOR { ("runsc", "checkpoint.img") } else { ("criu", "core-1.img") };
    let image = place.path("node/snapshots/demo/counter/s1").join(name);
    let size = fs::metadata(&image).unwrap().len();
    let bytes = vec![7; size as usize];
    fs::write(&image, &bytes).unwrap();
    let chunks: Vec<u8> =
        bytes.chunks(256 << 10).flat_map(|chunk| *blake3::hash(chunk).as_bytes()).collect();
    let mut manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    for file in manifest["files"].as_array_mut().unwrap() {
        if file["name"] == name {
            file["blake3"] = json!(blake3::hash(&chunks).to_hex().as_str());
        }
    }
    fs::write(&path, manifest.to_string()).unwrap();
    let (why, message) = failed(&node, &place.wake(2).from("s1")).await;
    assert_eq!(why, "restore_failed", "{message}");
    assert!(message.contains(&format!("{program} restore failed")), "{message}");
    place.eventually_traces(&before).await;
    node.destroy().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_leaves_nothing_and_says_why(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    let before = place.traces();
    let cold = || place.wake(1);

    let (why, message) = failed(&node, &cold().with("command", json!(["/nope"]))).await;
    assert_eq!(why, "start_failed");
    assert!(message.contains("/nope"), "{message}");

    // It ends by itself before it is ready.
    let port = json!([{ "name": "PORT", "value": "none" }]);
    let (why, message) = failed(&node, &cold().with("env", port)).await;
    assert_eq!(why, "start_failed");
    assert!(message.ends_with("see `reveille logs counter -n demo`"), "{message}");
    assert!(logs(&node).await.contains("PORT must be a number"));

    // It runs, but does not answer as asked.
    let never = json!({ "httpGet": { "path": "/nowhere" }, "timeout": "300ms" });
    let (why, message) = failed(&node, &cold().with("readiness", never)).await;
    assert_eq!(why, "start_failed");
    assert!(message.contains("not ready within 300ms: it answered 404"), "{message}");

    let outside = cold().with("rootfs", json!({ "directory": "/etc" }));
    let status = node.activate(&outside).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("--allow-rootfs"), "{}", status.message());

    place.eventually_traces(&before).await;
    let wake = node.activate(&cold()).await.unwrap();
    count(&wake.endpoint).await;
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_fails_leaves_the_actor_serving_at_its_endpoint(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    let wake = node.activate(&place.wake(1)).await.unwrap();
    let first = count(&wake.endpoint).await;
    // No directory can be made where the snapshot should go.
    let dir = place.path("node/snapshots/demo");
    fs::write(&dir, "in the way").unwrap();
    let status = node.suspend(1, "s1").await.unwrap_err();
    assert_eq!(reason(&status), "internal");
    let again = count(&wake.endpoint).await;
    assert_eq!((again.count, &again.nonce), (2, &first.nonce));
    fs::remove_file(&dir).unwrap();
    node.suspend(1, "s1").await.unwrap();
    let wake = node.activate(&place.wake(2).from("s1")).await.unwrap();
    assert_eq!(count(&wake.endpoint).await.nonce, first.nonce);
    node.destroy().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_whose_record_cannot_be_written_serves_on_and_is_adopted(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    let wake = node.activate(&place.wake(1)).await.unwrap();
    let first = count(&wake.endpoint).await;
    let record = place.path("node/records/demo/counter.json");
    let in_the_way = record.with_extension("json.tmp");
    fs::create_dir(&in_the_way).unwrap();
    let status = node.suspend(1, "s1").await.unwrap_err();
    assert_eq!(reason(&status), "internal");
    assert_eq!(count(&wake.endpoint).await.nonce, first.nonce);
    // As one that is written when it goes down, and not when it comes back.
    node.crash().await;
    let text = fs::read_to_string(&record).unwrap();
    let mut edited: serde_json::Value = serde_json::from_str(&text).unwrap();
    edited["activation"]["phase"] = json!({ "suspending": { "snapshot": "s1" } });
    fs::write(&record, edited.to_string()).unwrap();
    let node = place.start(1).await;
    assert_eq!(node.running, ["demo/counter"]);
    assert_eq!(count(&wake.endpoint).await.nonce, first.nonce);
    fs::remove_dir(&in_the_way).unwrap();
    node.suspend(1, "s2").await.unwrap();
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_dies_on_its_way_down_is_not_said_to_serve_on(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    let wake = node.activate(&place.wake(1)).await.unwrap();
    get(&wake.endpoint, "/fill?mb=64").await.unwrap();
    let pid = sandbox_pid(&place);
    let kill = async {
        node.eventually_going_down().await;
        Command::new("kill").args(["-9", &pid]).status().unwrap();
    };
    let (suspended, ()) = tokio::join!(node.suspend(1, "s1"), kill);
    let status = suspended.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound, "{}", status.message());
    assert!(node.inventory().await.activations.is_empty());
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_a_sandbox_that_is_gone_are_reset_at_once(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    for epoch in 1..=2 {
        let endpoint = node.activate(&place.wake(epoch)).await.unwrap().endpoint;
        let mut idle = ask(&endpoint, "/").await;
        idle.read_exact(&mut [0; 12]).await.unwrap();
        let waiting = ask(&endpoint, "/slow?ms=60000").await;
        // In order: when this one is answered, the others have arrived.
        count(&endpoint).await;
        if epoch == 1 {
            Command::new("kill").args(["-9", &sandbox_pid(&place)]).status().unwrap();
        } else {
            node.destroy_activation(epoch).await.unwrap();
        }
        for stream in [waiting, idle] {
            is_ended(&place, stream).await;
        }
        eventually("the node has seen it", async || match node.inventory().await.activations {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{some:?}")),
        })
        .await;
    }
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_in_use_is_refused_to_another_actor(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    node.activate(&place.wake(1)).await.unwrap();
    let mut request = reveille_api::proto::ActivateRequest {
        actor: Some(reveille_api::proto::ActorKey {
            namespace: "other".into(),
            name: "counter".into(),
        }),
        epoch: 1,
        worker: "n-0".into(),
        template: place.wake(1).template.to_string(),
        snapshot: String::new(),
        deadline_ms: 5_000,
        ..Default::default()
    };
    let status = node.client.clone().activate(request.clone()).await.unwrap_err();
    assert_eq!(reason(&status), "no_capacity");
    request.worker = "n-7".into();
    let status = node.client.clone().activate(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    node.destroy().await;
}
