//! What Envoy tells the router of requests that have ended: of each that was answered otherwise than by its actor, whoever
//! answered; and of each that began a wake, when its answer began.
//!
//! ```text
//!  router refuses, or Envoy itself answers ─▶ x-reveille-reason ─┬▶ access log of Envoy (filtered) ─▶ gRPC ─▶ RequestLog ─▶ Ended
//!  router wakes for it, the actor answers ─▶ metadata: first ────┘
//! ```
//!
//! A request that its actor answers passes a comparison of its status and a look at its metadata, and nothing else. The logs are
//! for counting: what Envoy has to tell while no router can be reached is lost.

use std::time::Duration;

use envoy_types::pb::{
    envoy::{
        data::accesslog::v3::{AccessLogCommon, HttpAccessLogEntry},
        service::accesslog::v3::{
            StreamAccessLogsMessage, StreamAccessLogsResponse,
            access_log_service_server::{AccessLogService, AccessLogServiceServer},
            stream_access_logs_message::LogEntries,
        },
    },
    google::protobuf::{self, value::Kind},
};
use reveille_api::{Reason, metrics::Label, proto::WakeKind};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::resources::names;

/// A request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Not by its actor.
    Answered(Reason),
    /// It began a wake of this kind, and from its way to the actor to the first byte of the answer it took so long.
    Woke(WakeKind, Duration),
}

/// The server of those logs.
#[derive(Debug)]
pub struct RequestLog<F> {
    heard: F,
    stop: CancellationToken,
}

impl<F: Fn(Ended) + Send + Sync + 'static> RequestLog<F> {
    /// Calls this for each. The streams, which have no end of their own, end at `stop`.
    pub fn new(heard: F, stop: CancellationToken) -> Self {
        Self { heard, stop }
    }

    /// For a `tonic` server.
    pub fn into_service(self) -> AccessLogServiceServer<Self> {
        AccessLogServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl<F: Fn(Ended) + Send + Sync + 'static> AccessLogService for RequestLog<F> {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let mut messages = request.into_inner();
        let mut told: fn(&HttpAccessLogEntry) -> Option<Ended> = answered;
        while let Some(message) = self.stop.run_until_cancelled(messages.message()).await {
            // An error is an end like any other: Envoy is gone.
            let Ok(Some(message)) = message else { break };
            // Which log it is, the first message says.
            if message.identifier.as_ref().is_some_and(|log| log.log_name == names::WAKE_LOG) {
                told = woke;
            }
            entries(&message).iter().filter_map(told).for_each(&self.heard);
        }
        Ok(Response::new(StreamAccessLogsResponse::default()))
    }
}

fn entries(message: &StreamAccessLogsMessage) -> &[HttpAccessLogEntry] {
    match &message.log_entries {
        Some(LogEntries::HttpLogs(logs)) => &logs.log_entry,
        Some(LogEntries::TcpLogs(_)) | None => &[],
    }
}

/// A name that is none of ours cannot come from us, and is not counted.
fn answered(entry: &HttpAccessLogEntry) -> Option<Ended> {
    let headers = &entry.response.as_ref()?.response_headers;
    headers.get(names::REASON_HEADER)?.parse().ok().map(Ended::Answered)
}

/// Nothing when no answer began.
fn woke(entry: &HttpAccessLogEntry) -> Option<Ended> {
    let common = entry.common_properties.as_ref()?;
    let AccessLogCommon { time_to_first_upstream_tx_byte, time_to_first_upstream_rx_byte, .. } =
        common;
    let [sent, began] = [time_to_first_upstream_tx_byte, time_to_first_upstream_rx_byte]
        .map(|time| time.as_ref().and_then(time_of));
    let said = common.metadata.as_ref()?.filter_metadata.get(names::METADATA)?;
    let Some(Kind::StringValue(kind)) = &said.fields.get(names::WAKE)?.kind else { return None };
    let kind = WakeKind::all().into_iter().find(|known| known.value() == kind)?;
    Some(Ended::Woke(kind, began?.saturating_sub(sent?)))
}

fn time_of(time: &protobuf::Duration) -> Option<Duration> {
    Some(Duration::new(time.seconds.try_into().ok()?, time.nanos.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::{
        config::core::v3::Metadata, data::accesslog::v3::HttpResponseProperties,
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
        let entries = [
            entry("upstream_reset"),
            entry("of the actor's own making"),
            HttpAccessLogEntry::default(),
            entry("no_capacity"),
        ];
        let found: Vec<_> = entries.iter().filter_map(answered).collect();
        let wanted = [Reason::UpstreamReset, Reason::NoCapacity].map(Ended::Answered);
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_wake_is_counted_by_its_kind_once_its_answer_began() {
        let time = |micros: i32| protobuf::Duration { seconds: 1, nanos: micros * 1_000 };
        let entry = |kind: &str, began: Option<i32>| {
            let kind = protobuf::Value { kind: Some(Kind::StringValue(kind.into())) };
            let fields = [(names::WAKE.to_owned(), kind)].into();
            let said = protobuf::Struct { fields };
            let common = AccessLogCommon {
                metadata: Some(Metadata {
                    filter_metadata: [(names::METADATA.to_owned(), said)].into(),
                    ..Default::default()
                }),
                time_to_first_upstream_tx_byte: Some(time(100)),
                time_to_first_upstream_rx_byte: began.map(time),
                ..Default::default()
            };
            HttpAccessLogEntry { common_properties: Some(common), ..Default::default() }
        };
        let restored = Ended::Woke(WakeKind::Restored, Duration::from_micros(900));
        assert_eq!(woke(&entry("restored", Some(1_000))), Some(restored));
        assert_eq!(woke(&entry("restored", None)), None);
        assert_eq!(woke(&entry("otherwise", Some(1_000))), None);
        assert_eq!(woke(&HttpAccessLogEntry::default()), None);
    }
}
