//! Probes, metrics and the status page, over plain HTTP.
//!
//! | path | answer |
//! | --- | --- |
//! | `/healthz` | 200 as long as the process answers |
//! | `/readyz` | 200 once it can do its work, 503 before that and from the first moment of a shutdown |
//! | `/metrics` | Prometheus text; OpenMetrics for who accepts it |
//! | `/statusz` | what is going on, here and in the whole fleet, as HTML; as JSON with `Accept: application/json` |
//!
//! It can do its work once a session with the control plane has stood, or when it holds a binding. Losing the control
//! plane later does not make it unready: bound actors are served.

mod html;
mod overview;
mod page;
mod view;
mod whole;

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router as Routes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Json, Response},
    routing::get,
};
use prometheus_client::registry::Registry;
use reveille_envoy::ads::Fleet;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{exposition::exposition, router::Router};
use overview::Overviews;
use view::View;

/// What the pages are made from.
#[derive(Debug)]
pub(crate) struct Status {
    router: Arc<Router>,
    registry: Registry,
    fleet: Fleet,
    overviews: Overviews,
    shutdown: CancellationToken,
}

impl Status {
    pub(crate) fn new(
        router: Arc<Router>,
        registry: Registry,
        fleet: Fleet,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self { router, registry, fleet, overviews: Overviews::default(), shutdown })
    }

    /// Why it is not ready.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        if self.shutdown.is_cancelled() {
            Some("shutting down")
        } else if self.router.session.ever() || self.router.metrics.bindings.get() > 0 {
            None
        } else {
            Some("no session with the control plane yet")
        }
    }
}

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    status: Arc<Status>,
    stop: CancellationToken,
) -> io::Result<()> {
    let routes = Routes::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/statusz", get(statusz))
        .with_state(status);
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn readyz(State(status): State<Arc<Status>>) -> (StatusCode, String) {
    match status.unready() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics(State(status): State<Arc<Status>>, headers: HeaderMap) -> impl IntoResponse {
    let (kind, text) = exposition(&status.registry, accept(&headers));
    ([(header::CONTENT_TYPE, kind)], text)
}

async fn statusz(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    let told = status.overviews.get(&status.router).await;
    let view = View::of(&status.router, &status.fleet, status.unready(), told);
    if accept(&headers).is_some_and(|accept| accept.contains("json")) {
        return ([(header::CACHE_CONTROL, "no-store")], Json(view)).into_response();
    }
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, page::policy()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Html(page::render(&view))).into_response()
}

fn accept(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ACCEPT)?.to_str().ok()
}

fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}
