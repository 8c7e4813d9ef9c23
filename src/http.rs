//! The few HTTP requests that `up` and `doctor` make: one small answer over one connection.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most of an answer that is read.
const LIMIT: u64 = 64 * 1024;

/// Status and headers with body, as text.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

/// Asks `addr` once. `host` is what stands in the Host header.
pub(crate) async fn request(
    method: &str,
    addr: SocketAddr,
    host: &str,
    path: &str,
) -> io::Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.take(LIMIT).read_to_end(&mut bytes).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text: String = timeout(PATIENCE, exchange)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))
        .and_then(|result: io::Result<String>| result)?;
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Answer { status, text })
}
