//! What the cores of both protocols have in common: what they are asked and what they say.

use envoy_types::pb::envoy::config::core::v3::Node;

use super::catalog::{Catalog, Kind};

/// Resources that one stream may name, of one kind.
pub(super) const MAX_NAMES: usize = 1024;
/// Stands for all resources of a kind.
pub(super) const WILDCARD: &str = "*";

/// One side of one ADS stream, without the stream.
pub(super) trait Session: Default + Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;
    /// For people.
    const PROTOCOL: &'static str;

    /// Sent with the first request of a stream.
    fn node(request: &mut Self::Request) -> Option<Node>;

    /// What kind of resources a response has.
    fn type_url(response: &Self::Response) -> &str;

    fn on_request(
        &mut self,
        request: Self::Request,
        catalog: &Catalog,
    ) -> Result<Step<Self::Response>, TooManyNames>;

    /// What is to be sent now, because the catalog or something else changed.
    fn advance(&mut self, catalog: &Catalog) -> Vec<Self::Response>;
}

/// What follows from a request.
#[derive(Debug, PartialEq)]
pub(super) struct Step<R> {
    pub(super) responses: Vec<R>,
    pub(super) heard: Option<Heard>,
}

/// What the client said of the version it was sent, or came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Acked { kind: Kind, version: String },
    Nacked { kind: Kind, version: String, message: String },
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("one stream may name {MAX_NAMES} resources of a kind")]
pub(super) struct TooManyNames;

/// A response that was sent and is not yet acknowledged.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) nonce: String,
    pub(super) version: String,
}

impl InFlight {
    pub(super) fn heard(
        self,
        kind: Kind,
        error: Option<envoy_types::pb::google::rpc::Status>,
    ) -> Heard {
        match error {
            None => Heard::Acked { kind, version: self.version },
            Some(error) => Heard::Nacked { kind, version: self.version, message: error.message },
        }
    }
}

/// Makes the nonces of one stream.
#[derive(Debug, Default)]
pub(super) struct Nonces(u64);

impl Nonces {
    pub(super) fn next(&mut self) -> String {
        self.0 += 1;
        self.0.to_string()
    }
}
