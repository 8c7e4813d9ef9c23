//! Bare `runsc`.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use super::{NETNS, Shell, copy_identity, layers};
use crate::harness::repository;

const ID: &str = "bare-restore";
/// As the node has them.
const FLAGS: [&str; 5] = [
    "--platform=systrap",
    "--network=sandbox",
    "--overlay2=root:memory",
    "--ignore-cgroups=true",
    "--net-disconnect-ok=true",
];
const CHECKPOINT: &str = "--compression=none --exclude-committed-zero-pages";

pub(super) async fn prepare(bundle: &Path, dir: &Path, shell: &mut Shell) -> Result<()> {
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(bundle.join("config.json"))?)?;
    let namespaces = config["linux"]["namespaces"].as_array_mut().context("namespaces")?;
    for namespace in namespaces.iter_mut().filter(|n| n["type"] == "network") {
        namespace["path"] = format!("/run/netns/{NETNS}").into();
    }
    let identity = copy_identity(bundle, dir)?;
    let mounts = config["mounts"].as_array_mut().context("mounts")?;
    for mount in mounts.iter_mut().filter(|m| m["destination"] == "/run/reveille") {
        mount["source"] = identity.display().to_string().into();
    }
    let root = dir.join("root");
    fs::create_dir(&root)?;
    config["root"]["path"] = root.display().to_string().into();
    fs::create_dir(dir.join("bundle"))?;
    fs::write(dir.join("bundle/config.json"), config.to_string())?;
    // In which this runsc release accepts its network namespace.
    shell.run("mount -t tmpfs -o ro tmpfs /proc/sys/net").await?;
    let (layers, root) = (layers(bundle)?, root.display());
    shell.run(&format!("mount -t overlay overlay -o lowerdir={layers},index=off {root}")).await
}

fn runsc(dir: &Path) -> String {
    let runsc = repository().join(".deps/bin/runsc");
    format!("{} {} --root={}", runsc.display(), FLAGS.join(" "), dir.display())
}

pub(super) async fn restore(shell: &mut Shell, image: &Path) -> Result<()> {
    let (runsc, bundle) = (runsc(&shell.dir), shell.dir.join("bundle"));
    let (bundle, image) = (bundle.display(), image.display());
    // What it starts outlives it and has its output.
    let restore = format!("restore --detach --bundle={bundle} --image-path={image} {ID}");
    shell.run(&format!("{runsc} {restore} </dev/null >/dev/null")).await
}

pub(super) async fn checkpoint(shell: &mut Shell, image: &Path) -> Result<()> {
    let (runsc, image) = (runsc(&shell.dir), image.display());
    shell.run(&format!("{runsc} checkpoint {CHECKPOINT} --image-path={image} {ID}")).await
}

pub(super) async fn delete(shell: &mut Shell) -> Result<()> {
    let runsc = runsc(&shell.dir);
    shell.run(&format!("{runsc} delete --force {ID}")).await
}

pub(super) fn drop(dir: &Path) {
    let runsc = repository().join(".deps/bin/runsc");
    let mut delete = Command::new(runsc);
    delete.args(FLAGS).arg(format!("--root={}", dir.display())).args(["delete", "--force", ID]);
    // There may be none.
    let _ = delete.output();
}
