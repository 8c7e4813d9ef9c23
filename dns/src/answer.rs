//! What is answered to a question: a pure function of the zone's data.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    ProtoError,
    op::{Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{NS, SOA},
    },
};
use reveille_api::{Zone, key::is_label};

/// Longest time a resolver may remember that something is not there: actors' fronts come and go.
const MAX_NEGATIVE_TTL: u32 = 5;
/// Of DNS.
const LONGEST_LABEL: usize = 63;
/// What a secondary would use; there is none, transfers are refused.
const REFRESH: i32 = 3600;
const RETRY: i32 = 600;
const EXPIRE: i32 = 86_400;

/// The data of the zone.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    zone: Name,
    name_server: Name,
    hostmaster: Name,
    fronts: Addresses,
    name_server_addresses: Addresses,
    ttl: u32,
    serial: u32,
}

/// Addresses of a name, by family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(all: I) -> Self {
        let mut addresses = Self::default();
        for address in all {
            match address {
                IpAddr::V4(v4) => addresses.v4.push(v4),
                IpAddr::V6(v6) => addresses.v6.push(v6),
            }
        }
        addresses
    }
}

impl Addresses {
    fn rdata(&self, kind: RecordType) -> Vec<RData> {
        match kind {
            RecordType::A => self.v4.iter().map(|a| RData::A((*a).into())).collect(),
            RecordType::AAAA => self.v6.iter().map(|a| RData::AAAA((*a).into())).collect(),
            // One RRset is enough for `ANY` (RFC 8482 §4.1).
            RecordType::ANY if self.v4.is_empty() => self.rdata(RecordType::AAAA),
            RecordType::ANY => self.rdata(RecordType::A),
            _ => Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// A reply without its header.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// NOERROR, NXDOMAIN, REFUSED, or SERVFAIL while no front is known.
    pub(crate) code: ResponseCode,
    /// True for names of the zone.
    pub(crate) authoritative: bool,
    /// The answer section.
    pub(crate) answers: Vec<Record>,
    /// The SOA, when there is nothing to answer.
    pub(crate) soa: Option<Record>,
    /// Addresses of the name server, with an NS answer.
    pub(crate) additionals: Vec<Record>,
}

impl Records {
    /// Data of the zone. `name_server` are the addresses of `ns.<domain>`: never the fronts, which serve no DNS. `serial` goes into the SOA and must grow with every change.
    pub(crate) fn new(
        zone: &Zone,
        fronts: &[IpAddr],
        name_server: &[IpAddr],
        ttl: u32,
        serial: u32,
    ) -> Result<Self, ProtoError> {
        let apex = Name::from_ascii(format!("{}.", zone.domain()))?;
        Ok(Self {
            name_server: apex.prepend_label("ns")?,
            hostmaster: apex.prepend_label("hostmaster")?,
            zone: apex,
            fronts: fronts.iter().copied().collect(),
            name_server_addresses: name_server.iter().copied().collect(),
            ttl,
            serial,
        })
    }

    /// How many addresses the fronts have, of IPv4 and of IPv6.
    pub(crate) fn fronts(&self) -> (usize, usize) {
        (self.fronts.v4.len(), self.fronts.v6.len())
    }

    /// Whether these are the fronts already.
    pub(crate) fn has_fronts(&self, fronts: &[IpAddr]) -> bool {
        self.fronts == fronts.iter().copied().collect()
    }

    /// The same zone with other fronts and the next serial.
    #[must_use]
    pub(crate) fn with_fronts(&self, fronts: &[IpAddr]) -> Self {
        Self {
            fronts: fronts.iter().copied().collect(),
            serial: self.serial.wrapping_add(1),
            ..self.clone()
        }
    }

    /// Answers one question. The addresses begin with another one each `turn`.
    pub(crate) fn answer(&self, query: &Query, turn: usize) -> Answer {
        let name = &query.name;
        let transfer = matches!(query.query_type, RecordType::AXFR | RecordType::IXFR);
        if query.query_class != DNSClass::IN || transfer || !self.zone.zone_of(name) {
            return Answer::refused();
        }
        let found = match self.place(name) {
            Place::Nowhere => return self.no_such_name(name),
            Place::Apex => self.apex_rdata(query.query_type),
            Place::NameServer => self.name_server_addresses.rdata(query.query_type),
            Place::Namespace => Vec::new(),
            // That there is none would be remembered; that we cannot tell yet is asked again.
            Place::Actor if self.fronts.is_empty() => return Answer::failure(),
            Place::Actor => self.fronts.rdata(query.query_type),
        };
        if found.is_empty() {
            return self.nothing(name, ResponseCode::NoError);
        }
        let mut found = found;
        let first = turn % found.len();
        found.rotate_left(first);
        // With the letter case of the question (0x20).
        let records = |name: &Name, data: Vec<RData>| -> Vec<Record> {
            data.into_iter().map(|data| Record::from_rdata(name.clone(), self.ttl, data)).collect()
        };
        let mut additionals = Vec::new();
        if found.iter().any(|data| matches!(data, RData::NS(_))) {
            for kind in [RecordType::A, RecordType::AAAA] {
                let addresses = self.name_server_addresses.rdata(kind);
                additionals.extend(records(&self.name_server, addresses));
            }
        }
        Answer {
            code: ResponseCode::NoError,
            authoritative: true,
            answers: records(name, found),
            soa: None,
            additionals,
        }
    }

    fn place(&self, name: &Name) -> Place {
        let depth = name.iter().count() - self.zone.iter().count();
        if !name.iter().take(depth).all(is_dns_label) {
            return Place::Nowhere;
        }
        match (name.iter().take(depth).next(), depth) {
            (None, _) => Place::Apex,
            (Some(ns), 1) if ns.eq_ignore_ascii_case(b"ns") => Place::NameServer,
            (Some(_), 1) => Place::Namespace,
            (Some(_), 2) => Place::Actor,
            _ => Place::Nowhere,
        }
    }

    fn apex_rdata(&self, kind: RecordType) -> Vec<RData> {
        match kind {
            RecordType::SOA | RecordType::ANY => vec![RData::SOA(self.soa())],
            RecordType::NS => vec![RData::NS(NS(self.name_server.clone()))],
            _ => Vec::new(),
        }
    }

    fn negative_ttl(&self) -> u32 {
        self.ttl.min(MAX_NEGATIVE_TTL)
    }

    fn soa(&self) -> SOA {
        SOA::new(
            self.name_server.clone(),
            self.hostmaster.clone(),
            self.serial,
            REFRESH,
            RETRY,
            EXPIRE,
            self.negative_ttl(),
        )
    }

    /// Of the zone, and not there.
    pub(crate) fn no_such_name(&self, name: &Name) -> Answer {
        self.nothing(name, ResponseCode::NXDomain)
    }

    fn nothing(&self, name: &Name, code: ResponseCode) -> Answer {
        let apex = name.trim_to(self.zone.iter().count());
        let soa = Record::from_rdata(apex, self.negative_ttl(), RData::SOA(self.soa()));
        Answer { code, soa: Some(soa), ..Answer::empty(true) }
    }
}

impl Answer {
    fn empty(authoritative: bool) -> Self {
        Self {
            code: ResponseCode::NoError,
            authoritative,
            answers: Vec::new(),
            soa: None,
            additionals: Vec::new(),
        }
    }

    /// Not for us.
    pub(crate) fn refused() -> Self {
        Self { code: ResponseCode::Refused, ..Self::empty(false) }
    }

    fn failure() -> Self {
        Self { code: ResponseCode::ServFail, ..Self::empty(true) }
    }
}

/// Where in the zone a name stands.
enum Place {
    Apex,
    NameServer,
    Namespace,
    Actor,
    Nowhere,
}

/// In any letter case.
fn is_dns_label(label: &[u8]) -> bool {
    let mut lower = [0; LONGEST_LABEL];
    let Some(lower) = lower.get_mut(..label.len()) else { return false };
    lower.copy_from_slice(label);
    lower.make_ascii_lowercase();
    str::from_utf8(lower).is_ok_and(is_label)
}

#[cfg(test)]
mod tests;
