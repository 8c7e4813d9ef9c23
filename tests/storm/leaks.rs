//! What an instance has while every actor of it sleeps: of its node what [`leaks`] says, and
//!
//! | of | at rest |
//! | --- | --- |
//! | processes | `up`, one of each role, Envoy; no zombie |
//! | snapshots | those that records name, and no other |
//! | descriptors, memory | of each part what it had before the storm, and [`MORE_FDS`], [`MORE_MEMORY`] |

use std::{collections::BTreeMap, fs, path::PathBuf};

use reveille_api::proto;

pub(crate) use crate::harness::leaks::until_none;
use crate::{
    harness::{cluster::Cluster, leaks},
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
    let agent = cluster.pid_of("node").unwrap_or_default();
    let node = leaks::Node { data: &data, workers: WORKERS, agent, egress: false };
    let mut leaks = whole(cluster);
    leaks.extend(node.at_rest());
    match control(&data).list_snapshots(proto::ListRequest::default()).await {
        Ok(reply) => {
            let named = reply.into_inner().items.into_iter().filter_map(|view| view.snapshot);
            leaks.extend(node.unnamed(&named.map(|snapshot| snapshot.id).collect()));
        }
        Err(status) => leaks.push(format!("snapshots cannot be listed: {status}")),
    }
    leaks
}

/// What should not be there whatever the actors do, once everything has recovered.
pub(crate) fn whole(cluster: &Cluster) -> Vec<String> {
    let data = cluster.data_dir();
    let mut leaks = Vec::new();
    let known: Vec<_> = ROLES.iter().filter_map(|role| cluster.pid_of(role)).collect();
    leaks::count(&mut leaks, "parts", &known, ROLES.len());
    let family: Vec<_> = known.iter().copied().chain([cluster.up_pid()]).collect();
    let strangers = leaks::running(&data, |program| !program.contains("runsc"));
    let strangers = strangers.into_iter().filter(|p| !family.contains(&p.pid));
    leaks.extend(strangers.map(|p| format!("a process: {}", p.command.join(" "))));
    leaks.extend(leaks::zombies(&family));
    let agent = cluster.pid_of("node").unwrap_or_default();
    leaks.extend(leaks::Node { data: &data, workers: WORKERS, agent, egress: false }.network());
    leaks
}

/// Descriptors of a process, as what they are.
fn fds(pid: i32) -> Vec<String> {
    let dir = PathBuf::from(format!("/proc/{pid}/fd"));
    let targets =
        leaks::names(&dir).into_iter().filter_map(|name| fs::read_link(dir.join(name)).ok());
    targets.map(|target| target.display().to_string()).collect()
}

fn memory_mib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
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
