//! Templates that run from OCI images.

use std::{fs, net::TcpListener};

use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::json;

use crate::{
    COUNTER,
    harness::{
        cluster::{Cluster, Options},
        machine_can_run_it,
        manifest::Manifests,
        processes, repository,
    },
    oci::{Layout, archive},
};

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn an_actor_of_a_layout_sleeps_and_wakes_without_the_layout_and_after_a_kill_of_the_node(
    #[values("gvisor", "criu")] runtime: &'static str,
) {
    if !machine_can_run_it("images") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let rootfs = archive(&repository().join(".deps/rootfs/counter"));
    let execution = json!({ "Entrypoint": ["/counter"] });
    let layout = Layout::new(&dir.path().join("layout"), &[rootfs], execution);
    let shown = layout.dir.display().to_string();
    // Relative to the file, as a directory is.
    let fields = format!(
        "rootfs: {{ ociLayout: ../{}/layout }}\nreadiness: {{ httpGet: {{ path: /healthz }} }}\n",
        dir.path().file_name().unwrap().display()
    );
    let manifests = Manifests::of(runtime)
        .template("demo", "counter", &fields)
        .actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let cold = cluster.client.get(COUNTER, "/").await.count();
    assert_eq!(cold.count, 1);
    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;

    let templates = cluster.ok(&["get", "templates", "-n", "demo", "-o", "wide"]).await;
    assert!(templates.contains(&shown), "{templates}");
    let image = format!("{shown}@{}", layout.digest);
    let described = cluster.ok(&["describe", "actor", "counter", "-n", "demo"]).await;
    assert!(described.contains(&image), "{described}");
    let snapshots = cluster.ok(&["get", "snapshots", "-n", "demo", "-o", "wide"]).await;
    assert!(snapshots.contains(&image), "{snapshots}");

    fs::remove_dir_all(&layout.dir).expect("removed");
    processes::signal(cluster.pid_of("node").expect("a node"), Signal::SIGKILL);
    let warm = cluster.client.get(COUNTER, "/").await.count();
    assert_eq!((warm.count, warm.nonce), (2, cold.nonce), "restored, not restarted");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_is_told_to_the_operator_and_not_to_the_client() {
    if !machine_can_run_it("images") {
        return;
    }
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let image = format!("{nobody}/demo/nothing:1");
    let fields = format!("rootfs: {{ image: \"{image}\" }}\n");
    let manifests =
        Manifests::new().template("demo", "counter", &fields).actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let answer = cluster.client.get(COUNTER, "/").await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (502, Some("start_failed")));
    let text = format!("{:?} {}", answer, answer.text());
    assert!(!text.contains("nothing") && !text.contains(&nobody.to_string()), "{text}");
    let events = json!(cluster.events("demo", "counter").await).to_string();
    assert!(events.contains(&image) && events.contains("cannot be reached"), "{events}");

    let bad = cluster.dir.path().join("bad.yaml");
    let fields = "rootfs: { image: nginx }\n";
    let manifest = Manifests::new().template("demo", "bad", fields);
    fs::write(&bad, manifest.text()).expect("written");
    let output = cluster.cli(&["apply", "-f", bad.to_str().expect("a path")]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        error.contains("spec.rootfs.image") && error.contains("docker.io/library/nginx"),
        "{error}"
    );
    cluster.stop().await;
}
