//! What is counted. Every series exists from the start, and no label says who asked, or for what.

use hickory_proto::op::ResponseCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are lower case")]
pub(crate) enum Transport {
    udp,
    tcp,
    tls,
}

/// How it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are lower case")]
enum Code {
    noerror,
    formerr,
    servfail,
    nxdomain,
    notimp,
    refused,
    badvers,
}

/// What became of a question above the rate of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are lower case")]
pub(crate) enum Limited {
    truncated,
    dropped,
}

/// Which limit a connection was above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are lower case")]
pub(crate) enum Refusal {
    all,
    address,
}

/// What became of a call to the control plane about an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are lower case")]
pub(crate) enum Look {
    answered,
    failed,
    limited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are lower case")]
enum Family_ {
    ipv4,
    ipv6,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransportLabels {
    transport: Transport,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReplyLabels {
    transport: Transport,
    code: Code,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitedLabels {
    outcome: Limited,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    limit: Refusal,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookLabels {
    outcome: Look,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FamilyLabels {
    family: Family_,
}

const TRANSPORTS: [Transport; 3] = [Transport::udp, Transport::tcp, Transport::tls];
const CODES: [Code; 7] = [
    Code::noerror,
    Code::formerr,
    Code::servfail,
    Code::nxdomain,
    Code::notimp,
    Code::refused,
    Code::badvers,
];

/// Counters of each label at hand: a question looks nothing up.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    queries: [Counter; TRANSPORTS.len()],
    replies: [[Counter; CODES.len()]; TRANSPORTS.len()],
    limited: [Counter; 2],
    refused: [Counter; 2],
    fronts: [Gauge; 2],
    looks: [Counter; 3],
    pub(crate) truncated: Counter,
    pub(crate) ignored: Counter,
    pub(crate) unsent: Counter,
    pub(crate) socket_errors: Counter,
    pub(crate) connections: Gauge,
    pub(crate) front_changes: Counter,
    pub(crate) front_errors: Counter,
    pub(crate) log_dropped: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let queries = Family::<TransportLabels, Counter>::default();
        let replies = Family::<ReplyLabels, Counter>::default();
        let limited = Family::<LimitedLabels, Counter>::default();
        let refused = Family::<RefusalLabels, Counter>::default();
        let fronts = Family::<FamilyLabels, Gauge>::default();
        let looks = Family::<LookLabels, Counter>::default();
        let metrics = Self {
            queries: TRANSPORTS
                .map(|transport| queries.get_or_create_owned(&TransportLabels { transport })),
            replies: TRANSPORTS.map(|transport| {
                CODES.map(|code| replies.get_or_create_owned(&ReplyLabels { transport, code }))
            }),
            limited: [Limited::truncated, Limited::dropped]
                .map(|outcome| limited.get_or_create_owned(&LimitedLabels { outcome })),
            refused: [Refusal::all, Refusal::address]
                .map(|limit| refused.get_or_create_owned(&RefusalLabels { limit })),
            fronts: [Family_::ipv4, Family_::ipv6]
                .map(|family| fronts.get_or_create_owned(&FamilyLabels { family })),
            looks: [Look::answered, Look::failed, Look::limited]
                .map(|outcome| looks.get_or_create_owned(&LookLabels { outcome })),
            truncated: Counter::default(),
            ignored: Counter::default(),
            unsent: Counter::default(),
            socket_errors: Counter::default(),
            connections: Gauge::default(),
            front_changes: Counter::default(),
            front_errors: Counter::default(),
            log_dropped: Counter::default(),
        };
        let mut dns = registry.sub_registry_with_prefix("reveille_dns");
        let r = &mut dns;
        r.register("queries", "Messages that came, by transport", queries);
        r.register("replies", "Replies, by transport and code", replies);
        r.register(
            "limited",
            "Questions above the rate of their source, by what became of them",
            limited,
        );
        r.register(
            "truncated",
            "Replies that had to leave something out and say so",
            metrics.truncated.clone(),
        );
        r.register("ignored", "Messages that are not answered: too short, too long, replies, or of a source that nobody has", metrics.ignored.clone());
        r.register("unsent", "Replies that the kernel did not take", metrics.unsent.clone());
        r.register(
            "socket_errors",
            "Errors of sockets, after which they go on",
            metrics.socket_errors.clone(),
        );
        r.register(
            "connections",
            "TCP and TLS connections that are open",
            metrics.connections.clone(),
        );
        r.register(
            "connections_refused",
            "Connections hung up on, by the limit they were above",
            refused,
        );
        r.register(
            "fronts",
            "Addresses of the Envoy front that are answered with, by family",
            fronts,
        );
        r.register(
            "front_changes",
            "Changes of the front's addresses",
            metrics.front_changes.clone(),
        );
        r.register(
            "front_errors",
            "Times that the front's addresses could not be told; the last ones are kept",
            metrics.front_errors.clone(),
        );
        r.register(
            "query_log_dropped",
            "Lines that the query log was too slow for",
            metrics.log_dropped.clone(),
        );
        let help = "Calls to the control plane about actors that were asked for, by how they ended";
        r.register("looks", help, looks);
        metrics
    }

    pub(crate) fn queries(&self, transport: Transport) -> &Counter {
        &self.queries[transport as usize]
    }

    pub(crate) fn replies(&self, transport: Transport, code: ResponseCode) -> &Counter {
        &self.replies[transport as usize][Code::of(code) as usize]
    }

    pub(crate) fn limited(&self, outcome: Limited) -> &Counter {
        &self.limited[outcome as usize]
    }

    pub(crate) fn refused(&self, limit: Refusal) -> &Counter {
        &self.refused[limit as usize]
    }

    pub(crate) fn looks(&self, outcome: Look) -> &Counter {
        &self.looks[outcome as usize]
    }

    pub(crate) fn set_fronts(&self, (v4, v6): (usize, usize)) {
        self.fronts[0].set(v4 as i64);
        self.fronts[1].set(v6 as i64);
    }
}

impl Code {
    /// Of those that [`crate::message`] gives.
    const fn of(code: ResponseCode) -> Self {
        match code {
            ResponseCode::NoError => Self::noerror,
            ResponseCode::FormErr => Self::formerr,
            ResponseCode::NXDomain => Self::nxdomain,
            ResponseCode::NotImp => Self::notimp,
            ResponseCode::Refused => Self::refused,
            ResponseCode::BADVERS => Self::badvers,
            _ => Self::servfail,
        }
    }
}
