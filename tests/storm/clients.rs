//! Clients of every kind. Each asks for increments and writes down what became of each.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{SinkExt, StreamExt, future::join_all, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Bytes, Frame, Incoming},
    client::conn::{http1, http2},
    header::{CONNECTION, HOST},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand::{RngExt, rngs::StdRng};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message},
};

use crate::{
    history::{Ack, At, Id, Op, Outcome, Recorder},
    plan::{self, ACTORS, Actor, Burst, Kind, PER_ACTOR, Plan},
};

/// Longer than any budget of the product.
const LIMIT: Duration = Duration::from_secs(90);
/// After a failure, so that a front that is away is not asked a thousand times a second.
const BACKOFF: Duration = Duration::from_millis(100);
/// Streams at a time on one HTTP/2 connection.
const STREAMS: u64 = 4;
/// Sizes of bodies.
const BODIES: [usize; 4] = [10, 2_000, 30_000, 200_000];

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What all clients share.
#[derive(Debug)]
pub(crate) struct Shared {
    front: SocketAddr,
    pub(crate) recorder: Recorder,
    next_id: AtomicU64,
    acked: AtomicU64,
    stop: AtomicBool,
    gates: Vec<Arc<Semaphore>>,
    bodies: Vec<(Bytes, String)>,
}

/// What a tally answers.
#[derive(Debug, Deserialize)]
struct Tally {
    id: Id,
    count: u64,
    nonce: String,
    actor: String,
    host: Option<String>,
    body: Option<Digested>,
}

#[derive(Debug, Deserialize)]
struct Digested {
    length: usize,
    sha256: String,
}

impl Shared {
    pub(crate) fn new(front: SocketAddr) -> Self {
        let bodies = BODIES.iter().map(|length| {
            let body: Vec<u8> = (0..*length).map(|n| (n % 251) as u8).collect();
            let digest = format!("{:x}", Sha256::digest(&body));
            (Bytes::from(body), digest)
        });
        Self {
            front,
            recorder: Recorder::new(),
            next_id: AtomicU64::new(1),
            acked: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            gates: (0..ACTORS).map(|_| Arc::new(Semaphore::new(PER_ACTOR))).collect(),
            bodies: bodies.collect(),
        }
    }

    fn ids(&self, n: u64) -> Id {
        self.next_id.fetch_add(n, Relaxed)
    }

    /// Increments acknowledged so far.
    pub(crate) fn acked(&self) -> u64 {
        self.acked.load(Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }
}

/// One client, until it is told to stop.
pub(crate) async fn client(shared: Arc<Shared>, plan: Plan, number: u64) {
    let mut random = plan.random(1_000_000 + number);
    for burst in plan.bursts(number) {
        if shared.stopping() {
            return;
        }
        let end = Instant::now() + burst.lasts;
        let left = burst.length;
        let mut session = Session { shared: &shared, burst, random: &mut random, left, end };
        match burst.kind {
            Kind::KeepAlive | Kind::Close | Kind::Post => session.h1().await,
            Kind::H2 => session.h2().await,
            Kind::WebSocket => session.web_socket().await,
            Kind::Sse => session.sse().await,
        }
    }
}

/// One burst.
struct Session<'a> {
    shared: &'a Arc<Shared>,
    burst: Burst,
    random: &'a mut StdRng,
    left: u64,
    end: Instant,
}

impl Session<'_> {
    fn goes_on(&self) -> bool {
        self.left > 0 && Instant::now() < self.end && !self.shared.stopping()
    }

    fn path(&self, id: Id) -> String {
        format!("http://{}/tally?id={id}", plan::host(self.burst.actor))
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        let gate = self.shared.gates[usize::from(self.burst.actor)].clone();
        gate.acquire_owned().await.expect("never closed")
    }

    /// Writes it down, and waits as long as this burst waits between two.
    async fn record(&mut self, id: Id, invoked: At, outcome: Outcome) {
        let failed = !matches!(outcome, Outcome::Acked(_));
        self.note(id, invoked, outcome);
        let pause = self.burst.pause.as_millis() as u64;
        let pause = Duration::from_millis(self.random.random_range(0..=pause));
        if failed || !pause.is_zero() {
            tokio::time::sleep(if failed { BACKOFF.max(pause) } else { pause }).await;
        }
    }

    fn note(&mut self, id: Id, invoked: At, outcome: Outcome) {
        self.left = self.left.saturating_sub(1);
        if matches!(outcome, Outcome::Acked(_)) {
            self.shared.acked.fetch_add(1, Relaxed);
        }
        let completed = self.shared.recorder.now();
        let Burst { actor, kind, .. } = self.burst;
        let op = Op { id, actor, kind, invoked, completed, outcome };
        self.shared.recorder.write().ops.push(op);
    }

    async fn h1(&mut self) {
        let mut connection = None;
        while self.goes_on() {
            let permit = self.permit().await;
            let (id, invoked) = (self.shared.ids(1), self.shared.recorder.now());
            let outcome = timeout(LIMIT, self.h1_request(&mut connection, id)).await;
            drop(permit);
            let outcome = outcome.unwrap_or(Outcome::Hung);
            if self.burst.kind == Kind::Close || !matches!(outcome, Outcome::Acked(_)) {
                connection = None;
            }
            self.record(id, invoked, outcome).await;
        }
    }

    async fn h1_request(
        &mut self,
        connection: &mut Option<http1::SendRequest<Body>>,
        id: Id,
    ) -> Outcome {
        let sender = match connection {
            Some(sender) => sender,
            None => match connect_h1(self.shared.front).await {
                Ok(sender) => connection.insert(sender),
                Err(error) => return Outcome::Broken(format!("connect: {error}")),
            },
        };
        if let Err(error) = sender.ready().await {
            return Outcome::Broken(format!("ready: {error:?}"));
        }
        let host = plan::host(self.burst.actor);
        let mut request = Request::get(format!("/tally?id={id}")).header(HOST, &host);
        let (mut body, mut digest) = (Full::default().boxed_unsync(), None);
        if self.burst.kind == Kind::Close {
            request = request.header(CONNECTION, "close");
        }
        if self.burst.kind == Kind::Post {
            request = request.method("POST");
            let (bytes, sha256) =
                &self.shared.bodies[self.random.random_range(0..self.shared.bodies.len())];
            digest = Some((bytes.len(), sha256.clone()));
            body = match self.random.random_bool(0.05) {
                true => slow(bytes.clone(), Duration::from_millis(self.random.random_range(1..40))),
                false => Full::new(bytes.clone()).boxed_unsync(),
            };
        }
        let answer = sender.send_request(request.body(body).expect("a request")).await;
        let expected = Expected { id, actor: self.burst.actor, host: Some(host), digest };
        expected.outcome(answer).await
    }

    async fn h2(&mut self) {
        let mut connection = None;
        while self.goes_on() {
            let n = STREAMS.min(self.left);
            let mut permits = Vec::new();
            for _ in 0..n {
                permits.push(self.permit().await);
            }
            let sender: &http2::SendRequest<Body> = match &connection {
                Some(sender) => sender,
                None => match connect_h2(self.shared.front).await {
                    Ok(sender) => connection.insert(sender),
                    Err(error) => {
                        let (id, now) = (self.shared.ids(1), self.shared.recorder.now());
                        drop(permits);
                        self.record(id, now, Outcome::Broken(format!("connect: {error}"))).await;
                        continue;
                    }
                },
            };
            let first = self.shared.ids(n);
            let invoked = self.shared.recorder.now();
            let streams = (first..first + n).map(|id| {
                let mut sender = sender.clone();
                let request = Request::get(self.path(id)).body(Full::default().boxed_unsync());
                let host = plan::host(self.burst.actor);
                let expected =
                    Expected { id, actor: self.burst.actor, host: Some(host), digest: None };
                async move {
                    let answer = sender.send_request(request.expect("a request"));
                    let outcome = timeout(LIMIT, async { expected.outcome(answer.await).await });
                    (id, outcome.await.unwrap_or(Outcome::Hung))
                }
            });
            let outcomes = join_all(streams).await;
            drop(permits);
            if outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Broken(_))) {
                connection = None;
            }
            let last = outcomes.len() - 1;
            for (n, (id, outcome)) in outcomes.into_iter().enumerate() {
                match n == last {
                    true => self.record(id, invoked, outcome).await,
                    false => self.note(id, invoked, outcome),
                }
            }
        }
    }

    async fn web_socket(&mut self) {
        let permit = self.permit().await;
        let (mut id, mut invoked) = (self.shared.ids(1), self.shared.recorder.now());
        let opened = timeout(LIMIT, self.open_web_socket()).await.unwrap_or(Err(Outcome::Hung));
        let mut socket = match opened {
            Ok(socket) => socket,
            Err(outcome) => {
                drop(permit);
                return self.record(id, invoked, outcome).await;
            }
        };
        loop {
            let outcome = timeout(LIMIT, self.frame(&mut socket, id)).await;
            let outcome = outcome.unwrap_or(Outcome::Hung);
            let failed = !matches!(outcome, Outcome::Acked(_));
            self.record(id, invoked, outcome).await;
            if failed {
                return;
            }
            if !self.goes_on() {
                break;
            }
            (id, invoked) = (self.shared.ids(1), self.shared.recorder.now());
        }
        let _ = timeout(LIMIT, socket.close(None)).await;
    }

    async fn open_web_socket(&self) -> Result<WebSocketStream<TcpStream>, Outcome> {
        let broken = |e: &dyn std::fmt::Display| Outcome::Broken(format!("upgrade: {e}"));
        let stream = TcpStream::connect(self.shared.front).await.map_err(|e| broken(&e))?;
        let url = format!("ws://{}/tally/ws", plan::host(self.burst.actor));
        match client_async(url, stream).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(answer)) => {
                Err(refused(answer.status().as_u16(), answer.headers()))
            }
            Err(error) => Err(broken(&error)),
        }
    }

    async fn frame(&self, socket: &mut WebSocketStream<TcpStream>, id: Id) -> Outcome {
        if let Err(error) = socket.send(Message::text(id.to_string())).await {
            return Outcome::Broken(format!("frame: {error}"));
        }
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                let actor = self.burst.actor;
                Expected { id, actor, host: None, digest: None }.read(text.as_bytes(), None)
            }
            other => Outcome::Broken(format!("frame: {other:?}")),
        }
    }

    /// One stream. Its increments overlap: which of them the actor has done is not known before each event is here.
    async fn sse(&mut self) {
        let events = self.left.min(30);
        let permit = self.permit().await;
        let (first, invoked) = (self.shared.ids(events), self.shared.recorder.now());
        let mut next = first;
        let outcome = timeout(LIMIT, self.events(first, events, invoked, &mut next)).await;
        drop(permit);
        if let Some(outcome) = outcome.unwrap_or(Some(Outcome::Hung)) {
            // The first that did not arrive stands for the rest: those may have been counted too.
            for id in next..first + events {
                self.note(id, invoked, outcome.clone());
            }
        }
        self.left = 0;
    }

    /// Reads events, each of which is written down; how it ended, unless well.
    async fn events(&mut self, first: Id, n: u64, invoked: At, next: &mut Id) -> Option<Outcome> {
        let ms = self.burst.pause.as_millis() as u64 / 10;
        let mut sender = match connect_h1(self.shared.front).await {
            Ok(sender) => sender,
            Err(error) => return Some(Outcome::Broken(format!("connect: {error}"))),
        };
        let request = Request::get(format!("/tally/sse?id={first}&events={n}&ms={ms}"))
            .header(HOST, plan::host(self.burst.actor))
            .body(Full::default().boxed_unsync())
            .expect("a request");
        let answer = match sender.send_request(request).await {
            Ok(answer) => answer,
            Err(error) => return Some(Outcome::Broken(format!("request: {error:?}"))),
        };
        if answer.status() != 200 {
            return Some(refused(answer.status().as_u16(), answer.headers()));
        }
        let wake = wake(answer.headers());
        let mut body = answer.into_body().into_data_stream();
        let mut text = Vec::new();
        while let Some(chunk) = body.next().await {
            match chunk {
                Ok(chunk) => text.extend_from_slice(&chunk),
                Err(error) => return Some(Outcome::Broken(format!("stream: {error:?}"))),
            }
            while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = text.drain(..end + 2).collect();
                let event = event.strip_prefix(b"data: ").unwrap_or(&event);
                let actor = self.burst.actor;
                let expected = Expected { id: *next, actor, host: None, digest: None };
                let outcome = expected.read(event, wake.clone());
                self.note(*next, invoked, outcome);
                *next += 1;
            }
        }
        let short = *next < first + n;
        short.then(|| Outcome::Broken("stream: it ended early".into()))
    }
}

/// What the right answer would be.
struct Expected {
    id: Id,
    actor: Actor,
    host: Option<String>,
    digest: Option<(usize, String)>,
}

impl Expected {
    async fn outcome(self, answer: hyper::Result<Response<Incoming>>) -> Outcome {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Outcome::Broken(format!("request: {error:?}")),
        };
        let (head, body) = answer.into_parts();
        match body.collect().await {
            Err(error) => Outcome::Broken(format!("body of a {}: {error:?}", head.status)),
            Ok(body) if head.status == 200 => self.read(&body.to_bytes(), wake(&head.headers)),
            Ok(_) => refused(head.status.as_u16(), &head.headers),
        }
    }

    fn read(&self, text: &[u8], wake: Option<String>) -> Outcome {
        let wrong = || Outcome::Wrong(String::from_utf8_lossy(text).into_owned());
        let Ok(tally) = serde_json::from_slice::<Tally>(text) else { return wrong() };
        let digest = tally.body.as_ref().map(|body| (body.length, &body.sha256));
        let right = tally.id == self.id
            && self.host.as_ref().is_none_or(|host| tally.host.as_ref() == Some(host))
            && self.digest.as_ref().is_none_or(|(length, sha)| digest == Some((*length, sha)));
        let known = plan::actor(&tally.actor).zip(u64::from_str_radix(&tally.nonce, 16).ok());
        match known {
            Some((actor, nonce)) if right => {
                debug_assert!(self.actor < ACTORS);
                Outcome::Acked(Ack { actor, nonce, count: tally.count, wake })
            }
            _ => wrong(),
        }
    }
}

fn refused(status: u16, headers: &hyper::HeaderMap) -> Outcome {
    let reason = headers.get("x-reveille-reason").and_then(|reason| reason.to_str().ok());
    Outcome::Refused { status, reason: reason.unwrap_or("(no reason)").into() }
}

fn wake(headers: &hyper::HeaderMap) -> Option<String> {
    Some(headers.get("x-reveille-wake")?.to_str().ok()?.to_owned())
}

/// A body that comes in pieces.
fn slow(bytes: Bytes, pause: Duration) -> Body {
    const PIECES: usize = 8;
    let piece = bytes.len().div_ceil(PIECES).max(1);
    let offsets = stream::iter((0..bytes.len()).step_by(piece));
    let pieces = offsets.then(move |at| {
        let piece = bytes.slice(at..bytes.len().min(at + piece));
        async move {
            tokio::time::sleep(pause).await;
            Ok::<_, Infallible>(Frame::data(piece))
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(pieces))
}

async fn connect_h1(front: SocketAddr) -> Result<http1::SendRequest<Body>, String> {
    let stream = TcpStream::connect(front).await.map_err(|e| e.to_string())?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|e| e.to_string())?;
    // It ends with its sender.
    drop(tokio::spawn(connection));
    Ok(sender)
}

async fn connect_h2(front: SocketAddr) -> Result<http2::SendRequest<Body>, String> {
    let stream = TcpStream::connect(front).await.map_err(|e| e.to_string())?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|e| e.to_string())?;
    drop(tokio::spawn(connection));
    Ok(sender)
}
