//! What every socket needs.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
};

use arc_swap::ArcSwap;
use hickory_proto::op::Query;
use tokio::time::Instant;

use crate::{
    answer::Records,
    limit::RateLimit,
    message::Replied,
    metrics::{Code, Metrics, Transport},
    names::Names,
    query_log::QueryLog,
    stream::Connections,
};

pub(crate) struct Shared {
    pub(crate) records: Arc<ArcSwap<Records>>,
    pub(crate) limit: Option<RateLimit>,
    pub(crate) connections: Connections,
    /// Of replies over streams: which front comes first.
    pub(crate) turn: AtomicUsize,
    pub(crate) metrics: Metrics,
    pub(crate) query_log: Option<QueryLog>,
    pub(crate) names: Option<Arc<Names>>,
}

impl Shared {
    /// Whether it is known that there is no such actor.
    pub(crate) fn is_absent(&self, query: &Query, now: Instant) -> bool {
        self.names.as_ref().is_some_and(|names| names.is_absent(query, now))
    }

    /// Counts what was said, and writes it down. Whether anything was.
    pub(crate) fn told(
        &self,
        transport: Transport,
        from: SocketAddr,
        replied: Option<Replied>,
        bytes: usize,
        now: Instant,
    ) -> bool {
        let Some(replied) = replied else {
            self.metrics.ignored.inc();
            return false;
        };
        self.metrics.replies.get((transport, Code::of(replied.code))).inc();
        if replied.truncated {
            self.metrics.truncated.inc();
        }
        // Not for who is above the rate: that may be anybody.
        if let (Some(names), Some(query), false) = (&self.names, &replied.query, replied.truncated)
        {
            names.asked(query, now, &self.metrics);
        }
        if let Some(log) = &self.query_log {
            log.write(transport, from, &replied, bytes, &self.metrics);
        }
        true
    }
}
