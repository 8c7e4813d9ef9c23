//! Closer to the wire than [`super::client`]: HTTP/2, trailers, and bytes as they are.

use std::{net::SocketAddr, time::Duration};

use futures::Stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Frame, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reveille_api::task;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::client::Answer;

/// Longer than any budget of the product.
pub const LIMIT: Duration = Duration::from_secs(90);

pub type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

pub fn empty() -> Body {
    full(Bytes::new())
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A body of unknown length.
pub fn stream(
    frames: impl Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> + Send + 'static,
) -> Body {
    StreamBody::new(frames).boxed_unsync()
}

/// A connection with prior knowledge of HTTP/2; requests name their host in the URI.
pub async fn h2(front: SocketAddr) -> http2::SendRequest<Body> {
    let io = TokioIo::new(TcpStream::connect(front).await.expect("connects"));
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), io).await.expect("speaks HTTP/2");
    task::detach("http2-client", async move { drop(connection.await) });
    sender
}

/// A connection of HTTP/1.1.
pub async fn h1(front: SocketAddr) -> http1::SendRequest<Body> {
    let io = TokioIo::new(TcpStream::connect(front).await.expect("connects"));
    let (sender, connection) = http1::handshake(io).await.expect("speaks HTTP/1.1");
    task::detach("http1-client", async move { drop(connection.await) });
    sender
}

/// One request over a connection of its own.
pub async fn send_h2(front: SocketAddr, request: Request<Body>) -> (Answer, HeaderMap) {
    let answer = timeout(LIMIT, h2(front).await.send_request(request)).await;
    whole(answer.expect("an answer in time").expect("an answer")).await
}

/// The answer to its end, and its trailers.
pub async fn whole(answer: Response<Incoming>) -> (Answer, HeaderMap) {
    let (parts, body) = answer.into_parts();
    let body = timeout(LIMIT, body.collect()).await.expect("ends in time").expect("a whole body");
    let trailers = body.trailers().cloned().unwrap_or_default();
    (Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() }, trailers)
}

/// A connection as it is.
pub struct Raw(TcpStream);

impl Raw {
    pub async fn connect(front: SocketAddr) -> Self {
        Self(TcpStream::connect(front).await.expect("connects"))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("sent");
    }

    /// What comes, until it contains `end`.
    pub async fn until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(end) {
            let more = timeout(LIMIT, self.0.read_buf(&mut read)).await.expect("in time");
            let seen = String::from_utf8_lossy(&read);
            assert_ne!(more.expect("read"), 0, "the connection ended without {end:?}: {seen}");
        }
        String::from_utf8(read).expect("UTF-8")
    }

    /// What comes until the connection is closed.
    pub async fn rest(mut self) -> String {
        let mut read = Vec::new();
        // A reset is an end too.
        let _ = timeout(LIMIT, self.0.read_to_end(&mut read)).await.expect("it ends in time");
        String::from_utf8_lossy(&read).into_owned()
    }
}

/// These bytes, and all that comes back until the connection is closed.
pub async fn exchange(front: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut connection = Raw::connect(front).await;
    connection.send(bytes).await;
    connection.rest().await
}
