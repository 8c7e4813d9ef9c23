use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Mutex,
};

use super::*;
use crate::store::{Expect, conformance};

/// Tells the child process which file to write; without it the child's test does nothing.
const CHILD_FILE: &str = "REVEILLE_TEST_STORE";

fn put(key: &str, expect: Expect, value: u64) -> Batch {
    let value = value.to_string().into_bytes();
    Batch::default().put(Collection::Actors, key, expect, 0, value)
}

fn value(store: &RedbStore, key: &str) -> Option<u64> {
    let record = store.get(Collection::Actors, key).unwrap()?;
    Some(String::from_utf8(record.value).unwrap().parse().unwrap())
}

#[tokio::test]
async fn the_redb_store_conforms() {
    let folders = Mutex::new(Vec::new());
    conformance::run(|| {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("control/reveille.redb")).unwrap();
        folders.lock().unwrap().push(folder);
        Arc::new(store)
    })
    .await;
}

#[tokio::test]
async fn records_are_there_after_a_reopen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = RedbStore::open(&path).unwrap();
    store.commit(put("a/x", Expect::Absent, 1)).await.unwrap();
    // Not awaited: closing finishes what was queued.
    let _queued = store.commit(put("a/y", Expect::Absent, 2));
    drop(store);
    let store = RedbStore::open(&path).unwrap();
    assert_eq!((value(&store, "a/x"), value(&store, "a/y")), (Some(1), Some(2)));
}

#[tokio::test]
async fn a_file_in_use_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let _first = RedbStore::open(&path).unwrap();
    let error = RedbStore::open(&path).err().unwrap().to_string();
    assert!(error.contains("in use by another control plane"), "{error}");
}

#[tokio::test]
async fn concurrent_commits_share_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let store = RedbStore::open(&folder.path().join("store")).unwrap();
    let commits = (0..500).map(|n| store.commit(put(&format!("a/{n}"), Expect::Absent, n)));
    let outcomes = futures::future::join_all(commits).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(store.list(Collection::Actors, "a/").unwrap().len(), 500);
}

/// Writes and says so, until it is killed. Run as a child process by the test below.
#[tokio::test]
async fn child_that_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD_FILE) else { return };
    let store = RedbStore::open(&PathBuf::from(path)).unwrap();
    let start = value(&store, "pair/a").unwrap_or(0);
    for n in start + 1.. {
        // Two records in one batch: never one without the other.
        let batch = put("pair/a", Expect::Anything, n);
        let both =
            Batch { writes: [batch.writes, put("pair/b", Expect::Anything, n).writes].concat() };
        store.commit(both).await.unwrap();
        println!("\nacknowledged {n}");
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut total = 0;
    for round in 1..=5u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::redb::tests::child_that_writes_until_it_is_killed"])
            .args(["--nocapture", "--test-threads=1"])
            .env(CHILD_FILE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = 0;
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            if let Some(n) = line.strip_prefix("acknowledged ") {
                acknowledged = n.parse().unwrap();
                seen += 1;
            }
            if seen == 20 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged > total, "round {round}: the child wrote nothing");
        total = acknowledged;
        let store = RedbStore::open(&path).unwrap();
        let (a, b) = (value(&store, "pair/a").unwrap(), value(&store, "pair/b").unwrap());
        assert_eq!(a, b, "half of a batch");
        assert!(a >= acknowledged, "acknowledged {acknowledged}, found {a}");
    }
}
