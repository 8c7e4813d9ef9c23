//! What a node has while no actor of it runs, down to the last port: whatever else is there has leaked.
//!
//! | of | at rest |
//! | --- | --- |
//! | processes | no sandbox, no program |
//! | links of the host, pinned namespaces, mounts | one for each worker; one mount for what containers write |
//! | links inside a worker | loopback, the uplink, one end for the next sandbox |
//! | namespaces the agent holds | two for each worker: its own, and the next sandbox's |
//! | endpoints in a worker's rules | the next one, which nobody knows yet; in the map and in the set of the living alike |
//! | whom a worker's rules let out | nobody |
//! | tables of the host | none; one of a node that may let actors out |
//! | cgroups | none |
//! | files | no bundle, nothing of runsc, no draft; snapshots that somebody names, and no other |

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::processes::{self, Process};

/// How long what is not needed any more may take to go.
const CLEARED: Duration = Duration::from_secs(60);

/// Where a node has its files, how many workers, and who is its agent.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    pub data: &'a Path,
    pub workers: u32,
    pub agent: i32,
    /// It may let actors out.
    pub egress: bool,
}

impl Node<'_> {
    /// What should not be there while every actor sleeps. Blocks.
    pub fn at_rest(&self) -> Vec<String> {
        let data = self.data;
        let sandboxes = running(data, |program| program.contains("runsc"));
        let mut leaks: Vec<_> =
            sandboxes.into_iter().map(|p| format!("a process: {}", p.command.join(" "))).collect();
        let held = namespaces(self.agent, data);
        count(&mut leaks, "namespaces the node holds", &held, 2 * self.workers as usize);
        for pin in pins(data) {
            inside(&pin, &mut leaks);
        }
        leaks.extend(cgroups(&prefix(data)).into_iter().map(|dir| format!("a cgroup: {dir}")));
        for dir in ["node/bundles", "node/runsc", "node/criu", "run/memory"] {
            let left = names(&data.join(dir));
            leaks.extend(left.into_iter().map(|name| format!("a file: {dir}/{name}")));
        }
        unfinished(data, &mut leaks);
        leaks
    }

    /// What should not be there of its network whatever the actors do.
    pub fn network(&self) -> Vec<String> {
        let (data, mut leaks) = (self.data, Vec::new());
        let prefix = prefix(data);
        let host = links(&["ip", "-o", "link"]);
        let host: Vec<_> = host.into_iter().filter(|name| name.starts_with(&prefix)).collect();
        count(&mut leaks, "links of the host", &host, self.workers as usize);
        count(&mut leaks, "pinned namespaces", &pins(data), self.workers as usize);
        let tables = run(&["nft", "list", "tables"]);
        let tables: Vec<_> = tables.lines().filter(|line| line.contains(&prefix)).collect();
        count(&mut leaks, "tables of the host", &tables, self.egress.into());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let dir = data.display().to_string();
        let mounts: Vec<_> = mounts.lines().filter(|line| line.contains(&dir)).collect();
        // One more holds what containers write.
        count(&mut leaks, "mounts", &mounts, self.workers as usize + 1);
        leaks
    }

    /// Snapshots on its disk that nobody names.
    pub fn unnamed(&self, named: &BTreeSet<String>) -> Vec<String> {
        let (root, mut leaks) = (self.data.join("node/snapshots"), Vec::new());
        for namespace in names(&root) {
            for actor in names(&root.join(&namespace)) {
                let ids = names(&root.join(&namespace).join(&actor));
                let unnamed = ids.into_iter().filter(|id| !named.contains(id));
                leaks.extend(unnamed.map(|id| format!("a snapshot: {namespace}/{actor}/{id}")));
            }
        }
        leaks
    }
}

/// Dead children that nobody has asked how they ended.
pub fn zombies(family: &[i32]) -> Vec<String> {
    let zombies =
        processes::all().into_iter().filter(|p| p.state == 'Z' && family.contains(&p.parent));
    zombies.map(|p| format!("a zombie: {} of {}", p.pid, p.parent)).collect()
}

/// What `leaks` still tells of when everything has had the time to be cleared away.
pub async fn until_none<F: Future<Output = Vec<String>>>(
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

pub fn count<T: std::fmt::Debug>(
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
    let egress = run(&["nsenter", &enter, "nft", "list", "chain", "ip", "reveille", "egress"]);
    let accepts: Vec<_> = egress.lines().filter(|line| line.contains("accept")).collect();
    count(leaks, &format!("whom {} lets out", pin.display()), &accepts, 0);
    let tables = run(&["nsenter", &enter, "nft", "list", "tables"]);
    count(leaks, &format!("tables in {}", pin.display()), &tables.lines(), 1);
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
pub fn running(data: &Path, is: impl Fn(&str) -> bool) -> Vec<Process> {
    let dir = data.display().to_string();
    let ours = |p: &Process| {
        let program = p.command.first().map(String::as_str).unwrap_or_default();
        p.state != 'Z' && is(program) && p.command.iter().any(|arg| arg.contains(&dir))
    };
    processes::all().into_iter().filter(ours).collect()
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

fn pins(data: &Path) -> Vec<PathBuf> {
    let dir = data.join("run/netns");
    names(&dir).into_iter().map(|name| dir.join(name)).collect()
}

/// With which everything of this instance that has a name on the machine begins.
pub fn prefix(data: &Path) -> String {
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

pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Its standard output; what it says otherwise shows in what is then missing.
fn run(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
