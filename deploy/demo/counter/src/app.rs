//! The endpoints, and the state behind them.

mod grpc;
mod ledger;

use std::convert::Infallible;
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use futures::{Stream, StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::time::{MissedTickBehavior, interval, sleep};

use ledger::Ledger;

const MIB: usize = 1 << 20;
/// More than this at once is taken for a slip of the finger.
const MAX_FILL_MIB: usize = 16 * 1024;
const BYTES_CHUNK: usize = 64 * 1024;
/// `/bytes` repeats 0, 1, … 250: a prime length, so that a lost or doubled block shows.
const BYTES_PERIOD: usize = 251;

/// The whole state: one process, one value. A clone is another handle to it.
#[derive(Clone)]
pub(crate) struct App(Arc<Memory>);

struct Memory {
    nonce: String,
    count: AtomicU64,
    ticks: AtomicU64,
    ballast: Mutex<Vec<Vec<u64>>>,
    ledger: Ledger,
}

/// What `/` answers.
#[derive(Serialize)]
struct Greeting<'a> {
    count: u64,
    nonce: &'a str,
    ticks: u64,
    host: &'a str,
    pid: u32,
}

impl App {
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        Ok(Self(Arc::new(Memory {
            nonce: format!("{:016x}", getrandom::u64()?),
            count: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            ballast: Mutex::default(),
            ledger: Ledger::new(),
        })))
    }

    pub(crate) fn nonce(&self) -> &str {
        &self.0.nonce
    }

    /// Counts time. A sleep of the whole process is one late tick, not many at once.
    pub(crate) async fn tick(&self, every: Duration) -> Infallible {
        let mut timer = interval(every);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        timer.tick().await; // the first comes at once
        loop {
            timer.tick().await;
            self.0.ticks.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn router(&self) -> Router {
        Router::new()
            .route("/", get(greet))
            .route("/healthz", get(async || "ok"))
            .route("/headers", any(headers))
            .route("/slow", any(slow))
            .route("/sse", get(sse))
            .route("/ws", any(ws)) // GET, or CONNECT over HTTP/2
            .route("/echo", post(echo))
            .route("/bytes", get(bytes))
            .route("/fill", any(fill))
            .route("/trailers", any(trailers))
            .route("/status", any(status))
            .route("/demo.Echo/{method}", post(grpc::serve))
            .merge(ledger::router())
            .with_state(self.clone())
    }
}

async fn greet(State(app): State<App>, request: Request) -> Response {
    json_line(&Greeting {
        count: app.0.count.fetch_add(1, Ordering::Relaxed) + 1,
        nonce: app.nonce(),
        ticks: app.0.ticks.load(Ordering::Relaxed),
        host: host(request.uri(), request.headers()),
        pid: std::process::id(),
    })
}

/// The host the client asked for: HTTP/2 has it in the URI.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    host.or(uri.authority().map(|authority| authority.as_str())).unwrap_or_default()
}

/// The request's headers as they arrived; repeated ones joined by a comma.
async fn headers(headers: HeaderMap) -> Response {
    let joined = |name| {
        let values = headers.get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>().join(", ")
    };
    let object: serde_json::Map<_, _> =
        headers.keys().map(|name| (name.to_string(), joined(name).into())).collect();
    json_line(&object)
}

#[derive(Deserialize)]
struct Slow {
    ms: u64,
}

async fn slow(Query(Slow { ms }): Query<Slow>) -> Response {
    sleep(Duration::from_millis(ms)).await;
    json_line(&json!({ "ms": ms }))
}

#[derive(Deserialize)]
#[serde(default)]
struct Events {
    events: u64,
    ms: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self { events: 10, ms: 1000 }
    }
}

/// Events 1 to `events`, the first at once, then one every `ms` milliseconds.
async fn sse(
    Query(Events { events, ms }): Query<Events>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(1..=events).then(move |number| async move {
        if number > 1 {
            sleep(Duration::from_millis(ms)).await;
        }
        Ok(Event::default().data(number.to_string()))
    }))
}

async fn ws(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(echo_frames)
}

/// Sends text and binary back until the peer is gone. Pings and closes are answered below us.
async fn echo_frames(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_) | Message::Binary(_))
            && socket.send(message).await.is_err()
        {
            return;
        }
    }
}

/// What is kept of a body.
#[derive(Serialize)]
struct Digest {
    length: usize,
    sha256: String,
}

impl Digest {
    /// Digests the body as it comes in and keeps none of it.
    async fn of(body: Body) -> Result<Self, axum::Error> {
        let mut chunks = body.into_data_stream();
        let (mut length, mut sha256) = (0, Sha256::new());
        while let Some(chunk) = chunks.next().await.transpose()? {
            length += chunk.len();
            sha256.update(&chunk);
        }
        Ok(Self { length, sha256: format!("{:x}", sha256.finalize()) })
    }
}

async fn echo(body: Body) -> Response {
    match Digest::of(body).await {
        Ok(digest) => json_line(&digest),
        Err(error) => bad_request(&format!("body ended early: {error}")),
    }
}

/// Reads the body; answers with the request's trailers as the body, and with trailers of its own.
async fn trailers(body: Body) -> Response {
    let Ok(read) = body.collect().await else { return bad_request("body ended early") };
    let received = read.trailers().cloned().unwrap_or_default();
    let own = HeaderMap::from_iter([(
        HeaderName::from_static("x-length"),
        HeaderValue::from(read.to_bytes().len()),
    )]);
    let object = headers(received).await.into_body().into_data_stream();
    // Of no known length, or HTTP/1.1 would have no room for trailers.
    let body = StreamBody::new(object.map(|data| data.map(Frame::data)));
    ([(header::TRAILER, "x-length")], Body::new(body.with_trailers(ready(Some(Ok(own))))))
        .into_response()
}

#[derive(Deserialize)]
struct Status {
    code: u16,
}

/// Answers with this status and no body, whatever the request is, and reads nothing of it.
async fn status(Query(Status { code }): Query<Status>) -> Response {
    match StatusCode::from_u16(code) {
        Ok(status) if code >= 200 => status.into_response(),
        _ => bad_request("code must be a status, 200 or above"),
    }
}

#[derive(Deserialize)]
struct Length {
    n: usize,
}

async fn bytes(Query(Length { n }): Query<Length>) -> Response {
    // One block, longer by a period, from which every chunk is a slice: no copying.
    let block: Bytes =
        (0..BYTES_CHUNK + BYTES_PERIOD).map(|index| (index % BYTES_PERIOD) as u8).collect();
    let chunks = (0..n).step_by(BYTES_CHUNK).map(move |at| {
        let start = at % BYTES_PERIOD;
        Ok::<_, Infallible>(block.slice(start..start + BYTES_CHUNK.min(n - at)))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, n.to_string()),
    ];
    (headers, Body::from_stream(stream::iter(chunks))).into_response()
}

#[derive(Deserialize)]
struct Fill {
    mb: usize,
}

/// Keeps `mb` more MiB for ever, written so that neither the kernel nor a compressor can fold them.
async fn fill(State(app): State<App>, Query(Fill { mb }): Query<Fill>) -> Response {
    if mb > MAX_FILL_MIB {
        return bad_request(&format!("mb must be at most {MAX_FILL_MIB}"));
    }
    let filled = tokio::task::spawn_blocking(move || {
        let more = noise(mb);
        let mut ballast = app.0.ballast.lock().unwrap_or_else(PoisonError::into_inner);
        ballast.push(more);
        ballast.iter().map(|part| size_of_val(part.as_slice())).sum::<usize>() / MIB
    });
    match filled.await {
        Ok(total) => json_line(&json!({ "mb": total })),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// `mib` MiB from a xorshift generator, other ones at every call.
fn noise(mib: usize) -> Vec<u64> {
    let mut word = getrandom::u64().unwrap_or_default() | 1; // never zero, where it would stay
    let next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word
    };
    std::iter::repeat_with(next).take(mib * MIB / size_of::<u64>()).collect()
}

/// JSON, and a line feed for the sake of terminals.
fn json_line(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json + "\n").into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn bad_request(line: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{line}\n")).into_response()
}

#[cfg(test)]
mod tests;
