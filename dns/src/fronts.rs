//! Where the addresses of the Envoy front come from, and how they change while the server runs.
//!
//! | source | changes |
//! | --- | --- |
//! | given | never by itself ([`Fronts::set`]) |
//! | a file | looked at four times a second; what two looks find counts |
//! | a Kubernetes Service | watched |
//!
//! What cannot be read, or names no address, changes nothing: the last addresses are answered with. Before the first one is
//! known, actors' names are SERVFAIL, which nobody remembers for long.

mod file;

use std::{convert::Infallible, net::IpAddr, path::PathBuf, sync::Arc};

use crate::{
    kubernetes::{self, Cluster, ServiceName},
    shared::Shared,
};

/// Most addresses that are answered with.
pub(crate) const MOST: usize = 256;

/// Where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// These.
    Given(Vec<IpAddr>),
    /// Those in this file, one in a line; `#` begins a comment.
    File(PathBuf),
    /// Those of this Service: of its load balancer if it has that type, otherwise its cluster IPs.
    Service(ServiceName),
}

/// Replaces the addresses of the front while the server runs.
#[derive(Clone)]
pub struct Fronts(pub(crate) Arc<Shared>);

impl Fronts {
    /// Answers from now on with these addresses; goes on with the last ones when there are none.
    pub fn set(&self, fronts: &[IpAddr]) {
        let Some(shared) = self.check(fronts) else { return };
        shared.records.rcu(|records| records.with_fronts(fronts));
        shared.metrics.set_fronts(shared.records.load().fronts());
        shared.metrics.front_changes.inc();
        tracing::info!(?fronts, "the front's addresses changed");
    }

    fn check(&self, fronts: &[IpAddr]) -> Option<&Shared> {
        let shared = &self.0;
        if fronts.is_empty() || fronts.len() > MOST {
            self.unknown(&format!("{} addresses; there must be 1 to {MOST}", fronts.len()));
            return None;
        }
        (!shared.records.load().has_fronts(fronts)).then_some(shared)
    }

    /// They cannot be told now.
    pub(crate) fn unknown(&self, why: &str) {
        self.0.metrics.front_errors.inc();
        tracing::warn!(why, "the front's addresses are not known; the last ones are kept");
    }
}

/// A source that was found.
pub(crate) enum Follow {
    Nothing,
    File(PathBuf),
    Service(Cluster, ServiceName),
}

impl Source {
    /// Those at the start, and where later ones come from.
    pub(crate) async fn open(self) -> Result<(Vec<IpAddr>, Follow), kubernetes::Error> {
        Ok(match self {
            Self::Given(fronts) => (fronts, Follow::Nothing),
            Self::File(path) => (Vec::new(), Follow::File(path)),
            Self::Service(name) => (Vec::new(), Follow::Service(Cluster::find().await?, name)),
        })
    }
}

impl Follow {
    /// Brings every change, for ever.
    pub(crate) async fn run(self, fronts: Fronts) -> Infallible {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::File(path) => file::follow(&path, &fronts).await,
            Self::Service(cluster, name) => cluster.follow(&name, &fronts).await,
        }
    }
}
