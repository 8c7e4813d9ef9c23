//! The ExtProc server: one stream for each HTTP request, for as long as the request lasts.
//!
//! ```text
//!  Envoy ── request_headers ──▶ ┌──────────┐ ── go on, or the refusal ──▶ Envoy
//!                               │ Exchange │
//!  (nothing more: response_     │ in flight│
//!   trailer_mode keeps it open) └──────────┘
//!  end of the stream ──────────▶ dropped: no longer in flight
//! ```
//!
//! The answer stream owns everything of the request, so whichever way it ends (the caller is done, Envoy resets it, the
//! connection breaks) the count goes down. No task and no channel is made for a request.
//!
//! Not even the head of the answer is sent before its first message: of a stream that breaks before that, Envoy knows
//! that nothing came of it, and takes the request to another router.
//!
//! When the process that a request is at is known to be gone, the router ends the stream with an error: Envoy then ends the
//! request, with an answer if it has begun none. Otherwise it would wait for a peer that will never speak. A request that could
//! not be connected there is not at it: it comes on another stream, and this one is left open ([`crate::again`]).

pub(crate) mod wire;

use std::{
    convert::Infallible,
    future::ready,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, stream};
use reveille_api::trace::{self, Kind, Span, Traceparent};
use reveille_envoy::{reply::Shape, resources::names};
use tokio::time::sleep;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{Grpc, NamedService, StreamingService},
};

use uuid::Uuid;

use crate::{
    activation::InFlight,
    again::{self, Second},
    answer::{self, Waited},
    binding::Protocol,
    recent::End,
    refusal::refusal,
    router::{self, Cold, Router, Ticket},
    websocket,
};
use wire::{Content, ExtProcCodec, HttpHeaders, Inbound};

/// From the moment it is known that an activation is gone until its requests are ended. Its node has reset their connections by
/// then; one that was being connected is refused when its first packet is sent again, after a second, and comes a second time.
const GONE_PAUSE: Duration = Duration::from_secs(2);

const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// The gRPC service `envoy.service.ext_proc.v3.ExternalProcessor`.
#[derive(Clone, Debug)]
pub(crate) struct ExtProc {
    router: Arc<Router>,
}

impl ExtProc {
    pub(crate) fn new(router: Arc<Router>) -> Self {
        Self { router }
    }
}

impl NamedService for ExtProc {
    const NAME: &'static str = "envoy.service.ext_proc.v3.ExternalProcessor";
}

impl tower::Service<http::Request<Body>> for ExtProc {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != PROCESS {
            let status = Status::unimplemented("the only method is Process");
            return Box::pin(ready(Ok(status.into_http())));
        }
        let process = Process(Arc::clone(&self.router));
        Box::pin(async move { Ok(Grpc::new(ExtProcCodec).streaming(process, request).await) })
    }
}

struct Process(Arc<Router>);

type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl StreamingService<Inbound> for Process {
    type Response = Bytes;
    type ResponseStream = Answers;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answers>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Inbound>>) -> Self::Future {
        let router = Arc::clone(&self.0);
        let parent = parent(&request);
        let messages = request.into_inner();
        let mut exchange = Exchange {
            messages,
            router,
            parent,
            asked: false,
            in_flight: None,
            id: None,
            second: None,
        };
        Box::pin(async move {
            let first = exchange.next().await;
            let answers = stream::unfold((exchange, first), |(mut exchange, first)| async move {
                let answer = match first {
                    None => exchange.next().await?,
                    Some(first) => first,
                };
                Some((answer, (exchange, None)))
            });
            Ok(Response::new(Box::pin(answers) as Answers))
        })
    }
}

/// One HTTP request.
struct Exchange {
    messages: Streaming<Inbound>,
    router: Arc<Router>,
    /// Envoy's span, if spans are recorded.
    parent: Option<Traceparent>,
    /// Its headers have come.
    asked: bool,
    /// Once it was sent on, until it ends.
    in_flight: Option<InFlight>,
    /// What Envoy calls it, of the first stream.
    id: Option<Uuid>,
    /// This is the second stream.
    second: Option<Second>,
}

impl Exchange {
    /// The next answer, or nothing once the request has ended.
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        let message = match &self.in_flight {
            None => self.messages.message().await,
            Some(in_flight) => tokio::select! {
                biased;
                message = self.messages.message() => message,
                () = gone(in_flight) => {
                    if !self.id.is_some_and(|id| self.router.again.has(id)) {
                        let actor = in_flight.actor();
                        self.router.recent.note(Some(actor), End::Cut, Duration::ZERO, self.id);
                        return Some(Err(Status::aborted(names::GONE)));
                    }
                    self.in_flight = None;
                    self.messages.message().await
                }
            },
        };
        // An error is an end like any other: Envoy is gone.
        let request = message.ok()??.request?;
        match request {
            Content::RequestHeaders(headers) if !self.asked => {
                self.asked = true;
                self.answer(headers).await.map(Ok)
            }
            other => Some(Ok(answer::empty(other.phase()))),
        }
    }

    async fn answer(&mut self, headers: HttpHeaders) -> Option<Bytes> {
        self.second = again::second(&self.router, &headers);
        self.id = if self.second.is_none() { again::id(&headers) } else { None };
        let accept = websocket::accept(&headers);
        let mut span = Span::after(self.parent, "route", Kind::Server);
        // Without Envoy's there may be the client's own, for the log: whether it is recorded, Envoy alone says.
        let received =
            || Some(headers.get(trace::HEADER)?.parse::<Traceparent>().ok()?.unrecorded());
        let cold = || Cold {
            traceparent: span.traceparent().or_else(received),
            request_id: again::id(&headers),
            page: opens_page(&headers),
        };
        let request = self.router.request(headers.get(":authority"), cold);
        match request {
            router::Request::Served(served) => {
                let (endpoint, protocol) = (served.binding.endpoint, served.binding.protocol);
                span.set("reveille.actor", served.binding.activation.actor());
                self.in_flight = Some(served.in_flight);
                Some(match accept {
                    Some(accept) if protocol == Protocol::H2c => {
                        answer::websocket(endpoint, accept)
                    }
                    _ => answer::warm(endpoint, protocol),
                })
            }
            router::Request::Refused(refused) => {
                span.fail(refused.reason);
                Some(refusal(refused, shape(&headers)))
            }
            router::Request::Parked(ticket) => {
                let shape = shape(&headers);
                // A parked request keeps no more of the caller's headers than that.
                drop(headers);
                self.parked(ticket, shape, accept, span).await
            }
        }
    }

    /// Waits for the wake, and for the caller to leave.
    async fn parked(
        &mut self,
        mut ticket: Ticket,
        shape: Shape,
        accept: Option<String>,
        span: Span,
    ) -> Option<Bytes> {
        let mut span = span.of(ticket.actor());
        let outcome = tokio::select! {
            biased;
            outcome = ticket.wait() => outcome,
            // Envoy says nothing more before it is answered: the stream has ended.
            _ = self.messages.message() => return None,
        };
        if span.is_recorded()
            && let Some(wake) = ticket.joined()
        {
            span.link(wake);
        }
        Some(match outcome {
            Ok(arrival) => {
                let binding = &arrival.served.binding;
                let waited = Waited {
                    kind: binding.woken_by,
                    first: ticket.is_first(),
                    held: ticket.held(),
                    phases: &arrival.phases,
                };
                let answer = answer::woken(binding.endpoint, binding.protocol, waited, accept);
                self.in_flight = Some(arrival.served.in_flight);
                answer
            }
            Err(refused) => {
                span.fail(refused.reason);
                refusal(refused, shape)
            }
        })
    }
}

/// What Envoy says in the call itself, which is before the client's headers: those still have what the client said.
fn parent<T>(call: &Request<T>) -> Option<Traceparent> {
    if !trace::is_recording() {
        return None;
    }
    call.metadata().get(trace::HEADER)?.to_str().ok()?.parse().ok()
}

async fn gone(in_flight: &InFlight) {
    in_flight.gone().await;
    sleep(GONE_PAUSE).await;
}

/// A browser that goes to an address: what it gets is shown to a person.
fn opens_page(headers: &HttpHeaders) -> bool {
    matches!(headers.get(":method"), Some("GET" | "HEAD"))
        && headers.get("upgrade").is_none()
        && shape(headers) == Shape::Html
}

fn shape(headers: &HttpHeaders) -> Shape {
    Shape::of(headers.get("content-type"), headers.get("accept"))
}
