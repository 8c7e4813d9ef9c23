//! The answer to a request that its actor will not answer: one shape for every [`Reason`].
//!
//! Headers: `x-reveille-reason`, `content-type`, `retry-after` with jitter where trying again helps, and `proxy-status`
//! (RFC 9209). The body is the same as in Envoy's own answers ([`reply`]); of gRPC callers Envoy makes a trailers-only
//! answer, and to `HEAD` it sends the headers alone. Nothing internal is in any of it.

use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::{
    config::core::v3::{
        HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction as Append,
    },
    service::ext_proc::v3::{
        GrpcStatus, HeaderMutation, ImmediateResponse, ProcessingResponse,
        processing_response::Response,
    },
    r#type::v3::HttpStatus,
};
use reveille_api::{Failure, Reason};
use reveille_envoy::{
    reply::{self, Shape},
    resources::names,
};

use crate::answer::encode;

/// Why a request does not go on to its actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    /// Where the control plane knows when trying again may help.
    pub(crate) retry: Option<Duration>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self { reason, retry: None }
    }
}

impl From<&Failure> for Refused {
    fn from(failure: &Failure) -> Self {
        Self { reason: failure.reason, retry: failure.retry_after }
    }
}

/// The whole answer, encoded.
pub(crate) fn refusal(refused: Refused, shape: Shape) -> Bytes {
    encode(&ProcessingResponse {
        response: Some(Response::ImmediateResponse(immediate(refused, shape))),
        ..Default::default()
    })
}

fn immediate(refused: Refused, shape: Shape) -> ImmediateResponse {
    let reason = refused.reason;
    let mut headers = vec![
        header(names::REASON_HEADER, reason.name().to_owned()),
        header("content-type", shape.content_type().to_owned()),
        header("proxy-status", reply::proxy_status(reason, reply::proxy_error(reason))),
        // A 404 may be kept by a proxy otherwise, beyond the creation of its actor.
        header("cache-control", "no-store".to_owned()),
    ];
    headers.extend(retry_after(refused).map(|seconds| header("retry-after", seconds.to_string())));
    ImmediateResponse {
        status: Some(HttpStatus { code: reason.http_status().into() }),
        headers: Some(HeaderMutation { set_headers: headers, ..Default::default() }),
        body: reply::body(reason, shape).into_bytes(),
        grpc_status: (shape == Shape::Grpc)
            .then(|| GrpcStatus { status: reason.grpc_code() as i32 as u32 }),
        details: format!("reveille_{}", reason.name()),
    }
}

fn header(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            raw_value: value.into_bytes(),
            ..Default::default()
        }),
        append_action: Append::OverwriteIfExistsOrAdd as i32,
        ..Default::default()
    }
}

/// Seconds to wait: between once and twice the shortest that is worth it, so that callers do not return together. Of one
/// the control plane named, a quarter more at most; the page of a browser says itself when it comes back.
fn retry_after(refused: Refused) -> Option<u64> {
    let least = refused.retry.or(refused.reason.retry_after())?;
    let least = least.as_millis().div_ceil(1_000) as u64;
    let spread = match refused.reason {
        Reason::Waking => 0,
        _ if refused.retry.is_some() => least / 4,
        _ => least,
    };
    Some(least + rand::random_range(0..=spread))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn sent(reason: Reason, shape: Shape) -> (ImmediateResponse, Vec<(String, String)>) {
        let response = ProcessingResponse::decode(refusal(reason.into(), shape)).unwrap();
        let Some(Response::ImmediateResponse(mut sent)) = response.response else {
            panic!("not an immediate response");
        };
        let headers = sent.headers.take().unwrap().set_headers.into_iter().map(|option| {
            let header = option.header.unwrap();
            (header.key, String::from_utf8(header.raw_value).unwrap())
        });
        let headers = headers.collect();
        (sent, headers)
    }

    fn get<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
        headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn every_reason_has_its_row_of_the_design_in_every_shape() {
        for &reason in Reason::ALL {
            for &shape in Shape::ALL {
                let (sent, headers) = sent(reason, shape);
                let context = format!("{reason} as {shape:?}");
                assert_eq!(sent.status.unwrap().code, i32::from(reason.http_status()), "{context}");
                assert_eq!(get(&headers, "x-reveille-reason"), Some(reason.name()), "{context}");
                assert_eq!(get(&headers, "content-type"), Some(shape.content_type()), "{context}");
                assert_eq!(get(&headers, "cache-control"), Some("no-store"), "{context}");
                let proxy_status = get(&headers, "proxy-status").unwrap();
                assert!(proxy_status.starts_with("reveille; error="), "{context}");
                assert!(proxy_status.ends_with(&format!("details=\"{reason}\"")), "{context}");
                let retry = get(&headers, "retry-after").map(|s| s.parse::<u64>().unwrap());
                match reason.retry_after().map(|d| d.as_secs()) {
                    Some(least) => {
                        let most = if reason == Reason::Waking { least } else { 2 * least };
                        assert!((least..=most).contains(&retry.unwrap()), "{context}");
                    }
                    None => assert_eq!(retry, None, "{context}"),
                }
                let grpc = (shape == Shape::Grpc).then_some(reason.grpc_code() as i32 as u32);
                assert_eq!(sent.grpc_status.map(|g| g.status), grpc, "{context}");
                assert_eq!(sent.body, reply::body(reason, shape).into_bytes(), "{context}");
                assert_eq!(sent.details, format!("reveille_{reason}"), "{context}");
            }
        }
    }

    #[test]
    fn a_wait_the_control_plane_named_is_told_in_whole_seconds_and_never_too_short() {
        let retry = Some(Duration::from_millis(11_100));
        let refused = Refused { reason: Reason::QuotaExceeded, retry };
        for _ in 0..50 {
            assert!((12..=15).contains(&retry_after(refused).unwrap()));
        }
    }

    #[test]
    fn a_page_is_not_stored() {
        let (_, headers) = sent(Reason::Waking, Shape::Html);
        assert_eq!(get(&headers, "cache-control"), Some("no-store"));
        assert_eq!(get(&headers, "retry-after"), Some("1"));
    }

    #[test]
    fn callers_are_not_sent_back_all_at_once() {
        let waits: std::collections::BTreeSet<_> =
            (0..200).filter_map(|_| retry_after(Reason::NoCapacity.into())).collect();
        assert!(waits.len() > 3, "{waits:?}");
    }
}
