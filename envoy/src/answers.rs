//! What clients were answered that was not their actor's own: Envoy tells of each such answer, whoever gave it.
//!
//! ```text
//!  router refuses, or Envoy itself answers ─▶ x-reveille-reason ─▶ access log of Envoy (filtered) ─▶ gRPC ─▶ AnswerLog ─▶ Reason
//! ```
//!
//! A request that its actor answers passes a comparison of its status and nothing else. The log is for counting: what Envoy has to
//! tell while no router can be reached is lost.

use envoy_types::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse,
    access_log_service_server::{AccessLogService, AccessLogServiceServer},
    stream_access_logs_message::LogEntries,
};
use reveille_api::Reason;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::resources::names;

/// The server of that log.
#[derive(Debug)]
pub struct AnswerLog<F> {
    heard: F,
    stop: CancellationToken,
}

impl<F: Fn(Reason) + Send + Sync + 'static> AnswerLog<F> {
    /// Calls this for each answer. The streams, which have no end of their own, end at `stop`.
    pub fn new(heard: F, stop: CancellationToken) -> Self {
        Self { heard, stop }
    }

    /// For a `tonic` server.
    pub fn into_service(self) -> AccessLogServiceServer<Self> {
        AccessLogServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl<F: Fn(Reason) + Send + Sync + 'static> AccessLogService for AnswerLog<F> {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let mut messages = request.into_inner();
        while let Some(message) = self.stop.run_until_cancelled(messages.message()).await {
            // An error is an end like any other: Envoy is gone.
            let Ok(Some(message)) = message else { break };
            reasons(&message).for_each(&self.heard);
        }
        Ok(Response::new(StreamAccessLogsResponse::default()))
    }
}

/// A name that is none of ours cannot come from us, and is not counted.
fn reasons(message: &StreamAccessLogsMessage) -> impl Iterator<Item = Reason> {
    let entries = match &message.log_entries {
        Some(LogEntries::HttpLogs(logs)) => logs.log_entry.as_slice(),
        Some(LogEntries::TcpLogs(_)) | None => &[],
    };
    let responses = entries.iter().filter_map(|entry| entry.response.as_ref());
    let named =
        responses.filter_map(|response| response.response_headers.get(names::REASON_HEADER));
    named.filter_map(|name| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::{
        data::accesslog::v3::{HttpAccessLogEntry, HttpResponseProperties},
        service::accesslog::v3::stream_access_logs_message::HttpAccessLogEntries,
    };

    use super::*;

    fn entry(reason: &str) -> HttpAccessLogEntry {
        let headers = [(names::REASON_HEADER.to_owned(), reason.to_owned())];
        let response =
            HttpResponseProperties { response_headers: headers.into(), ..Default::default() };
        HttpAccessLogEntry { response: Some(response), ..Default::default() }
    }

    #[test]
    fn an_answer_is_counted_by_its_reason_and_only_by_one_of_ours() {
        let log_entry = vec![
            entry("upstream_reset"),
            entry("of the actor's own making"),
            HttpAccessLogEntry::default(),
            entry("no_capacity"),
        ];
        let logs = LogEntries::HttpLogs(HttpAccessLogEntries { log_entry });
        let message = StreamAccessLogsMessage { log_entries: Some(logs), ..Default::default() };
        let found: Vec<_> = reasons(&message).collect();
        assert_eq!(found, [Reason::UpstreamReset, Reason::NoCapacity]);
    }
}
