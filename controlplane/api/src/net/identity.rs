//! Who a part is: what its certificate says, and nothing else.
//!
//! ```text
//!  spiffe://<trust-domain>/reveille/<role>[/<name>]        the one URI among the certificate's alternative names
//! ```
//!
//! Routers and nodes have names, and act under no other. Host names in a certificate mean nothing here: an address may move,
//! and whoever answers there must still be who is wanted.

use std::{fmt, str::FromStr};

use rustls::pki_types::CertificateDer;

/// The kinds of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The control plane.
    ControlPlane,
    /// A router.
    Router,
    /// A node agent.
    Node,
    /// An Envoy.
    Envoy,
    /// The DNS server.
    Dns,
    /// An operator, or a program of theirs.
    Client,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] =
        [Self::ControlPlane, Self::Router, Self::Node, Self::Envoy, Self::Dns, Self::Client];

    /// As in an identity and as the subcommand.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "controlplane",
            Self::Router => "router",
            Self::Node => "node",
            Self::Envoy => "envoy",
            Self::Dns => "dns",
            Self::Client => "client",
        }
    }

    /// True when there are many of it that must not act for each other.
    pub const fn is_named(self) -> bool {
        matches!(self, Self::Router | Self::Node)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|role| role.name() == s).ok_or_else(|| {
            format!("{s:?} is no role: write one of {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// Who a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    trust_domain: String,
    role: Role,
    name: Option<String>,
}

/// What no identity can be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// The certificate cannot be read.
    #[error("the certificate cannot be read")]
    Certificate,
    /// There must be exactly one.
    #[error("the certificate has {0} URI names; an identity is exactly one")]
    Uris(usize),
    /// The URI is not one of ours.
    #[error("{0:?} is no identity: spiffe://<trust-domain>/reveille/<role>[/<name>]")]
    Form(String),
    /// The name is missing.
    #[error("a {0} has a name in its identity: spiffe://<trust-domain>/reveille/{0}/<name>")]
    Nameless(Role),
    /// A trust domain or a name with other characters.
    #[error("{0:?} cannot be part of an identity: use up to 63 letters, digits, '-', '_', '.'")]
    Text(String),
}

impl Identity {
    /// Checks the parts.
    pub fn new(
        trust_domain: impl Into<String>,
        role: Role,
        name: Option<String>,
    ) -> Result<Self, InvalidIdentity> {
        let trust_domain = check_trust_domain(trust_domain.into())?;
        match &name {
            Some(name) if !is_segment(name) => Err(InvalidIdentity::Text(name.clone())),
            None if role.is_named() => Err(InvalidIdentity::Nameless(role)),
            _ => Ok(Self { trust_domain, role, name }),
        }
    }

    /// Reads a certificate. Whether it is to be trusted is another question.
    pub fn of_certificate(der: &CertificateDer<'_>) -> Result<Self, InvalidIdentity> {
        uri(der)?.parse()
    }

    /// The trust domain that a CA's certificate names.
    pub fn trust_domain_of_ca(der: &CertificateDer<'_>) -> Result<String, InvalidIdentity> {
        let uri = uri(der)?;
        match uri.strip_prefix(SCHEME) {
            Some(domain) => check_trust_domain(domain.into()),
            None => Err(InvalidIdentity::Form(uri)),
        }
    }

    /// Within which it means something.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The kind of part.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Which of its kind.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

const SCHEME: &str = "spiffe://";

fn uri(der: &CertificateDer<'_>) -> Result<String, InvalidIdentity> {
    let certificate =
        webpki::EndEntityCert::try_from(der).map_err(|_| InvalidIdentity::Certificate)?;
    let uris: Vec<_> = certificate.valid_uri_names().collect();
    match uris.as_slice() {
        [uri] => Ok((*uri).to_owned()),
        other => Err(InvalidIdentity::Uris(other.len())),
    }
}

fn check_trust_domain(domain: String) -> Result<String, InvalidIdentity> {
    match is_segment(&domain) && !domain.contains(|c: char| c.is_ascii_uppercase()) {
        true => Ok(domain),
        false => Err(InvalidIdentity::Text(domain)),
    }
}

fn is_segment(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=63).contains(&text.len()) && text.chars().all(allowed) && text != "." && text != ".."
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/reveille/{}", self.trust_domain, self.role)?;
        match &self.name {
            Some(name) => write!(f, "/{name}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(s: &str) -> Result<Self, InvalidIdentity> {
        let form = || InvalidIdentity::Form(s.into());
        let mut parts = s.strip_prefix(SCHEME).ok_or_else(form)?.split('/');
        let (domain, ours, role) = (parts.next(), parts.next(), parts.next());
        let (Some(domain), Some("reveille"), Some(role)) = (domain, ours, role) else {
            return Err(form());
        };
        let role = role.parse().map_err(|_| form())?;
        let name = parts.next().map(str::to_owned);
        match parts.next() {
            Some(_) => Err(form()),
            None => Self::new(domain, role, name),
        }
    }
}
