//! Probes and metrics, over plain HTTP.
//!
//! | path | answer |
//! | --- | --- |
//! | `/healthz` | 200 as long as the process answers |
//! | `/readyz` | 200 while there is a front to answer with, 503 before that and from the first moment of a shutdown |
//! | `/metrics` | OpenMetrics text |

use std::{io, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

struct Status {
    shared: Arc<Shared>,
    registry: Registry,
    leaving: CancellationToken,
}

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    registry: Registry,
    leaving: CancellationToken,
    stop: CancellationToken,
) -> io::Result<()> {
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(Status { shared, registry, leaving }));
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn readyz(State(status): State<Arc<Status>>) -> (StatusCode, &'static str) {
    if status.leaving.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n")
    } else if status.shared.records.load().fronts() == (0, 0) {
        (StatusCode::SERVICE_UNAVAILABLE, "no address of the front is known yet\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn metrics(State(status): State<Arc<Status>>) -> ([(&'static str, &'static str); 1], String) {
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut page, &status.registry);
    ([("content-type", OPEN_METRICS)], page)
}
