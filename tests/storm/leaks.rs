//! What an instance has while every actor of it sleeps, down to the last port: whatever else is there has leaked.
//!
//! | of | at rest |
//! | --- | --- |
//! | processes | `up`, one of each role, Envoy; no sandbox, no zombie |
//! | links of the host, pinned namespaces, mounts | one for each worker; one mount for what containers write |
//! | links inside a worker | loopback, the uplink, one end for the next sandbox |
//! | namespaces the node holds | two for each worker: its own, and the next sandbox's |
//! | endpoints in a worker's rules | the next one, which nobody knows yet; in the map and in the set of the living alike |
//! | cgroups | none |
//! | files | no bundle, nothing of runsc, no draft; snapshots that records name, and no other |
//! | descriptors, memory | of each part what it had before the storm, and [`MORE_FDS`], [`MORE_MEMORY`] |

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use reveille_api::proto;
use tokio::time::{Instant, sleep};

use crate::{
    harness::{cluster::Cluster, processes},
    nemesis::control,
    plan::WORKERS,
};

const ROLES: [&str; 6] = ["controlplane", "node", "router", "envoy-supervisor", "envoy", "dns"];
/// Descriptors a part may have more than before: connections between parts that are made when first wanted. One was seen.
const MORE_FDS: usize = 8;
/// What a part may have grown by, MiB. Each thread that allocates has an arena, which malloc gives back only from its end:
/// so a part comes to rest at what its busiest moment took. The node hashes images on many threads, and 18 MiB were seen; of
/// the others 3 at most. In a long storm each part lives for about 40,000 increments: one that leaks 1.3 KB with each is seen.
const MORE_MEMORY: u64 = 48;
/// How long what is not needed any more may take to go.
const CLEARED: Duration = Duration::from_secs(60);

/// Of each part, at rest.
pub(crate) type Usage = BTreeMap<&'static str, Used>;

/// What one part has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) fds: usize,
    pub(crate) memory_mib: u64,
}

/// Now.
pub(crate) fn usage(cluster: &Cluster) -> Usage {
    let pids = ROLES.iter().filter_map(|role| Some((*role, cluster.pid_of(role)?)));
    let pids = pids.chain([("up", cluster.up_pid())]);
    pids.map(|(role, pid)| (role, Used { fds: fds(pid).len(), memory_mib: memory_mib(pid) }))
        .collect()
}

/// What has grown beyond its bound.
pub(crate) fn grown(before: &Usage, after: &Usage) -> Vec<String> {
    let grown = after.iter().filter(|(role, now)| {
        before.get(*role).is_none_or(|then| {
            now.fds > then.fds + MORE_FDS || now.memory_mib > then.memory_mib + MORE_MEMORY
        })
    });
    grown
        .map(|(role, now)| format!("{role}: {now:?}, before the storm {:?}", before.get(role)))
        .collect()
}

/// What should not be there while every actor sleeps. Reads the machine; blocks.
pub(crate) async fn at_rest(cluster: &Cluster) -> Vec<String> {
    let data = cluster.data_dir();
    let mut leaks = whole(cluster);
    let sandboxes = processes(&data, |program| program.contains("runsc"));
    leaks.extend(sandboxes.into_iter().map(|p| format!("a process: {}", p.command.join(" "))));
    let node = cluster.pid_of("node").unwrap_or_default();
    let held = namespaces(node, &data);
    count(&mut leaks, "namespaces the node holds", &held, 2 * WORKERS as usize);
    for pin in pins(&data) {
        inside(&pin, &mut leaks);
    }
    leaks.extend(cgroups(&prefix(&data)).into_iter().map(|dir| format!("a cgroup: {dir}")));
    for dir in ["node/bundles", "node/runsc", "node/criu", "run/memory"] {
        leaks
            .extend(names(&data.join(dir)).into_iter().map(|name| format!("a file: {dir}/{name}")));
    }
    unfinished(&data, &mut leaks);
    snapshots(&data, &mut leaks).await;
    leaks
}

/// What should not be there whatever the actors do, once everything has recovered.
pub(crate) fn whole(cluster: &Cluster) -> Vec<String> {
    let data = cluster.data_dir();
    let mut leaks = Vec::new();
    let known: Vec<_> = ROLES.iter().filter_map(|role| cluster.pid_of(role)).collect();
    count(&mut leaks, "parts", &known, ROLES.len());
    let strangers = processes(&data, |program| !program.contains("runsc"));
    let strangers =
        strangers.into_iter().filter(|p| p.pid != cluster.up_pid() && !known.contains(&p.pid));
    leaks.extend(strangers.map(|p| format!("a process: {}", p.command.join(" "))));
    let family: Vec<_> = known.iter().copied().chain([cluster.up_pid()]).collect();
    let zombies =
        processes::all().into_iter().filter(|p| p.state == 'Z' && family.contains(&p.parent));
    leaks.extend(zombies.map(|p| format!("a zombie: {} of {}", p.pid, p.parent)));

    let prefix = prefix(&data);
    let host = links(&["ip", "-o", "link"]);
    let host: Vec<_> = host.into_iter().filter(|name| name.starts_with(&prefix)).collect();
    count(&mut leaks, "links of the host", &host, WORKERS as usize);
    count(&mut leaks, "pinned namespaces", &pins(&data), WORKERS as usize);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let dir = data.display().to_string();
    let mounts: Vec<_> = mounts.lines().filter(|line| line.contains(&dir)).collect();
    // One more holds what containers write.
    count(&mut leaks, "mounts", &mounts, WORKERS as usize + 1);
    leaks
}

/// What `leaks` still tells of when everything has had the time to be cleared away.
pub(crate) async fn until_none<F: Future<Output = Vec<String>>>(
    mut leaks: impl FnMut() -> F,
) -> Vec<String> {
    let end = Instant::now() + CLEARED;
    loop {
        let left = leaks().await;
        if left.is_empty() || Instant::now() > end {
            return left;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn count<T: std::fmt::Debug>(
    leaks: &mut Vec<String>,
    what: &str,
    there: &(impl IntoIterator<Item = T> + Clone),
    right: usize,
) {
    let there: Vec<_> = there.clone().into_iter().collect();
    if there.len() != right {
        leaks.push(format!("{what}: {}, not {right}: {there:?}", there.len()));
    }
}

/// A worker's namespace.
fn inside(pin: &Path, leaks: &mut Vec<String>) {
    let enter = format!("--net={}", pin.display());
    let links = links(&["nsenter", &enter, "ip", "-o", "link"]);
    count(leaks, &format!("links in {}", pin.display()), &links, 3);
    let elements = |kind: &str, name: &str| -> BTreeSet<String> {
        let text = run(&["nsenter", &enter, "nft", "-j", "list", kind, "ip", "reveille", name]);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let found = json["nftables"].as_array().into_iter().flatten();
        let elements = found.filter_map(|object| object[kind]["elem"].as_array()).flatten();
        // An entry of a map is a pair; its first half is the port.
        elements.map(|e| e.get(0).unwrap_or(e).to_string()).collect()
    };
    let (endpoints, live) = (elements("map", "endpoints"), elements("set", "live"));
    count(leaks, &format!("endpoints in {}", pin.display()), &endpoints, 1);
    if endpoints != live {
        leaks.push(format!("endpoints {endpoints:?} in {}, living {live:?}", pin.display()));
    }
    let tables = run(&["nsenter", &enter, "nft", "list", "tables"]);
    count(leaks, &format!("tables in {}", pin.display()), &tables.lines(), 1);
}

/// Snapshots on the disk that no record names.
async fn snapshots(data: &Path, leaks: &mut Vec<String>) {
    let named = control(data).list_snapshots(proto::ListRequest::default()).await;
    let named: BTreeSet<_> = match named {
        Ok(reply) => reply
            .into_inner()
            .items
            .into_iter()
            .filter_map(|view| view.snapshot)
            .map(|s| s.id)
            .collect(),
        Err(status) => return leaks.push(format!("snapshots cannot be listed: {status}")),
    };
    let root = data.join("node/snapshots");
    for namespace in names(&root) {
        for actor in names(&root.join(&namespace)) {
            let ids = names(&root.join(&namespace).join(&actor));
            let unnamed = ids.into_iter().filter(|id| !named.contains(id));
            leaks.extend(unnamed.map(|id| format!("a snapshot: {namespace}/{actor}/{id}")));
        }
    }
}

/// Files that are only there while something is written or removed.
fn unfinished(dir: &Path, leaks: &mut Vec<String>) {
    for name in names(dir) {
        let path = dir.join(&name);
        let temporary =
            [".tmp", ".del"].iter().any(|sign| name.starts_with(sign) || name.ends_with(sign));
        if temporary || name.ends_with(".new") {
            leaks.push(format!("a file: {}", path.display()));
        } else if path.is_dir() && !path.is_symlink() {
            unfinished(&path, leaks);
        }
    }
}

/// Processes that live and name the data directory, by their program.
fn processes(data: &Path, is: impl Fn(&str) -> bool) -> Vec<processes::Process> {
    let dir = data.display().to_string();
    let ours = |p: &processes::Process| {
        let program = p.command.first().map(String::as_str).unwrap_or_default();
        p.state != 'Z' && is(program) && p.command.iter().any(|arg| arg.contains(&dir))
    };
    processes::all().into_iter().filter(ours).collect()
}

/// Descriptors of a process, as what they are.
fn fds(pid: i32) -> Vec<String> {
    let dir = PathBuf::from(format!("/proc/{pid}/fd"));
    let targets = names(&dir).into_iter().filter_map(|name| fs::read_link(dir.join(name)).ok());
    targets.map(|target| target.display().to_string()).collect()
}

/// Network namespaces that a process holds open, by their number. One that was opened by its pin is called by that.
fn namespaces(pid: i32, data: &Path) -> BTreeSet<u64> {
    let pins = data.join("run/netns").display().to_string();
    let dir = PathBuf::from(format!("/proc/{pid}/fd"));
    let is = |fd: &PathBuf| {
        let target = fs::read_link(fd).map(|target| target.display().to_string());
        target.is_ok_and(|target| target.starts_with("net:[") || target.starts_with(&pins))
    };
    let held = names(&dir).into_iter().map(|name| dir.join(name)).filter(is);
    held.filter_map(|fd| Some(fs::metadata(fd).ok()?.ino())).collect()
}

fn memory_mib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

fn pins(data: &Path) -> Vec<PathBuf> {
    let dir = data.join("run/netns");
    names(&dir).into_iter().map(|name| dir.join(name)).collect()
}

/// With which everything of this instance that has a name on the machine begins.
fn prefix(data: &Path) -> String {
    let pins = names(&data.join("run/netns"));
    let pin = pins.first().and_then(|name| name.split_once('-'));
    pin.map_or_else(|| "no worker".into(), |(prefix, _)| prefix.to_owned())
}

/// Groups whose name has the prefix, of whatever hierarchy.
fn cgroups(prefix: &str) -> Vec<String> {
    let found = run(&["find", "/sys/fs/cgroup", "-type", "d", "-name", &format!("*{prefix}*")]);
    found.lines().map(str::to_owned).collect()
}

/// Names of interfaces.
fn links(command: &[&str]) -> Vec<String> {
    let lines = run(command);
    let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
    lines.lines().filter_map(name).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Its standard output; what it says otherwise shows in what is then missing.
fn run(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_grows_beyond_its_bound_is_told() {
    let used = |fds, memory_mib| Usage::from([("router", Used { fds, memory_mib })]);
    let before = used(20, 30);
    assert!(grown(&before, &used(20 + MORE_FDS, 30 + MORE_MEMORY)).is_empty());
    assert_eq!(grown(&before, &used(21 + MORE_FDS, 30)).len(), 1);
    assert_eq!(grown(&before, &used(20, 31 + MORE_MEMORY)).len(), 1);
    assert_eq!(grown(&Usage::new(), &used(1, 1)).len(), 1);
}
