//! State-of-the-world xDS: the client is sent all it asked for whenever a part of it changed.
//!
//! A cluster that goes together with the listener that used it goes first: the protocol has no way to say one
//! without the other.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
};

use super::{
    catalog::{Catalog, Collection, Kind, hash_of},
    session::{Heard, InFlight, MAX_NAMES, Nonces, Session, Step, TooManyNames, WILDCARD},
};

#[cfg(test)]
mod tests;

#[derive(Debug, Default)]
pub(super) struct StateOfTheWorld {
    nonces: Nonces,
    /// Kinds that the client asked for.
    subscriptions: BTreeMap<Kind, Subscription>,
}

#[derive(Debug)]
struct Subscription {
    names: Names,
    /// Hash of the collection that the client was last sent or came with. Nothing: it must be sent.
    has: Option<String>,
    /// The nonce that the client must quote.
    nonce: Option<String>,
    in_flight: Option<InFlight>,
}

#[derive(Debug, PartialEq, Eq)]
enum Names {
    /// All there are. `explicit` when the client said so with a `*`; otherwise it has named nothing yet.
    All {
        explicit: bool,
    },
    Only(BTreeSet<String>),
}

impl Session for StateOfTheWorld {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const PROTOCOL: &'static str = "state of the world";

    fn node(request: &mut DiscoveryRequest) -> Option<Node> {
        request.node.take()
    }

    fn type_url(response: &DiscoveryResponse) -> &str {
        &response.type_url
    }

    fn on_request(
        &mut self,
        request: DiscoveryRequest,
        catalog: &Catalog,
    ) -> Result<Step<DiscoveryResponse>, TooManyNames> {
        let silent = Step { responses: Vec::new(), heard: None };
        let Some(kind) = Kind::from_type_url(&request.type_url) else { return Ok(silent) };
        if request.resource_names.len() > MAX_NAMES {
            return Err(TooManyNames);
        }
        let mut heard = None;
        match self.subscriptions.get_mut(&kind) {
            None => {
                let subscription = Subscription::first(request, catalog.of(kind));
                if subscription.has.is_some() {
                    let version = catalog.of(kind).version.as_str().to_owned();
                    heard = Some(Heard::Acked { kind, version });
                }
                self.subscriptions.insert(kind, subscription);
            }
            // It will be said again with the nonce of the response that is under way.
            Some(subscription) if !subscription.is_current(&request.response_nonce) => {
                return Ok(silent);
            }
            Some(subscription) => {
                if let Some(sent) = subscription.in_flight.take() {
                    heard = Some(sent.heard(kind, request.error_detail));
                }
                subscription.rename(request.resource_names);
            }
        }
        Ok(Step { responses: self.advance(catalog), heard })
    }

    fn advance(&mut self, catalog: &Catalog) -> Vec<DiscoveryResponse> {
        let mut responses = Vec::new();
        for kind in Kind::ALL {
            if kind == Kind::Listener
                && self
                    .subscriptions
                    .get(&Kind::Cluster)
                    .is_some_and(|clusters| clusters.in_flight.is_some())
            {
                continue;
            }
            let Some(subscription) = self.subscriptions.get_mut(&kind) else { continue };
            let current = catalog.of(kind);
            let has_it = subscription.has.as_deref() == Some(current.version.hash());
            if has_it || subscription.in_flight.is_some() {
                continue;
            }
            let nonce = self.nonces.next();
            responses.push(subscription.send(kind, nonce, current));
        }
        responses
    }
}

impl Subscription {
    /// A client that has everything, and has the current version of it, needs nothing. One that names
    /// resources may have named others when it got that version.
    fn first(request: DiscoveryRequest, current: &Collection) -> Self {
        let names = Names::first(request.resource_names);
        let has = hash_of(&request.version_info)
            .filter(|hash| matches!(names, Names::All { .. }) && *hash == current.version.hash())
            .map(str::to_owned);
        Self { names, has, nonce: None, in_flight: None }
    }

    /// A client that was sent nothing yet has no nonce to quote.
    fn is_current(&self, nonce: &str) -> bool {
        self.nonce.as_deref().unwrap_or_default() == nonce
    }

    /// Who names something new is sent it, changed or not.
    fn rename(&mut self, names: Vec<String>) {
        let names = match self.names {
            Names::All { explicit: false } if names.is_empty() => return,
            _ if names.is_empty() => Names::Only(BTreeSet::new()),
            _ => Names::first(names),
        };
        let more = match (&self.names, &names) {
            (Names::All { .. }, _) => false,
            (Names::Only(_), Names::All { .. }) => true,
            (Names::Only(before), Names::Only(after)) => !after.is_subset(before),
        };
        if more {
            self.has = None;
        }
        self.names = names;
    }

    fn send(&mut self, kind: Kind, nonce: String, current: &Collection) -> DiscoveryResponse {
        let wanted = current.entries.iter().filter(|(name, _)| self.names.wants(name));
        let resources = wanted.map(|(_, entry)| entry.resource.clone()).collect();
        let version = current.version.as_str().to_owned();
        self.has = Some(current.version.hash().to_owned());
        self.nonce = Some(nonce.clone());
        self.in_flight = Some(InFlight { nonce: nonce.clone(), version: version.clone() });
        DiscoveryResponse {
            version_info: version,
            resources,
            type_url: kind.type_url(),
            nonce,
            ..Default::default()
        }
    }
}

impl Names {
    fn first(names: Vec<String>) -> Self {
        if names.is_empty() {
            Self::All { explicit: false }
        } else if names.iter().any(|name| name == WILDCARD) {
            Self::All { explicit: true }
        } else {
            Self::Only(names.into_iter().collect())
        }
    }

    fn wants(&self, name: &str) -> bool {
        match self {
            Self::All { .. } => true,
            Self::Only(names) => names.contains(name),
        }
    }
}
