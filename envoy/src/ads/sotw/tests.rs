use envoy_types::pb::{
    envoy::config::{cluster::v3::Cluster, listener::v3::Listener},
    google::{protobuf::Any, rpc},
};
use prost::Message;

use super::*;
use crate::resources::Resources;
use Kind::{Cluster as C, Listener as L};

fn resources(clusters: &[&str], listeners: &[&str]) -> Resources {
    Resources {
        clusters: clusters
            .iter()
            .map(|&name| Cluster { name: name.into(), ..Default::default() })
            .collect(),
        listeners: listeners
            .iter()
            .map(|&name| Listener { name: name.into(), ..Default::default() })
            .collect(),
        secrets: Vec::new(),
    }
}

fn catalog(clusters: &[&str], listeners: &[&str]) -> Catalog {
    Catalog::new(&resources(clusters, listeners), 1000)
}

fn request(kind: Kind, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: kind.type_url(),
        resource_names: names.iter().map(|&name| name.to_owned()).collect(),
        ..Default::default()
    }
}

/// The request that acknowledges a response, still naming these.
fn ack(response: &DiscoveryResponse, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: response.type_url.clone(),
        version_info: response.version_info.clone(),
        response_nonce: response.nonce.clone(),
        resource_names: names.iter().map(|&name| name.to_owned()).collect(),
        ..Default::default()
    }
}

fn nack(response: &DiscoveryResponse, before: &str, why: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: before.into(),
        error_detail: Some(rpc::Status { message: why.into(), ..Default::default() }),
        ..ack(response, &[])
    }
}

fn names(response: &DiscoveryResponse) -> Vec<String> {
    let name = |any: &Any| Cluster::decode(&any.value[..]).unwrap().name;
    response.resources.iter().map(name).collect()
}

trait Ask {
    fn ask(&mut self, request: DiscoveryRequest, catalog: &Catalog) -> Vec<DiscoveryResponse>;
}

impl Ask for StateOfTheWorld {
    fn ask(&mut self, request: DiscoveryRequest, catalog: &Catalog) -> Vec<DiscoveryResponse> {
        self.on_request(request, catalog).unwrap().responses
    }
}

/// A session whose client has acknowledged everything.
fn settled(catalog: &Catalog) -> StateOfTheWorld {
    let mut session = StateOfTheWorld::default();
    for kind in Kind::ALL {
        let sent = session.ask(request(kind, &[]), catalog);
        assert!(session.ask(ack(&sent[0], &[]), catalog).is_empty());
    }
    session
}

#[test]
fn everything_is_sent_once_and_again_whole_when_a_part_changed() {
    let before = catalog(&["a", "b"], &[]);
    let mut session = StateOfTheWorld::default();
    let sent = session.ask(request(C, &[]), &before);
    assert_eq!((names(&sent[0]), sent.len()), (vec!["a".into(), "b".into()], 1));
    assert!(session.ask(ack(&sent[0], &[]), &before).is_empty());
    assert!(session.advance(&before).is_empty());
    let after = before.next(&resources(&["a", "c"], &[]), 2000);
    let pushed = session.advance(&after);
    assert_eq!(names(&pushed[0]), ["a", "c"]);
    assert_ne!(pushed[0].version_info, sent[0].version_info);
}

#[test]
fn an_acknowledgement_is_heard() {
    let catalog = catalog(&["a"], &[]);
    let mut session = StateOfTheWorld::default();
    let sent = session.ask(request(C, &[]), &catalog);
    let step = session.on_request(ack(&sent[0], &[]), &catalog).unwrap();
    let version = sent[0].version_info.clone();
    assert_eq!(step.heard, Some(Heard::Acked { kind: C, version }));
}

#[test]
fn a_client_that_comes_back_with_the_current_version_is_sent_nothing_also_by_a_server_that_restarted()
 {
    let mut first = StateOfTheWorld::default();
    let sent = first.ask(request(C, &[]), &catalog(&["a"], &[]));
    let restarted = Catalog::new(&resources(&["a"], &[]), 9000);
    let again = DiscoveryRequest { version_info: sent[0].version_info.clone(), ..request(C, &[]) };
    let mut session = StateOfTheWorld::default();
    let step = session.on_request(again.clone(), &restarted).unwrap();
    assert!(step.responses.is_empty());
    let version = restarted.of(C).version.as_str().to_owned();
    assert_eq!(step.heard, Some(Heard::Acked { kind: C, version }));
    // A change is pushed all the same, and its acknowledgement understood.
    let after = restarted.next(&resources(&["b"], &[]), 10_000);
    let pushed = session.advance(&after);
    assert_eq!(names(&pushed[0]), ["b"]);
    assert!(session.on_request(ack(&pushed[0], &[]), &after).unwrap().heard.is_some());

    let other = Catalog::new(&resources(&["b"], &[]), 9000);
    assert_eq!(StateOfTheWorld::default().ask(again, &other).len(), 1);
}

#[test]
fn a_client_that_comes_back_with_names_is_answered_since_it_may_name_others_now() {
    let catalog = catalog(&["a", "b"], &[]);
    let version_info = catalog.of(C).version.as_str().to_owned();
    let again = DiscoveryRequest { version_info, ..request(C, &["b"]) };
    assert_eq!(names(&StateOfTheWorld::default().ask(again, &catalog)[0]), ["b"]);
}

#[test]
fn a_refused_content_is_reported_and_not_sent_again_but_the_next_one_is() {
    let good = catalog(&["a"], &[]);
    let mut session = settled(&good);
    let bad = good.next(&resources(&["bad"], &[]), 2000);
    let pushed = session.advance(&bad);
    let before = good.of(C).version.as_str();
    let step = session.on_request(nack(&pushed[0], before, "no"), &bad).unwrap();
    assert!(step.responses.is_empty());
    let version = bad.of(C).version.as_str().to_owned();
    assert_eq!(step.heard, Some(Heard::Nacked { kind: C, version, message: "no".into() }));
    assert!(session.advance(&bad).is_empty());
    let better = bad.next(&resources(&["a"], &[]), 3000);
    assert_eq!(names(&session.advance(&better)[0]), ["a"]);
}

#[test]
fn a_request_with_an_old_nonce_is_ignored() {
    let first = catalog(&["a"], &[]);
    let mut session = StateOfTheWorld::default();
    let old = session.ask(request(C, &[]), &first);
    session.ask(ack(&old[0], &[]), &first);
    let second = first.next(&resources(&["b"], &[]), 2000);
    let new = session.advance(&second);
    let step = session.on_request(ack(&old[0], &["only"]), &second).unwrap();
    assert_eq!(step, Step { responses: vec![], heard: None });
    assert!(session.on_request(ack(&new[0], &[]), &second).unwrap().heard.is_some());
    assert_eq!(session.subscriptions[&C].names, Names::All { explicit: false });
}

#[test]
fn while_a_response_is_in_flight_changes_wait_and_are_joined() {
    let first = catalog(&["a"], &[]);
    let mut session = StateOfTheWorld::default();
    let sent = session.ask(request(C, &[]), &first);
    let second = first.next(&resources(&["b"], &[]), 2000);
    assert!(session.advance(&second).is_empty());
    let third = second.next(&resources(&["c"], &[]), 3000);
    assert!(session.advance(&third).is_empty());
    let pushed = session.ask(ack(&sent[0], &[]), &third);
    assert_eq!(names(&pushed[0]), ["c"]);
}

#[test]
fn a_change_that_is_taken_back_while_it_waits_is_not_sent() {
    let first = catalog(&["a"], &[]);
    let mut session = StateOfTheWorld::default();
    let sent = session.ask(request(C, &[]), &first);
    let second = first.next(&resources(&["b"], &[]), 2000);
    let third = second.next(&resources(&["a"], &[]), 3000);
    assert!(session.ask(ack(&sent[0], &[]), &third).is_empty());
}

#[test]
fn listeners_wait_until_the_clusters_they_may_use_are_acknowledged() {
    let before = catalog(&["a"], &["l"]);
    let mut session = settled(&before);
    let after = before.next(&resources(&["b"], &["m"]), 2000);
    let pushed = session.advance(&after);
    assert_eq!((pushed.len(), pushed[0].type_url.clone()), (1, C.type_url()));
    let pushed = session.ask(ack(&pushed[0], &[]), &after);
    assert_eq!((pushed.len(), pushed[0].type_url.clone()), (1, L.type_url()));
}

#[test]
fn names_get_what_they_name_and_more_when_they_name_more() {
    let catalog = catalog(&["a", "b", "c"], &[]);
    let mut session = StateOfTheWorld::default();
    let sent = session.ask(request(C, &["a"]), &catalog);
    assert_eq!(names(&sent[0]), ["a"]);
    let sent = session.ask(ack(&sent[0], &["a", "b"]), &catalog);
    assert_eq!(names(&sent[0]), ["a", "b"]);
    assert!(session.ask(ack(&sent[0], &["b"]), &catalog).is_empty());
    // Naming nothing now is not naming everything.
    let last = ack(&sent[0], &[]);
    assert!(session.ask(last, &catalog).is_empty());
    assert_eq!(session.subscriptions[&C].names, Names::Only(BTreeSet::new()));
    let sent = session.ask(ack(&sent[0], &["*"]), &catalog);
    assert_eq!(names(&sent[0]), ["a", "b", "c"]);
}

#[test]
fn kinds_that_are_not_served_are_not_answered_and_names_are_bounded() {
    let catalog = catalog(&["a"], &[]);
    let mut session = StateOfTheWorld::default();
    let unknown = DiscoveryRequest { type_url: "x/unknown".into(), ..Default::default() };
    assert!(session.ask(unknown, &catalog).is_empty());
    assert!(session.subscriptions.is_empty());
    let many: Vec<_> = (0..=MAX_NAMES).map(|n| n.to_string()).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(session.on_request(request(C, &many), &catalog), Err(TooManyNames));
}
