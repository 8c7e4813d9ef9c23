//! Delta xDS: the client is sent what changed.
//!
//! For each kind the session remembers what the client has ([`Subscription::known`]); what is sent is the
//! difference between that and the catalog.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
};

use super::{
    catalog::{Catalog, Collection, Kind, hash_of},
    session::{Heard, InFlight, MAX_NAMES, Nonces, Session, Step, TooManyNames, WILDCARD},
};

#[cfg(test)]
mod tests;

#[derive(Debug, Default)]
pub(super) struct Delta {
    nonces: Nonces,
    /// Kinds that the client asked for.
    subscriptions: BTreeMap<Kind, Subscription>,
}

#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    known: BTreeMap<String, Known>,
    in_flight: Option<InFlight>,
    /// The client waits for a first response, and gets it even when it is empty.
    waiting: bool,
}

/// What the client knows of a resource, or was last sent.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    Content { hash: String },
    Absent,
}

/// The difference between what a client knows and what is current.
#[derive(Debug, Default)]
struct Difference {
    changed: Vec<String>,
    removed: Vec<String>,
}

impl Session for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const PROTOCOL: &'static str = "delta";

    fn node(request: &mut DeltaDiscoveryRequest) -> Option<Node> {
        request.node.take()
    }

    fn type_url(response: &DeltaDiscoveryResponse) -> &str {
        &response.type_url
    }

    fn on_request(
        &mut self,
        request: DeltaDiscoveryRequest,
        catalog: &Catalog,
    ) -> Result<Step<DeltaDiscoveryResponse>, TooManyNames> {
        let Some(kind) = Kind::from_type_url(&request.type_url) else {
            return Ok(Step { responses: Vec::new(), heard: None });
        };
        let mut heard = None;
        match self.subscriptions.get_mut(&kind) {
            None => {
                let subscription = Subscription::first(request)?;
                if subscription.knows_all(catalog.of(kind)) {
                    let version = catalog.of(kind).version.as_str().to_owned();
                    heard = Some(Heard::Acked { kind, version });
                }
                self.subscriptions.insert(kind, subscription);
            }
            Some(subscription) => {
                let nonce = &request.response_nonce;
                if let Some(sent) = subscription.in_flight.take_if(|sent| sent.nonce == *nonce) {
                    heard = Some(sent.heard(kind, request.error_detail));
                }
                subscription.unsubscribe(request.resource_names_unsubscribe);
                subscription.subscribe(request.resource_names_subscribe)?;
            }
        }
        Ok(Step { responses: self.advance(catalog), heard })
    }

    fn advance(&mut self, catalog: &Catalog) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        for kind in Kind::ALL {
            let settled = match kind {
                Kind::Cluster => self.is_settled(Kind::Listener, catalog),
                Kind::Listener => !self.is_making(Kind::Cluster, catalog),
                Kind::Secret => true,
            };
            let Some(subscription) = self.subscriptions.get_mut(&kind) else { continue };
            if subscription.in_flight.is_some() {
                continue;
            }
            let mut difference = subscription.difference(catalog.of(kind));
            match kind {
                // Listeners may use them still.
                Kind::Cluster if !settled => difference.removed.clear(),
                // They may use clusters that the client does not have yet.
                Kind::Listener if !settled => continue,
                Kind::Cluster | Kind::Listener | Kind::Secret => {}
            }
            if difference.is_empty() && !subscription.waiting {
                continue;
            }
            let nonce = self.nonces.next();
            responses.push(subscription.send(kind, nonce, difference, catalog.of(kind)));
        }
        responses
    }
}

impl Delta {
    /// Nothing is left to be said to the client, or it did not ask.
    fn is_settled(&self, kind: Kind, catalog: &Catalog) -> bool {
        self.subscriptions.get(&kind).is_none_or(|subscription| {
            subscription.in_flight.is_none() && subscription.difference(catalog.of(kind)).is_empty()
        })
    }

    /// New or changed resources are on their way to the client, or will be.
    fn is_making(&self, kind: Kind, catalog: &Catalog) -> bool {
        self.subscriptions.get(&kind).is_some_and(|subscription| {
            subscription.in_flight.is_some()
                || !subscription.difference(catalog.of(kind)).changed.is_empty()
        })
    }
}

impl Subscription {
    /// Naming nothing at first means everything, for ever.
    fn first(request: DeltaDiscoveryRequest) -> Result<Self, TooManyNames> {
        if request.initial_resource_versions.len() > MAX_NAMES {
            return Err(TooManyNames);
        }
        let known = request.initial_resource_versions.into_iter().map(|(name, version)| {
            // A version that is not ours is the version of some other content.
            let hash = hash_of(&version).unwrap_or_default().to_owned();
            (name, Known::Content { hash })
        });
        let known: BTreeMap<_, _> = known.collect();
        let mut new = Self {
            wildcard: request.resource_names_subscribe.is_empty(),
            waiting: known.is_empty(),
            ..Self::default()
        };
        new.subscribe(request.resource_names_subscribe)?;
        new.known = known;
        Ok(new)
    }

    /// Who asks for a name again gets it again.
    fn subscribe(&mut self, names: Vec<String>) -> Result<(), TooManyNames> {
        for name in names {
            if name == WILDCARD {
                self.waiting |= !self.wildcard;
                self.wildcard = true;
                continue;
            }
            self.known.remove(&name);
            self.names.insert(name);
            if self.names.len() > MAX_NAMES {
                return Err(TooManyNames);
            }
        }
        Ok(())
    }

    /// The client forgets these by itself, and is not told of them any more.
    fn unsubscribe(&mut self, names: Vec<String>) {
        for name in names {
            if name == WILDCARD {
                self.wildcard = false;
                self.known.retain(|name, _| self.names.contains(name));
            } else if self.names.remove(&name) {
                // With a wildcard it still has it, and is told that it does.
                self.known.remove(&name);
            }
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn difference(&self, current: &Collection) -> Difference {
        let is_known = |name: &str, hash: &str| matches!(self.known.get(name), Some(Known::Content { hash: known }) if known == hash);
        let changed = current
            .entries
            .iter()
            .filter(|(name, entry)| self.wants(name) && !is_known(name, entry.version.hash()))
            .map(|(name, _)| name.clone());
        let had = self.known.iter().filter(|(_, known)| **known != Known::Absent);
        let never = self.names.iter().filter(|name| !self.known.contains_key(*name));
        let removed: BTreeSet<_> = had
            .map(|(name, _)| name)
            .chain(never)
            .filter(|name| !current.entries.contains_key(*name))
            .cloned()
            .collect();
        Difference { changed: changed.collect(), removed: removed.into_iter().collect() }
    }

    fn knows_all(&self, current: &Collection) -> bool {
        !self.waiting && self.difference(current).is_empty()
    }

    fn send(
        &mut self,
        kind: Kind,
        nonce: String,
        difference: Difference,
        current: &Collection,
    ) -> DeltaDiscoveryResponse {
        let mut resources = Vec::with_capacity(difference.changed.len());
        for name in difference.changed {
            let Some(entry) = current.entries.get(&name) else { continue };
            let hash = entry.version.hash().to_owned();
            self.known.insert(name.clone(), Known::Content { hash });
            resources.push(Resource {
                name,
                version: entry.version.as_str().to_owned(),
                resource: Some(entry.resource.clone()),
                ..Default::default()
            });
        }
        for name in &difference.removed {
            if self.names.contains(name) {
                self.known.insert(name.clone(), Known::Absent);
            } else {
                self.known.remove(name);
            }
        }
        let version = current.version.as_str().to_owned();
        self.in_flight = Some(InFlight { nonce: nonce.clone(), version: version.clone() });
        self.waiting = false;
        DeltaDiscoveryResponse {
            system_version_info: version,
            resources,
            removed_resources: difference.removed,
            type_url: kind.type_url(),
            nonce,
            ..Default::default()
        }
    }
}

impl Difference {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}
