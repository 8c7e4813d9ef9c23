use std::{collections::BTreeMap, sync::Arc};

use futures::{FutureExt, poll};
use reveille_api::{ActorKey, Epoch, manifest::Selector};

use super::*;
use crate::{clock::Moment, lifecycle::Cause};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn slots(workers: u32) -> NodeSlots {
    let labels = labels(&[("zone", "a")]);
    let runtimes = vec!["gvisor".into()];
    NodeSlots { ready: true, workers, labels, runtimes, freezes: true, store: true }
}

fn request(namespace: &str, name: &str) -> Request {
    Request {
        actor: ActorKey::new(namespace, name).unwrap(),
        runtime: "gvisor",
        selector: Selector::default(),
        node: None,
        anywhere: false,
        avoid: BTreeSet::new(),
    }
}

fn placement(workers: u32) -> Arc<Placement> {
    let placement = Arc::<Placement>::default();
    placement.node_up("n1", slots(workers));
    placement
}

/// What a wake that does not wait gets.
fn at_once(placement: &Arc<Placement>, request: Request) -> Option<Place> {
    placement.request(request).now_or_never().flatten().and_then(Grant::take)
}

fn free(placement: &Arc<Placement>, worker: &str, request: &Request) {
    let place = Place { node: "n1".into(), worker: worker.into() };
    placement.free(&place, &request.actor, Epoch(1));
}

#[test]
fn workers_are_given_once_and_again_when_free() {
    let placement = placement(2);
    let a = request("demo", "a");
    assert_eq!(at_once(&placement, a.clone()).unwrap().worker, "n1-0");
    assert_eq!(at_once(&placement, request("demo", "b")).unwrap().worker, "n1-1");
    assert_eq!(at_once(&placement, request("demo", "c")), None);
    free(&placement, "n1-0", &a);
    assert_eq!(at_once(&placement, request("demo", "c")).unwrap().worker, "n1-0");
}

#[test]
fn a_grant_nobody_takes_is_free_again() {
    let placement = placement(1);
    let grant = placement.request(request("demo", "a")).now_or_never().flatten();
    assert!(grant.is_some());
    drop(grant);
    assert!(at_once(&placement, request("demo", "b")).is_some());
}

#[test]
fn the_worker_free_for_longest_comes_first() {
    let placement = placement(2);
    let (a, b) = (request("demo", "a"), request("demo", "b"));
    assert_eq!(at_once(&placement, a.clone()).unwrap().worker, "n1-0");
    free(&placement, "n1-0", &a);
    assert_eq!(at_once(&placement, b.clone()).unwrap().worker, "n1-1", "n1-0 is being made ready");
    free(&placement, "n1-1", &b);
    assert_eq!(at_once(&placement, a).unwrap().worker, "n1-0");
}

#[test]
fn a_worker_is_not_freed_by_an_earlier_epoch_or_another_actor() {
    let placement = placement(1);
    let a = request("demo", "a");
    let place = at_once(&placement, a.clone()).unwrap();
    placement.occupy(&place, &a.actor, Epoch(5), Status::Starting);
    placement.free(&place, &a.actor, Epoch(4));
    placement.free(&place, &request("demo", "b").actor, Epoch(9));
    assert_eq!(at_once(&placement, request("demo", "c")), None);
    placement.free(&place, &a.actor, Epoch(5));
    assert!(at_once(&placement, request("demo", "c")).is_some());
}

#[tokio::test]
async fn namespaces_take_turns_and_within_one_the_first_comes_first() {
    let placement = placement(1);
    let holder = request("demo", "holder");
    let place = at_once(&placement, holder.clone()).unwrap();
    let names =
        [("big", "1"), ("big", "2"), ("big", "3"), ("small", "1"), ("tiny", "1"), ("big", "4")];
    let mut waiting: Vec<_> = names
        .iter()
        .map(|(ns, n)| (format!("{ns}/{n}"), Box::pin(placement.request(request(ns, n)))))
        .collect();
    for (_, wake) in &mut waiting {
        assert!(poll!(wake).is_pending());
    }
    let mut order = Vec::new();
    placement.free(&place, &holder.actor, Epoch(1));
    while order.len() < names.len() {
        for at in 0..waiting.len() {
            if let std::task::Poll::Ready(grant) = poll!(&mut waiting[at].1) {
                order.push(waiting.remove(at).0);
                drop(grant);
                break;
            }
        }
    }
    assert_eq!(order, ["big/1", "small/1", "tiny/1", "big/2", "big/3", "big/4"]);
}

#[tokio::test]
async fn one_who_stops_waiting_leaves_the_queue() {
    let placement = placement(1);
    let holder = request("demo", "holder");
    let place = at_once(&placement, holder.clone()).unwrap();
    let mut gone = Box::pin(placement.request(request("demo", "gone")));
    let mut stays = Box::pin(placement.request(request("demo", "stays")));
    assert!(poll!(&mut gone).is_pending() && poll!(&mut stays).is_pending());
    drop(gone);
    placement.free(&place, &holder.actor, Epoch(1));
    assert!(poll!(&mut stays).is_ready());
}

#[test]
fn pools_take_slots_by_name_and_templates_select_them_by_label() {
    let placement = placement(4);
    let pool = |tier: &str, workers_per_node| WorkerPoolSpec {
        labels: labels(&[("tier", tier)]),
        node_selector: Selector::default(),
        workers_per_node,
    };
    let elsewhere = Selector { match_labels: labels(&[("zone", "b")]) };
    let pools = [
        ("fast", pool("fast", 1)),
        ("other", WorkerPoolSpec { node_selector: elsewhere, ..pool("other", 9) }),
        ("slow", pool("slow", 2)),
    ];
    let named = pools.into_iter().map(|(name, spec)| (name.to_owned(), spec));
    placement.set_pools(named.collect());
    let owners: Vec<_> = placement.workers().into_iter().map(|view| view.pool).collect();
    let name = |name: &str| Some(name.to_owned());
    assert_eq!(owners, [name("fast"), name("slow"), name("slow"), None]);
    let tier = |tier: &str, actor: &str| Request {
        selector: Selector { match_labels: labels(&[("tier", tier)]) },
        ..request("demo", actor)
    };
    assert_eq!(at_once(&placement, tier("fast", "a")).unwrap().worker, "n1-0");
    assert_eq!(at_once(&placement, tier("fast", "b")), None);
    assert_eq!(placement.explain(&tier("fast", "b")), "1 of 1 workers in use");
    assert!(placement.explain(&tier("gpu", "b")).starts_with("no ready worker with runtime"));
    assert_eq!(at_once(&placement, tier("slow", "c")).unwrap().worker, "n1-1");
}

#[test]
fn a_snapshot_in_the_store_is_restored_elsewhere_only_when_its_node_has_no_place_or_cannot() {
    let placement = placement(1);
    placement.node_up("n2", slots(5));
    placement.node_up("n3", NodeSlots { store: false, ..slots(9) });
    let named =
        |name: &str| Request { node: Some("n1".into()), anywhere: true, ..request("demo", name) };
    let avoid = |nodes: &[&str]| nodes.iter().map(ToString::to_string).collect();
    let unfit = Request { avoid: avoid(&["n1"]), ..named("a") };
    assert_eq!(at_once(&placement, unfit).unwrap().node, "n2");
    let nowhere = Request { avoid: avoid(&["n1", "n2"]), ..named("a") };
    assert!(!placement.any_suitable(&nowhere), "n3 has no store");
    assert_eq!(at_once(&placement, named("a")).unwrap().node, "n1");
    assert_eq!(at_once(&placement, named("b")).unwrap().node, "n2");
    placement.node_down("n1");
    assert_eq!(at_once(&placement, named("c")).unwrap().node, "n2");
    placement.node_down("n2");
    assert_eq!(at_once(&placement, named("d")), None);
}

#[test]
fn a_restore_goes_to_the_node_that_has_the_snapshot() {
    let placement = placement(1);
    placement.node_up("n2", slots(5));
    let there = Request { node: Some("n1".into()), ..request("demo", "a") };
    assert_eq!(at_once(&placement, there.clone()).unwrap().node, "n1");
    let next = Request { actor: ActorKey::new("demo", "b").unwrap(), ..there };
    assert_eq!(at_once(&placement, next.clone()), None);
    assert_eq!(placement.explain(&next), "1 of 1 workers in use on n1");
    placement.node_down("n1");
    assert_eq!(placement.explain(&next), "its snapshot is on node n1, which is not ready");
    assert_eq!(at_once(&placement, request("demo", "c")).unwrap().node, "n2");
    let criu = Request { runtime: "criu", ..request("demo", "d") };
    assert_eq!(at_once(&placement, criu), None);
}

#[tokio::test]
async fn one_victim_for_each_wake_that_nothing_is_coming_free_for() {
    let placement = placement(4);
    let now = Moment(100_000);
    let names = ["busy", "pinned", "old", "older"];
    for name in names {
        let request = request("demo", name);
        let place = at_once(&placement, request.clone()).unwrap();
        let from = (name != "pinned").then_some(now);
        placement.occupy(&place, &request.actor, Epoch(1), Status::Serving(from));
    }
    let idle = |actor: &ActorKey| match actor.name() {
        "old" => Some(Moment(50_000)),
        "older" => Some(Moment(40_000)),
        _ => None,
    };
    assert_eq!(placement.victims(now, idle), []);
    let mut first = Box::pin(placement.request(request("demo", "x")));
    assert!(poll!(&mut first).is_pending());
    let victims = placement.victims(now, idle);
    assert_eq!(victims.len(), 1);
    assert_eq!((victims[0].actor.name(), victims[0].epoch), ("older", Epoch(1)));
    assert_eq!(victims[0].cause, Cause::Pressure(Moment(40_000)));
    assert_eq!(placement.victims(now, idle), [], "its worker is counted on");
    let mut second = Box::pin(placement.request(request("demo", "y")));
    assert!(poll!(&mut second).is_pending());
    assert_eq!(placement.victims(now, idle)[0].actor.name(), "old");
    let mut third = Box::pin(placement.request(request("demo", "z")));
    assert!(poll!(&mut third).is_pending());
    assert_eq!(placement.victims(now, idle), [], "nobody is left");
}

#[tokio::test]
async fn a_full_queue_is_cheap_and_those_who_left_make_room() {
    let placement = placement(1);
    let holder = request("demo", "holder");
    let place = at_once(&placement, holder.clone()).unwrap();
    let mut waiting = Vec::new();
    for n in 0..QUEUE {
        let mut wake = Box::pin(placement.request(request("demo", &format!("a{n}"))));
        assert!(poll!(&mut wake).is_pending());
        waiting.push(wake);
    }
    let mut more = Box::pin(placement.request(request("demo", "more")));
    assert!(matches!(poll!(&mut more), std::task::Poll::Ready(None)));
    waiting.truncate(1);
    let mut more = Box::pin(placement.request(request("demo", "more")));
    assert!(poll!(&mut more).is_pending());
    assert_eq!(placement.waiting(), 2);
    placement.free(&place, &holder.actor, Epoch(1));
    assert!(poll!(&mut waiting[0]).is_ready());
    assert!(poll!(&mut more).is_ready(), "its grant was dropped");
}

#[tokio::test]
async fn those_who_left_are_forgotten_while_no_worker_is_free() {
    let placement = placement(1);
    at_once(&placement, request("demo", "holder")).unwrap();
    let mut gone = Box::pin(placement.request(request("demo", "gone")));
    assert!(poll!(&mut gone).is_pending());
    drop(gone);
    placement.victims(Moment(0), |_| None);
    assert_eq!(placement.waiting(), 0);
}

#[tokio::test]
async fn one_who_waits_gets_what_a_new_node_or_pool_adds() {
    let placement = placement(2);
    let pool = |workers_per_node| WorkerPoolSpec {
        labels: BTreeMap::new(),
        node_selector: Selector::default(),
        workers_per_node,
    };
    placement.set_pools([("p".to_owned(), pool(1))].into());
    at_once(&placement, request("demo", "a")).unwrap();
    let mut second = Box::pin(placement.request(request("demo", "b")));
    assert!(poll!(&mut second).is_pending());
    placement.set_pools([("p".to_owned(), pool(2))].into());
    let std::task::Poll::Ready(Some(second)) = poll!(&mut second) else { panic!("it waits") };
    let mut third = Box::pin(placement.request(request("demo", "c")));
    assert!(poll!(&mut third).is_pending());
    placement.node_up("n2", slots(1));
    let std::task::Poll::Ready(Some(third)) = poll!(&mut third) else { panic!("it waits") };
    assert_eq!(third.place().unwrap().node, "n2");
    drop(second);
}
