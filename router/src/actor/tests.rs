use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use reveille_api::metrics::Gauge;
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

/// Everybody who waits goes on at once.
fn woken(actor: &mut Actor<u64>, version: Version) -> Woken<u64> {
    actor.woken(grant(version), 0, Clock::start())
}

fn park(actor: &mut Actor<u64>, id: u64) -> Parked {
    actor.park(WaiterId(id), id, None).0
}

fn begun(actor: &Actor<u64>) -> InFlight {
    let activation = &actor.binding().unwrap().activation;
    activation.begin(1);
    InFlight::adopt(Arc::clone(activation), Gauge::default())
}

#[test]
fn the_first_who_waits_starts_the_wake_and_all_who_wait_are_counted_with_the_binding() {
    let mut actor = Actor::default();
    assert_eq!(park(&mut actor, 1), Parked::First);
    assert_eq!(park(&mut actor, 2), Parked::Joined);
    assert_eq!(park(&mut actor, 3), Parked::Joined);
    assert_eq!(actor.leave(WaiterId(2)), Some(2));
    let Woken::Bound(released) = woken(&mut actor, v(1, 0)) else { panic!("not bound") };
    assert_eq!(released.waiters, [1, 3]);
    assert_eq!(released.binding.activation.in_flight(), 2);
    assert_eq!(actor.leave(WaiterId(1)), None);
}

#[test]
fn a_reply_revoked_before_it_arrived_is_asked_for_again() {
    let mut actor = Actor::default();
    park(&mut actor, 1);
    actor.revoke(v(4, 2));
    for stale in [v(4, 2), v(4, 1), v(3, 9)] {
        assert!(matches!(woken(&mut actor, stale), Woken::Stale));
    }
    assert!(matches!(woken(&mut actor, v(4, 3)), Woken::Bound(_)));
}

#[test]
fn a_stale_reply_nobody_waits_for_ends_the_wake() {
    let mut actor = Actor::default();
    park(&mut actor, 1);
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
        park(&mut actor, 1);
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
    park(&mut actor, 1);
    woken(&mut actor, v(1, 0));
    let old = begun(&actor);
    let first = actor.revoke(v(1, 0)).draining.unwrap();
    park(&mut actor, 2);
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
    park(&mut actor, 1);
    actor.leave(WaiterId(1));
    woken(&mut actor, v(1, 0));
    let request = begun(&actor);
    actor.revoke(v(1, 0));
    assert!(!actor.is_unused());
    drop(request);
    assert!(actor.is_unused());
}

fn policy(max_parked: usize) -> Policy {
    let park = std::time::Duration::from_secs(30);
    Policy { max_parked, concurrency: 0, park, wake: park, page: false }
}

/// A released request: what a `Turn` does, by hand.
struct Flying {
    version: Version,
    request: InFlight,
    turn: Option<Arc<Activation>>,
}

fn fly(released: &Released<u64>) -> Vec<Flying> {
    let Released { binding, waiters, .. } = released;
    let one = |_: &u64| Flying {
        version: binding.version(),
        request: InFlight::adopt(Arc::clone(&binding.activation), Gauge::default()),
        turn: Some(Arc::clone(&binding.activation)),
    };
    waiters.iter().map(one).collect()
}

fn land(actor: &mut Actor<u64>, flying: Flying) -> Option<Released<u64>> {
    let Flying { request, turn, .. } = flying;
    let next = turn.and_then(|activation| {
        activation.end_turn();
        actor.turn_over(&activation)
    });
    drop(request);
    next
}

/// Bound, with requests 1 to 5 released two at a time: 1 and 2 are at it.
fn releasing() -> (Actor<u64>, Vec<Flying>) {
    let mut actor = Actor::default();
    for id in 1..=5 {
        park(&mut actor, id);
    }
    let Woken::Bound(released) = actor.woken(grant(v(1, 0)), 2, Clock::start()) else {
        panic!("not bound")
    };
    assert_eq!((&released.waiters[..], actor.parked()), (&[1, 2][..], 3));
    let flying = fly(&released);
    (actor, flying)
}

#[test]
fn without_a_limit_there_are_few_turns_at_first_and_twice_as_many_each_time_they_are_widened() {
    let mut actor = Actor::default();
    for id in 0..200 {
        park(&mut actor, id);
    }
    let Woken::Bound(released) = woken(&mut actor, v(1, 0)) else { panic!("not bound") };
    assert!(released.widens);
    let mut flying = fly(&released);
    assert_eq!((flying.len(), actor.parked()), (32, 168));
    // One ends, one goes.
    let ended = flying.pop().unwrap();
    flying.extend(fly(&land(&mut actor, ended).unwrap()));
    assert_eq!((flying.len(), actor.parked()), (32, 167));
    let activation = Arc::clone(&released.binding.activation);
    // While as many end as there are, there is no need of more.
    for _ in 0..31 {
        let ended = flying.remove(0);
        flying.extend(fly(&land(&mut actor, ended).unwrap()));
    }
    assert!(actor.widen(&activation).unwrap().waiters.is_empty());
    assert_eq!((flying.len(), actor.parked()), (32, 136));
    for at_it in [64, 128, 168] {
        let released = actor.widen(&activation).unwrap();
        flying.extend(fly(&released));
        assert_eq!((flying.len(), released.widens), (at_it, at_it < 168));
    }
    assert!(actor.widen(&activation).is_none() && actor.parked() == 0);
    assert_eq!(activation.in_flight(), 168);
}

#[test]
fn a_limit_is_never_widened() {
    let (mut actor, flying) = releasing();
    let activation = flying[0].turn.clone().unwrap();
    assert!(actor.widen(&activation).is_none());
    assert_eq!(actor.parked(), 3);
}

#[test]
fn turns_at_an_activation_are_not_widened_by_the_one_before() {
    let mut actor = Actor::default();
    for id in 0..200 {
        park(&mut actor, id);
    }
    let Woken::Bound(before) = woken(&mut actor, v(1, 0)) else { panic!("not bound") };
    actor.revoke(v(1, 0));
    let Woken::Bound(released) = woken(&mut actor, v(2, 0)) else { panic!("not bound") };
    assert_eq!(actor.parked(), 136);
    assert!(actor.widen(&before.binding.activation).is_none());
    assert_eq!(actor.widen(&released.binding.activation).unwrap().waiters.len(), 32);
}

#[test]
fn those_who_waited_go_on_so_many_at_a_time_in_their_order_and_the_last_one_ends_it() {
    let (mut actor, mut flying) = releasing();
    let mut order = Vec::new();
    while !flying.is_empty() {
        assert!(flying.len() <= 2);
        let released = land(&mut actor, flying.remove(0));
        assert!(actor.binding().is_some(), "a new request is not held back");
        if let Some(released) = released {
            flying.extend(fly(&released));
            order.extend(released.waiters);
        }
    }
    assert_eq!((order, actor.parked()), (vec![3, 4, 5], 0));
    assert_eq!(actor.binding().unwrap().activation.turns(), 0);
}

#[test]
fn a_revoke_keeps_those_who_were_not_let_go_for_the_next_wake() {
    let (mut actor, flying) = releasing();
    let revoked = actor.revoke(v(1, 0));
    assert!(revoked.left_waiting && revoked.unbound);
    assert_eq!(revoked.draining.unwrap().in_flight(), 2, "who waits is not in flight");
    assert_eq!(actor.parked(), 3);
    for flying in flying {
        assert!(land(&mut actor, flying).is_none(), "the binding is revoked");
    }
    let Woken::Bound(released) = actor.woken(grant(v(2, 0)), 2, Clock::start()) else {
        panic!("not bound")
    };
    assert_eq!(released.waiters, [3, 4]);
}

#[test]
fn requests_of_an_earlier_term_keep_their_turns() {
    let (mut actor, flying) = releasing();
    actor.revoke(v(1, 0));
    // The suspend was cancelled: the same process.
    let Woken::Bound(released) = actor.woken(grant(v(1, 1)), 2, Clock::start()) else {
        panic!("not bound")
    };
    assert_eq!(released.waiters, [0; 0]);
    let next = flying.into_iter().map(|flying| land(&mut actor, flying).unwrap().waiters);
    assert_eq!(next.collect::<Vec<_>>(), [[3], [4]]);
}

#[test]
fn who_leaves_before_its_turn_lets_the_next_one_go() {
    let (mut actor, mut flying) = releasing();
    assert_eq!(actor.leave(WaiterId(3)), Some(3));
    let next = land(&mut actor, flying.remove(0)).unwrap();
    assert_eq!(next.waiters, [4]);
    assert_eq!(actor.leave(WaiterId(5)), Some(5));
    assert!(land(&mut actor, flying.remove(0)).is_none(), "nobody waits any more");
}

#[test]
fn a_limit_that_becomes_known_refuses_the_newest() {
    let mut actor = Actor::default();
    let (_, mut told) = actor.park(WaiterId(1), 1, None);
    for id in 2..=5 {
        park(&mut actor, id);
    }
    assert_eq!(actor.told(policy(3)), [5, 4]);
    assert_eq!(told.borrow_and_update().unwrap().max_parked, 3);
    woken(&mut actor, v(1, 0));
    assert_eq!(actor.told(policy(1)), [0; 0], "nobody waits");
}

#[test]
fn an_activation_that_is_gone_is_not_taken_for_one_that_came_back() {
    let mut actor = Actor::default();
    park(&mut actor, 1);
    woken(&mut actor, v(1, 0));
    let _request = begun(&actor);
    actor.revoke(v(1, 0)).draining.unwrap().cut();
    park(&mut actor, 2);
    woken(&mut actor, v(1, 1));
    assert!(!actor.binding().unwrap().activation.is_gone());
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
    /// The template's limit becomes known.
    Told(usize),
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
        1 => (1..6usize).prop_map(Step::Told),
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
    in_flight: Vec<Flying>,
    /// The template's.
    at_a_time: u32,
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
                let flying = self.in_flight.swap_remove(*n);
                if let Some(released) = land(&mut self.actor, flying) {
                    self.released(&released);
                }
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
                    for id in self.actor.failed(|_| false) {
                        self.finish(id, "failed");
                    }
                }
            }
            Step::Told(most) => {
                for id in self.actor.told(policy(*most)) {
                    assert_eq!(Some(&id), self.waiting.last(), "not the newest");
                    self.finish(id, "beyond the limit");
                }
            }
            Step::Revoke => self.revokes.extend(self.current.take()),
            Step::RevokeArrives => {
                if let Some(version) = self.revokes.pop_front() {
                    self.revoked = self.revoked.max(Some(version));
                    let revoked = self.actor.revoke(version);
                    self.wakes += usize::from(revoked.left_waiting);
                    self.unacknowledged.push((version, revoked.draining));
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
            self.in_flight.push(Flying { version, request: begun(&self.actor), turn: None });
            return;
        }
        if park(&mut self.actor, id) == Parked::First {
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
        match self.actor.woken(grant(version), self.at_a_time, Clock::start()) {
            Woken::Bound(released) => {
                self.wakes -= 1;
                self.released(&released);
            }
            Woken::Stale => assert!(!self.waiting.is_empty()),
            Woken::Dropped => {
                self.wakes -= 1;
                assert!(self.waiting.is_empty());
            }
        }
    }

    fn released(&mut self, released: &Released<u64>) {
        for id in &released.waiters {
            assert_eq!(Some(id), self.waiting.first(), "out of order");
            self.finish(*id, "served");
        }
        self.in_flight.extend(fly(released));
    }

    fn acknowledge(&mut self) {
        let in_flight = &self.in_flight;
        self.unacknowledged.retain(|(version, activation)| {
            let rests = activation.as_ref().is_none_or(|activation| activation.in_flight() == 0);
            let used =
                in_flight.iter().any(|f| f.version.epoch == version.epoch && f.version <= *version);
            assert!(!(rests && used), "{version:?} is acknowledged with requests at it");
            !rests
        });
    }

    fn turns(&self) -> u32 {
        if self.at_a_time == 0 { FIRST_WAVE } else { self.at_a_time }
    }

    fn check(&mut self) {
        assert!(self.wakes <= 1, "two wakes of one actor");
        assert_eq!(self.actor.parked(), self.waiting.len());
        if let Some(binding) = self.actor.binding() {
            assert!(Some(binding.version()) > self.revoked, "a revoked binding is given out");
            let epoch = binding.activation.epoch();
            let at_it = self.in_flight.iter().filter(|f| f.version.epoch == epoch).count();
            assert!(binding.activation.in_flight() as usize <= at_it);
            assert_eq!(self.wakes, 0);
        }
        for flying in self.in_flight.iter().filter_map(|f| f.turn.as_ref()) {
            assert!(flying.turns() <= self.turns(), "too many at a time");
        }
        if !self.waiting.is_empty() {
            let turns = self.actor.binding().map_or(0, |bound| bound.activation.turns());
            assert!(self.wakes == 1 || turns == self.turns(), "requests wait for nothing");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_interleaving_breaks_a_promise(steps in steps(), at_a_time in 0..4u32) {
        let mut world = World { at_a_time, ..World::default() };
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
        while !world.in_flight.is_empty() {
            world.step(&Step::End(0));
            world.check();
        }
        prop_assert!(world.waiting.is_empty());
        world.acknowledge();
        prop_assert!(world.unacknowledged.is_empty());
        if let Some(binding) = world.actor.binding() {
            let version = binding.version();
            world.actor.revoke(version);
        }
        prop_assert!(world.actor.is_unused());
    }
}
