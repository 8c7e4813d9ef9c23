//! Answers to Envoy that let a request go on, encoded as they travel.
//!
//! Routing data is dynamic metadata ([`names`]); no header a client could see or send carries it.
//!
//! | key | in | value |
//! | --- | --- | --- |
//! | `endpoint` | every answer | `ip:port` of the activation |
//! | `protocol` | answers for an h2c actor | `h2c` |
//! | `websocket_accept` | answers to WebSockets of HTTP/1.1 for an h2c actor | what its client waits for |
//! | `wake` | answers to requests that were parked | how the activation came to serve |
//! | `server_timing` | the same | of a `Server-Timing` value what happened until now: what the request waited for, in milliseconds |
//!
//! Answers that say more than the endpoint have Envoy choose the route again, by what they say.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{Cursor, Write as _},
    net::SocketAddr,
    sync::OnceLock,
    time::Duration,
};

use bytes::Bytes;
use envoy_types::pb::{
    envoy::service::ext_proc::v3::{
        BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, ProcessingResponse,
        TrailersResponse, processing_response::Response,
    },
    google::protobuf::{Struct, Value, value::Kind},
};
use prost::Message;
use reveille_api::{
    metrics::Label,
    proto::{WakeKind, WakePhases},
};
use reveille_envoy::resources::names;

use crate::{binding::Protocol, ext_proc::wire::Phase};

/// Longest endpoint there is: an IPv6 address with a scope, and a port.
const ENDPOINT_MOST: usize = 64;

/// The answer to a warm request, but for the endpoint. Answers for endpoints of one length differ in nothing else, so that
/// none has to be kept for each binding.
struct Mould {
    answer: Vec<u8>,
    /// Where the endpoint goes.
    at: usize,
}

static HTTP1: [OnceLock<Mould>; ENDPOINT_MOST] = [const { OnceLock::new() }; ENDPOINT_MOST];
static H2C: [OnceLock<Mould>; ENDPOINT_MOST] = [const { OnceLock::new() }; ENDPOINT_MOST];

impl Mould {
    fn of(length: usize, protocol: Protocol) -> Self {
        let gap = "x".repeat(length);
        let answer = go_on(gap.clone(), protocol, []).to_vec();
        let at = answer.windows(length).position(|window| window == gap.as_bytes());
        Self { answer, at: at.unwrap_or_default() }
    }
}

/// To a request whose actor is bound.
pub(crate) fn warm(endpoint: SocketAddr, protocol: Protocol) -> Bytes {
    let mut text = Cursor::new([0; ENDPOINT_MOST]);
    let written = write!(text, "{endpoint}");
    let length = text.position() as usize;
    let moulds = if protocol == Protocol::H2c { &H2C } else { &HTTP1 };
    let Some(mould) = moulds.get(length).filter(|_| written.is_ok()) else {
        return go_on(endpoint.to_string(), protocol, []);
    };
    let mould = mould.get_or_init(|| Mould::of(length, protocol));
    let mut answer = mould.answer.clone();
    answer[mould.at..mould.at + length].copy_from_slice(&text.get_ref()[..length]);
    answer.into()
}

/// To a WebSocket of HTTP/1.1 for an h2c actor that is bound.
pub(crate) fn websocket(endpoint: SocketAddr, accept: String) -> Bytes {
    go_on(endpoint.to_string(), Protocol::H2c, [(names::WEBSOCKET_ACCEPT, accept)])
}

/// What is told of a wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waited<'a> {
    pub(crate) kind: WakeKind,
    /// It began the wake.
    pub(crate) first: bool,
    pub(crate) held: Duration,
    pub(crate) phases: &'a WakePhases,
}

/// To a request that was parked.
pub(crate) fn woken(
    endpoint: SocketAddr,
    protocol: Protocol,
    waited: Waited<'_>,
    accept: Option<String>,
) -> Bytes {
    let timing = server_timing(waited.held, waited.phases);
    let told = [(names::WAKE, waited.kind.value().into()), (names::SERVER_TIMING, timing)];
    let first = waited.first.then(|| (names::FIRST, "true".to_owned()));
    let accept = accept.filter(|_| protocol == Protocol::H2c);
    let accept = accept.map(|accept| (names::WEBSOCKET_ACCEPT, accept));
    go_on(endpoint.to_string(), protocol, told.into_iter().chain(first).chain(accept))
}

/// To the phases Envoy has no need to send; each has its own empty answer.
pub(crate) fn empty(phase: Phase) -> Bytes {
    let response = match phase {
        Phase::RequestHeaders => Response::RequestHeaders(HeadersResponse::default()),
        Phase::ResponseHeaders => Response::ResponseHeaders(HeadersResponse::default()),
        Phase::RequestBody => Response::RequestBody(BodyResponse::default()),
        Phase::ResponseBody => Response::ResponseBody(BodyResponse::default()),
        Phase::RequestTrailers => Response::RequestTrailers(TrailersResponse::default()),
        Phase::ResponseTrailers => Response::ResponseTrailers(TrailersResponse::default()),
    };
    encode(&ProcessingResponse { response: Some(response), ..Default::default() })
}

pub(crate) fn encode(response: &ProcessingResponse) -> Bytes {
    response.encode_to_vec().into()
}

fn go_on(
    endpoint: String,
    protocol: Protocol,
    more: impl IntoIterator<Item = (&'static str, String)>,
) -> Bytes {
    let h2c = protocol == Protocol::H2c;
    let mut fields = vec![(names::ENDPOINT, endpoint)];
    fields.extend(h2c.then(|| (names::PROTOCOL, names::H2C.to_owned())));
    fields.extend(more);
    let again = fields.len() > 1;
    let fields = fields.into_iter().map(|(key, value)| (key, Kind::StringValue(value)));
    let reveille = (names::METADATA, Kind::StructValue(structure(fields)));
    let common = CommonResponse {
        clear_route_cache: again,
        // An empty one: without any, Envoy ignores the line above.
        header_mutation: again.then(HeaderMutation::default),
        ..Default::default()
    };
    encode(&ProcessingResponse {
        response: Some(Response::RequestHeaders(HeadersResponse { response: Some(common) })),
        dynamic_metadata: Some(structure([reveille])),
        ..Default::default()
    })
}

fn structure(fields: impl IntoIterator<Item = (&'static str, Kind)>) -> Struct {
    let fields = fields.into_iter().map(|(key, kind)| (key.to_owned(), Value { kind: Some(kind) }));
    Struct { fields: fields.collect::<HashMap<_, _>>() }
}

/// The phases of a wake as this request met them: one that joined late has met only the end. `park` is what no other
/// phase explains, so that all of them add up to the time it was held. What comes then, Envoy adds.
fn server_timing(held: Duration, phases: &WakePhases) -> String {
    let mut text = String::with_capacity(96);
    for (name, us) in waited(held, phases) {
        let separator = if text.is_empty() { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{name};dur={:.1}", us as f64 / 1000.0);
    }
    text
}

/// What a request waited for, in microseconds, of all that it waited. One that joined a wake has met only its end.
pub(crate) fn waited(held: Duration, phases: &WakePhases) -> [(&'static str, u64); 5] {
    let mut left = held.as_micros() as u64;
    let mut met = |us: u64| {
        let met = us.min(left);
        left -= met;
        met
    };
    let ready = met(phases.ready_us);
    let restore = met(phases.restore_us);
    let fetch = met(phases.fetch_us);
    let place = met(phases.place_us);
    [("park", left), ("place", place), ("fetch", fetch), ("restore", restore), ("ready", ready)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(answer: &Bytes) -> Vec<(String, String)> {
        let response = ProcessingResponse::decode(answer.clone()).unwrap();
        let outer = response.dynamic_metadata.unwrap().fields.remove("reveille").unwrap();
        let Some(Kind::StructValue(inner)) = outer.kind else { panic!("{outer:?}") };
        let text = |v: Value| match v.kind {
            Some(Kind::StringValue(text)) => text,
            other => panic!("{other:?}"),
        };
        let mut fields: Vec<_> = inner.fields.into_iter().map(|(k, v)| (k, text(v))).collect();
        fields.sort();
        fields
    }

    #[test]
    fn a_warm_answer_names_the_endpoint_and_nothing_else() {
        let answer = warm("10.1.2.3:20001".parse().unwrap(), Protocol::Http1);
        assert_eq!(metadata(&answer), [("endpoint".into(), "10.1.2.3:20001".into())]);
        let response = ProcessingResponse::decode(answer).unwrap().response.unwrap();
        let Response::RequestHeaders(headers) = response else { panic!("{response:?}") };
        assert!(!headers.response.unwrap().clear_route_cache);
    }

    #[test]
    fn warm_answers_out_of_one_mould_are_those_made_one_by_one() {
        for endpoint in ["1.2.3.4:5", "10.213.0.1:20001", "10.213.0.2:59999", "[fe80::1%7]:443"] {
            let endpoint: SocketAddr = endpoint.parse().unwrap();
            for protocol in [Protocol::Http1, Protocol::H2c] {
                let made = metadata(&go_on(endpoint.to_string(), protocol, []));
                assert_eq!(metadata(&warm(endpoint, protocol)), made, "{endpoint}");
            }
        }
    }

    #[test]
    fn a_route_is_chosen_again_only_by_more_than_an_endpoint() {
        let endpoint = "10.1.2.3:20001".parse().unwrap();
        let phases = WakePhases::default();
        let (kind, held) = (WakeKind::Restored, Duration::ZERO);
        let waited = Waited { kind, first: true, held, phases: &phases };
        let woken = woken(endpoint, Protocol::Http1, waited, None);
        let h2c = warm(endpoint, Protocol::H2c);
        assert!(metadata(&h2c).contains(&("protocol".into(), "h2c".into())));
        for answer in [h2c, woken] {
            let response = ProcessingResponse::decode(answer).unwrap().response.unwrap();
            let Response::RequestHeaders(headers) = response else { panic!("{response:?}") };
            let common = headers.response.unwrap();
            assert!(common.clear_route_cache && common.header_mutation.is_some());
        }
    }

    #[test]
    fn the_phases_that_a_request_met_add_up_to_its_wait() {
        let phases = WakePhases {
            place_us: 1_000,
            fetch_us: 0,
            restore_us: 80_000,
            ready_us: 4_000,
            total_us: 85_000,
        };
        let held = Duration::from_micros(87_500);
        let endpoint = "10.1.2.3:20001".parse().unwrap();
        let waited = Waited { kind: WakeKind::Restored, first: false, held, phases: &phases };
        let answer = woken(endpoint, Protocol::Http1, waited, None);
        let fields = metadata(&answer);
        assert_eq!(fields[2], ("wake".into(), "restored".into()));
        let timing = "park;dur=2.5, place;dur=1.0, fetch;dur=0.0, restore;dur=80.0, ready;dur=4.0";
        assert_eq!(fields[1], ("server_timing".into(), timing.into()));
        let late = server_timing(Duration::from_micros(50_000), &phases);
        let timing = "park;dur=0.0, place;dur=0.0, fetch;dur=0.0, restore;dur=46.0, ready;dur=4.0";
        assert_eq!(late, timing);
    }
}
