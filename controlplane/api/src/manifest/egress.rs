//! `egress` of a template: whom an actor may open connections to, as an `ipBlock` of Kubernetes' NetworkPolicy says it.
//!
//! | a range | is reached |
//! | --- | --- |
//! | [`NEVER`]; on a node also its own addresses and its workers' | never, whatever is named |
//! | in one of [`PRIVATE`] | if it lies in a range that is named and lies in the same one itself: `0.0.0.0/0` does not name `10.1.2.0/24` |
//! | any other | if it lies in a range that is named |
//!
//! The same holds of what an operator lets templates ask for, see [`IpBlock::covers`].

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::quantity::Raw;

/// Most ranges of a template, and most ports of one.
const MOST: usize = 64;

/// Nobody's, everybody's at once, this machine's, and the network inside every sandbox.
pub const NEVER: [IpBlock; 4] = [
    IpBlock::of(Ipv4Addr::new(0, 0, 0, 0), 8),
    IpBlock::of(Ipv4Addr::new(10, 0, 2, 0), 24),
    IpBlock::of(Ipv4Addr::new(127, 0, 0, 0), 8),
    IpBlock::of(Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// Of somebody's own network (RFC 1918, RFC 6598), or of one link (RFC 3927), as services with metadata are.
pub const PRIVATE: [IpBlock; 5] = [
    IpBlock::of(Ipv4Addr::new(10, 0, 0, 0), 8),
    IpBlock::of(Ipv4Addr::new(100, 64, 0, 0), 10),
    IpBlock::of(Ipv4Addr::new(169, 254, 0, 0), 16),
    IpBlock::of(Ipv4Addr::new(172, 16, 0, 0), 12),
    IpBlock::of(Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// Addresses that an actor may open connections to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// Which.
    pub cidr: IpBlock,
    /// At which ports; with none at every one, of TCP and UDP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Ports>,
}

/// An IPv4 network, `10.1.2.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpBlock {
    base: Ipv4Addr,
    bits: u8,
}

/// No network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIpBlock {
    /// Not of the form.
    #[error(
        "{0:?} is no IPv4 network: write 10.1.2.0/24, 10.1.2.3/32 for one address, 0.0.0.0/0 for all public ones"
    )]
    Form(String),
    /// An address in a network.
    #[error("{0} is an address in {1}: write {1}, or {2}/32 for it alone")]
    Inside(String, IpBlock, Ipv4Addr),
}

impl IpBlock {
    /// The network of this many bits, 32 at the most, that an address lies in.
    pub const fn of(address: Ipv4Addr, bits: u8) -> Self {
        let bits = if bits < 32 { bits } else { 32 };
        Self { base: Ipv4Addr::from_bits(address.to_bits() & mask(bits)), bits }
    }

    /// Its first address.
    pub const fn base(self) -> Ipv4Addr {
        self.base
    }

    /// How many bits of an address say that it lies in it.
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// True when it has every address of the other.
    pub fn contains(self, other: Self) -> bool {
        self.bits <= other.bits && Self::of(other.base, self.bits) == self
    }

    /// True when who names it names the other too.
    pub fn covers(self, other: Self) -> bool {
        self.contains(other) && self.is_private() == other.is_private()
    }

    /// True when it lies in one of [`PRIVATE`].
    pub fn is_private(self) -> bool {
        PRIVATE.iter().any(|range| range.contains(self))
    }

    /// What it is of [`NEVER`], if it is of no use to name it.
    pub fn check(self) -> Result<(), String> {
        match NEVER.iter().find(|never| never.contains(self)) {
            None => Ok(()),
            Some(never) => {
                Err(format!("nobody can be reached at {self}: {never} is never let out"))
            }
        }
    }
}

const fn mask(bits: u8) -> u32 {
    if bits == 0 { 0 } else { u32::MAX << (32 - bits) }
}

impl FromStr for IpBlock {
    type Err = InvalidIpBlock;

    fn from_str(text: &str) -> Result<Self, InvalidIpBlock> {
        let form = || InvalidIpBlock::Form(text.into());
        let (base, bits) = text.split_once('/').ok_or_else(form)?;
        let base: Ipv4Addr = base.parse().map_err(|_| form())?;
        let bits = bits.parse().ok().filter(|bits| *bits <= 32).ok_or_else(form)?;
        let network = Self::of(base, bits);
        if network.base == base {
            Ok(network)
        } else {
            Err(InvalidIpBlock::Inside(text.into(), network, base))
        }
    }
}

impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// A port, or those from one to another: `443`, `8000-8100`, `53/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
    /// Of what.
    pub transport: Transport,
}

/// What has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Where nothing else is said.
    Tcp,
    /// `/udp`.
    Udp,
}

impl Transport {
    /// As everybody writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Ports {
    fn parse(text: &str) -> Option<Self> {
        let (range, transport) = match text.split_once('/') {
            None => (text, Transport::Tcp),
            Some((range, "tcp")) => (range, Transport::Tcp),
            Some((range, "udp")) => (range, Transport::Udp),
            Some(_) => return None,
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (0 < first && first <= last).then_some(Self { first, last, transport })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.last > self.first {
            write!(f, "-{}", self.last)?;
        }
        match self.transport {
            Transport::Tcp => Ok(()),
            Transport::Udp => f.write_str("/udp"),
        }
    }
}

impl Serialize for IpBlock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IpBlock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Raw::deserialize(deserializer)?.to_string().parse().map_err(de::Error::custom)
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Raw::deserialize(deserializer)?.to_string();
        Self::parse(&text).ok_or_else(|| {
            de::Error::custom(format!("{text:?} is no port: write 443, 8000-8100 or 53/udp"))
        })
    }
}

/// The first network that is asked for and not allowed.
pub fn refused(egress: &[Egress], allow: &[IpBlock]) -> Option<IpBlock> {
    let allowed = |block: &IpBlock| allow.iter().any(|allowed| allowed.covers(*block));
    egress.iter().map(|egress| egress.cidr).find(|block| !allowed(block))
}

/// What the types do not hold already.
pub(super) fn check(egress: &[Egress]) -> Result<(), String> {
    if egress.len() > MOST {
        return Err(format!("{} ranges: write {MOST} at the most", egress.len()));
    }
    for Egress { cidr, ports } in egress {
        cidr.check()?;
        if ports.len() > MOST {
            return Err(format!("{cidr} has {} ports: write {MOST} at the most", ports.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> IpBlock {
        text.parse().unwrap()
    }

    #[test]
    fn a_private_range_has_to_be_named_by_itself() {
        for (named, other) in [
            ("0.0.0.0/0", "1.1.1.1/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.0.0.0/8", "10.1.2.0/24"),
            ("10.1.2.0/24", "10.1.2.0/24"),
            ("169.254.169.254/32", "169.254.169.254/32"),
            ("8.0.0.0/6", "11.0.0.0/8"),
        ] {
            assert!(block(named).covers(block(other)), "{named} {other}");
        }
        for (named, other) in [
            ("0.0.0.0/0", "10.1.2.0/24"),
            ("0.0.0.0/0", "169.254.169.254/32"),
            ("8.0.0.0/6", "10.0.0.0/8"),
            ("172.0.0.0/8", "172.16.0.0/12"),
            ("10.1.2.0/24", "10.1.3.0/24"),
            ("10.1.2.0/24", "10.1.0.0/16"),
            ("1.1.1.1/32", "0.0.0.0/0"),
        ] {
            assert!(!block(named).covers(block(other)), "{named} {other}");
        }
    }

    #[test]
    fn networks_and_ports_are_written_as_they_were_read() {
        for text in ["0.0.0.0/0", "10.1.2.0/24", "10.1.2.3/32"] {
            assert_eq!(block(text).to_string(), text);
        }
        for text in ["443", "8000-8100", "53/udp", "1-65535/udp"] {
            assert_eq!(Ports::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Ports::parse("443/tcp"), Ports::parse("443"));
        for bad in ["", "0", "65536", "2-1", "http", "53/sctp", "1-2-3", "-1", "53/"] {
            assert_eq!(Ports::parse(bad), None, "{bad}");
        }
        for (bad, says) in [
            ("10.1.2.3", "10.1.2.3/32"),
            ("::/0", "IPv4"),
            ("10.1.2.0/33", "IPv4"),
            ("example.com/32", "IPv4"),
            ("10.1.2.3/24", "write 10.1.2.0/24, or 10.1.2.3/32"),
        ] {
            let why = bad.parse::<IpBlock>().unwrap_err().to_string();
            assert!(why.contains(says), "{bad}: {why}");
        }
    }
}
