//! [`Cidr`]: the addresses of the workers, one /30 each.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use reveille_api::manifest::egress::IpBlock;
use serde::{Deserialize, Serialize};

/// An IPv4 network, `10.213.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(IpBlock);

/// Not a network that workers can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no network for workers: write an IPv4 network of at most 30 bits, like 10.213.0.0/16"
)]
pub struct InvalidCidr(String);

impl Default for Cidr {
    fn default() -> Self {
        Self(IpBlock::of(Ipv4Addr::new(10, 213, 0, 0), 16))
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(s: &str) -> Result<Self, InvalidCidr> {
        let invalid = || InvalidCidr(s.into());
        let block: IpBlock = s.parse().map_err(|_| invalid())?;
        let usable = !block.base().is_loopback() && !block.base().is_multicast();
        let fits = (8..=30).contains(&block.bits());
        if usable && fits { Ok(Self(block)) } else { Err(invalid()) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Cidr {
    pub(crate) fn block(self) -> IpBlock {
        self.0
    }

    /// Its /30 networks.
    pub(crate) fn subnets(self) -> impl Iterator<Item = Subnet> {
        let count = 1_u32 << (Subnet::BITS - self.0.bits());
        (0..count).map(move |n| Subnet(Ipv4Addr::from_bits(self.0.base().to_bits() + 4 * n)))
    }

    pub(crate) fn contains(self, subnet: Subnet) -> bool {
        self.0.contains(subnet.block())
    }
}

/// A point-to-point network: the host's end is the first address, the worker's the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Subnet(Ipv4Addr);

impl Subnet {
    pub(crate) const BITS: u8 = 30;

    pub(crate) fn host(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.to_bits() + 1)
    }

    pub(crate) fn worker(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.to_bits() + 2)
    }

    pub(crate) fn block(self) -> IpBlock {
        IpBlock::of(self.0, Self::BITS)
    }

    /// True when it shares an address with that network.
    pub(crate) fn overlaps(self, addr: Ipv4Addr, bits: u8) -> bool {
        let other = IpBlock::of(addr, bits);
        self.block().contains(other) || other.contains(self.block())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_cut_into_pairs_of_addresses() {
        let cidr: Cidr = "10.9.8.0/29".parse().unwrap();
        let pairs: Vec<_> =
            cidr.subnets().map(|s| (s.host().to_string(), s.worker().to_string())).collect();
        let expected = [("10.9.8.1", "10.9.8.2"), ("10.9.8.5", "10.9.8.6")];
        assert_eq!(pairs, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(Cidr::default().subnets().count(), 16_384);
        assert_eq!(cidr.to_string(), "10.9.8.0/29");
        assert!(cidr.subnets().all(|s| cidr.contains(s)));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in
            ["", "10.0.0.0", "10.0.0.1/16", "10.0.0.0/31", "10.0.0.0/4", "127.0.0.0/16", "::/64"]
        {
            let error = bad.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.contains("10.213.0.0/16"), "{error}");
        }
    }

    #[test]
    fn overlap_is_seen_both_ways() {
        let subnet = "10.9.8.4/30".parse::<Cidr>().unwrap().subnets().next().unwrap();
        let addr = |s: &str| s.parse().unwrap();
        assert!(subnet.overlaps(addr("10.9.0.0"), 16));
        assert!(subnet.overlaps(addr("10.9.8.6"), 32));
        assert!(!subnet.overlaps(addr("10.9.8.0"), 30));
        assert!(!subnet.overlaps(addr("10.8.0.0"), 16));
    }
}
