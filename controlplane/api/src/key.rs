//! Names: [`ActorKey`] and the fencing token [`Epoch`].

use std::{borrow::Borrow, fmt, hash, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Failure, Reason, proto};

/// Longest DNS label (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// A name that is not a DNS-1123 label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not a DNS label: 1 to 63 of a-z, 0-9 and '-', first and last not '-'")]
pub struct InvalidLabel {
    what: &'static str,
    value: String,
}

/// Checks a DNS-1123 label; `what` names it in the error ("actor name", "namespace").
pub fn check_label(what: &'static str, value: &str) -> Result<(), InvalidLabel> {
    if is_label(value) { Ok(()) } else { Err(InvalidLabel { what, value: value.into() }) }
}

/// True for 1 to 63 lower-case letters, digits and inner hyphens.
pub fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    bytes.len() <= MAX_LABEL
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// An actor's name within its namespace. Cheap to clone.
///
/// Kept as it stands in a hostname, `name.namespace`, so that a table keyed by it is read with a
/// borrowed piece of the `Host` header and no allocation. Shown as `namespace/name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActorKey(Arc<str>);

impl ActorKey {
    /// Checks both labels.
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidLabel> {
        check_label("namespace", namespace)?;
        check_label("actor name", name)?;
        Ok(Self(format!("{name}.{namespace}").into()))
    }

    /// From `name.namespace`, both already known to be labels.
    pub(crate) fn from_host_prefix(prefix: &str) -> Self {
        Self(prefix.into())
    }

    /// The actor's name, without its namespace.
    pub fn name(&self) -> &str {
        self.0.split_once('.').map_or(&*self.0, |(name, _)| name)
    }

    /// The namespace (the tenant).
    pub fn namespace(&self) -> &str {
        self.0.split_once('.').map_or("", |(_, namespace)| namespace)
    }

    /// `name.namespace`: what stands before the domain in the actor's hostname.
    pub fn host_prefix(&self) -> &str {
        &self.0
    }
}

impl hash::Hash for ActorKey {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.host_prefix().hash(state);
    }
}

/// By `name.namespace`: [`Zone::actor_prefix`] gives that without allocating.
impl Borrow<str> for ActorKey {
    fn borrow(&self) -> &str {
        self.host_prefix()
    }
}

impl fmt::Display for ActorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace(), self.name())
    }
}

impl fmt::Debug for ActorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads `namespace/name`.
impl FromStr for ActorKey {
    type Err = InvalidLabel;

    fn from_str(s: &str) -> Result<Self, InvalidLabel> {
        let (namespace, name) = s.split_once('/').unwrap_or(("", s));
        Self::new(namespace, name)
    }
}

impl Serialize for ActorKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ActorKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl From<&ActorKey> for proto::ActorKey {
    fn from(key: &ActorKey) -> Self {
        Self { namespace: key.namespace().into(), name: key.name().into() }
    }
}

impl TryFrom<proto::ActorKey> for ActorKey {
    type Error = InvalidLabel;

    fn try_from(key: proto::ActorKey) -> Result<Self, InvalidLabel> {
        Self::new(&key.namespace, &key.name)
    }
}

/// Reads the key of a message that must have one.
impl TryFrom<Option<proto::ActorKey>> for ActorKey {
    type Error = Failure;

    fn try_from(key: Option<proto::ActorKey>) -> Result<Self, Failure> {
        let key = key.ok_or_else(|| Failure::new(Reason::InvalidHost, "the actor is missing"))?;
        Self::try_from(key).map_err(|e| Failure::new(Reason::InvalidHost, e.to_string()))
    }
}

/// Counts the activations of one actor, for ever. The fencing token: a lower one is refused everywhere.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of the next activation.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_the_host_prefix_it_came_from() {
        let key = ActorKey::new("demo", "counter").unwrap();
        let mut map = std::collections::HashMap::new();
        map.insert(key.clone(), 7);
        assert_eq!(map.get("counter.demo"), Some(&7));
        assert_eq!((key.namespace(), key.name()), ("demo", "counter"));
        assert_eq!(key.to_string(), "demo/counter");
        assert_eq!("demo/counter".parse::<ActorKey>().unwrap(), key);
    }

    #[test]
    fn names_that_are_not_labels_are_refused() {
        let long = "a".repeat(64);
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", long.as_str(), "a/b", ".."] {
            assert!(ActorKey::new("demo", bad).is_err(), "{bad}");
            assert!(ActorKey::new(bad, "x").is_err(), "{bad}");
        }
    }
}
