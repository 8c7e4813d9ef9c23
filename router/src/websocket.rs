//! The handshake of a WebSocket between a client of HTTP/1.1 and an actor of HTTP/2.
//!
//! Over HTTP/2 (RFC 8441) a WebSocket has neither `Sec-WebSocket-Key` nor `Sec-WebSocket-Accept`; over HTTP/1.1 (RFC 6455) a
//! client ends the connection when its key is not answered. Envoy turns one request into the other and leaves that out.

use base64::{Engine, prelude::BASE64_STANDARD};
use sha1::{Digest, Sha1};

use crate::ext_proc::wire::HttpHeaders;

/// RFC 6455, §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What the client of a WebSocket over HTTP/1.1 waits for.
pub(crate) fn accept(headers: &HttpHeaders) -> Option<String> {
    let key = headers.get("sec-websocket-key")?;
    headers.get("upgrade").filter(|to| to.eq_ignore_ascii_case("websocket"))?;
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    Some(BASE64_STANDARD.encode(digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ext_proc::wire::{HeaderMap, HeaderValue};

    fn headers(all: &[(&'static str, &'static str)]) -> HttpHeaders {
        let header = |(key, value): &(&'static str, &'static str)| HeaderValue {
            key: (*key).into(),
            value: (*value).into(),
            ..Default::default()
        };
        HttpHeaders { headers: Some(HeaderMap { headers: all.iter().map(header).collect() }) }
    }

    #[test]
    fn the_key_of_the_rfc_is_answered_as_there_and_only_where_a_websocket_is_asked_for() {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let accepted = accept(&headers(&[("upgrade", "WebSocket"), key]));
        assert_eq!(accepted.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(accept(&headers(&[key])), None);
        assert_eq!(accept(&headers(&[("upgrade", "websocket")])), None);
    }
}
