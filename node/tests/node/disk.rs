//! A disk that takes nothing: what runs goes on, what sleeps sleeps on, and when the disk is well again so are they.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::PathBuf,
    process::Command,
};

use reveille_node::Config;
use rstest::rstest;

use crate::support::{CRIU, GVISOR, Node, Place, count, eventually, get, reason};

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Full,
    ReadOnly,
}

impl Wrong {
    fn is_told_in(self, message: &str) -> bool {
        message.contains(match self {
            Self::Full => "No space left on device",
            Self::ReadOnly => "Read-only file system",
        })
    }
}

/// The data directory of a place is on it.
struct Disk(PathBuf);

impl Disk {
    fn small(place: &Place) -> Self {
        let disk = Self(place.dir.path().into());
        disk.run("mount", &["-t", "tmpfs", "-o", "size=40m", "tmpfs"], "");
        disk
    }

    fn run(&self, program: &str, arguments: &[&str], inside: &str) {
        let place = self.0.join(inside);
        assert!(Command::new(program).args(arguments).arg(place).status().unwrap().success());
    }

    fn remove(self) {
        self.run("umount", &[], "");
    }

    fn go_wrong(&self, wrong: Wrong) {
        match wrong {
            Wrong::Full => {
                let mut file = File::create(self.0.join("filler")).unwrap();
                let page = [0; 4096];
                let full = (0..).find_map(|_| file.write_all(&page).err()).unwrap();
                assert_eq!(full.kind(), ErrorKind::StorageFull);
            }
            Wrong::ReadOnly => {
                let node = self.0.join("node").display().to_string();
                self.run("mount", &["--bind", &node], "node");
                self.run("mount", &["-o", "remount,bind,ro"], "node");
            }
        }
    }

    fn be_well(&self, wrong: Wrong) {
        match wrong {
            Wrong::Full => fs::remove_file(self.0.join("filler")).unwrap(),
            Wrong::ReadOnly => self.run("umount", &["-l"], "node"),
        }
    }

    /// Names, also of what is half-written.
    fn snapshots(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("node/snapshots/demo/counter"));
        let entries = entries.into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().display().to_string()).collect()
    }

    fn records(&self) -> usize {
        fs::read_dir(self.0.join("node/records/demo")).unwrap().count()
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_disk_that_takes_nothing_an_actor_serves_on_or_sleeps_on(
    #[values(GVISOR, CRIU)] runtime: &'static str,
    #[values(Wrong::Full, Wrong::ReadOnly)] wrong: Wrong,
) {
    let Some(place) = Place::of(runtime) else { return };
    let disk = Disk::small(&place);
    let node = place.start(1).await;
    let fresh = place.traces();
    let wake = node.activate(&place.wake(1)).await.unwrap();
    let first = count(&wake.endpoint).await;

    disk.go_wrong(wrong);
    let status = node.suspend(1, "s1").await.unwrap_err();
    assert!(wrong.is_told_in(status.message()), "{}", status.message());
    assert!(status.message().contains("serves on"), "{}", status.message());
    let second = count(&wake.endpoint).await;
    assert_eq!((second.count, &second.nonce), (2, &first.nonce));
    assert_eq!((disk.snapshots(), disk.records()), (vec![], 1));
    disk.be_well(wrong);
    node.suspend(1, "s2").await.unwrap();

    place.eventually_traces(&fresh).await;
    disk.go_wrong(wrong);
    let status = node.activate(&place.wake(2).from("s2")).await.unwrap_err();
    assert_eq!(reason(&status), "restore_failed");
    assert!(wrong.is_told_in(status.message()), "{}", status.message());
    assert_eq!((disk.snapshots(), disk.records()), (vec!["s2".to_owned()], 1));
    disk.be_well(wrong);
    place.eventually_traces(&fresh).await;
    let wake = node.activate(&place.wake(2).from("s2")).await.unwrap();
    let third = count(&wake.endpoint).await;
    assert_eq!((third.count, third.nonce), (3, first.nonce));
    node.destroy().await;
    disk.remove();
    place.eventually_traces(&Default::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_has_no_room_leaves_nothing_and_is_made_up_for() {
    let Some(place) = Place::new() else { return };
    let store = tempfile::Builder::new().prefix("rvstore").tempdir().unwrap();
    let disk = Disk::small(&place);
    let url = Some(format!("file://{}", store.path().display()));
    let config = Config { store: url, snapshot_cache: Some(0), ..place.config(1) };
    let node = Node::start(config).await;
    let wake = node.activate(&place.wake(1)).await.unwrap();
    let first = count(&wake.endpoint).await;
    node.suspend(1, "s1").await.unwrap();
    // As a control plane that has written it down.
    node.inventory().await;
    node.delete_snapshots(1, &["s1"], false).await.unwrap();
    eventually("it is in the store only", async || match disk.snapshots() {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    })
    .await;

    disk.go_wrong(Wrong::Full);
    let status = node.activate(&place.wake(2).from("s1")).await.unwrap_err();
    assert!(Wrong::Full.is_told_in(status.message()), "{}", status.message());
    // Not the snapshot's fault.
    assert_eq!(reason(&status), "wake_timeout");
    assert_eq!(disk.snapshots(), [""; 0]);
    disk.be_well(Wrong::Full);
    let wake = node.activate(&place.wake(2).from("s1")).await.unwrap();
    assert_eq!(count(&wake.endpoint).await.nonce, first.nonce);
    node.destroy().await;
    disk.remove();
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_named_and_the_actor_serves_on(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let disk = Disk::small(&place);
    let node = place.start(1).await;
    let wake = node.activate(&place.wake(1)).await.unwrap();
    get(&wake.endpoint, "/fill?mb=64").await.unwrap();
    let first = count(&wake.endpoint).await;
    let status = node.suspend(1, "s1").await.unwrap_err();
    assert!(status.message().contains("no space left on the disk"), "{}", status.message());
    assert_eq!(count(&wake.endpoint).await.nonce, first.nonce);
    assert_eq!(disk.snapshots(), [""; 0]);
    disk.run("mount", &["-o", "remount,size=400m"], "");
    node.suspend(1, "s2").await.unwrap();
    node.destroy().await;
    disk.remove();
    place.eventually_traces(&Default::default()).await;
}
