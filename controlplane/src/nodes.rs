//! Nodes: which are there, how to reach them, and when they are given up.
//!
//! ```text
//!             Register            inventory compared with the records
//!   (away) ─────────────▶ joining ─────────────────────────────────▶ ready
//!      ▲                                                                │
//!      └──── the stream breaks, or three heartbeats are missed ─────────┘
//!      │
//!      └──── away for longer than the grace: its activations are lost, until it comes back with them
//! ```
//!
//! A node is ready when it has registered *and* can be called at the address it gave. Calls wait for that; so a wake that
//! arrives before a node is back after a restart of the control plane just waits.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reveille_api::{
    ActorKey, Stay,
    manifest::{egress::IpBlock, template::Runtime},
    proto,
};
use tokio::sync::watch;

use crate::{
    clock::{Clock, Moment, unix_ms},
    config::Timings,
    metrics::Presence,
};

pub mod agent;
pub mod call;
mod doubt;
pub mod reconcile;

#[cfg(test)]
mod tests;

pub use agent::{Agent, Dial, GrpcAgent};

/// Every node that was heard of, or that a record names.
pub struct Nodes {
    inner: Mutex<HashMap<String, Node>>,
    changed: watch::Sender<()>,
    dial: Dial,
    clock: Clock,
    timings: Timings,
}

struct Node {
    link: Link,
    /// The last one, also after its end.
    stay: Stay,
    /// Given up: its activations were told to be lost.
    lost: bool,
    register: proto::Register,
    heartbeat: proto::Heartbeat,
    last_seen_unix_ms: u64,
}

enum Link {
    Away { since: Moment },
    Joining { stay: Stay },
    Ready { stay: Stay, agent: Arc<dyn Agent> },
}

/// Why an agent may not register.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It cannot be called there.
    #[error("{0}")]
    Address(String),
    /// It is not the one that runs the node's actors.
    #[error(
        "the node name {node} is in use by the agent at {address}, which has another data directory: give this one \
         another --name, or end that one"
    )]
    InUse {
        /// The name.
        node: String,
        /// Where the other one is.
        address: String,
    },
}

/// How a node is doing, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub node: String,
    /// It can be asked for activations.
    pub ready: bool,
    /// It is given up, with what ran there.
    pub lost: bool,
    /// 0: not by this control plane.
    pub last_seen_unix_ms: u64,
}

/// One stay of a node.
#[derive(Clone)]
pub struct Session {
    /// Which node.
    pub node: String,
    /// Tells a late end of an earlier stay from the end of this one.
    stay: Stay,
    /// Calls it.
    pub agent: Arc<dyn Agent>,
}

impl Nodes {
    /// None yet. `dial` makes the client for a node.
    pub fn new(dial: Dial, clock: Clock, timings: Timings) -> Self {
        let (changed, _) = watch::channel(());
        Self { inner: Mutex::default(), changed, dial, clock, timings }
    }

    fn inner(&self) -> MutexGuard<'_, HashMap<String, Node>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record names this node: it is given the grace to come back.
    pub fn expect(&self, node: &str) {
        let since = self.clock.now();
        let mut inner = self.inner();
        if inner.contains_key(node) {
            return;
        }
        let unheard = Node {
            link: Link::Away { since },
            stay: Stay::default(),
            lost: false,
            register: proto::Register { node: node.to_owned(), ..Default::default() },
            heartbeat: proto::Heartbeat::default(),
            last_seen_unix_ms: 0,
        };
        inner.insert(node.to_owned(), unheard);
        drop(inner);
        self.changed.send_replace(());
    }

    /// A node registers. It is ready only after [`Nodes::ready`].
    pub fn join(&self, register: proto::Register) -> Result<Session, Refused> {
        let node = register.node.clone();
        let mut inner = self.inner();
        if let Some(known) = inner.get(&node).filter(|known| known.is_kept_from(&register)) {
            return Err(Refused::InUse { node, address: known.register.address.clone() });
        }
        // Above those of an earlier control plane, which the agent remembers, and of an earlier agent.
        let last = inner.get(&node).map_or(0, |node| node.stay.0);
        let stay = Stay(last.max(register.stay).saturating_add(1));
        let agent = (self.dial)(&node, &register.address, stay).map_err(Refused::Address)?;
        let entry = Node {
            link: Link::Joining { stay },
            stay,
            lost: false,
            register,
            heartbeat: proto::Heartbeat::default(),
            last_seen_unix_ms: unix_ms(),
        };
        inner.insert(node.clone(), entry);
        drop(inner);
        self.changed.send_replace(());
        Ok(Session { node, stay, agent })
    }

    /// It can be called, and its inventory is known. False when this stay is over already.
    pub fn ready(&self, session: &Session) -> bool {
        let mut inner = self.inner();
        let Some(node) = inner.get_mut(&session.node) else { return false };
        let now_ready = node.link.stay() == Some(session.stay);
        if now_ready {
            let agent = Arc::clone(&session.agent);
            node.link = Link::Ready { stay: session.stay, agent };
        }
        drop(inner);
        self.changed.send_replace(());
        now_ready
    }

    /// It said that it is there. False when this stay is over already.
    pub fn heartbeat(&self, session: &Session, heartbeat: proto::Heartbeat) -> bool {
        let mut inner = self.inner();
        let node = inner.get_mut(&session.node);
        let Some(node) = node.filter(|node| node.link.stay() == Some(session.stay)) else {
            return false;
        };
        node.heartbeat = heartbeat;
        node.last_seen_unix_ms = unix_ms();
        true
    }

    /// A stay ends. False when another has begun already.
    pub fn leave(&self, session: &Session) -> bool {
        let since = self.clock.now();
        let mut inner = self.inner();
        let Some(node) = inner.get_mut(&session.node) else { return false };
        let was_current = node.link.stay() == Some(session.stay);
        if was_current {
            node.link = Link::Away { since };
        }
        drop(inner);
        self.changed.send_replace(());
        was_current
    }

    /// The client of a ready node.
    pub fn agent(&self, node: &str) -> Option<Arc<dyn Agent>> {
        match &self.inner().get(node)?.link {
            Link::Ready { agent, .. } => Some(Arc::clone(agent)),
            _ => None,
        }
    }

    /// True when nodes are known and none of them may run from this folder: it names what to do about that.
    pub fn forbid(&self, folder: &Path) -> bool {
        self.none_of_some(|node| node.rootfs_folders.iter().any(|f| folder.starts_with(f)))
    }

    /// True when nodes are known and none of them lets actors reach this network.
    pub fn shut_in(&self, network: IpBlock) -> bool {
        let names =
            |named: &String| named.parse().is_ok_and(|named: IpBlock| named.covers(network));
        self.none_of_some(|node| node.egress.iter().any(names))
    }

    /// True when nodes are known and none of them has this runtime.
    pub fn lack(&self, runtime: Runtime) -> bool {
        self.none_of_some(|node| node.runtimes.iter().any(|found| found.name == runtime.name()))
    }

    fn none_of_some(&self, suits: impl Fn(&proto::Register) -> bool) -> bool {
        let inner = self.inner();
        let mut known = inner.values().filter(|node| !node.register.instance.is_empty()).peekable();
        known.peek().is_some() && !known.any(|node| suits(&node.register))
    }

    /// True while a node is given up.
    pub fn is_lost(&self, node: &str) -> bool {
        self.inner().get(node).is_some_and(|node| node.lost)
    }

    /// How a node is doing.
    pub fn standing(&self, name: &str) -> Option<Standing> {
        let inner = self.inner();
        let node = inner.get(name)?;
        Some(Standing {
            node: name.to_owned(),
            ready: matches!(node.link, Link::Ready { .. }),
            lost: node.lost,
            last_seen_unix_ms: node.last_seen_unix_ms,
        })
    }

    /// Waits until a node is ready.
    pub async fn when_ready(&self, node: &str) -> Arc<dyn Agent> {
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(agent) = self.agent(node) {
                return agent;
            }
            if changes.changed().await.is_err() {
                // The sender is a part of this: it cannot be gone.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Names the nodes whose grace has passed, each once per absence. Never ends.
    pub async fn watch_for_lost(&self, lost: impl Fn(&str)) {
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            let now = self.clock.now();
            let mut next: Option<Moment> = None;
            let mut gone = Vec::new();
            for (name, node) in self.inner().iter_mut() {
                let Link::Away { since } = node.link else { continue };
                let until = since.plus(self.timings.node_grace);
                if node.lost {
                    continue;
                } else if until <= now {
                    node.lost = true;
                    gone.push(name.clone());
                } else {
                    next = Some(next.map_or(until, |next| next.min(until)));
                }
            }
            for node in gone {
                tracing::warn!(
                    node,
                    "a node has been silent for too long: its activations are lost"
                );
                lost(&node);
            }
            let wait = async {
                match next {
                    Some(next) => tokio::time::sleep_until(self.clock.instant(next)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = changes.changed() => {}
                () = wait => {}
            }
        }
    }

    /// How far a snapshot is on its way to the store: bytes that are there, and all.
    pub fn upload(&self, node: &str, key: &ActorKey, id: &str) -> Option<(u64, u64)> {
        let inner = self.inner();
        let uploads = &inner.get(node)?.heartbeat.uploads;
        let key = Some(key.into());
        let upload = uploads.iter().find(|upload| upload.actor == key && upload.snapshot == id)?;
        Some((upload.done_bytes, upload.total_bytes))
    }

    /// Snapshots on their way to the store, and their bytes that are not there yet.
    pub fn uploads(&self) -> (u64, u64) {
        let inner = self.inner();
        let uploads = inner.values().flat_map(|node| &node.heartbeat.uploads);
        uploads.fold((0, 0), |(count, bytes), upload| {
            (count + 1, bytes + upload.total_bytes.saturating_sub(upload.done_bytes))
        })
    }

    /// Of each node, whether it is there.
    pub(crate) fn presence(&self) -> Vec<Presence> {
        let presence = |node: &Node| match node.link {
            Link::Ready { .. } => Presence::Ready,
            Link::Joining { .. } => Presence::Joining,
            Link::Away { .. } if node.lost => Presence::Lost,
            Link::Away { .. } => Presence::Away,
        };
        self.inner().values().map(presence).collect()
    }

    /// Every node, by name, for people. `used` counts its workers in use.
    pub fn list(&self, used: &BTreeMap<String, u32>) -> Vec<proto::Node> {
        let mut nodes: Vec<_> = self
            .inner()
            .iter()
            .map(|(name, node)| proto::Node {
                name: name.clone(),
                address: node.register.address.clone(),
                ready: matches!(node.link, Link::Ready { .. }),
                workers: node.register.workers,
                workers_used: used.get(name).copied().unwrap_or(0),
                labels: node.register.labels.clone(),
                runtimes: node.register.runtimes.clone(),
                last_seen_unix_ms: node.last_seen_unix_ms,
                snapshot_bytes: node.heartbeat.snapshot_bytes,
                disk_free_bytes: node.heartbeat.disk_free_bytes,
            })
            .collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }
}

impl Node {
    /// True when the agent that wants to register has another data directory than the one that has the name. Nobody else
    /// has what runs there, until it is given up.
    fn is_kept_from(&self, register: &proto::Register) -> bool {
        let (here, there) = (&self.register.home, &register.home);
        !self.lost && !here.is_empty() && !there.is_empty() && here != there
    }
}

impl Link {
    fn stay(&self) -> Option<Stay> {
        match self {
            Self::Away { .. } => None,
            Self::Joining { stay } | Self::Ready { stay, .. } => Some(*stay),
        }
    }
}
