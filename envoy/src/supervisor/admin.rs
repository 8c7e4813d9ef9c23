//! Envoy's admin interface, as far as it is needed here.

use std::{io, time::Duration};

use http::{Method, Request};
use reveille_api::net::{self, Address};

const TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER: usize = 64 * 1024;
/// Most of what is asked for by people.
const LONG_ANSWER: usize = 64 << 20;

pub(super) struct Admin {
    at: Address,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Exchange(#[from] io::Error),
    #[error("the answer is not understood: {0:?}")]
    Answer(String),
    #[error("the answer is no JSON")]
    Json(#[from] serde_json::Error),
}

impl Admin {
    pub(super) fn new(at: Address) -> Self {
        Self { at }
    }

    /// Live, with a configuration, and not draining.
    pub(super) async fn is_ready(&self) -> bool {
        self.call(Method::GET, "/ready").await.is_ok()
    }

    /// Not ready any more; connections are closed after the request they carry.
    pub(super) async fn fail_health_check(&self) -> Result<(), Error> {
        self.call(Method::POST, "/healthcheck/fail").await.map(drop)
    }

    /// Accepts no connection any more; those it has go on.
    pub(super) async fn stop_listening(&self) -> Result<(), Error> {
        self.call(Method::POST, "/drain_listeners").await.map(drop)
    }

    /// Requests in flight.
    pub(super) async fn active_requests(&self) -> Result<u64, Error> {
        self.active("rq").await
    }

    /// Connections of clients.
    pub(super) async fn active_connections(&self) -> Result<u64, Error> {
        self.active("cx").await
    }

    async fn active(&self, what: &str) -> Result<u64, Error> {
        let listener = crate::resources::names::LISTENER;
        let path = format!("/stats?filter=^http.{listener}.downstream_{what}_active$");
        let answer = self.call(Method::GET, &path).await?;
        let number = answer.trim().rsplit_once(": ").and_then(|(_, number)| number.parse().ok());
        match number {
            Some(number) => Ok(number),
            // The listener was never made.
            None if answer.trim().is_empty() => Ok(0),
            None => Err(Error::Answer(answer)),
        }
    }

    /// What it says of itself.
    pub(super) async fn json(&self, path: &str) -> Result<serde_json::Value, Error> {
        let answer = self.ask(Method::GET, path, LONG_ANSWER).await?;
        Ok(serde_json::from_str(&answer)?)
    }

    async fn call(&self, method: Method, path: &str) -> Result<String, Error> {
        self.ask(method, path, ANSWER).await
    }

    async fn ask(&self, method: Method, path: &str, most: usize) -> Result<String, Error> {
        let request = Request::builder().method(method).uri(path);
        Ok(net::ask(&self.at, request, most, TIMEOUT).await?)
    }
}
