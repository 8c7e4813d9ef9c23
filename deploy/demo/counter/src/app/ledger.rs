//! Increments that can be told apart, for tests that prove that none is lost and none is doubled.
//!
//! Each increment has an id that its caller chose, and each answer says which actor gave it, as the how-manieth:
//!
//! | request | increments | answer |
//! | --- | --- | --- |
//! | `/tally?id=7` | 7, once the body has arrived | one line of JSON, with the digest of the body |
//! | `/tally/ws` | the number in each text frame | a frame for each |
//! | `/tally/sse?id=7&events=3&ms=20` | 7, 8, 9, as each event is sent | an event for each |
//! | `/tally/ids` | none | every id so far, in order |

use std::{
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{
        Query, State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::HeaderMap,
    response::{
        Response,
        sse::{Event, Sse},
    },
    routing::{any, get},
};
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{App, Digest, bad_request, host, json_line};

/// Where a program finds the name of the machine it runs on.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// The ids counted so far, and whose they are.
pub(super) struct Ledger {
    actor: String,
    ids: Mutex<Vec<u64>>,
}

/// One increment.
#[derive(Serialize)]
struct Tally<'a> {
    id: u64,
    count: usize,
    nonce: &'a str,
    actor: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Digest>,
}

impl Ledger {
    /// An empty one. Its actor is remembered from now on, whatever the machine is called after a restore.
    pub(super) fn new() -> Self {
        let actor = std::fs::read_to_string(HOSTNAME).unwrap_or_default().trim().to_owned();
        Self { actor, ids: Mutex::default() }
    }

    fn ids(&self) -> MutexGuard<'_, Vec<u64>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts.
    fn add(&self, id: u64) -> usize {
        let mut ids = self.ids();
        ids.push(id);
        ids.len()
    }
}

impl App {
    fn tally(&self, id: u64) -> Tally<'_> {
        let ledger = &self.0.ledger;
        let count = ledger.add(id);
        Tally { id, count, nonce: self.nonce(), actor: &ledger.actor, host: None, body: None }
    }

    fn tally_line(&self, id: u64) -> String {
        serde_json::to_string(&self.tally(id)).unwrap_or_default()
    }
}

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/tally", any(tally))
        .route("/tally/ws", any(ws))
        .route("/tally/sse", get(sse))
        .route("/tally/ids", get(async |State(app): State<App>| json_line(&*app.0.ledger.ids())))
}

#[derive(Deserialize)]
struct Id {
    id: u64,
}

async fn tally(
    State(app): State<App>,
    Query(Id { id }): Query<Id>,
    uri: axum::http::Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let body = match Digest::of(body).await {
        Ok(digest) => Some(digest),
        Err(error) => return bad_request(&format!("body ended early: {error}")),
    };
    let host = Some(host(&uri, &headers));
    json_line(&Tally { host, body, ..app.tally(id) })
}

async fn ws(State(app): State<App>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |socket| tally_frames(&app, socket).await)
}

/// Until the peer is gone, or sends what is no number.
async fn tally_frames(app: &App, mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let Message::Text(text) = message else { continue };
        let Ok(id) = text.as_str().parse() else { return };
        if socket.send(Message::text(app.tally_line(id))).await.is_err() {
            return;
        }
    }
}

#[derive(Deserialize)]
struct Events {
    id: u64,
    events: u64,
    ms: u64,
}

async fn sse(
    State(app): State<App>,
    Query(Events { id, events, ms }): Query<Events>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ids = id..id.saturating_add(events);
    Sse::new(stream::iter(ids).then(move |next| {
        let app = app.clone();
        async move {
            if next > id {
                sleep(Duration::from_millis(ms)).await;
            }
            Ok(Event::default().data(app.tally_line(next)))
        }
    }))
}
