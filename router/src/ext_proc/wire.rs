//! What of ext_proc's messages this router reads, and how they travel.
//!
//! The messages are those of `envoy.service.ext_proc.v3`, with the same tags and without the fields nobody looks at:
//! header values stay in the buffer they came in, and an answer made beforehand is copied out as it is. A test holds
//! them against the full types.

use bytes::{BufMut, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// Bytes each stream sets aside to read and to write; messages are a few hundred, and a parked request keeps its stream.
const BUFFER: usize = 512;
/// Bytes of answers sent in one piece.
const YIELD_AT: usize = 8 * 1024;

/// `ProcessingRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Inbound {
    #[prost(oneof = "Content", tags = "2, 3, 4, 5, 6, 7")]
    pub(crate) request: Option<Content>,
}

/// The oneof `request` of `ProcessingRequest`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Content {
    #[prost(message, tag = "2")]
    RequestHeaders(HttpHeaders),
    #[prost(message, tag = "3")]
    ResponseHeaders(Ignored),
    #[prost(message, tag = "4")]
    RequestBody(Ignored),
    #[prost(message, tag = "5")]
    ResponseBody(Ignored),
    #[prost(message, tag = "6")]
    RequestTrailers(Ignored),
    #[prost(message, tag = "7")]
    ResponseTrailers(Ignored),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HttpHeaders {
    #[prost(message, optional, tag = "1")]
    pub(crate) headers: Option<HeaderMap>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HeaderMap {
    #[prost(message, repeated, tag = "1")]
    pub(crate) headers: Vec<HeaderValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HeaderValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
    /// Envoy fills this one or `value`.
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) raw_value: Bytes,
}

/// A message whose content nobody looks at.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Ignored {}

/// Which part of an exchange a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    RequestHeaders,
    ResponseHeaders,
    RequestBody,
    ResponseBody,
    RequestTrailers,
    ResponseTrailers,
}

impl Content {
    pub(crate) fn phase(&self) -> Phase {
        match self {
            Self::RequestHeaders(_) => Phase::RequestHeaders,
            Self::ResponseHeaders(_) => Phase::ResponseHeaders,
            Self::RequestBody(_) => Phase::RequestBody,
            Self::ResponseBody(_) => Phase::ResponseBody,
            Self::RequestTrailers(_) => Phase::RequestTrailers,
            Self::ResponseTrailers(_) => Phase::ResponseTrailers,
        }
    }
}

impl HttpHeaders {
    /// The value of a header, which Envoy names in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let headers = &self.headers.as_ref()?.headers;
        let header = headers.iter().find(|header| *header.key == *name.as_bytes())?;
        let value = if header.raw_value.is_empty() { &header.value } else { &header.raw_value };
        std::str::from_utf8(value).ok()
    }
}

/// Reads [`Inbound`], writes encoded answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ExtProcCodec;

impl Codec for ExtProcCodec {
    type Encode = Bytes;
    type Decode = Inbound;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for ExtProcCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, answer: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(answer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD_AT)
    }
}

impl Decoder for ExtProcCodec {
    type Item = Inbound;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Inbound>, Status> {
        let message = Inbound::decode(buffer);
        message.map(Some).map_err(|e| Status::invalid_argument(e.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD_AT)
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::{
        config::core::v3 as core,
        service::ext_proc::v3::{self as full, processing_request},
    };

    use super::*;

    fn received(request: processing_request::Request) -> Content {
        let message = full::ProcessingRequest { request: Some(request), ..Default::default() };
        Inbound::decode(Bytes::from(message.encode_to_vec())).unwrap().request.unwrap()
    }

    #[test]
    fn headers_of_the_full_type_are_read_from_either_field() {
        let header = |key: &str, value: &str, raw: &[u8]| core::HeaderValue {
            key: key.into(),
            value: value.into(),
            raw_value: raw.to_vec(),
        };
        let headers = core::HeaderMap {
            headers: vec![
                header(":authority", "", b"counter.demo.actors.localhost"),
                header("accept", "text/html", b""),
                header("bad", "", &[0xff]),
            ],
        };
        let headers = full::HttpHeaders { headers: Some(headers), ..Default::default() };
        let Content::RequestHeaders(read) =
            received(processing_request::Request::RequestHeaders(headers))
        else {
            panic!("another phase");
        };
        assert_eq!(read.get(":authority"), Some("counter.demo.actors.localhost"));
        assert_eq!(read.get("accept"), Some("text/html"));
        assert_eq!((read.get("bad"), read.get("cookie")), (None, None));
    }

    #[test]
    fn every_other_phase_is_told_apart() {
        use processing_request::Request as Full;
        let cases = [
            (Full::ResponseHeaders(Default::default()), Phase::ResponseHeaders),
            (Full::RequestBody(Default::default()), Phase::RequestBody),
            (Full::ResponseBody(Default::default()), Phase::ResponseBody),
            (Full::RequestTrailers(Default::default()), Phase::RequestTrailers),
            (Full::ResponseTrailers(Default::default()), Phase::ResponseTrailers),
        ];
        for (full, phase) in cases {
            assert_eq!(received(full).phase(), phase);
        }
    }
}
