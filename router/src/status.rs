//! The status page, beside the pages that every part has: [`reveille_api::metrics`].
//!
//! | path | answer |
//! | --- | --- |
//! | `/statusz` | what is going on, here and in the whole fleet, as HTML; as JSON with `Accept: application/json` |
//!
//! It can do its work once a session with the control plane has stood, or when it holds a binding. Losing the control
//! plane later does not make it unready: bound actors are served.

mod html;
mod overview;
mod page;
mod view;
mod whole;

use std::{sync::Arc, time::Duration};

use axum::{
    Router as Routes,
    extract::State,
    http::{HeaderMap, header},
    response::{Html, IntoResponse, Json, Response},
    routing::get,
};
use reveille_api::{
    metrics::{self, Other, Registry, Watched},
    net::Listener,
};
use reveille_envoy::ads::Fleet;
use tokio_util::sync::CancellationToken;

use crate::router::Router;
use overview::Overviews;
use view::View;

/// What the pages are made from.
#[derive(Debug)]
pub(crate) struct Status {
    router: Arc<Router>,
    registry: Registry,
    others: Vec<Other>,
    fleet: Fleet,
    overviews: Overviews,
    shutdown: CancellationToken,
}

impl Status {
    pub(crate) fn new(
        router: Arc<Router>,
        registry: Registry,
        others: Vec<Other>,
        fleet: Fleet,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let overviews = Overviews::default();
        Arc::new(Self { router, registry, others, fleet, overviews, shutdown })
    }
}

impl Watched for Status {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn unready(&self) -> Option<&'static str> {
        if self.shutdown.is_cancelled() {
            Some("shutting down")
        } else if self.router.session.ever() || self.router.metrics.bindings.get() > 0 {
            None
        } else {
            Some("no session with the control plane yet")
        }
    }

    fn others(&self) -> &[Other] {
        &self.others
    }
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: Listener, status: Arc<Status>, stop: CancellationToken) {
    let own = Routes::new().route("/statusz", get(statusz)).with_state(Arc::clone(&status));
    metrics::serve(listener, metrics::routes(status).merge(own), stop).await;
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
