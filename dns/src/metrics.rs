//! What is counted. Every series exists from the start, and no label says who asked, or for what.

use hickory_proto::op::ResponseCode;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use reveille_api::{
    labels,
    metrics::{Closed, Label, Registry},
    telemetry,
};

labels! {
    /// How a question came.
    pub(crate) enum Transport "transport" {
        Udp "udp",
        Tcp "tcp",
        Tls "tls",
    }
}

labels! {
    /// How it was answered.
    pub(crate) enum Code "code" {
        NoError "noerror",
        FormErr "formerr",
        ServFail "servfail",
        NxDomain "nxdomain",
        NotImp "notimp",
        Refused "refused",
        BadVers "badvers",
    }
}

labels! {
    /// What became of a question above the rate of its source.
    pub(crate) enum Limited "outcome" {
        Truncated "truncated",
        Dropped "dropped",
    }
}

labels! {
    /// Which limit was reached when a connection had to make room.
    pub(crate) enum Refusal "limit" {
        All "all",
        Network "network",
    }
}

labels! {
    /// What became of a call to the control plane about an actor.
    pub(crate) enum Look "outcome" {
        Answered "answered",
        Failed "failed",
        Limited "limited",
    }
}

labels! {
    pub(crate) enum Family "family" {
        V4 "ipv4",
        V6 "ipv6",
    }
}

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) queries: Closed<Transport, Counter>,
    pub(crate) replies: Closed<(Transport, Code), Counter>,
    pub(crate) limited: Closed<Limited, Counter>,
    pub(crate) refused: Closed<Refusal, Counter>,
    pub(crate) looks: Closed<Look, Counter>,
    fronts: Closed<Family, Gauge>,
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
        let metrics = Self::default();
        let mut dns = registry.sub_registry_with_prefix("reveille_dns");
        let r = &mut dns;
        r.register("queries", "Messages that came, by transport", metrics.queries.clone());
        r.register("replies", "Replies, by transport and code", metrics.replies.clone());
        r.register(
            "limited",
            "Questions above the rate of their source, by what became of them",
            metrics.limited.clone(),
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
            "Connections hung up on to make room for others, by the limit that was reached",
            metrics.refused.clone(),
        );
        r.register(
            "fronts",
            "Addresses of the Envoy front that are answered with, by family",
            metrics.fronts.clone(),
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
        r.register("looks", help, metrics.looks.clone());
        telemetry::register(r);
        metrics
    }

    pub(crate) fn set_fronts(&self, (v4, v6): (usize, usize)) {
        self.fronts.get(Family::V4).set(v4 as i64);
        self.fronts.get(Family::V6).set(v6 as i64);
    }
}

impl Code {
    /// Of those that [`crate::message`] gives.
    pub(crate) const fn of(code: ResponseCode) -> Self {
        match code {
            ResponseCode::NoError => Self::NoError,
            ResponseCode::FormErr => Self::FormErr,
            ResponseCode::NXDomain => Self::NxDomain,
            ResponseCode::NotImp => Self::NotImp,
            ResponseCode::Refused => Self::Refused,
            ResponseCode::BADVERS => Self::BadVers,
            _ => Self::ServFail,
        }
    }

    /// As people write it.
    pub(crate) fn mnemonic(self) -> String {
        self.value().to_uppercase()
    }
}
