//! Probes, over plain HTTP, of a supervisor that is told where to serve them.
//!
//! | path | answer |
//! | --- | --- |
//! | `/healthz` | 200 as long as the supervisor answers |
//! | `/readyz` | 200 while Envoy serves; 503 before that and from the first moment of a shutdown |

use std::io;

use axum::{Router, extract, http::StatusCode, routing::get};
use tokio::{net::TcpListener, sync::watch};

use super::State;

/// Serves until it is dropped. Says why it failed; without a listener, never.
pub(super) async fn serve(
    listener: Option<TcpListener>,
    state: watch::Receiver<State>,
) -> io::Error {
    let Some(listener) = listener else { return std::future::pending().await };
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(state);
    match axum::serve(listener, routes).await {
        Ok(()) => io::ErrorKind::BrokenPipe.into(),
        Err(error) => error,
    }
}

async fn readyz(
    extract::State(state): extract::State<watch::Receiver<State>>,
) -> (StatusCode, &'static str) {
    match *state.borrow() {
        State::Ready => (StatusCode::OK, "ok\n"),
        State::Starting => (StatusCode::SERVICE_UNAVAILABLE, "Envoy is starting\n"),
        State::Draining => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
    }
}
