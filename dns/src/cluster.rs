//! Makes a cluster's own DNS ask us for the actor zone.
//!
//! | target | ConfigMap in `kube-system` | our part |
//! | --- | --- | --- |
//! | CoreDNS | `coredns`, `Corefile` | a block between marks ([`corefile`]) |
//! | NodeLocal DNS | `node-local-dns`, `Corefile` | the same, on the addresses of the node's cache |
//! | kube-dns | `kube-dns`, `stubDomains` | an entry ([`stub_domains`]); an annotation remembers that it is ours |
//!
//! ```text
//!  read ─▶ edit (pure) ─▶ as it was? ─ yes ─▶ nothing to do
//!   ▲                              └ no ──▶ replace that version ─▶ done
//!   └────────────── somebody was faster ──────────────┘
//! ```
//!
//! What it says to the API server is in [`crate::kubernetes`].

mod corefile;
mod stub_domains;

use std::{collections::BTreeMap, fmt, net::SocketAddr, str::FromStr};

use reveille_api::Zone;

use crate::kubernetes::{self, ServiceName};

pub use crate::kubernetes::Cluster;

/// CoreDNS's limit for one `forward`.
const MOST_SERVERS: usize = 15;
/// On kube-dns's ConfigMap: the zones whose entries are ours.
const ZONES: &str = "dns.reveille.dev/zones";
const COREFILE: &str = "Corefile";
const STUB_DOMAINS: &str = "stubDomains";

/// A cluster's DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// CoreDNS.
    CoreDns,
    /// The cache on each node.
    NodeLocal,
    /// kube-dns.
    KubeDns,
}

impl Target {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::CoreDns, Self::NodeLocal, Self::KubeDns];

    /// As its ConfigMap is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CoreDns => "coredns",
            Self::NodeLocal => "node-local-dns",
            Self::KubeDns => "kube-dns",
        }
    }

    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::CoreDns | Self::NodeLocal => COREFILE,
            Self::KubeDns => STUB_DOMAINS,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|target| target.name() == s).ok_or_else(|| {
            format!("{s:?} is none: write one of {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// Who is to be asked for the zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// These.
    Given(Vec<SocketAddr>),
    /// The cluster IPs of this Service, at its port for DNS.
    Service(ServiceName),
}

/// What is wanted of a cluster's DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The zone.
    pub zone: Zone,
    /// Who answers for it; nobody takes our part away.
    pub servers: Option<Servers>,
    /// Where; everywhere that is there, if there are none.
    pub targets: Vec<Target>,
}

/// Why a cluster's DNS is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Kubernetes(#[from] kubernetes::Error),
    /// Its ConfigMap is missing, or has not what it is for.
    #[error(
        "there is no {key} in the ConfigMap kube-system/{target}: is that what this cluster uses?"
    )]
    Missing {
        /// Whose.
        target: Target,
        /// What was looked for in it.
        key: &'static str,
    },
    /// None of them.
    #[error(
        "neither CoreDNS nor kube-dns is in kube-system: give --server to your own resolver by hand"
    )]
    Nothing,
    /// It cannot be edited.
    #[error("ConfigMap kube-system/{target}, Corefile")]
    Corefile {
        /// Whose.
        target: Target,
        /// Why.
        source: corefile::Error,
    },
    /// It cannot be edited.
    #[error("ConfigMap kube-system/kube-dns")]
    StubDomains(#[from] stub_domains::Error),
    /// Too many, or none.
    #[error("{0} servers for the zone; there must be 1 to {MOST_SERVERS}")]
    Servers(usize),
    /// Others change it all the time.
    #[error("the ConfigMap kube-system/{0} was changed by others each time; try again")]
    Busy(Target),
}

/// What was done, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose configuration.
    pub target: Target,
    /// Before.
    pub before: String,
    /// Afterwards.
    pub after: String,
    /// Whether there was anything to do; also where the two are the same, about what we remember there.
    pub changed: bool,
    /// Whether it must be restarted to notice that.
    pub restart: bool,
}

/// A ConfigMap, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) data: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Document {
    fn text(&self, key: &str) -> &str {
        self.data.get(key).map_or("", String::as_str)
    }
}

/// The ConfigMap as it is to be. No servers: without our part.
pub(crate) fn edit(
    target: Target,
    document: &Document,
    zone: &Zone,
    servers: Option<&[SocketAddr]>,
) -> Result<Document, Error> {
    let mut edited = document.clone();
    match target {
        Target::CoreDns | Target::NodeLocal => {
            let text = match (document.data.get(COREFILE), servers) {
                (Some(text), Some(servers)) => corefile::install(text, zone, servers),
                (Some(text), None) => corefile::uninstall(text, zone),
                (None, Some(_)) => return Err(Error::Missing { target, key: COREFILE }),
                (None, None) => return Ok(edited),
            };
            let text = text.map_err(|source| Error::Corefile { target, source })?;
            edited.data.insert(COREFILE.into(), text);
        }
        Target::KubeDns => {
            let text = document.data.get(STUB_DOMAINS).map(String::as_str);
            let zones = document.annotations.get(ZONES).map_or("", String::as_str);
            let mut zones: Vec<&str> = zones.split(',').filter(|zone| !zone.is_empty()).collect();
            let ours = zones.contains(&zone.domain());
            zones.retain(|name| *name != zone.domain());
            let text = match servers {
                Some(servers) => match stub_domains::install(text, zone, servers, ours)? {
                    Some(text) => {
                        zones.push(zone.domain());
                        Some(text)
                    }
                    None => return Ok(edited),
                },
                // Somebody else's entry stays.
                None if !ours => text.map(str::to_owned),
                None => stub_domains::uninstall(text.unwrap_or_default(), zone)?,
            };
            let put = |map: &mut BTreeMap<String, String>, key: &str, value: Option<String>| {
                match value {
                    Some(value) => map.insert(key.to_owned(), value),
                    None => map.remove(key),
                };
            };
            put(&mut edited.data, STUB_DOMAINS, text);
            zones.sort_unstable();
            put(
                &mut edited.annotations,
                ZONES,
                Some(zones.join(",")).filter(|zones| !zones.is_empty()),
            );
        }
    }
    Ok(edited)
}

/// What to tell of it.
pub(crate) fn change(target: Target, before: &Document, after: &Document) -> Change {
    let key = target.key();
    let changed = before != after;
    let reloads = target == Target::KubeDns || corefile::reloads(before.text(key));
    Change {
        target,
        before: before.text(key).to_owned(),
        after: after.text(key).to_owned(),
        changed,
        restart: changed && !reloads,
    }
}

pub(crate) fn check_servers(servers: &[SocketAddr]) -> Result<(), Error> {
    match (1..=MOST_SERVERS).contains(&servers.len()) {
        true => Ok(()),
        false => Err(Error::Servers(servers.len())),
    }
}

/// As CoreDNS and kube-dns write it: the port only where it is another one.
fn bare_port(server: SocketAddr) -> String {
    match server.port() {
        53 => server.ip().to_string(),
        _ => server.to_string(),
    }
}

#[cfg(test)]
mod tests;
