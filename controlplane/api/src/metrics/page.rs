//! The pages of a part, over plain HTTP.
//!
//! | path | answer |
//! | --- | --- |
//! | `/healthz` | 200 as long as the process answers |
//! | `/readyz` | 200 while it can do its work; 503 before that and from the first moment of a shutdown |
//! | `/metrics` | Prometheus text; OpenMetrics for who accepts it; also that of [the parts beside it](Other), but for who asks for `?only=own` |

use std::{future::Future, io, sync::Arc};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Other, exposition, others};
use crate::net::{Address, ListenError, Listener};

/// One's own series alone.
pub(super) const OWN: &str = "/metrics?only=own";

/// A part that can be watched.
pub trait Watched: Send + Sync + 'static {
    /// What it counts.
    fn registry(&self) -> &Registry;

    /// Why it cannot do its work now.
    fn unready(&self) -> Option<&'static str>;

    /// Brings up to date what is looked up only when somebody asks.
    fn look(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Parts beside it whose series its page has too.
    fn others(&self) -> &[Other] {
        &[]
    }
}

/// The pages of the table. More may be added.
pub fn routes<W: Watched>(part: Arc<W>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz::<W>))
        .route("/metrics", get(metrics::<W>))
        .with_state(part)
}

/// A door for them: unlike [`Address::listen`] it may be open to the network, since nothing can be done through it.
pub async fn listen(address: &Address) -> Result<Listener, ListenError> {
    let Address::Tcp(tcp) = address else { return address.listen().await };
    let failed = |source| ListenError::Failed { address: address.clone(), source };
    Ok(Listener::Tcp(TcpListener::bind(tcp).await.map_err(failed)?, None))
}

/// Serves until `stop`.
pub async fn serve(
    listener: Listener,
    routes: Router,
    stop: CancellationToken,
) -> Result<(), io::Error> {
    match listener {
        Listener::Tcp(listener, _) => {
            axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
        }
        Listener::Unix(listener, _file) => {
            axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
        }
    }
}

async fn readyz<W: Watched>(State(part): State<Arc<W>>) -> (StatusCode, String) {
    match part.unready() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics<W: Watched>(
    State(part): State<Arc<W>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> impl IntoResponse {
    let others = if query.as_deref() == Some("only=own") { &[] } else { part.others() };
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let (others, ()) = tokio::join!(others::gather(others, accept), part.look());
    let (kind, text) = exposition(part.registry(), accept);
    ([(header::CONTENT_TYPE, kind)], others::joined(text, &others))
}
