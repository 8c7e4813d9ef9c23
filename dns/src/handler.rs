//! From a message to a message: header, EDNS, truncation. What to say is decided in [`crate::answer`].

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use hickory_server::{
    net::{runtime::Time, xfer::Protocol},
    proto::{
        op::{Edns, Header, HeaderCounts, Metadata, OpCode, ResponseCode},
        rr::Record,
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};

use crate::{Records, answer::Answer};

/// Largest UDP payload: fits every path without fragments (DNS flag day 2020).
const MAX_UDP_PAYLOAD: u16 = 1232;
/// Payload of a client without EDNS, and the least one with it may ask for.
const MIN_UDP_PAYLOAD: u16 = 512;
/// Header, and an OPT record without options.
const FIXED_BYTES: usize = 12 + 11;
/// A record after a compressed name, without its data: pointer, type, class, TTL, length.
const RECORD_BYTES: usize = 12;
const AAAA_BYTES: usize = 16;

/// Answers from the records current at that moment.
pub(crate) struct Handler(pub(crate) Arc<ArcSwap<Records>>);

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let edns = request.edns.as_ref().map(reply_edns);
        let answer = self.decide(request);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative = answer.authoritative;

        let (answers, additionals) = match request.protocol() {
            Protocol::Udp => cut(request, &edns, &answer, &mut metadata),
            _ => (answer.answers.as_slice(), answer.additionals.as_slice()),
        };
        let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        let message = builder.build(metadata, answers, [], &answer.soa, additionals);
        match response.send_response(message).await {
            Ok(sent) => sent,
            Err(error) => {
                tracing::debug!(%error, "reply not sent");
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
}

impl Handler {
    fn decide(&self, request: &Request) -> Answer {
        let refused = |code| Answer { code, ..Answer::refused() };
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return refused(ResponseCode::BADVERS);
        }
        match (request.metadata.op_code, request.queries.queries()) {
            (OpCode::Query, [query]) => self.0.load().answer(query.original()),
            (OpCode::Query, _) => refused(ResponseCode::FormErr),
            (OpCode::Update, _) => refused(ResponseCode::Refused),
            _ => refused(ResponseCode::NotImp),
        }
    }
}

fn reply_edns(asked: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(asked.max_payload().clamp(MIN_UDP_PAYLOAD, MAX_UDP_PAYLOAD));
    edns.set_dnssec_ok(asked.flags().dnssec_ok);
    edns
}

/// What of an answer fits into one UDP payload together with its OPT record. The rest is left out: answers
/// are told by the truncation bit and fetched over TCP, additional records are only a courtesy.
fn cut<'a>(
    request: &Request,
    edns: &Option<Edns>,
    answer: &'a Answer,
    metadata: &mut Metadata,
) -> (&'a [Record], &'a [Record]) {
    let payload = edns.as_ref().map_or(MIN_UDP_PAYLOAD, Edns::max_payload);
    // The name stands in the question and once more in full in the first record.
    let room =
        usize::from(payload).saturating_sub(FIXED_BYTES + 2 * request.queries.as_bytes().len());
    let fit = room / (RECORD_BYTES + AAAA_BYTES);
    if answer.answers.len() > fit {
        metadata.truncation = true;
        return (&answer.answers[..fit], &[]);
    }
    match answer.answers.len() + answer.additionals.len() > fit {
        true => (&answer.answers, &[]),
        false => (&answer.answers, &answer.additionals),
    }
}
