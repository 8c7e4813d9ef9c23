//! One HTTP/1.1 exchange on a connection of its own: with the page of a part, or with Envoy.

use std::{io, pin::pin, time::Duration};

use http::{header::HOST, request::Builder};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};

use super::{Address, Io, transport};

/// Whoever is at the other end, its answer is no longer than `most` bytes and comes within `patience`, or is an error.
pub async fn ask(
    to: &Address,
    request: Builder,
    most: usize,
    patience: Duration,
) -> io::Result<String> {
    let asked = async {
        let io = match to {
            Address::Unix(path) => Io::Unix(UnixStream::connect(path).await?),
            Address::Tcp(_) | Address::Name { .. } => Io::Tcp(transport::connect(to).await?),
        };
        let request = request.header(HOST, "localhost").body(Empty::<Bytes>::new());
        let request = request.map_err(io::Error::other)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(io::Error::other)?;
            if !answer.status().is_success() {
                return Err(io::Error::other(format!("the answer is {}", answer.status())));
            }
            let body = Limited::new(answer.into_body(), most).collect().await;
            let bytes = body.map_err(io::Error::other)?.to_bytes();
            String::from_utf8(bytes.into()).map_err(io::Error::other)
        };
        let (mut exchange, connection) = (pin!(exchange), pin!(connection));
        tokio::select! {
            answer = &mut exchange => answer,
            // What came before its end may be the whole answer.
            _ = connection => exchange.await,
        }
    };
    timeout(patience, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
