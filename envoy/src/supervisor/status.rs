//! The pages of a supervisor that is told where to serve them: [`reveille_api::metrics`]. It is ready while Envoy serves.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use reveille_api::{
    metrics::{self, Counter, Gauge, Registry, Watched},
    net::Listener,
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Config, State, admin::Admin};

/// For what Envoy itself knows. Whoever asks for the page waits longer than that.
const LOOK: Duration = Duration::from_secs(1);

/// Handles to every series.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    ready: Gauge,
    pub(super) starts: Counter,
    /// Without having been told to.
    pub(super) exits: Counter,
    requests: Gauge,
    requests_limit: Gauge,
    connections: Gauge,
    connections_limit: Gauge,
}

impl Metrics {
    pub(super) fn new(config: &Config) -> Self {
        let metrics = Self::default();
        metrics.requests_limit.set(config.max_requests.into());
        metrics.connections_limit.set(config.max_connections.into());
        metrics
    }

    #[rustfmt::skip]
    fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("reveille_envoy");
        r.register("ready", "1 while Envoy serves", self.ready.clone());
        r.register("starts", "How often Envoy was started", self.starts.clone());
        r.register("exits", "How often Envoy ended without having been told to", self.exits.clone());
        r.register("requests_active", "Requests of clients in Envoy now", self.requests.clone());
        r.register("requests_limit", "Requests that Envoy lets wait for the routers, and be at actors, at a time", self.requests_limit.clone());
        r.register("connections_active", "Connections of clients now", self.connections.clone());
        r.register("connections_limit", "Connections of clients at a time; more are refused", self.connections_limit.clone());
        reveille_api::telemetry::register(r);
    }
}

/// Every series of a supervisor, as it is at the start.
pub fn series() -> Registry {
    let mut registry = Registry::default();
    Metrics::default().register(&mut registry);
    registry
}

struct Page {
    registry: Registry,
    metrics: Metrics,
    state: watch::Receiver<State>,
    admin: Admin,
}

impl Watched for Page {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn unready(&self) -> Option<&'static str> {
        match *self.state.borrow() {
            State::Ready => None,
            State::Starting => Some("Envoy is starting"),
            State::Draining => Some("shutting down"),
        }
    }

    /// What Envoy itself knows. Where it does not answer, nothing is active, and it does not serve.
    async fn look(&self) {
        let (admin, set) = (&self.admin, |gauge: &Gauge, count| {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        });
        let asked = async { tokio::join!(admin.active_requests(), admin.active_connections()) };
        let asked = timeout(LOOK, asked).await;
        self.metrics.ready.set(i64::from(asked.is_ok() && self.unready().is_none()));
        let (requests, connections) = asked.unwrap_or((Ok(0), Ok(0)));
        set(&self.metrics.requests, requests.unwrap_or_default());
        set(&self.metrics.connections, connections.unwrap_or_default());
    }
}

/// Serves until it is dropped, if there is a listener.
pub(super) async fn serve(
    listener: Option<Listener>,
    state: watch::Receiver<State>,
    metrics: Metrics,
    admin: Admin,
) -> Infallible {
    let Some(listener) = listener else { return pending().await };
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let page = Page { registry, metrics, state, admin };
    let routes = metrics::routes(Arc::new(page));
    metrics::serve(listener, routes, CancellationToken::new()).await;
    pending().await
}

#[cfg(test)]
mod tests {
    use reveille_api::net::Address;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_envoy_that_hangs_is_told_of_as_one_that_does_not_serve() {
        // The kernel takes the connections, and nobody reads them: as of a process that was stopped.
        let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = Admin::new(Address::Tcp(hangs.local_addr().unwrap()));
        let listener = metrics::listen(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let page = listener.address().unwrap();
        let (_state, state) = watch::channel(State::Ready);
        let text = tokio::select! {
            never = serve(Some(listener), state, Metrics::default(), admin) => match never {},
            text = metrics::own(&page) => text.expect("a page"),
        };
        assert!(text.contains("reveille_envoy_ready 0"), "{text}");
    }
}
