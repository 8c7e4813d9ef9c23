use std::os::unix::fs::symlink;

use super::*;

const LAYER: u64 = 100;

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// An image of these layers, the uppermost first.
fn add(images: &Images, name: &str, layers: &[&str]) -> Image {
    for layer in layers {
        if images.has(&digest(layer)).is_none() {
            let draft = images.draft(&digest(layer)).unwrap();
            fs::write(draft.root().join(layer), layer).unwrap();
            images.keep(draft, &digest(layer), LAYER).unwrap();
        }
    }
    let layers = layers.iter().map(|layer| Layer { diff_id: digest(layer), bytes: LAYER });
    let source = Rootfs::Image(format!("localhost/{name}:1"));
    let record = Record {
        pin: Pin { digest: digest(name), source },
        layers: layers.collect(),
        process: Process::default(),
        templates: BTreeSet::new(),
    };
    images.add(record).unwrap()
}

fn layers(dir: &Path) -> usize {
    files::names(&dir.join("layers")).unwrap().len()
}

#[test]
fn images_that_nobody_needs_leave_when_there_is_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(dir.path(), 3 * LAYER).unwrap();
    let held = add(&images, "held", &["base", "held"]);
    drop(add(&images, "needed", &["base", "needed"]));
    let needed = || BTreeSet::from([digest("needed")]);
    assert_eq!(images.evict(needed).unwrap(), 0);
    drop(add(&images, "old", &["base", "old"]));
    images.index.lock().unwrap().images.get_mut(&digest("old")).unwrap().used = 0;
    drop(add(&images, "new", &["base", "new"]));
    assert_eq!(images.evict(needed).unwrap(), 2);
    assert!(images.get(&digest("old")).is_none() && images.get(&digest("new")).is_none());
    for stays in ["held", "needed"] {
        let image = images.get(&digest(stays)).unwrap();
        assert!(image.layers.iter().all(|layer| layer.is_dir()), "{image:?}");
    }
    assert_eq!(layers(dir.path()), 3);

    // Nothing of these can leave, and then the limit is not kept.
    drop(add(&images, "more", &["more"]));
    let all = || BTreeSet::from([digest("needed"), digest("more")]);
    assert_eq!(images.evict(all).unwrap(), 0);
    drop(held);
    assert_eq!(images.evict(all).unwrap(), 1);
    assert!(images.get(&digest("held")).is_none());
}

#[test]
fn layers_of_a_pull_under_way_stay_until_it_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(dir.path(), 0).unwrap();
    images.index.lock().unwrap().pulling += 1;
    let draft = images.draft(&digest("a")).unwrap();
    images.keep(draft, &digest("a"), LAYER).unwrap();
    // Another pull of the same layer was slower.
    let draft = images.draft(&digest("a")).unwrap();
    fs::write(draft.root().join("file"), "").unwrap();
    images.keep(draft, &digest("a"), LAYER).unwrap();
    images.evict(BTreeSet::new).unwrap();
    assert_eq!(layers(dir.path()), 1);
    images.index.lock().unwrap().pulling -= 1;
    images.evict(BTreeSet::new).unwrap();
    assert_eq!(layers(dir.path()), 0);
}

#[test]
fn what_a_dead_agent_left_half_made_is_removed_and_what_is_whole_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(dir.path(), 1000).unwrap();
    let whole = add(&images, "whole", &["upper", "base"]);
    images.resolve(&digest("whole"), "template").unwrap();
    drop(add(&images, "torn", &["base", "lost"]));
    std::mem::forget(images.draft(&digest("half")).unwrap());
    let stray = images.draft(&digest("stray")).unwrap();
    symlink("/etc", stray.root().join("etc")).unwrap();
    images.keep(stray, &digest("stray"), LAYER).unwrap();
    fs::remove_dir_all(images.layer(&digest("lost"))).unwrap();
    drop(images);

    let images = Images::open(dir.path(), 1000).unwrap();
    assert!(images.get(&digest("torn")).is_none());
    let found = images.get(&digest("whole")).unwrap();
    assert_eq!((&found.pin, &found.layers), (&whole.pin, &whole.layers));
    assert_eq!(images.resolved("template").unwrap().pin, whole.pin);
    assert!(images.resolved("other").is_none());
    assert_eq!(layers(dir.path()), 2);
    assert_eq!(fs::read_to_string(found.layers[1].join("upper")).unwrap(), "upper");
    assert!(Path::new("/etc/passwd").exists());
}

#[test]
fn an_image_is_shown_by_name_and_digest() {
    let digest = digest("");
    let shown = |source| Pin { digest: digest.clone(), source }.to_string();
    assert_eq!(shown(Rootfs::Image("a.b/c:1".into())), format!("a.b/c:1@{digest}"));
    let pinned = format!("a.b/c@sha256:{}", "0".repeat(64));
    assert_eq!(shown(Rootfs::Image(pinned)), format!("a.b/c@{digest}"));
    assert_eq!(shown(Rootfs::OciLayout("/x".into())), format!("/x@{digest}"));
}
