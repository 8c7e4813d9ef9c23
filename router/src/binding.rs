//! [`Binding`]: where requests of an actor go.

use std::{cmp::Ordering, net::SocketAddr, sync::Arc};

use reveille_api::{ActorKey, Epoch, Failure, proto};

use crate::activation::Activation;

/// What a revoke is about: everything up to and including it. Ordered by epoch, then term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) epoch: Epoch,
    /// Counts the revokes of the epoch.
    pub(crate) term: u64,
}

impl Version {
    pub(crate) fn new(epoch: u64, term: u64) -> Self {
        Self { epoch: Epoch(epoch), term }
    }
}

/// What an actor speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Http1,
    H2c,
}

/// A binding as the control plane gave it out, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) actor: ActorKey,
    pub(crate) version: Version,
    pub(crate) endpoint: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) woken_by: proto::WakeKind,
}

impl TryFrom<proto::Binding> for Grant {
    type Error = Failure;

    fn try_from(binding: proto::Binding) -> Result<Self, Failure> {
        let (protocol, woken_by) = (binding.protocol(), binding.woken_by());
        let endpoint = binding.endpoint.parse().map_err(|_| {
            Failure::internal(format!("{:?} is no endpoint of a binding", binding.endpoint))
        })?;
        Ok(Self {
            actor: ActorKey::try_from(binding.actor)?,
            version: Version::new(binding.epoch, binding.term),
            endpoint,
            protocol: match protocol {
                proto::Protocol::H2c => Protocol::H2c,
                proto::Protocol::Http1 | proto::Protocol::Unspecified => Protocol::Http1,
            },
            woken_by,
        })
    }
}

/// A binding in the table.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) activation: Arc<Activation>,
    pub(crate) term: u64,
    pub(crate) endpoint: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) woken_by: proto::WakeKind,
}

impl Binding {
    pub(crate) fn version(&self) -> Version {
        Version { epoch: self.activation.epoch(), term: self.term }
    }

    /// Whether a revoke of `version` ends this binding.
    pub(crate) fn is_revoked_by(&self, version: Version) -> bool {
        self.version().cmp(&version) != Ordering::Greater
    }
}
