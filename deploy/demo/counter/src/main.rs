//! `counter`: the demo workload.
//!
//! Everything it knows is in memory: a count of requests, a nonce drawn at start, a timer's ticks. An answer
//! with the same nonce and the next count therefore comes from the very same process, however often that was
//! put to sleep in between. The other endpoints ([`app`]) are what a proxy in front can get wrong: slow
//! answers, streams, WebSockets, gRPC, trailers, large bodies.
//!
//! HTTP/1.1 and HTTP/2 with prior knowledge (h2c) are served on one port, `PORT` or 8080. A tick is `TICK_MS` or 100 ms.

mod app;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;

const PORT: u16 = 8080;
const TICK_MS: u64 = 100;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("counter: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until SIGTERM or SIGINT, then ends at once: whoever stops an actor has drained it before.
async fn run() -> Result<(), String> {
    // As the first process of a container it would otherwise ignore both signals.
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| format!("SIGTERM: {e}"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| format!("SIGINT: {e}"))?;

    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, number("PORT", PORT)?));
    let tick = Duration::from_millis(number("TICK_MS", TICK_MS)?.max(1));
    let listener =
        TcpListener::bind(address).await.map_err(|e| format!("cannot listen on {address}: {e}"))?;
    // Events and frames are small and must not wait for an acknowledgement of the one before.
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    let app = App::new().map_err(|e| format!("no random numbers: {e}"))?;
    println!("counter listens on {address}, nonce {}", app.nonce());

    tokio::select! {
        served = axum::serve(listener, app.router()) => served.map_err(|e| e.to_string()),
        never = app.tick(tick) => match never {},
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// A number of the environment.
fn number<T: FromStr>(name: &str, default: T) -> Result<T, String> {
    match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name} must be a number, not {text:?}")),
        Err(_) => Ok(default),
    }
}
