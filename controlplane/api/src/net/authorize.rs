//! Who may call what: one table for every server, and the layer that keeps to it.

use std::{
    fmt,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::Either;
use http::{Extensions, HeaderMap, Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{Peer, Role};

/// Services, and the roles that may call them. What is not here, nobody with a certificate may call.
pub(super) const TABLE: &[(&str, &[Role])] = &[
    ("reveille.v1.Control", &[Role::Client]),
    ("reveille.v1.Overview", &[Role::Client, Role::Router]),
    ("reveille.v1.Routers", &[Role::Router]),
    ("reveille.v1.Nodes", &[Role::Node]),
    ("reveille.v1.Names", &[Role::Dns]),
    ("reveille.v1.NodeAgent", &[Role::ControlPlane]),
    ("envoy.service.ext_proc.v3.ExternalProcessor", &[Role::Envoy]),
    ("envoy.service.discovery.v3.AggregatedDiscoveryService", &[Role::Envoy]),
    ("envoy.service.accesslog.v3.AccessLogService", &[Role::Envoy]),
];

/// Services that every server may have, for those who have something else to ask of it.
const NEUTRAL: &[&str] = &["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];

type Check = Arc<dyn Fn(&HeaderMap) -> Result<(), Status> + Send + Sync>;

/// A layer around a whole server: no path comes past it, known or not.
#[derive(Clone)]
pub struct Authorize {
    callers: &'static [Role],
    anybody: Option<Check>,
}

impl Authorize {
    /// Lets in who is local, and who has a certificate of a role in the table. Health and reflection are for `callers`: the
    /// roles that have anything to ask of this server.
    pub const fn new(callers: &'static [Role]) -> Self {
        Self { callers, anybody: None }
    }

    /// Somebody on a plain connection is let in when the check of the headers passes.
    #[must_use]
    pub fn or_if(
        self,
        check: impl Fn(&HeaderMap) -> Result<(), Status> + Send + Sync + 'static,
    ) -> Self {
        Self { anybody: Some(Arc::new(check)), ..self }
    }

    fn roles(&self, service: &str) -> Option<&'static [Role]> {
        let row = TABLE.iter().find(|(name, _)| *name == service).map(|row| row.1);
        row.or_else(|| NEUTRAL.contains(&service).then_some(self.callers))
    }

    fn check<B>(&self, request: &Request<B>) -> Result<(), Status> {
        match (request.extensions().get::<Peer>(), &self.anybody) {
            (Some(Peer::Local), _) => Ok(()),
            (Some(Peer::Certified(identity)), _) => {
                let path = request.uri().path();
                let service = path.strip_prefix('/').and_then(|path| path.split('/').next());
                match service.and_then(|service| self.roles(service)) {
                    Some(roles) if roles.contains(&identity.role()) => Ok(()),
                    roles => {
                        tracing::warn!(%identity, path, "a call by the wrong role was refused");
                        Err(Status::permission_denied(refusal(identity, roles)))
                    }
                }
            }
            (Some(Peer::Anybody), Some(check)) => check(request.headers()),
            (Some(Peer::Anybody) | None, _) => {
                tracing::warn!("a call by nobody in particular was refused");
                Err(Status::unauthenticated("this server answers only those it knows"))
            }
        }
    }
}

fn refusal(identity: &super::Identity, roles: Option<&[Role]>) -> String {
    match roles {
        Some(roles) => {
            let roles: Vec<_> = roles.iter().map(|role| role.name()).collect();
            format!(
                "the certificate is of {identity}; this call takes one of role {}",
                roles.join(", ")
            )
        }
        None => format!("the certificate is of {identity}; there is nothing for it here"),
    }
}

/// Whether the caller may act as this router or node. Who is local may: it is root, or we ourselves.
pub fn named(extensions: &Extensions, role: Role, name: &str) -> Result<(), Status> {
    match extensions.get::<Peer>() {
        Some(Peer::Local) => Ok(()),
        Some(Peer::Certified(who)) if who.role() == role && who.name() == Some(name) => Ok(()),
        Some(Peer::Certified(who)) => {
            tracing::warn!(identity = %who, claimed = name, "a {role} claimed another one's name");
            let message = format!("the certificate is of {who}, not of {role} {name:?}");
            Err(Status::permission_denied(message))
        }
        Some(Peer::Anybody) | None => Err(Status::unauthenticated("nobody is known by that name")),
    }
}

impl fmt::Debug for Authorize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorize")
            .field("callers", &self.callers)
            .field("anybody", &self.anybody.is_some())
            .finish()
    }
}

impl<S> Layer<S> for Authorize {
    type Service = Authorized<S>;

    fn layer(&self, inner: S) -> Authorized<S> {
        Authorized { inner, authorize: self.clone() }
    }
}

/// A server behind [`Authorize`].
#[derive(Clone, Debug)]
pub struct Authorized<S> {
    inner: S,
    authorize: Authorize,
}

impl<S, B> Service<Request<B>> for Authorized<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.authorize.check(&request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}
