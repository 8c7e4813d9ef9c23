//! The least that sends a request and reads its answer: a client that costs little beside what it measures.

use anyhow::{Context, Result, bail};

/// A GET on a connection that is kept.
pub(crate) fn get(host: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// Head of an answer.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Of head and body.
    pub(crate) length: usize,
    pub(crate) server_timing: Option<String>,
}

/// The head, once `bytes` have all of it. Bodies without a length are not read: nothing here answers so.
pub(crate) fn head(bytes: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes)? else { return Ok(None) };
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| String::from_utf8_lossy(header.value).into_owned())
    };
    let body = value("content-length").context("an answer without a length")?;
    Ok(Some(Head {
        status: response.code.context("an answer without a status")?,
        length: head + body.parse::<usize>()?,
        server_timing: value("server-timing"),
    }))
}

/// True once `bytes` are a whole 200.
pub(crate) fn is_served(bytes: &[u8]) -> Result<bool> {
    match head(bytes)? {
        Some(head) if head.status != 200 => {
            bail!("answered {}", String::from_utf8_lossy(bytes))
        }
        Some(head) => Ok(bytes.len() >= head.length),
        None => Ok(false),
    }
}
