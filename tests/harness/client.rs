//! An HTTP client that reaches actors through the front, as `curl` would.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, body::Bytes, header::HOST, http::HeaderMap};
use hyper_util::{
    client::legacy::{
        Client as Hyper,
        connect::{HttpConnector, dns::Name},
    },
    rt::TokioExecutor,
};
use serde::Deserialize;

/// Longer than any budget of the product: a test that waits this long has failed.
const LIMIT: Duration = Duration::from_secs(90);

/// Sends requests to one front.
#[derive(Clone, Debug)]
pub struct Client {
    front: SocketAddr,
    hyper: Hyper<HttpConnector<Front>, Full<Bytes>>,
    h2: bool,
}

/// Every name is that of the front.
#[derive(Clone, Copy, Debug)]
struct Front(SocketAddr);

impl tower::Service<Name> for Front {
    type Response = std::iter::Once<SocketAddr>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        ready(Ok(std::iter::once(self.0)))
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What the demo's counter answers on `/`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Count {
    pub count: u64,
    pub nonce: String,
    pub ticks: u64,
    pub host: String,
    pub pid: u32,
}

impl Client {
    pub fn new(front: SocketAddr) -> Self {
        let connector = HttpConnector::new_with_resolver(Front(front));
        let mut hyper = Hyper::builder(TokioExecutor::new());
        let hyper = hyper.pool_max_idle_per_host(64).build(connector);
        Self { front, hyper, h2: false }
    }

    /// Over HTTP/2 with prior knowledge.
    pub fn h2(front: SocketAddr) -> Self {
        let connector = HttpConnector::new_with_resolver(Front(front));
        let hyper = Hyper::builder(TokioExecutor::new()).http2_only(true).build(connector);
        Self { front, hyper, h2: true }
    }

    /// A GET for this actor: by Host over HTTP/1.1, by `:authority` over HTTP/2, whatever the connection is to.
    pub fn request(&self, host: &str, path: &str) -> hyper::http::request::Builder {
        match self.h2 {
            true => Request::get(format!("http://{host}:{}{path}", self.front.port())),
            false => Request::get(self.uri(path)).header(HOST, host),
        }
    }

    /// GET with this Host.
    pub async fn get(&self, host: &str, path: &str) -> Answer {
        self.send(Request::get(self.uri(path)).header(HOST, host), "").await
    }

    /// POST with this Host.
    pub async fn post(&self, host: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(Request::post(self.uri(path)).header(HOST, host), body).await
    }

    /// Many GETs at once.
    pub async fn get_many(&self, host: &str, path: &str, n: usize) -> Vec<Answer> {
        join_all((0..n).map(|_| self.get(host, path))).await
    }

    pub fn uri(&self, path: &str) -> String {
        format!("http://{}{path}", self.front)
    }

    pub async fn send(
        &self,
        request: hyper::http::request::Builder,
        body: impl Into<Bytes>,
    ) -> Answer {
        self.try_send(request, body).await.expect("the front answers")
    }

    /// Errors are those of the connection to the front itself.
    pub async fn try_send(
        &self,
        request: hyper::http::request::Builder,
        body: impl Into<Bytes>,
    ) -> Result<Answer, String> {
        let request = request.body(Full::new(body.into())).expect("a valid request");
        let whole = async {
            let answer = self.hyper.request(request).await.map_err(|e| format!("{e:?}"))?;
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.map_err(|e| format!("{e:?}"))?.to_bytes();
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        tokio::time::timeout(LIMIT, whole).await.map_err(|_| "no answer at all".to_owned())?
    }
}

impl Answer {
    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// `x-reveille-reason`.
    pub fn reason(&self) -> Option<&str> {
        self.header("x-reveille-reason")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The counter's answer; panics unless it is a 200.
    pub fn count(&self) -> Count {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        self.json()
    }
}
