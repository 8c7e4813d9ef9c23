//! Which Envoys are connected, what they have, and what they refused.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use envoy_types::pb::envoy::config::core::v3::{Node, node::UserAgentVersionType};
use reveille_api::metrics::Registry;
use serde::Serialize;
use tokio::sync::watch;

use super::{
    catalog::{Kind, hash_of},
    metrics::Metrics,
    session::Heard,
};

/// Refusals that are kept.
const NACKS: usize = 32;
/// Envoy's text for one refusal may list every field of a listener.
const MESSAGE: usize = 2000;

/// The view that every stream writes to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fleet {
    view: watch::Sender<Arc<View>>,
    metrics: Metrics,
}

/// What is known of all Envoys.
#[derive(Clone, Debug, Default, Serialize)]
pub struct View {
    /// The connected ones, by stream, the longest connected first.
    pub envoys: BTreeMap<u64, Envoy>,
    /// Refusals, also of Envoys that are gone, the newest last.
    pub nacks: VecDeque<Nack>,
    #[serde(skip)]
    streams: u64,
}

/// A connected Envoy.
#[derive(Clone, Debug, Serialize)]
pub struct Envoy {
    /// The node id of its bootstrap.
    pub node_id: String,
    /// Envoy's own version.
    pub build: String,
    /// "delta" or "state of the world".
    pub protocol: &'static str,
    /// Since when, in milliseconds of the Unix clock.
    pub connected_unix_ms: u64,
    /// What it has, by kind.
    pub acked: BTreeMap<Kind, Acked>,
    /// What it refused last on this stream.
    pub last_nack: Option<Nack>,
}

/// A version that an Envoy has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Acked {
    /// Version of all resources of the kind.
    pub version: String,
    /// When it said so.
    pub unix_ms: u64,
}

/// A version that an Envoy refused; it goes on with what it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nack {
    /// Who.
    pub node_id: String,
    /// Of what.
    pub kind: Kind,
    /// Version of all resources of the kind.
    pub version: String,
    /// Envoy's reason.
    pub message: String,
    /// When, the last time.
    pub unix_ms: u64,
    /// How often: a content is refused again after each reconnect.
    pub times: u64,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { view: watch::Sender::new(Arc::default()), metrics: Metrics::default() }
    }
}

impl Fleet {
    /// As it is now.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// As it changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Makes its series part of this registry.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// An Envoy has connected; it is in the view until the member is dropped.
    pub(super) fn join(&self, node: Node, protocol: &'static str, now: u64) -> Member {
        let envoy = Envoy {
            build: build(&node),
            node_id: node.id,
            protocol,
            connected_unix_ms: now,
            acked: BTreeMap::new(),
            last_nack: None,
        };
        tracing::info!(node = envoy.node_id, build = envoy.build, protocol, "Envoy connected");
        let mut stream = 0;
        self.change(|view| {
            view.streams += 1;
            stream = view.streams;
            view.envoys.insert(stream, envoy);
        });
        Member { fleet: self.clone(), stream }
    }

    fn change(&self, change: impl FnOnce(&mut View)) {
        self.view.send_modify(|view| {
            let view = Arc::make_mut(view);
            change(view);
            self.metrics.envoys.set(view.envoys.len() as i64);
        });
    }
}

/// A connected Envoy's place in the view.
#[derive(Debug)]
pub(super) struct Member {
    fleet: Fleet,
    stream: u64,
}

impl Member {
    /// A response goes to it.
    pub(super) fn pushed(&self, type_url: &str) {
        self.fleet.metrics.pushed(type_url);
    }

    pub(super) fn heard(&self, heard: Heard, now: u64) {
        self.fleet.metrics.heard(&heard);
        self.fleet.change(|view| match heard {
            Heard::Acked { kind, version } => {
                let Some(envoy) = view.envoys.get_mut(&self.stream) else { return };
                tracing::debug!(node = envoy.node_id, %kind, version, "configuration accepted");
                envoy.acked.insert(kind, Acked { version, unix_ms: now });
            }
            Heard::Nacked { kind, version, message } => {
                view.nacked(self.stream, kind, version, message, now);
            }
        });
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.fleet.change(|view| {
            if let Some(envoy) = view.envoys.remove(&self.stream) {
                tracing::info!(node = envoy.node_id, "Envoy disconnected");
            }
        });
    }
}

impl View {
    /// Logs a refusal once, however often it is repeated.
    fn nacked(&mut self, stream: u64, kind: Kind, version: String, mut message: String, now: u64) {
        let Some(envoy) = self.envoys.get_mut(&stream) else { return };
        message.truncate(message.floor_char_boundary(MESSAGE));
        let node_id = envoy.node_id.clone();
        let same = |nack: &Nack| {
            (&nack.node_id, nack.kind, &nack.message) == (&node_id, kind, &message)
                && hash_of(&nack.version) == hash_of(&version)
        };
        let times = match self.nacks.iter().position(same) {
            Some(at) => self.nacks.remove(at).map_or(1, |before| before.times + 1),
            None => 1,
        };
        if times == 1 {
            tracing::warn!(node = node_id, %kind, version, message, "Envoy refused its configuration");
        }
        let nack = Nack { node_id, kind, version, message, unix_ms: now, times };
        envoy.last_nack = Some(nack.clone());
        self.nacks.push_back(nack);
        if self.nacks.len() > NACKS {
            self.nacks.pop_front();
        }
    }
}

fn build(node: &Node) -> String {
    match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => {
            let version = build.version.as_ref().map(|version| {
                format!("{}.{}.{}", version.major_number, version.minor_number, version.patch)
            });
            version.unwrap_or_default()
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nacked(version: &str, message: &str) -> Heard {
        Heard::Nacked { kind: Kind::Listener, version: version.into(), message: message.into() }
    }

    #[test]
    fn an_envoy_is_in_the_view_while_it_is_connected_and_its_refusals_stay() {
        let fleet = Fleet::default();
        let node = Node { id: "envoy-1".into(), ..Default::default() };
        let member = fleet.join(node, "delta", 1);
        member.heard(Heard::Acked { kind: Kind::Cluster, version: "v".into() }, 2);
        member.heard(nacked("1-0123456789abcdef", "no"), 3);
        let view = fleet.view();
        let envoy = view.envoys.values().next().unwrap();
        assert_eq!(envoy.acked[&Kind::Cluster], Acked { version: "v".into(), unix_ms: 2 });
        assert_eq!(envoy.last_nack.as_ref().unwrap().message, "no");
        drop(member);
        assert!(fleet.view().envoys.is_empty());
        assert_eq!(fleet.view().nacks.len(), 1);
    }

    #[test]
    fn a_refusal_of_the_same_content_is_counted_not_kept_twice_and_the_list_is_bounded() {
        let fleet = Fleet::default();
        let member = fleet.join(Node::default(), "delta", 1);
        member.heard(nacked("1-0123456789abcdef", "no"), 3);
        member.heard(nacked("2-0123456789abcdef", "no"), 4);
        assert_eq!(fleet.view().nacks.len(), 1);
        assert_eq!(fleet.view().nacks[0].times, 2);
        for n in 0..100 {
            member.heard(nacked(&format!("{n}-{n:016}"), &"é".repeat(5000)), 5);
        }
        assert_eq!(fleet.view().nacks.len(), NACKS);
        assert!(fleet.view().nacks.iter().all(|nack| nack.message.len() <= MESSAGE));
    }
}
