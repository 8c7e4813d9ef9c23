//! Where a part is.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use tonic::transport::Channel;

use super::transport;

/// Where a part is: `unix:/path`, `IP:PORT`, or `name:port` for one that is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket, created with mode 0600.
    Unix(PathBuf),
    /// TCP.
    Tcp(SocketAddr),
    /// TCP at a name, looked up at each connection. Nobody listens on a name.
    Name {
        /// Host name.
        host: String,
        /// Port.
        port: u16,
    },
}

/// Not an address.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no address: write unix:/path/to/socket, IP:PORT or name:port")]
pub struct InvalidAddress(String);

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(s: &str) -> Result<Self, InvalidAddress> {
        if let Some(path) = s.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let tcp = s.strip_prefix("http://").unwrap_or(s);
        if let Ok(address) = tcp.parse() {
            return Ok(Self::Tcp(address));
        }
        let name = tcp.rsplit_once(':').and_then(|(host, port)| {
            let port = port.parse().ok().filter(|port| *port != 0)?;
            is_host_name(host).then(|| Self::Name { host: host.into(), port })
        });
        name.ok_or_else(|| InvalidAddress(s.into()))
    }
}

/// Letters, digits and hyphens between dots; not all digits, which is a mistyped IP address.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len())
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = |c: char| c.is_ascii_digit() || c == '.';
    host.len() <= 253 && !host.chars().all(numeric) && host.split('.').all(label)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(addr) => write!(f, "{addr}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Address {
    /// True for a Unix socket: what passes there stays on this machine, and the kernel tells who is at the other end.
    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// True for TCP that cannot leave this machine.
    pub fn is_loopback(&self) -> bool {
        matches!(self, Self::Tcp(address) if address.ip().is_loopback())
    }

    /// A channel without TLS that connects when first used and reconnects by itself. Parts use
    /// [`Transport::channel`](super::Transport::channel).
    pub fn channel(&self) -> Channel {
        transport::connect_lazily(self.clone(), None)
    }
}
