use std::collections::{BTreeMap, BTreeSet, VecDeque};

use prometheus_client::metrics::gauge::Gauge;
use proptest::prelude::*;
use reveille_api::{ActorKey, proto::WakeKind};

use super::*;
use crate::{activation::InFlight, binding::Protocol};

fn key() -> ActorKey {
    ActorKey::new("demo", "counter").unwrap()
}

fn grant(version: Version) -> Grant {
    Grant {
        actor: key(),
        version,
        endpoint: "10.0.0.1:20000".parse().unwrap(),
        protocol: Protocol::Http1,
        woken_by: WakeKind::Restored,
    }
}

fn v(epoch: u64, term: u64) -> Version {
    Version::new(epoch, term)
}

fn woken(actor: &mut Actor<u64>, version: Version) -> Woken<u64> {
    actor.woken(grant(version), Clock::start())
}

fn begun(actor: &Actor<u64>) -> InFlight {
    let activation = &actor.binding().unwrap().activation;
    activation.begin(1);
    InFlight::adopt(Arc::clone(activation), Gauge::default())
}

#[test]
fn the_first_who_waits_starts_the_wake_and_all_who_wait_are_counted_with_the_binding() {
    let mut actor = Actor::default();
    assert_eq!(actor.park(WaiterId(1), 1), Parked::First);
    assert_eq!(actor.park(WaiterId(2), 2), Parked::Joined);
    assert_eq!(actor.park(WaiterId(3), 3), Parked::Joined);
    assert_eq!(actor.leave(WaiterId(2)), Some(2));
    let Woken::Bound { binding, waiters } = woken(&mut actor, v(1, 0)) else { panic!("not bound") };
    assert_eq!(waiters, [1, 3]);
    assert_eq!(binding.activation.in_flight(), 2);
    assert_eq!(actor.leave(WaiterId(1)), None);
}

#[test]
fn a_reply_revoked_before_it_arrived_is_asked_for_again() {
    let mut actor = Actor::default();
    actor.park(WaiterId(1), 1);
    actor.revoke(v(4, 2));
    for stale in [v(4, 2), v(4, 1), v(3, 9)] {
        assert!(matches!(woken(&mut actor, stale), Woken::Stale));
    }
    assert!(matches!(woken(&mut actor, v(4, 3)), Woken::Bound { .. }));
}

#[test]
fn a_stale_reply_nobody_waits_for_ends_the_wake() {
    let mut actor = Actor::default();
    actor.park(WaiterId(1), 1);
    actor.leave(WaiterId(1));
    actor.revoke(v(1, 0));
    assert!(matches!(woken(&mut actor, v(1, 0)), Woken::Dropped));
    assert!(actor.is_unused());
}

#[test]
fn a_revoke_ends_what_it_names_and_nothing_newer() {
    for (bound, revoked, stays) in [
        (v(2, 1), v(2, 1), false),
        (v(2, 1), v(2, 5), false),
        (v(2, 1), v(3, 0), false),
        (v(2, 1), v(2, 0), true),
        (v(2, 1), v(1, 9), true),
    ] {
        let mut actor = Actor::default();
        actor.park(WaiterId(1), 1);
        woken(&mut actor, bound);
        let done = actor.revoke(revoked);
        assert_eq!(actor.binding().is_some(), stays, "{bound:?} {revoked:?}");
        assert_eq!(done.unbound, !stays);
        assert_eq!(done.draining.is_some(), bound.epoch == revoked.epoch);
    }
}

#[test]
fn requests_of_a_cancelled_suspend_count_with_those_that_follow() {
    let mut actor = Actor::default();
    actor.park(WaiterId(1), 1);
    woken(&mut actor, v(1, 0));
    let old = begun(&actor);
    let first = actor.revoke(v(1, 0)).draining.unwrap();
    actor.park(WaiterId(2), 2);
    woken(&mut actor, v(1, 1));
    let second = actor.revoke(v(1, 1)).draining.unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(second.in_flight(), 3);
    drop(old);
    assert_eq!(second.in_flight(), 2);
}

#[test]
fn it_is_kept_while_requests_of_an_earlier_activation_are_in_flight_and_no_longer() {
    let mut actor = Actor::default();
    actor.park(WaiterId(1), 1);
    actor.leave(WaiterId(1));
    woken(&mut actor, v(1, 0));
    let request = begun(&actor);
    actor.revoke(v(1, 0));
    assert!(!actor.is_unused());
    drop(request);
    assert!(actor.is_unused());
}

/// One thing that may happen next. Replies and revokes travel on streams of their own.
#[derive(Clone, Debug)]
enum Step {
    Request,
    Leave(usize),
    End(usize),
    /// The control plane decides on its reply; a cancelled suspend keeps the epoch.
    Grant {
        same_epoch: bool,
    },
    ReplyArrives,
    WakeFails,
    Revoke,
    RevokeArrives,
    Acknowledge,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Request),
        1 => (0..8usize).prop_map(Step::Leave),
        2 => (0..8usize).prop_map(Step::End),
        2 => any::<bool>().prop_map(|same_epoch| Step::Grant { same_epoch }),
        2 => Just(Step::ReplyArrives),
        1 => Just(Step::WakeFails),
        2 => Just(Step::Revoke),
        2 => Just(Step::RevokeArrives),
        2 => Just(Step::Acknowledge),
    ];
    prop::collection::vec(step, 1..120)
}

/// The actor with everybody around it.
#[derive(Default)]
struct World {
    actor: Actor<u64>,
    next: u64,
    waiting: BTreeSet<u64>,
    finished: BTreeMap<u64, &'static str>,
    in_flight: Vec<(Version, InFlight)>,
    /// Wakes the router has under way.
    wakes: usize,
    // The control plane and what is on its way from it.
    current: Option<Version>,
    last: Option<Version>,
    reply: Option<Version>,
    revokes: VecDeque<Version>,
    /// The highest revoke that arrived.
    revoked: Option<Version>,
    unacknowledged: Vec<(Version, Option<Arc<Activation>>)>,
}

impl World {
    fn finish(&mut self, id: u64, how: &'static str) {
        assert!(self.waiting.remove(&id), "{id} {how}: it does not wait");
        assert_eq!(self.finished.insert(id, how), None, "{id} is finished twice");
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Request => self.request(),
            Step::Leave(n) => {
                if let Some(id) = self.waiting.iter().nth(*n).copied() {
                    assert_eq!(self.actor.leave(WaiterId(id)), Some(id));
                    self.finish(id, "left");
                }
            }
            Step::End(n) if *n < self.in_flight.len() => {
                self.in_flight.swap_remove(*n);
            }
            Step::End(_) => {}
            Step::Grant { same_epoch } => self.grant(*same_epoch),
            Step::ReplyArrives => {
                if let Some(version) = self.reply.take() {
                    self.reply_arrives(version);
                }
            }
            Step::WakeFails => {
                if self.wakes > 0 && self.reply.is_none() {
                    self.wakes -= 1;
                    for id in self.actor.failed() {
                        self.finish(id, "failed");
                    }
                }
            }
            Step::Revoke => self.revokes.extend(self.current.take()),
            Step::RevokeArrives => {
                if let Some(version) = self.revokes.pop_front() {
                    self.revoked = self.revoked.max(Some(version));
                    let draining = self.actor.revoke(version).draining;
                    self.unacknowledged.push((version, draining));
                }
            }
            Step::Acknowledge => self.acknowledge(),
        }
    }

    fn request(&mut self) {
        let id = self.next;
        self.next += 1;
        if let Some(binding) = self.actor.binding() {
            let version = binding.version();
            self.in_flight.push((version, begun(&self.actor)));
            return;
        }
        if self.actor.park(WaiterId(id), id) == Parked::First {
            self.wakes += 1;
        }
        self.waiting.insert(id);
    }

    fn grant(&mut self, same_epoch: bool) {
        if self.wakes == 0 || self.reply.is_some() {
            return;
        }
        let version = *self.current.get_or_insert(match self.last {
            Some(last) if same_epoch => v(last.epoch.0, last.term + 1),
            last => v(last.map_or(0, |last| last.epoch.0) + 1, 0),
        });
        self.last = Some(version);
        self.reply = Some(version);
    }

    fn reply_arrives(&mut self, version: Version) {
        match woken(&mut self.actor, version) {
            Woken::Bound { binding, waiters } => {
                self.wakes -= 1;
                for id in waiters {
                    self.finish(id, "served");
                    let request =
                        InFlight::adopt(Arc::clone(&binding.activation), Gauge::default());
                    self.in_flight.push((version, request));
                }
            }
            Woken::Stale => assert!(!self.waiting.is_empty()),
            Woken::Dropped => {
                self.wakes -= 1;
                assert!(self.waiting.is_empty());
            }
        }
    }

    fn acknowledge(&mut self) {
        let in_flight = &self.in_flight;
        self.unacknowledged.retain(|(version, activation)| {
            let rests = activation.as_ref().is_none_or(|activation| activation.in_flight() == 0);
            let used = in_flight.iter().any(|(v, _)| v.epoch == version.epoch && v <= version);
            assert!(!(rests && used), "{version:?} is acknowledged with requests at it");
            !rests
        });
    }

    fn check(&mut self) {
        assert!(self.wakes <= 1, "two wakes of one actor");
        assert_eq!(self.actor.parked(), self.waiting.len());
        if let Some(binding) = self.actor.binding() {
            assert!(Some(binding.version()) > self.revoked, "a revoked binding is given out");
            let epoch = binding.activation.epoch();
            let at_it = self.in_flight.iter().filter(|(version, _)| version.epoch == epoch).count();
            assert!(binding.activation.in_flight() as usize <= at_it);
            assert_eq!(self.wakes, 0);
        }
        if !self.waiting.is_empty() {
            assert_eq!(self.wakes, 1, "requests wait for nothing");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_interleaving_breaks_a_promise(steps in steps()) {
        let mut world = World::default();
        for step in &steps {
            world.step(step);
            world.check();
        }
        // Everything comes to rest.
        while !world.revokes.is_empty() {
            world.step(&Step::RevokeArrives);
        }
        for _ in 0..2 {
            world.step(&Step::ReplyArrives);
            world.step(&Step::WakeFails);
        }
        world.check();
        prop_assert!(world.waiting.is_empty());
        world.in_flight.clear();
        world.acknowledge();
        prop_assert!(world.unacknowledged.is_empty());
        if let Some(binding) = world.actor.binding() {
            let version = binding.version();
            world.actor.revoke(version);
        }
        prop_assert!(world.actor.is_unused());
    }
}
