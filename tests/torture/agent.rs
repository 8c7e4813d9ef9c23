//! The agent as a process, and how it and what it has made are killed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use reveille_api::{
    net::Address,
    proto::{self, node_agent_client::NodeAgentClient},
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::{
    harness::{
        cluster::free_range,
        leaks::{self, names},
        processes, repository,
    },
    oci::{Layout, archive},
    plan::{ACTORS, Victim},
    step::Places,
};

/// As control planes know it.
pub(crate) const NODE: &str = "t";
/// How long a start may take, with everything that is to be adopted or removed, and a stop.
const START: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(60);

pub(crate) type Client = NodeAgentClient<Channel>;

/// A `reveille node`, now or again.
pub(crate) struct Agent {
    pub(crate) dir: TempDir,
    /// The counter as an image.
    pub(crate) layout: Layout,
    range: String,
    child: Option<Child>,
}

impl Agent {
    /// On a directory of its own; not started yet.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("rvt").tempdir().expect("a temporary directory");
        let rootfs = archive(&repository().join(".deps/rootfs/counter"));
        let execution = serde_json::json!({});
        let layout = Layout::new(&dir.path().join("layout"), &[rootfs], execution);
        Self { dir, layout, range: free_range(), child: None }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |child| child.id() as i32)
    }

    /// For one call after the other to this agent; of the next one it knows nothing.
    pub(crate) fn client(&self) -> Client {
        NodeAgentClient::new(Address::Unix(self.data().join("run/node.sock")).channel())
    }

    /// Starts the process, and does not wait for it.
    pub(crate) fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        let rootfs = repository().join(".deps/rootfs");
        let bin = |name: &str| repository().join(".deps/bin").join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("REVEILLE_") {
                command.env_remove(name);
            }
        }
        command
            .args(["node", "--name", NODE, "--workers", &ACTORS.to_string()])
            .args(["--worker-cidr", &self.range])
            // What is in the store leaves the node at once.
            .args(["--snapshot-cache", "1", "--store"])
            .arg(format!("file://{}", self.store().display()))
            .args(["--allow-egress", "198.51.100.0/24"])
            .arg("--data-dir")
            .arg(self.data())
            .arg("--allow-rootfs")
            .arg(rootfs)
            .arg("--allow-rootfs")
            .arg(&self.layout.dir)
            .arg("--runsc")
            .arg(bin("runsc"))
            .arg("--criu")
            .arg(bin("criu"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        self.child = Some(command.spawn().expect("reveille starts"));
    }

    /// Starts it, and waits until it answers. It has adopted or removed by then what was there.
    pub(crate) async fn start(&mut self) -> Result<(), String> {
        self.spawn();
        let end = Instant::now() + START;
        loop {
            let last = match inventory(&self.client()).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("waited"));
            if let Some(status) = ended {
                self.child = None;
                return Err(format!("the agent does not start: {status}"));
            }
            if Instant::now() > end {
                return Err(format!("the agent does not answer within {START:?}: {last}"));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// It is dead already; takes note of that.
    pub(crate) fn bury(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.wait().expect("it is dead");
        }
    }

    /// Ends it, and everything of it on this machine.
    pub(crate) async fn destroy(&mut self) -> Result<(), String> {
        processes::signal(self.pid(), Signal::SIGINT);
        let end = Instant::now() + STOP;
        while let Some(child) = &mut self.child {
            match child.try_wait().expect("waited") {
                Some(status) if status.success() => self.child = None,
                Some(status) => return Err(format!("the agent ended with {status}")),
                None if Instant::now() > end => {
                    return Err(format!("the agent does not end within {STOP:?}"));
                }
                None => sleep(Duration::from_millis(10)).await,
            }
        }
        let left = processes::traces(&self.data(), self.range.trim_end_matches("0/24"));
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:#?}")) }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("agent.log")
    }

    /// Its last words, and what its threads do.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let mut tail = lines[lines.len().saturating_sub(80)..].join("\n");
        let threads = PathBuf::from(format!("/proc/{}/task", self.pid()));
        for thread in names(&threads) {
            let read = |file| fs::read_to_string(threads.join(&thread).join(file));
            let read = |file| read(file).unwrap_or_default().trim_end().to_owned();
            tail += &format!("\nthread {thread} {} in {}", read("comm"), read("wchan"));
        }
        tail
    }
}

/// A torture that failed must not be in the way of others.
impl Drop for Agent {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        strike(Victim::Everything, self.pid(), &self.data(), None);
        self.bury();
        // The next one knows what there is to be removed.
        self.spawn();
        let socket = self.data().join("run/node.sock");
        let until = |mut done: Box<dyn FnMut() -> bool>| {
            (0..2_000).any(|_| {
                std::thread::park_timeout(Duration::from_millis(10));
                done()
            })
        };
        until(Box::new(move || std::os::unix::net::UnixStream::connect(&socket).is_ok()));
        processes::signal(self.pid(), Signal::SIGINT);
        if let Some(mut child) = self.child.take() {
            until(Box::new(move || matches!(child.try_wait(), Ok(Some(_)))));
        }
        strike(Victim::Everything, 0, &self.data(), None);
    }
}

/// What is on the node.
pub(crate) async fn inventory(client: &Client) -> Result<proto::Inventory, String> {
    let reply = client.clone().get_inventory(proto::GetInventoryRequest {}).await;
    reply.map(tonic::Response::into_inner).map_err(|status| told(&status))
}

/// For people.
pub(crate) fn told(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// Kills. The processes that were there, but the agent.
pub(crate) fn strike(victim: Victim, agent: i32, data: &Path, leader: Option<&Places>) -> Vec<i32> {
    let mut killed = Vec::new();
    let mut kill = |pids: Vec<i32>| {
        pids.iter().for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
        killed.extend(pids);
    };
    match victim {
        Victim::Agent => processes::signal(agent, Signal::SIGKILL),
        Victim::Programs => kill(programs(agent)),
        Victim::Sandbox => {
            kill(leader.and_then(sandbox).map(|id| members(&id)).unwrap_or_default())
        }
        Victim::Everything => {
            if agent > 0 {
                processes::signal(agent, Signal::SIGKILL);
            }
            // Some may be about to make others.
            for _ in 0..100 {
                let found = everything(data);
                if found.is_empty() {
                    break;
                }
                kill(found);
            }
        }
    }
    killed
}

/// What the agent has started and not waited for to the end.
pub(crate) fn programs(agent: i32) -> Vec<i32> {
    let programs = processes::descendants(agent).into_iter();
    programs.filter(|program| program.state != 'Z').map(|program| program.pid).collect()
}

/// The sandbox of an actor that has one.
fn sandbox(places: &Places) -> Option<String> {
    let record: serde_json::Value = serde_json::from_str(&places.record()).ok()?;
    Some(record["activation"]["sandbox"].as_str()?.to_owned())
}

/// The process whose end is that of the actor's activation.
pub(crate) fn process_of(places: &Places) -> Option<i32> {
    let record: serde_json::Value = serde_json::from_str(&places.record()).ok()?;
    Some(record["activation"]["process"]["pid"].as_i64()? as i32)
}

/// All of this data directory that lives, but an agent.
fn everything(data: &Path) -> Vec<i32> {
    let named = leaks::running(data, |program| !program.ends_with("/reveille"));
    let mut found: BTreeSet<_> = named.into_iter().map(|process| process.pid).collect();
    let prefix = leaks::prefix(data);
    let groups = names(&cgroups()).into_iter().filter(|name| name.starts_with(&prefix));
    found.extend(groups.flat_map(|group| members(&group)));
    found.into_iter().filter(|pid| processes::alive(*pid)).collect()
}

/// Of a control group.
fn members(group: &str) -> Vec<i32> {
    let members = fs::read_to_string(cgroups().join(group).join("cgroup.procs"));
    members.unwrap_or_default().lines().filter_map(|pid| pid.parse().ok()).collect()
}

/// Where version 2 is mounted.
fn cgroups() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    mounts.find(|fields| fields[2] == "cgroup2").map(|fields| fields[1].into()).unwrap_or_default()
}
