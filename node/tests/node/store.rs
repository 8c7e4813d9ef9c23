//! Snapshots in a store: uploaded, fetched by another node, evicted, deleted.

use std::{fs, path::PathBuf};

use reveille_api::proto::{Storage, suspend_reply::Outcome};
use reveille_node::Config;

use crate::support::{Node, Place, actor, count, eventually, reason};

/// Two nodes on this machine, with one store.
struct Two {
    here: Place,
    there: Place,
    store: tempfile::TempDir,
}

impl Two {
    fn new() -> Option<Self> {
        let (here, there) = (Place::new()?, Place::new()?);
        let store = tempfile::Builder::new().prefix("rvstore").tempdir().unwrap();
        Some(Self { here, there, store })
    }

    fn config(&self, place: &Place) -> Config {
        let store = Some(format!("file://{}", self.store.path().display()));
        Config { store, ..place.config(1) }
    }

    async fn start(&self, place: &Place) -> Node {
        Node::start(self.config(place)).await
    }

    /// Files of the store, of all chunks or of all snapshots.
    fn files(&self, of: &str) -> Vec<PathBuf> {
        let (mut found, mut folders) = (Vec::new(), vec![self.store.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path if path.display().to_string().contains(of) => found.push(path),
                    _ => {}
                }
            }
        }
        found
    }

    async fn end(self, nodes: Vec<Node>) {
        for node in nodes {
            node.destroy().await;
        }
        for place in [&self.here, &self.there] {
            place.eventually_traces(&Default::default()).await;
        }
    }
}

fn storage(reply: reveille_api::proto::SuspendReply) -> Storage {
    match reply.outcome {
        Some(Outcome::Committed(snapshot)) => snapshot.storage(),
        other => panic!("{other:?}"),
    }
}

async fn eventually_stored(node: &Node, id: &str) {
    eventually("it is in the store", async || {
        let snapshots = node.inventory().await.snapshots;
        let stored = snapshots.iter().any(|s| s.id == id && s.storage() == Storage::Stored);
        if stored { Ok(()) } else { Err(format!("{snapshots:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_went_to_sleep_on_one_node_wakes_on_another_with_its_memory() {
    let Some(two) = Two::new() else { return };
    let (here, there) = (two.start(&two.here).await, two.start(&two.there).await);
    let cold = here.activate(&two.here.wake(1)).await.unwrap();
    let first = count(&cold.endpoint).await;
    assert_eq!(storage(here.suspend(1, "s1").await.unwrap()), Storage::Waiting);
    eventually_stored(&here, "s1").await;

    let warm = there.activate(&two.there.wake(2).from("s1")).await.unwrap();
    assert!(warm.fetch_us > 0);
    let second = count(&warm.endpoint).await;
    assert_eq!((second.count, &second.nonce), (2, &first.nonce));

    // And back, once the first node is told that it needs nothing more of before.
    there.suspend(2, "s2").await.unwrap();
    eventually_stored(&there, "s2").await;
    here.delete_snapshots(3, &["s2"], false).await.unwrap();
    assert!(here.inventory().await.snapshots.is_empty());
    let back = here.activate(&two.here.wake(3).from("s2")).await.unwrap();
    assert_eq!((count(&back.endpoint).await.count, here.inventory().await.snapshots.len()), (3, 1));

    // Of a deleted actor nothing is left, whoever has taken it.
    here.destroy_activation(3).await.unwrap();
    here.delete_snapshots(3, &[], true).await.unwrap();
    assert_eq!(two.files(".snapshot"), Vec::<PathBuf>::new());
    two.end(vec![here, there]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_in_the_store_starts_nothing() {
    let Some(two) = Two::new() else { return };
    let (here, there) = (two.start(&two.here).await, two.start(&two.there).await);
    here.activate(&two.here.wake(1)).await.unwrap();
    here.suspend(1, "s1").await.unwrap();
    eventually_stored(&here, "s1").await;
    let chunks = two.files("_chunks");
    let chunk = chunks.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(chunk).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(chunk, bytes).unwrap();

    let error = there.activate(&two.there.wake(2).from("s1")).await.unwrap_err();
    assert_eq!(reason(&error), "snapshot_corrupt", "{error}");
    assert!(there.inventory().await.activations.is_empty());
    let left = fs::read_dir(two.there.path("node/snapshots/demo/counter")).unwrap().count();
    assert_eq!(left, 0);
    // The copy of the node that took it is whole.
    here.activate(&two.here.wake(2).from("s1")).await.unwrap();
    two.end(vec![here, there]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_on_when_the_agent_starts_again_and_what_is_stored_makes_room() {
    let Some(two) = Two::new() else { return };
    // Without a store at first, as if every upload had failed.
    let here = two.here.start(1).await;
    let cold = here.activate(&two.here.wake(1)).await.unwrap();
    let first = count(&cold.endpoint).await;
    assert_eq!(storage(here.suspend(1, "s1").await.unwrap()), Storage::Node);
    here.crash().await;

    let config = Config { snapshot_cache: Some(0), ..two.config(&two.here) };
    let here = Node::start(config).await;
    eventually("it is only in the store", async || {
        let (local, stored) = (here.inventory().await.snapshots, two.files(".snapshot"));
        if local.is_empty() && stored.len() == 1 {
            Ok(())
        } else {
            Err(format!("{local:?} {stored:?}"))
        }
    })
    .await;
    let warm = here.activate(&two.here.wake(2).from("s1")).await.unwrap();
    let second = count(&warm.endpoint).await;
    assert_eq!((second.count, second.nonce), (2, first.nonce));
    let unknown = here.activate(&two.here.wake(3).from("s9")).await.unwrap_err();
    assert_eq!(reason(&unknown), "snapshot_corrupt", "{unknown}");
    let epochs = here.inventory().await.epochs;
    assert_eq!((epochs[0].actor.clone(), epochs[0].epoch), (Some(actor()), 3));
    two.end(vec![here]).await;
}
