use super::*;

fn actor() -> ActorKey {
    ActorKey::new("demo", "counter").unwrap()
}

fn origin() -> Origin {
    Origin {
        actor: actor(),
        epoch: Epoch(3),
        template: "t".into(),
        runtime: "gvisor".into(),
        runtime_version: "1".into(),
        image: None,
        upload: Upload::Due(7),
    }
}

fn sealed(snapshots: &Snapshots, id: &str) -> Sealed {
    let draft = snapshots.begin(&actor(), id).unwrap();
    fs::write(draft.dir().join("pages.img"), vec![7; 100_000]).unwrap();
    fs::write(draft.dir().join("checkpoint.img"), "state").unwrap();
    snapshots.seal(draft, origin()).unwrap()
}

fn committed(root: &Path, id: &str) -> Snapshots {
    let snapshots = Snapshots::open(root, true).unwrap();
    snapshots.commit(sealed(&snapshots, id)).unwrap();
    snapshots
}

fn verify(snapshots: &Snapshots, id: &str) -> Result<Image, Unusable> {
    snapshots.verify(&actor(), id, "gvisor", "1")
}

fn why(snapshots: &Snapshots, id: &str) -> String {
    match verify(snapshots, id) {
        Err(Unusable::Corrupt { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_committed_snapshot_is_there_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    committed(root.path(), "s1");
    let snapshots = Snapshots::open(root.path(), true).unwrap();
    assert_eq!(snapshots.held().bytes, 100_005);
    assert_eq!(snapshots.get(&actor(), "s1").unwrap().epoch, Epoch(3));
    let listed = snapshots.list("n1");
    assert_eq!((listed.len(), listed[0].id.as_str(), listed[0].node.as_str()), (1, "s1", "n1"));
    assert!(verify(&snapshots, "s1").unwrap().dir.ends_with("demo/counter/s1"));
}

#[test]
fn death_before_the_commit_leaves_the_old_snapshot_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = committed(root.path(), "s1");
    std::mem::forget(sealed(&snapshots, "s2"));
    assert!(root.path().join("demo/counter/.tmp-1-s2/manifest.json").exists());
    let snapshots = Snapshots::open(root.path(), true).unwrap();
    snapshots.remove_unfinished().unwrap();
    assert_eq!(files::names(&root.path().join("demo/counter")).unwrap(), ["s1"]);
    assert!(snapshots.get(&actor(), "s2").is_none());
    verify(&snapshots, "s1").unwrap();
}

#[test]
fn a_draft_given_up_is_gone() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = committed(root.path(), "s1");
    drop(sealed(&snapshots, "s2"));
    assert_eq!(files::names(&root.path().join("demo/counter")).unwrap(), ["s1"]);
}

#[test]
fn a_flipped_byte_is_found_though_the_size_is_right_and_the_hash_was_known() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = committed(root.path(), "s1");
    verify(&snapshots, "s1").unwrap();
    let path = root.path().join("demo/counter/s1/pages.img");
    let mut bytes = fs::read(&path).unwrap();
    bytes[50_000] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(why(&snapshots, "s1"), "pages.img has other contents");
    assert_eq!(
        why(&Snapshots::open(root.path(), true).unwrap(), "s1"),
        "pages.img has other contents"
    );
}

#[test]
fn truncated_missing_and_foreign_files_are_found() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = committed(root.path(), "s1");
    let dir = root.path().join("demo/counter/s1");
    fs::write(dir.join("pages.img"), "short").unwrap();
    assert_eq!(why(&snapshots, "s1"), "pages.img has 5 bytes, not 100000");
    fs::remove_file(dir.join("pages.img")).unwrap();
    assert!(why(&snapshots, "s1").starts_with("pages.img: No such file"));
    fs::write(dir.join("manifest.json"), "{").unwrap();
    assert!(why(&snapshots, "s1").starts_with("its manifest cannot be read"));
    fs::remove_file(dir.join("manifest.json")).unwrap();
    assert_eq!(why(&snapshots, "s1"), "its manifest is missing");
    let absent = verify(&snapshots, "other").unwrap_err();
    assert!(matches!(absent, Unusable::Absent { .. }), "{absent}");
    assert_eq!(why(&snapshots, "../s1"), "that is no name of a snapshot");
}

#[test]
fn another_runtime_version_does_not_fit_and_says_both() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = committed(root.path(), "s1");
    let error = snapshots.verify(&actor(), "s1", "gvisor", "2").unwrap_err();
    assert!(matches!(error, Unusable::Unfit { .. }), "{error:?}");
    assert!(error.to_string().contains("gvisor 1, this node has gvisor 2"), "{error}");
}

#[test]
fn only_what_is_not_kept_is_deleted() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = committed(root.path(), "s1");
    snapshots.commit(sealed(&snapshots, "s2")).unwrap();
    snapshots.delete(&actor(), Epoch(3), &[]).unwrap();
    assert_eq!(snapshots.list("n").len(), 2, "they are not older");
    snapshots.delete(&actor(), Epoch(4), &["s2".into()]).unwrap();
    assert_eq!(files::names(&root.path().join("demo/counter")).unwrap(), ["s2"]);
    assert_eq!(snapshots.list("n").len(), 1);
    snapshots.delete(&actor(), Epoch(4), &[]).unwrap();
    snapshots.forget(&actor());
    assert_eq!((snapshots.held().bytes, root.path().join("demo/counter").exists()), (0, false));
}

#[test]
fn what_is_evicted_in_the_moment_of_its_deletion_is_deleted() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = committed(root.path(), "s0");
    assert!(snapshots.tell());
    for round in 1..=10 {
        let ids: Vec<_> = (0..4).map(|n| format!("s{round}-{n}")).collect();
        for id in &ids {
            snapshots.commit(sealed(&snapshots, id)).unwrap();
            snapshots.stored(&actor(), id).unwrap();
        }
        snapshots.delete(&actor(), Epoch(0), &ids).unwrap();
        std::thread::scope(|scope| {
            let evicted = scope.spawn(|| snapshots.evict(0));
            snapshots.delete(&actor(), Epoch(4), &[]).unwrap();
            evicted.join().unwrap().unwrap();
        });
        assert_eq!(files::names(&root.path().join("demo/counter")).unwrap(), [""; 0]);
    }
}

fn upload(snapshots: &Snapshots, id: &str) -> Upload {
    snapshots.lock()[&(actor(), id.to_owned())].upload
}

#[test]
fn what_is_to_be_uploaded_and_what_is_stored_is_known_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = committed(root.path(), "s1");
    snapshots.commit(sealed(&snapshots, "s2")).unwrap();
    assert!(snapshots.stored(&actor(), "s1").unwrap());
    assert!(!snapshots.stored(&actor(), "gone").unwrap());
    let snapshots = Snapshots::open(root.path(), true).unwrap();
    assert_eq!(
        (upload(&snapshots, "s1"), upload(&snapshots, "s2")),
        (Upload::Stored, Upload::Due(7))
    );
    assert_eq!(snapshots.to_upload(), [(actor(), "s2".to_owned(), 7)]);
    let told = |id| snapshots.told(&actor(), id, "n").unwrap().storage();
    assert_eq!((told("s1"), told("s2")), (proto::Storage::Stored, proto::Storage::Waiting));
}

#[test]
fn only_what_is_stored_and_unused_is_evicted_and_the_longest_unused_first() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = committed(root.path(), "s1");
    for id in ["s2", "s3", "s4"] {
        snapshots.commit(sealed(&snapshots, id)).unwrap();
    }
    for (id, used) in [("s1", 1), ("s2", 2), ("s3", 3), ("s4", 0)] {
        snapshots.stored(&actor(), id).unwrap();
        snapshots.lock().get_mut(&(actor(), id.to_owned())).unwrap().used = used;
    }
    snapshots.lock().get_mut(&(actor(), "s4".to_owned())).unwrap().upload = Upload::Due(0);
    // The control plane may know of none of them.
    assert!(snapshots.tell() && !snapshots.tell());
    assert_eq!(snapshots.evict(0).unwrap(), 0);
    let all = ["s1", "s2", "s3", "s4"].map(str::to_owned);
    snapshots.delete(&actor(), Epoch(0), &all).unwrap();
    let image = verify(&snapshots, "s1").unwrap();
    let disk = snapshots.lock()[&(actor(), "s1".to_owned())].disk;
    assert!(disk >= 100_000);
    assert_eq!(snapshots.evict(4 * disk).unwrap(), 0);
    assert_eq!(snapshots.evict(3 * disk).unwrap(), 1);
    let ids = || snapshots.list("n").into_iter().map(|s| s.id).collect::<Vec<_>>();
    assert_eq!(ids(), ["s1", "s3", "s4"], "s1 is in use, s4 is nowhere else");
    assert_eq!(snapshots.evict(0).unwrap(), 1);
    assert_eq!(ids(), ["s1", "s4"]);
    drop(image);
    assert_eq!(snapshots.evict(0).unwrap(), 1);
    assert_eq!((ids(), snapshots.evict(0).unwrap()), (vec!["s4".to_owned()], 0));
    assert!(matches!(verify(&snapshots, "s2"), Err(Unusable::Absent { .. })));
    assert_eq!(files::names(&root.path().join("demo/counter")).unwrap(), ["s4"]);
    // The next agent tells what is here before any of it goes.
    snapshots.stored(&actor(), "s4").unwrap();
    let next = Snapshots::open(root.path(), true).unwrap();
    assert_eq!(next.evict(0).unwrap(), 0);
    assert!(next.tell());
    assert_eq!(next.evict(0).unwrap(), 1);
}
