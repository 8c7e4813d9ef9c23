//! The driver: gRPC streams, the clock, the watch. It decides nothing.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_server::{
            AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
        },
    },
};
use futures::{Stream, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    catalog::Catalog,
    delta::Delta,
    fleet::{Fleet, Member},
    session::Session,
    sotw::StateOfTheWorld,
};
use crate::resources::Resources;

#[cfg(test)]
mod tests;

/// The ADS service. Its streams end when the sender of the resources is dropped, or by [`AdsServer::until`].
#[derive(Clone, Debug)]
pub struct AdsServer {
    current: Arc<Current>,
    fleet: Fleet,
    stop: CancellationToken,
}

/// The resources, and the catalog made of them when the first stream needs it.
#[derive(Debug)]
struct Current {
    resources: watch::Receiver<Arc<Resources>>,
    made: Mutex<(Arc<Resources>, Arc<Catalog>)>,
}

impl AdsServer {
    /// Serves what the watch holds, and writes to the fleet who took it.
    pub fn new(resources: watch::Receiver<Arc<Resources>>, fleet: Fleet) -> Self {
        let first = resources.borrow().clone();
        let catalog = Arc::new(Catalog::new(&first, unix_ms()));
        let current = Current { resources, made: Mutex::new((first, catalog)) };
        Self { current: Arc::new(current), fleet, stop: CancellationToken::new() }
    }

    /// Ends every stream when the token is cancelled: they would hold up a graceful shutdown for ever.
    #[must_use]
    pub fn until(mut self, stop: CancellationToken) -> Self {
        self.stop = stop;
        self
    }

    /// For a `tonic` server.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self)
    }

    fn serve<S: Session>(&self, inbound: Streaming<S::Request>) -> ResponseStream<S::Response> {
        let driver = Driver::<S> {
            session: S::default(),
            inbound,
            changes: self.current.resources.clone(),
            current: self.current.clone(),
            fleet: self.fleet.clone(),
            member: None,
            outbox: VecDeque::new(),
            stop: self.stop.clone(),
        };
        Box::pin(stream::unfold(Some(driver), |driver| async {
            let mut driver = driver?;
            match driver.next().await {
                Ok(response) => response.map(|response| (Ok(response), Some(driver))),
                Err(status) => Some((Err(status), None)),
            }
        }))
    }
}

impl Current {
    /// Every stream sees the same versions of the same resources.
    fn catalog(&self) -> Arc<Catalog> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let resources = self.resources.borrow().clone();
        if !Arc::ptr_eq(&made.0, &resources) {
            let catalog = Arc::new(made.1.next(&resources, unix_ms()));
            *made = (resources, catalog);
        }
        made.1.clone()
    }
}

/// One stream. It is driven by whoever reads its responses, so a client that does not read is not read from.
struct Driver<S: Session> {
    session: S,
    inbound: Streaming<S::Request>,
    changes: watch::Receiver<Arc<Resources>>,
    current: Arc<Current>,
    fleet: Fleet,
    member: Option<Member>,
    outbox: VecDeque<S::Response>,
    stop: CancellationToken,
}

impl<S: Session> Driver<S> {
    /// The next response; nothing at the end of the stream.
    async fn next(&mut self) -> Result<Option<S::Response>, Status> {
        loop {
            if let Some(response) = self.outbox.pop_front() {
                if let Some(member) = &self.member {
                    member.pushed(S::type_url(&response));
                }
                return Ok(Some(response));
            }
            tokio::select! {
                request = self.inbound.message() => match request {
                    Ok(Some(request)) => self.on_request(request)?,
                    // The client is gone, one way or the other.
                    Ok(None) | Err(_) => return Ok(None),
                },
                changed = self.changes.changed() => match changed {
                    Ok(()) => self.outbox.extend(self.session.advance(&self.current.catalog())),
                    Err(_) => return Ok(None),
                },
                () = self.stop.cancelled() => return Ok(None),
            }
        }
    }

    fn on_request(&mut self, mut request: S::Request) -> Result<(), Status> {
        let node = S::node(&mut request);
        let (fleet, now) = (&self.fleet, unix_ms());
        let join = || fleet.join(node.unwrap_or_else(unnamed), S::PROTOCOL, now);
        let member = self.member.get_or_insert_with(join);
        let step = self
            .session
            .on_request(request, &self.current.catalog())
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        if let Some(heard) = step.heard {
            member.heard(heard, now);
        }
        self.outbox.extend(step.responses);
        Ok(())
    }
}

fn unnamed() -> Node {
    Node { id: "unnamed".into(), ..Default::default() }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

type ResponseStream<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for AdsServer {
    type StreamAggregatedResourcesStream = ResponseStream<DiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.serve::<StateOfTheWorld>(request.into_inner())))
    }

    type DeltaAggregatedResourcesStream = ResponseStream<DeltaDiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.serve::<Delta>(request.into_inner())))
    }
}
