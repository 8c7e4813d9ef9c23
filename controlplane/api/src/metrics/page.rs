//! The pages of a part, over plain HTTP.
//!
//! | path | answer |
//! | --- | --- |
//! | `/healthz` | 200 as long as the process answers |
//! | `/readyz` | 200 while it can do its work; 503 before that and from the first moment of a shutdown |
//! | `/metrics` | Prometheus text; OpenMetrics for who accepts it |
//!
//! The last two also speak for [the parts beside it](Other), but for who asks for `?only=own`.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use futures::StreamExt;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{Other, exposition, others};
use crate::{
    net::{Address, ListenError, Listener},
    task,
};

/// Connections at a time: the descriptors are for others. More wait in the kernel's queue.
pub(super) const CONNECTIONS: usize = 64;
/// For a request to come, whole, on a connection that has none.
pub(super) const REQUEST: Duration = Duration::from_secs(5);
/// A connection ends after this, also one whose client does not read.
pub(super) const LONGEST: Duration = Duration::from_secs(60);
/// What is then under way, or when its part stops, gets so much more.
const LAST: Duration = Duration::from_secs(1);

/// Of one's own alone.
pub(super) const OWN: &str = "only=own";

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

    /// Parts beside it for which its page speaks too.
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

/// A door for them: unlike [`Address::listen`] it may be open to the network, since nothing can be done through it, and
/// who comes by it takes nothing from anybody else.
pub async fn listen(address: &Address) -> Result<Listener, ListenError> {
    let Address::Tcp(tcp) = address else { return address.listen().await };
    let failed = |source| ListenError::Failed { address: address.clone(), source };
    Ok(Listener::Tcp(TcpListener::bind(tcp).await.map_err(failed)?, None))
}

/// What can be known of that before.
pub fn listenable(address: &Address) -> Result<(), ListenError> {
    match address {
        Address::Tcp(_) => Ok(()),
        Address::Unix(_) | Address::Name { .. } => address.listenable(),
    }
}

/// Serves until `stop`.
pub async fn serve(listener: Listener, routes: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    {
        let mut incoming = pin!(listener.incoming());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                Some(accepted) = incoming.next(), if connections.len() < CONNECTIONS => {
                    if let Ok(io) = accepted {
                        let connection = converse(io, routes.clone(), stop.clone());
                        task::spawn(&mut connections, "page", connection);
                    }
                }
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// One connection, within its limits.
pub(super) async fn converse(
    io: impl AsyncRead + AsyncWrite + Unpin,
    routes: Router,
    stop: CancellationToken,
) {
    let service = service_fn(move |request| routes.clone().oneshot(request));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST)
            .serve_connection(TokioIo::new(io), service)
    );
    tokio::select! {
        // What goes wrong on it is the client's business.
        _ = &mut connection => return,
        _ = timeout(LONGEST, stop.cancelled()) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST, connection).await;
}

async fn readyz<W: Watched>(
    State(part): State<Arc<W>>,
    RawQuery(query): RawQuery,
) -> (StatusCode, String) {
    let why = match part.unready() {
        Some(why) => Some(why.to_owned()),
        None => others::unready(asked_for(&*part, query)).await,
    };
    match why {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn asked_for<W: Watched>(part: &W, query: Option<String>) -> &[Other] {
    if query.as_deref() == Some(OWN) { &[] } else { part.others() }
}

async fn metrics<W: Watched>(
    State(part): State<Arc<W>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> impl IntoResponse {
    let others = asked_for(&*part, query);
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let (others, ()) = tokio::join!(others::gather(others, accept), part.look());
    let (kind, text) = exposition(part.registry(), accept);
    ([(header::CONTENT_TYPE, kind)], others::joined(text, &others))
}
