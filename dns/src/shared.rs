//! What every socket needs.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
};

use arc_swap::ArcSwap;

use crate::{
    answer::Records,
    limit::RateLimit,
    message::Replied,
    metrics::{Metrics, Transport},
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
}

impl Shared {
    /// Counts what was said, and writes it down. Whether anything was.
    pub(crate) fn told(
        &self,
        transport: Transport,
        from: SocketAddr,
        replied: Option<Replied>,
        bytes: usize,
    ) -> bool {
        let Some(replied) = replied else {
            self.metrics.ignored.inc();
            return false;
        };
        self.metrics.replies(transport, replied.code).inc();
        if replied.truncated {
            self.metrics.truncated.inc();
        }
        if let Some(log) = &self.query_log {
            log.write(transport, from, &replied, bytes, &self.metrics);
        }
        true
    }
}
