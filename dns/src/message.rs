//! From a message to a message: what is no question, EDNS, size. What to say to a question is decided in [`crate::answer`].
//!
//! | what came | what goes |
//! | --- | --- |
//! | fewer than 12 bytes, or a reply | nothing |
//! | another operation than a query | its header: REFUSED for NOTIFY and UPDATE, otherwise NOTIMP |
//! | not one question, or not to be understood | its header, FORMERR |
//! | EDNS of a version above 0 | BADVERS |
//! | a question | the [`Answer`], if it fits; over UDP else TC and nothing, and the client comes by TCP |
//!
//! Over UDP the source of a question may be forged, and then a reply hits somebody who never asked. So a reply has at most
//! [`AMPLIFICATION`] times the bytes of its question, and goes out at most as often as [`crate::limit`] allows.

use std::net::SocketAddr;

use hickory_proto::{
    op::{Edns, Metadata, OpCode, Query, ResponseCode},
    serialize::binary::BinEncoder,
};
use hickory_server::{
    net::xfer::Protocol,
    server::Request,
    zone_handler::{MessageResponseBuilder, Queries},
};

use crate::answer::{Answer, Records};

/// Largest UDP payload: fits every path without fragments (DNS flag day 2020).
const MAX_UDP_PAYLOAD: u16 = 1232;
/// Payload of a client without EDNS, and the least one with it may ask for.
const MIN_UDP_PAYLOAD: u16 = 512;
/// Of a question's bytes, how many its reply may have over UDP.
pub(crate) const AMPLIFICATION: usize = 4;
const HEADER: usize = 12;

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// From an address that may be forged.
    Udp,
    /// The same, and the limit for that address is reached: truncated, whatever it asks.
    UdpLimited,
    /// From an address that answers.
    Stream,
}

impl Over {
    const fn protocol(self) -> Protocol {
        match self {
            Self::Udp | Self::UdpLimited => Protocol::Udp,
            Self::Stream => Protocol::Tcp,
        }
    }
}

/// What went into a reply.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Replied {
    /// What was asked, if that was understood.
    pub(crate) query: Option<Query>,
    /// How it was answered.
    pub(crate) code: ResponseCode,
    /// Whether something was left out.
    pub(crate) truncated: bool,
}

/// Replies to a message, into an empty buffer; nothing when there is nothing to be said. `absent` knows actors that do not
/// exist.
pub(crate) fn reply(
    records: &Records,
    message: &[u8],
    from: SocketAddr,
    over: Over,
    turn: usize,
    absent: impl Fn(&Query) -> bool,
    out: &mut Vec<u8>,
) -> Option<Replied> {
    out.clear();
    let header = message.first_chunk::<HEADER>()?;
    // Replies are never replied to: two servers would do so for ever.
    if header[2] & 0x80 != 0 {
        return None;
    }
    let operation = OpCode::from_u8(header[2] >> 3 & 0x0f);
    match operation {
        OpCode::Query => {}
        OpCode::Notify | OpCode::Update => return Some(bare(header, ResponseCode::Refused, out)),
        _ => return Some(bare(header, ResponseCode::NotImp, out)),
    }
    // Before anything is believed: a count alone would reserve memory.
    let questions = u16::from_be_bytes([header[4], header[5]]);
    let request = Request::from_bytes(message.to_vec(), from, over.protocol());
    let (1, Ok(asked)) = (questions, request) else {
        return Some(bare(header, ResponseCode::FormErr, out));
    };
    let query = asked.queries.queries().first()?.original();
    let edns = asked.edns.as_ref().map(reply_edns);
    let replied = |code, truncated| Replied { query: Some(query.clone()), code, truncated };
    if over == Over::UdpLimited {
        // In a flood: nothing is looked up, and nothing written twice.
        let metadata = Metadata::response_from_request(&asked.metadata);
        return cut(metadata, &asked.queries, edns.as_ref(), out)
            .then(|| replied(ResponseCode::NoError, true));
    }
    let answer = match &asked.edns {
        Some(edns) if edns.version() > 0 => {
            Answer { code: ResponseCode::BADVERS, ..Answer::refused() }
        }
        _ if absent(query) => records.no_such_name(&query.name),
        _ => records.answer(query, turn),
    };
    let limit = match over {
        Over::Udp | Over::UdpLimited => {
            let payload = edns.as_ref().map_or(MIN_UDP_PAYLOAD, Edns::max_payload);
            usize::from(payload).min(AMPLIFICATION * message.len())
        }
        Over::Stream => usize::from(u16::MAX),
    };
    let truncated = fit(&asked.metadata, &asked.queries, edns.as_ref(), &answer, limit, out)?;
    Some(replied(answer.code, truncated))
}

/// The answer; without what is only a courtesy, if it is too long; without everything and with TC, if it still is.
fn fit(
    asked: &Metadata,
    queries: &Queries,
    edns: Option<&Edns>,
    answer: &Answer,
    limit: usize,
    out: &mut Vec<u8>,
) -> Option<bool> {
    let mut metadata = Metadata::response_from_request(asked);
    metadata.response_code = answer.code;
    metadata.authoritative = answer.authoritative;
    if emit(&metadata, queries, edns, Some(answer), true, out) && out.len() <= limit {
        return Some(false);
    }
    let courtesy = !answer.additionals.is_empty();
    if courtesy && emit(&metadata, queries, edns, Some(answer), false, out) && out.len() <= limit {
        return Some(false);
    }
    cut(metadata, queries, edns, out).then_some(true)
}

/// Without anything but TC: the client comes by TCP.
fn cut(mut metadata: Metadata, queries: &Queries, edns: Option<&Edns>, out: &mut Vec<u8>) -> bool {
    metadata.truncation = true;
    emit(&metadata, queries, edns, None, false, out)
}

fn emit(
    metadata: &Metadata,
    queries: &Queries,
    edns: Option<&Edns>,
    answer: Option<&Answer>,
    courtesy: bool,
    out: &mut Vec<u8>,
) -> bool {
    out.clear();
    let mut encoder = BinEncoder::new(out);
    let additionals = answer.filter(|_| courtesy).map_or(&[][..], |answer| &answer.additionals);
    let response = MessageResponseBuilder::new(queries, edns).build(
        *metadata,
        answer.map_or(&[][..], |answer| &answer.answers),
        &[],
        answer.and_then(|answer| answer.soa.as_ref()),
        additionals,
    );
    response.destructive_emit(&mut encoder).is_ok()
}

fn reply_edns(asked: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(asked.max_payload().clamp(MIN_UDP_PAYLOAD, MAX_UDP_PAYLOAD));
    edns.set_dnssec_ok(asked.flags().dnssec_ok);
    edns
}

/// A header and nothing else: identity, operation and RD of the one that came.
fn bare(header: &[u8; HEADER], code: ResponseCode, out: &mut Vec<u8>) -> Replied {
    out.extend([header[0], header[1], 0x80 | header[2] & 0x79, code.low()]);
    out.extend([0; 8]);
    Replied { query: None, code, truncated: false }
}

#[cfg(test)]
mod tests;
