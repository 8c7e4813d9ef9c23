//! What is current: the resources as bytes, each with its version.

use std::{collections::BTreeMap, fmt, sync::Arc};

use envoy_types::pb::{
    envoy::{
        config::{cluster::v3::Cluster, listener::v3::Listener},
        extensions::transport_sockets::tls::v3::Secret,
    },
    google::protobuf::Any,
};
use prost::Name;

use crate::{proto::any, resources::Resources};

/// Length of the hash in a version.
const HASH: usize = 16;

/// A kind of resource. In the order in which they are pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// CDS.
    Cluster,
    /// LDS.
    Listener,
    /// SDS.
    Secret,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cluster, Self::Listener, Self::Secret];

    /// How the protocol names it.
    pub fn type_url(self) -> String {
        match self {
            Self::Cluster => Cluster::type_url(),
            Self::Listener => Listener::type_url(),
            Self::Secret => Secret::type_url(),
        }
    }

    /// For people, and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Listener => "listener",
            Self::Secret => "secret",
        }
    }

    /// Nothing for a kind that is not served.
    pub(super) fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `<Unix milliseconds>-<hash>`. Two versions of equal content have equal hashes, whoever made them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version(Arc<str>);

impl Version {
    fn new(stamp: u64, hash: &str) -> Self {
        Self(format!("{stamp}-{hash}").into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn hash(&self) -> &str {
        hash_of(&self.0).unwrap_or_default()
    }
}

/// The hash in a version that a client names. Nothing when it is not one of ours.
pub(super) fn hash_of(version: &str) -> Option<&str> {
    version.split_once('-').map(|(_, hash)| hash).filter(|hash| hash.len() == HASH)
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) resource: Any,
    pub(super) version: Version,
}

/// All resources of one kind, and the version of them together.
#[derive(Clone, Debug)]
pub(super) struct Collection {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) version: Version,
}

#[derive(Clone, Debug)]
pub(super) struct Catalog {
    clusters: Collection,
    listeners: Collection,
    secrets: Collection,
    /// The highest stamp given.
    stamp: u64,
}

impl Catalog {
    pub(super) fn new(resources: &Resources, now: u64) -> Self {
        Self::make(resources, None, now)
    }

    /// What did not change keeps its version.
    pub(super) fn next(&self, resources: &Resources, now: u64) -> Self {
        Self::make(resources, Some(self), now.max(self.stamp + 1))
    }

    pub(super) fn of(&self, kind: Kind) -> &Collection {
        match kind {
            Kind::Cluster => &self.clusters,
            Kind::Listener => &self.listeners,
            Kind::Secret => &self.secrets,
        }
    }

    fn make(resources: &Resources, before: Option<&Self>, stamp: u64) -> Self {
        let clusters = resources.clusters.iter().map(|c| (c.name.clone(), any(c)));
        let listeners = resources.listeners.iter().map(|l| (l.name.clone(), any(l)));
        let secrets = resources.secrets.iter().map(|s| (s.name.clone(), any(s)));
        let before = |kind| before.map(|catalog| catalog.of(kind));
        Self {
            clusters: collection(clusters, before(Kind::Cluster), stamp),
            listeners: collection(listeners, before(Kind::Listener), stamp),
            secrets: collection(secrets, before(Kind::Secret), stamp),
            stamp,
        }
    }
}

fn collection(
    resources: impl Iterator<Item = (String, Any)>,
    before: Option<&Collection>,
    stamp: u64,
) -> Collection {
    let version = |hash: blake3::Hash, before: Option<&Version>| {
        let hash = &hash.to_hex()[..HASH];
        match before.filter(|version| version.hash() == hash) {
            Some(version) => version.clone(),
            None => Version::new(stamp, hash),
        }
    };
    let mut whole = blake3::Hasher::new();
    let entries: BTreeMap<_, _> = resources
        .map(|(name, resource)| {
            let before = before.and_then(|before| before.entries.get(&name));
            let hash = blake3::hash(&resource.value);
            let version = version(hash, before.map(|entry| &entry.version));
            (name, Entry { resource, version })
        })
        .collect();
    for (name, entry) in &entries {
        whole.update(&(name.len() as u64).to_le_bytes());
        whole.update(name.as_bytes());
        whole.update(entry.version.hash().as_bytes());
    }
    let version = version(whole.finalize(), before.map(|before| &before.version));
    Collection { entries, version }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(names: &[&str]) -> Resources {
        let cluster = |name: &&str| Cluster { name: (*name).into(), ..Default::default() };
        Resources { clusters: names.iter().map(cluster).collect(), ..Default::default() }
    }

    #[test]
    fn what_did_not_change_keeps_its_version_and_what_comes_back_gets_a_new_one() {
        let first = Catalog::new(&resources(&["a"]), 1000);
        let same = first.next(&resources(&["a"]), 2000);
        assert_eq!(same.clusters.version, first.clusters.version);
        let other = same.next(&resources(&["a", "b"]), 3000);
        assert_eq!(other.clusters.entries["a"].version, first.clusters.entries["a"].version);
        assert_ne!(other.clusters.version, first.clusters.version);
        let back = other.next(&resources(&["a"]), 4000);
        assert_ne!(back.clusters.version, first.clusters.version);
        assert_eq!(back.clusters.version.hash(), first.clusters.version.hash());
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_does_not_repeat_a_version() {
        let a = Catalog::new(&resources(&["a"]), 1000);
        let b = a.next(&resources(&["b"]), 1000);
        let c = b.next(&resources(&["a"]), 10);
        assert!(c.stamp > b.stamp && b.stamp > a.stamp);
        assert_ne!(c.clusters.version, a.clusters.version);
    }

    #[test]
    fn only_a_version_of_ours_has_a_hash() {
        let version = Version::new(7, "0123456789abcdef");
        assert_eq!(version.as_str(), "7-0123456789abcdef");
        assert_eq!(hash_of(version.as_str()), Some("0123456789abcdef"));
        for foreign in ["", "1", "hash-", "1-2"] {
            assert_eq!(hash_of(foreign), None, "{foreign}");
        }
    }
}
