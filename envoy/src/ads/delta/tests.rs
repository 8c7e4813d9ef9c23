use envoy_types::pb::{
    envoy::config::{cluster::v3::Cluster, listener::v3::Listener},
    google::rpc,
};

use super::*;
use crate::resources::Resources;

/// A client that remembers what it was sent, and acknowledges when told to.
#[derive(Default)]
struct Client {
    session: Delta,
    /// Name to version, by kind.
    has: BTreeMap<Kind, BTreeMap<String, String>>,
}

/// What one response said.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    kind: Kind,
    changed: Vec<String>,
    removed: Vec<String>,
    nonce: String,
}

fn said(kind: Kind, changed: &[&str], removed: &[&str], nonce: &str) -> Said {
    let strings = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Said { kind, changed: strings(changed), removed: strings(removed), nonce: nonce.into() }
}

impl Client {
    fn subscribe(&mut self, kind: Kind, names: &[&str], catalog: &Catalog) -> Vec<Said> {
        self.send(request(kind, names), catalog).0
    }

    fn send(
        &mut self,
        request: DeltaDiscoveryRequest,
        catalog: &Catalog,
    ) -> (Vec<Said>, Option<Heard>) {
        let step = self.session.on_request(request, catalog).unwrap();
        (self.take(step.responses), step.heard)
    }

    fn ack(&mut self, said: &Said, catalog: &Catalog) -> (Vec<Said>, Option<Heard>) {
        self.reply(said, None, catalog)
    }

    fn nack(&mut self, said: &Said, why: &str, catalog: &Catalog) -> (Vec<Said>, Option<Heard>) {
        let why = rpc::Status { message: why.into(), ..Default::default() };
        self.reply(said, Some(why), catalog)
    }

    fn reply(
        &mut self,
        said: &Said,
        error_detail: Option<rpc::Status>,
        catalog: &Catalog,
    ) -> (Vec<Said>, Option<Heard>) {
        let request = DeltaDiscoveryRequest {
            type_url: said.kind.type_url(),
            response_nonce: said.nonce.clone(),
            error_detail,
            ..Default::default()
        };
        self.send(request, catalog)
    }

    fn advance(&mut self, catalog: &Catalog) -> Vec<Said> {
        let responses = self.session.advance(catalog);
        self.take(responses)
    }

    fn take(&mut self, responses: Vec<DeltaDiscoveryResponse>) -> Vec<Said> {
        let mut all = Vec::new();
        for response in responses {
            let kind = Kind::from_type_url(&response.type_url).unwrap();
            let has = self.has.entry(kind).or_default();
            for resource in &response.resources {
                assert!(resource.resource.is_some());
                has.insert(resource.name.clone(), resource.version.clone());
            }
            for name in &response.removed_resources {
                has.remove(name);
            }
            all.push(Said {
                kind,
                changed: response.resources.into_iter().map(|resource| resource.name).collect(),
                removed: response.removed_resources,
                nonce: response.nonce,
            });
        }
        all
    }

    /// The first request of this client on a new stream.
    fn again(&self, kind: Kind) -> DeltaDiscoveryRequest {
        let versions = self.has.get(&kind).cloned().unwrap_or_default();
        DeltaDiscoveryRequest {
            initial_resource_versions: versions.into_iter().collect(),
            ..request(kind, &[])
        }
    }

    /// Connected to everything, and everything acknowledged.
    fn settled(catalog: &Catalog) -> Self {
        let mut client = Self::default();
        for kind in Kind::ALL {
            let mut next = client.subscribe(kind, &[], catalog);
            while let Some(said) = next.pop() {
                next.extend(client.ack(&said, catalog).0);
            }
        }
        client
    }
}

fn request(kind: Kind, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url(),
        resource_names_subscribe: names.iter().map(|&name| name.to_owned()).collect(),
        ..Default::default()
    }
}

/// Each name is "name" or "name=content".
fn resources(clusters: &[&str], listeners: &[&str]) -> Resources {
    let split = |text: &str| {
        let (name, content) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), content.to_owned())
    };
    Resources {
        clusters: clusters
            .iter()
            .map(|text| split(text))
            .map(|(name, alt_stat_name)| Cluster { name, alt_stat_name, ..Default::default() })
            .collect(),
        listeners: listeners
            .iter()
            .map(|text| split(text))
            .map(|(name, stat_prefix)| Listener { name, stat_prefix, ..Default::default() })
            .collect(),
        secrets: Vec::new(),
    }
}

fn catalog(clusters: &[&str], listeners: &[&str]) -> Catalog {
    Catalog::new(&resources(clusters, listeners), 1000)
}

use Kind::{Cluster as C, Listener as L};

#[test]
fn a_wildcard_gets_everything_once() {
    let catalog = catalog(&["a", "b"], &["l"]);
    let mut client = Client::default();
    let first = client.subscribe(C, &[], &catalog);
    assert_eq!(first, [said(C, &["a", "b"], &[], "1")]);
    let (more, heard) = client.ack(&first[0], &catalog);
    assert!(more.is_empty());
    let version = catalog.of(C).version.as_str().to_owned();
    assert_eq!(heard, Some(Heard::Acked { kind: C, version }));
    assert!(client.advance(&catalog).is_empty());
}

#[test]
fn an_empty_answer_is_an_answer_too() {
    let catalog = catalog(&[], &[]);
    let mut client = Client::default();
    assert_eq!(client.subscribe(C, &[], &catalog), [said(C, &[], &[], "1")]);
}

#[test]
fn only_what_changed_is_sent() {
    let before = catalog(&["a", "b"], &[]);
    let mut client = Client::settled(&before);
    let after = before.next(&resources(&["a", "b=2", "c"], &[]), 2000);
    let pushed = client.advance(&after);
    assert_eq!(
        (&pushed[0].changed[..], &pushed[0].removed[..]),
        (&["b".into(), "c".into()][..], &[][..])
    );
    assert_eq!(pushed.len(), 1);
}

#[test]
fn resources_that_are_the_same_again_are_not_sent() {
    let before = catalog(&["a"], &["l"]);
    let mut client = Client::settled(&before);
    let after = before.next(&resources(&["a"], &["l"]), 2000);
    assert!(client.advance(&after).is_empty());
}

#[test]
fn a_client_that_comes_back_is_sent_nothing_it_has_also_by_a_server_that_restarted() {
    let before = catalog(&["a", "b"], &["l"]);
    let client = Client::settled(&before);
    let restarted = Catalog::new(&resources(&["a", "b=2"], &["l"]), 9000);
    let mut again = Client { has: client.has.clone(), ..Client::default() };
    let (pushed, heard) = again.send(client.again(C), &restarted);
    assert_eq!(pushed, [said(C, &["b"], &[], "1")]);
    assert_eq!(heard, None);
    again.ack(&pushed[0], &restarted);
    let (pushed, heard) = again.send(client.again(L), &restarted);
    assert!(pushed.is_empty());
    let version = restarted.of(L).version.as_str().to_owned();
    assert_eq!(heard, Some(Heard::Acked { kind: L, version }));
}

#[test]
fn a_client_that_comes_back_loses_what_is_gone_and_gets_what_a_foreign_server_gave_it() {
    let mut client = Client::default();
    let has = [("gone", "1000-0123456789abcdef"), ("a", "17")];
    client.has.insert(C, has.map(|(name, version)| (name.into(), version.into())).into());
    let first = client.again(C);
    let (pushed, _) = client.send(first, &catalog(&["a"], &[]));
    assert_eq!(pushed, [said(C, &["a"], &["gone"], "1")]);
}

#[test]
fn a_refused_content_is_reported_and_not_sent_again_but_the_next_one_is() {
    let good = catalog(&["a"], &[]);
    let mut client = Client::settled(&good);
    let bad = good.next(&resources(&["a=bad"], &[]), 2000);
    let pushed = client.advance(&bad);
    let (more, heard) = client.nack(&pushed[0], "no such thing", &bad);
    assert!(more.is_empty());
    let version = bad.of(C).version.as_str().to_owned();
    assert_eq!(heard, Some(Heard::Nacked { kind: C, version, message: "no such thing".into() }));
    assert!(client.advance(&bad).is_empty());
    let better = bad.next(&resources(&["a=better"], &[]), 3000);
    assert_eq!(client.advance(&better).len(), 1);
}

#[test]
fn going_back_to_the_content_before_a_refused_one_is_a_change() {
    let good = catalog(&["a"], &[]);
    let mut client = Client::settled(&good);
    let bad = good.next(&resources(&["a=bad"], &[]), 2000);
    let pushed = client.advance(&bad);
    client.nack(&pushed[0], "no", &bad);
    let back = bad.next(&resources(&["a"], &[]), 3000);
    assert_eq!(client.advance(&back)[0].changed, ["a"]);
}

#[test]
fn while_a_response_is_in_flight_changes_wait_and_are_joined() {
    let first = catalog(&["a"], &[]);
    let mut client = Client::default();
    let sent = client.subscribe(C, &[], &first);
    let second = first.next(&resources(&["a", "b"], &[]), 2000);
    assert!(client.advance(&second).is_empty());
    let third = second.next(&resources(&["a", "b", "c"], &[]), 3000);
    assert!(client.advance(&third).is_empty());
    let (pushed, _) = client.ack(&sent[0], &third);
    assert_eq!(pushed, [said(C, &["b", "c"], &[], "2")]);
}

#[test]
fn an_answer_to_an_older_response_acknowledges_nothing() {
    let first = catalog(&["a"], &[]);
    let mut client = Client::settled(&first);
    let second = first.next(&resources(&["b"], &[]), 2000);
    assert_eq!(client.advance(&second).len(), 1);
    let (more, heard) = client.ack(&said(C, &[], &[], "1"), &second);
    assert!(more.is_empty());
    assert_eq!(heard, None);
    // It still waits for the right one.
    let third = second.next(&resources(&["c"], &[]), 3000);
    assert!(client.advance(&third).is_empty());
}

#[test]
fn listeners_wait_until_the_clusters_they_may_use_are_acknowledged() {
    let before = catalog(&["a"], &["l"]);
    let mut client = Client::settled(&before);
    let after = before.next(&resources(&["a", "b"], &["l=uses b"]), 2000);
    let pushed = client.advance(&after);
    assert_eq!((pushed.len(), pushed[0].kind), (1, C));
    let (pushed, _) = client.ack(&pushed[0], &after);
    assert_eq!((pushed.len(), pushed[0].kind), (1, L));
}

#[test]
fn clusters_are_removed_after_the_listeners_that_used_them() {
    let before = catalog(&["a", "b"], &["l=uses b"]);
    let mut client = Client::settled(&before);
    let after = before.next(&resources(&["a"], &["l=uses a"]), 2000);
    let pushed = client.advance(&after);
    assert_eq!((pushed.len(), pushed[0].kind), (1, L));
    let (pushed, _) = client.ack(&pushed[0], &after);
    assert_eq!((pushed[0].kind, &pushed[0].removed[..]), (C, &["b".to_owned()][..]));
    assert!(client.ack(&pushed[0], &after).0.is_empty());
}

#[test]
fn a_replaced_cluster_is_made_before_the_listener_moves_and_broken_after() {
    let before = catalog(&["a"], &["l=uses a"]);
    let mut client = Client::settled(&before);
    let after = before.next(&resources(&["b"], &["l=uses b"]), 2000);
    let mut order = Vec::new();
    let mut next = client.advance(&after);
    while let Some(said) = next.pop() {
        order.push((said.kind, said.changed.join(","), said.removed.join(",")));
        next.extend(client.ack(&said, &after).0);
    }
    let step = |kind, changed: &str, removed: &str| (kind, changed.into(), removed.into());
    assert_eq!(order, [step(C, "b", ""), step(L, "l", ""), step(C, "", "a")]);
}

#[test]
fn refused_clusters_do_not_hold_up_listeners_for_ever() {
    let before = catalog(&["a"], &["l"]);
    let mut client = Client::settled(&before);
    let after = before.next(&resources(&["a=bad"], &["l=2"]), 2000);
    let pushed = client.advance(&after);
    let (pushed, _) = client.nack(&pushed[0], "no", &after);
    assert_eq!(pushed[0].kind, L);
}

#[test]
fn a_client_without_clusters_gets_its_listeners() {
    let catalog = catalog(&["a"], &["l"]);
    assert_eq!(Client::default().subscribe(L, &[], &catalog), [said(L, &["l"], &[], "1")]);
}

#[test]
fn names_get_what_they_name_and_are_told_what_is_not_there() {
    let before = catalog(&["a", "b"], &[]);
    let mut client = Client::default();
    let sent = client.subscribe(C, &["b", "missing"], &before);
    assert_eq!(sent, [said(C, &["b"], &["missing"], "1")]);
    assert!(client.ack(&sent[0], &before).0.is_empty());
    let after = before.next(&resources(&["a=2", "missing"], &[]), 2000);
    let pushed = client.advance(&after);
    assert_eq!(pushed, [said(C, &["missing"], &["b"], "2")]);
    assert!(client.ack(&pushed[0], &after).0.is_empty());
}

#[test]
fn a_name_that_is_added_is_answered_and_one_that_is_dropped_is_not_sent_again() {
    let before = catalog(&["a", "b"], &[]);
    let mut client = Client::default();
    let sent = client.subscribe(C, &["a"], &before);
    client.ack(&sent[0], &before);
    let sent = client.subscribe(C, &["b"], &before);
    assert_eq!(sent[0].changed, ["b"]);
    client.ack(&sent[0], &before);
    let drop_a =
        DeltaDiscoveryRequest { resource_names_unsubscribe: vec!["a".into()], ..request(C, &[]) };
    assert!(client.send(drop_a, &before).0.is_empty());
    let after = before.next(&resources(&["a=2", "b=2"], &[]), 2000);
    assert_eq!(client.advance(&after)[0].changed, ["b"]);
}

#[test]
fn a_name_that_is_asked_for_again_is_sent_again() {
    let catalog = catalog(&["a"], &[]);
    let mut client = Client::default();
    let sent = client.subscribe(C, &["a"], &catalog);
    client.ack(&sent[0], &catalog);
    assert_eq!(client.subscribe(C, &["a"], &catalog)[0].changed, ["a"]);
}

#[test]
fn a_wildcard_can_be_named_and_dropped() {
    let before = catalog(&["a", "b"], &[]);
    let mut client = Client::default();
    let sent = client.subscribe(C, &["*", "a"], &before);
    assert_eq!(sent[0].changed, ["a", "b"]);
    client.ack(&sent[0], &before);
    let no_wildcard =
        DeltaDiscoveryRequest { resource_names_unsubscribe: vec!["*".into()], ..request(C, &[]) };
    assert!(client.send(no_wildcard, &before).0.is_empty());
    let after = before.next(&resources(&["a=2", "b=2"], &[]), 2000);
    assert_eq!(client.advance(&after)[0].changed, ["a"]);
}

#[test]
fn kinds_that_are_not_served_are_not_answered_and_not_remembered() {
    let catalog = catalog(&["a"], &["l"]);
    let mut session = Delta::default();
    for n in 0..10_000 {
        let request = DeltaDiscoveryRequest {
            type_url: format!("type.googleapis.com/unknown.{n}"),
            resource_names_subscribe: vec!["x".into()],
            ..Default::default()
        };
        let step = session.on_request(request, &catalog).unwrap();
        assert_eq!(step, Step { responses: vec![], heard: None });
    }
    assert!(session.subscriptions.is_empty());
}

#[test]
fn a_stream_cannot_name_without_bound() {
    let catalog = catalog(&[], &[]);
    let mut session = Delta::default();
    let mut sent = 0;
    let refused = (0..100).any(|n| {
        let names: Vec<_> = (0..100).map(|i| format!("{n}-{i}")).collect();
        sent += names.len();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        session.on_request(request(C, &names), &catalog).is_err()
    });
    assert!(refused && sent <= MAX_NAMES + 100, "{sent}");
    let versions = (0..=MAX_NAMES).map(|n| (n.to_string(), String::new())).collect();
    let request = DeltaDiscoveryRequest { initial_resource_versions: versions, ..request(C, &[]) };
    assert_eq!(Delta::default().on_request(request, &catalog), Err(TooManyNames));
}

#[test]
fn nonces_do_not_repeat_over_the_kinds_of_a_stream() {
    let catalog = catalog(&["a"], &["l"]);
    let mut client = Client::default();
    let a = client.subscribe(C, &[], &catalog);
    client.ack(&a[0], &catalog);
    let b = client.subscribe(L, &[], &catalog);
    assert_ne!(a[0].nonce, b[0].nonce);
}

mod property {
    use proptest::{collection, prelude::*};

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Change { clusters: Vec<(u8, u8)>, listeners: Vec<(u8, u8)> },
        Ack(Kind),
        Nack(Kind),
        Reconnect,
    }

    fn step() -> impl Strategy<Value = Step> {
        let some = || collection::vec((0..4u8, 0..3u8), 0..4);
        let kind = || prop_oneof![Just(C), Just(L)];
        prop_oneof![
            2 => (some(), some())
                .prop_map(|(clusters, listeners)| Step::Change { clusters, listeners }),
            4 => kind().prop_map(Step::Ack),
            1 => kind().prop_map(Step::Nack),
            1 => Just(Step::Reconnect),
        ]
    }

    /// A client that, as Envoy does, takes a response over only when it acknowledges it.
    #[derive(Default)]
    struct Careful {
        session: Delta,
        has: BTreeMap<Kind, BTreeMap<String, String>>,
        /// What it refused something of, since it last took something over: the server cannot know what it has.
        refused: BTreeSet<(Kind, String)>,
        pending: BTreeMap<Kind, DeltaDiscoveryResponse>,
    }

    impl Careful {
        fn connect(&mut self, catalog: &Catalog) {
            self.session = Delta::default();
            self.pending.clear();
            for kind in Kind::ALL {
                let has = self.has.get(&kind).cloned().unwrap_or_default();
                let first = DeltaDiscoveryRequest {
                    initial_resource_versions: has.into_iter().collect(),
                    ..request(kind, &[])
                };
                let step = self.session.on_request(first, catalog).unwrap();
                self.receive(step.responses);
            }
        }

        fn receive(&mut self, responses: Vec<DeltaDiscoveryResponse>) {
            for response in responses {
                let kind = Kind::from_type_url(&response.type_url).unwrap();
                let has = self.has.get(&kind);
                for resource in &response.resources {
                    let hash = hash_of(&resource.version).unwrap();
                    let had = has.and_then(|has| has.get(&resource.name));
                    let refused = self.refused.contains(&(kind, resource.name.clone()));
                    let is_new = had.and_then(|version| hash_of(version)) != Some(hash);
                    assert!(is_new || refused, "sent again: {resource:?}");
                }
                let before = self.pending.insert(kind, response);
                assert!(before.is_none(), "two in flight");
            }
        }

        fn reply(&mut self, kind: Kind, accept: bool, catalog: &Catalog) {
            let Some(response) = self.pending.remove(&kind) else { return };
            let has = self.has.entry(kind).or_default();
            let sent = response.resources.iter().map(|resource| &resource.name);
            let names = sent.chain(&response.removed_resources).map(|name| (kind, name.clone()));
            if accept {
                for name in names {
                    self.refused.remove(&name);
                }
                let versions =
                    response.resources.iter().map(|r| (r.name.clone(), r.version.clone()));
                has.extend(versions);
                has.retain(|name, _| !response.removed_resources.contains(name));
            } else {
                self.refused.extend(names);
            }
            let error_detail = (!accept).then(rpc::Status::default);
            let request = DeltaDiscoveryRequest {
                response_nonce: response.nonce,
                error_detail,
                ..request(kind, &[])
            };
            let step = self.session.on_request(request, catalog).unwrap();
            self.receive(step.responses);
        }
    }

    fn make(clusters: &[(u8, u8)], listeners: &[(u8, u8)]) -> Resources {
        let unique = |list: &[(u8, u8)]| -> Vec<String> {
            let map: BTreeMap<_, _> = list.iter().copied().collect();
            map.into_iter().map(|(name, content)| format!("{name}={content}")).collect()
        };
        let (clusters, listeners) = (unique(clusters), unique(listeners));
        let clusters: Vec<_> = clusters.iter().map(String::as_str).collect();
        let listeners: Vec<_> = listeners.iter().map(String::as_str).collect();
        resources(&clusters, &listeners)
    }

    proptest! {
        /// Whatever happened before: a client that comes back and takes everything has exactly what is current.
        #[test]
        fn in_the_end_the_client_has_what_is_current(steps in collection::vec(step(), 0..60)) {
            let mut catalog = catalog(&["0=0"], &["0=0"]);
            let mut client = Careful::default();
            client.connect(&catalog);
            for (now, step) in (2000..).zip(steps) {
                match step {
                    Step::Change { clusters, listeners } => {
                        catalog = catalog.next(&make(&clusters, &listeners), now);
                        let responses = client.session.advance(&catalog);
                        client.receive(responses);
                    }
                    Step::Ack(kind) => client.reply(kind, true, &catalog),
                    Step::Nack(kind) => client.reply(kind, false, &catalog),
                    Step::Reconnect => client.connect(&catalog),
                }
            }
            // A removal that was refused is said again to a client that comes back.
            client.connect(&catalog);
            for _ in 0..10 {
                for kind in Kind::ALL {
                    client.reply(kind, true, &catalog);
                }
            }
            prop_assert!(client.pending.is_empty());
            for kind in Kind::ALL {
                let current: BTreeMap<_, _> = catalog
                    .of(kind)
                    .entries
                    .iter()
                    .map(|(name, entry)| (name.clone(), entry.version.hash().to_owned()))
                    .collect();
                let has: BTreeMap<_, _> = client
                    .has
                    .remove(&kind)
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(name, version)| (name, hash_of(&version).unwrap().to_owned()))
                    .collect();
                prop_assert_eq!(has, current);
            }
        }
    }
}
