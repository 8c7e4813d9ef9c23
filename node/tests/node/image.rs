//! Actors from OCI images.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

use reveille_api::proto::{self, suspend_reply::Outcome};
use rstest::rstest;
use serde_json::json;

use crate::{
    oci::{Layout, archive},
    support::{CRIU, GVISOR, Place, Wake, count, eventually, logs, reason},
};

/// The counter, in an image that says how to run it. What is below `more` lies over it, in a layer of its own.
pub(crate) fn counter(place: &Place, name: &str, more: &[(&str, &str)]) -> Layout {
    let upper = place.path(&format!("{name}.upper"));
    for (path, text) in more {
        let path = upper.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::create_dir_all(&upper).unwrap();
    let layers = [archive(&place.machine.rootfs), archive(&upper)];
    Layout::new(&place.path(name), &layers, json!({ "Entrypoint": ["/counter"] }))
}

/// The template has nothing of its own but where the image is.
pub(crate) fn of(place: &Place, epoch: u64, rootfs: serde_json::Value) -> Wake {
    let mut wake = place.wake(epoch).with("rootfs", rootfs);
    wake.template.as_object_mut().unwrap().remove("command");
    wake
}

fn layout(place: &Place, epoch: u64, layout: &Layout) -> Wake {
    of(place, epoch, json!({ "ociLayout": layout.dir }))
}

pub(crate) fn committed(reply: proto::SuspendReply) -> proto::Snapshot {
    match reply.outcome {
        Some(Outcome::Committed(snapshot)) => snapshot,
        other => panic!("{other:?}"),
    }
}

/// The layers of the node, each with what tells it from one that was unpacked again.
pub(crate) fn layers(place: &Place) -> BTreeSet<(PathBuf, u64)> {
    let layers = fs::read_dir(place.path("node/images/layers")).unwrap();
    layers.map(|layer| layer.unwrap()).map(|l| (l.path(), l.metadata().unwrap().ino())).collect()
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_of_an_image_is_restored_on_the_layers_it_slept_on(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let first = counter(&place, "first", &[("etc/version", "1")]);
    let node = place.start(1).await;
    let wake = node.activate(&layout(&place, 1, &first)).await.unwrap();
    let count_1 = count(&wake.endpoint).await;
    let unpacked = layers(&place);
    assert_eq!(unpacked.len(), 2);

    // The next agent knows what the actor runs from, and nothing is mounted for it.
    node.crash().await;
    let node = place.start(1).await;
    assert_eq!(count(&wake.endpoint).await.count, 2);
    let snapshot = committed(node.suspend(1, "s1").await.unwrap());
    assert_eq!(snapshot.image, format!("{}@{}", first.dir.display(), first.digest));
    let mounted = |trace: &&String| trace.starts_with("mount ") && trace.contains("/node/");
    assert_eq!(place.traces().iter().find(mounted), None);
    node.crash().await;

    // Without the layout, and with a template that has another one by now.
    fs::remove_dir_all(&first.dir).unwrap();
    let second = counter(&place, "second", &[("etc/version", "2")]);
    let node = place.start(1).await;
    let wake = node.activate(&layout(&place, 2, &second).from("s1")).await.unwrap();
    let count_3 = count(&wake.endpoint).await;
    assert_eq!((count_3.count, &count_3.nonce), (3, &count_1.nonce));
    assert_eq!(layers(&place), unpacked);
    assert!(committed(node.suspend(2, "s2").await.unwrap()).image.ends_with(&first.digest));

    // A cold start has the new one, of which only the upper layer is new.
    let cold = node.activate(&layout(&place, 3, &second)).await.unwrap();
    assert_eq!(count(&cold.endpoint).await.count, 1);
    assert!(committed(node.suspend(3, "s3").await.unwrap()).image.ends_with(&second.digest));
    let now = layers(&place);
    assert!(now.is_superset(&unpacked) && now.len() == 3, "{now:?}");

    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

const LOOK: &str = r#"
import os, http.server
def list(path): return sorted(os.listdir(path))
print("ids", os.getuid(), os.getgid(), os.getgroups())
print("cwd", os.getcwd())
print("env", os.environ.get("FROM_IMAGE"), os.environ.get("LOG"), os.environ.get("BOTH"))
print("gone", os.path.exists("/data/gone"), list("/data"), list("/opaque"))
print("replaced", open("/was-a-directory").read(), list("/was-a-file"))
print("link", open("/link").read(), os.stat("/hard").st_nlink > 1)
for path in ["/data/mine", "/tmp/mine", "/data/theirs"]:
    try:
        open(path, "w").write("x"); print("wrote", path)
    except OSError as error:
        print("not wrote", path, error.errno)
print("looked", flush=True)
http.server.HTTPServer(("", 8080), http.server.SimpleHTTPRequestHandler).serve_forever()
"#;

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_layers_lie_over_one_another_and_the_image_says_who_runs_what_and_where(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(mut place) = Place::of(runtime) else { return };
    if !place.python() {
        return;
    }
    let (lower, upper) = (place.path("lower"), place.path("upper"));
    let write = |path: PathBuf, text: &str| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for file in ["data/gone", "data/stays", "opaque/old", "was-a-directory/x", "was-a-file"] {
        write(lower.join(file), "old");
    }
    write(lower.join("etc/passwd"), "root:x:0:0::/:/\napp:x:1000:1001::/:/\n");
    write(lower.join("etc/group"), "extra:x:1002:app\n");
    for file in ["data/.wh.gone", "opaque/.wh..wh..opq", "opaque/new", ".wh.was-a-file"] {
        write(upper.join(file), "");
    }
    write(upper.join("was-a-file/x"), "");
    write(upper.join("was-a-directory"), "file");
    write(upper.join("hard"), "linked");
    symlink("/hard", upper.join("link")).unwrap();
    let mut archives: Vec<_> =
        [&place.machine.rootfs, &lower, &upper].into_iter().map(|dir| archive(dir)).collect();
    let mut owned = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_uid(1000);
    header.set_gid(1001);
    header.set_size(0);
    owned.append_data(&mut header, "data", &b""[..]).unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_uid(0);
    header.set_mode(0o644);
    owned.append_data(&mut header, "data/theirs", &b""[..]).unwrap();
    header.set_entry_type(tar::EntryType::Link);
    header.set_mode(0o644);
    owned.append_link(&mut header, "data/linked", "data/theirs").unwrap();
    archives.push(owned.into_inner().unwrap());
    let image = Layout::new(
        &place.path("layout"),
        &archives,
        json!({
            "Entrypoint": ["python3", "-c"],
            "Cmd": [LOOK],
            "Env": ["PATH=/usr/bin", "FROM_IMAGE=yes", "BOTH=image"],
            "WorkingDir": "/data",
            "User": "app",
        }),
    );
    let node = place.start(1).await;
    let env = json!([{ "name": "LOG", "value": "template" }, { "name": "BOTH", "value": "mine" }]);
    let wake = layout(&place, 1, &image).with("env", env).with("readiness", json!({}));
    node.activate(&wake).await.unwrap();
    let text = eventually("it has looked", async || {
        let text = logs(&node).await;
        if text.contains("looked") { Ok(text) } else { Err(text) }
    })
    .await;
    for says in [
        "ids 1000 1001 [1002]",
        "cwd /data",
        "env yes template mine",
        "gone False ['linked', 'stays', 'theirs'] ['new']",
        "replaced file ['x']",
        "link linked",
        "wrote /data/mine",
        "wrote /tmp/mine",
        "not wrote /data/theirs 13",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_image_fails_the_start_and_says_why() {
    let Some(place) = Place::new() else { return };
    let node = place.start(1).await;
    let fails = async |wake: Wake, says: &str| {
        let status = node.activate(&wake).await.unwrap_err();
        assert!(status.message().contains(says), "{says}: {}", status.message());
        status
    };
    let good = |name: &str| counter(&place, name, &[]);
    let cold = |epoch, layout: &Layout| self::layout(&place, epoch, layout);

    let missing = of(&place, 1, json!({ "ociLayout": place.path("empty") }));
    fs::create_dir(place.path("empty")).unwrap();
    let status = fails(missing, "is no OCI layout").await;
    assert_eq!(reason(&status), "start_failed");
    let outside = of(&place, 1, json!({ "ociLayout": "/etc" }));
    fails(outside, "--allow-rootfs").await;

    let torn = good("torn");
    for blob in fs::read_dir(torn.dir.join("blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if bytes.starts_with(b"{") {
            continue;
        }
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    fails(cold(1, &torn), "layer").await;

    let unknown = archive(&place.machine.rootfs);
    let user = json!({ "Entrypoint": ["/counter"], "User": "bob" });
    let user = Layout::new(&place.path("user"), std::slice::from_ref(&unknown), user);
    fails(cold(1, &user), "the user \"bob\"").await;
    let silent = Layout::new(&place.path("silent"), &[unknown], json!({}));
    fails(cold(1, &silent), "spec.command").await;

    // Nothing of these is left but whole layers, and the worker is well.
    assert!(layers(&place).iter().all(|(path, _)| !is_hidden(path)));
    let wake = node.activate(&cold(1, &good("good"))).await.unwrap();
    assert_eq!(count(&wake.endpoint).await.count, 1);
    // A snapshot of an image is not restored on a directory, and the other way round neither.
    node.suspend(1, "s1").await.unwrap();
    node.activate(&place.wake(2).from("s1")).await.unwrap();
    node.destroy_activation(2).await.unwrap();
    node.activate(&place.wake(3)).await.unwrap();
    node.suspend(3, "s3").await.unwrap();
    let status = fails(cold(4, &good("again")).from("s3"), "of a directory").await;
    assert_eq!(reason(&status), "restore_failed");
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().unwrap().to_string_lossy().starts_with('.')
}
