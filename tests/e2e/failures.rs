//! What stays as it was when something is wrong. What the client sees of it is in [`crate::reasons`].

use std::fs;

use crate::{
    COUNTER,
    harness::{
        cluster::{Cluster, Options},
        machine_can_run_it,
        manifest::Manifests,
        repository,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_is_a_502_without_internal_text_and_the_worker_stays_usable() {
    if !machine_can_run_it("start_failed") {
        return;
    }
    let broken = format!(
        "rootfs: {{ directory: {} }}\ncommand: [/no-such-program]\n",
        repository().join(".deps/rootfs/counter").display()
    );
    let manifests = Manifests::new()
        .template("demo", "broken", &broken)
        .actor("demo", "broken", "broken")
        .counter("demo", "counter", "")
        .actor("demo", "counter", "counter");
    let mut options = Options::new(manifests);
    options.workers = 1;
    let cluster = Cluster::start(options).await;
    for _ in 0..2 {
        let answer = cluster.client.get("broken.demo.actors.localhost", "/").await;
        assert_eq!((answer.status.as_u16(), answer.reason()), (502, Some("start_failed")));
        assert!(!answer.text().contains("no-such-program"), "{}", answer.text());
    }
    let actor = cluster.actor("demo", "broken").await;
    assert_eq!(actor["state"], "Failed");
    assert_eq!(cluster.client.get(COUNTER, "/").await.count().count, 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_snapshot_corrupt_and_the_snapshot_is_kept() {
    if !machine_can_run_it("snapshot_corrupt") {
        return;
    }
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let first = cluster.client.get(COUNTER, "/").await.count();
    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;

    let image = largest_file(&cluster.data_dir().join("node/snapshots"));
    let good = fs::read(&image).expect("readable");
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::write(&image, &bad).expect("writable");
    let answer = cluster.client.get(COUNTER, "/").await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (502, Some("snapshot_corrupt")));

    fs::write(&image, &good).expect("writable");
    let again = cluster.client.get(COUNTER, "/").await.count();
    assert_eq!((again.count, &again.nonce), (2, &first.nonce), "the next request tries again");
    cluster.stop().await;
}

fn largest_file(dir: &std::path::Path) -> std::path::PathBuf {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory").flatten() {
            let kind = entry.metadata().expect("metadata");
            if kind.is_dir() {
                dirs.push(entry.path());
            } else {
                files.push((kind.len(), entry.path()));
            }
        }
    }
    files.into_iter().max().expect("a snapshot has files").1
}
