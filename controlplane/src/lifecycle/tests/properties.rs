//! Random lives, with late and repeated events, crashes in between, and any policy.

use std::sync::LazyLock;

use super::*;

/// Something that may happen; made into an event that fits the present state, or deliberately does not.
#[derive(Clone, Debug)]
enum Nudge {
    Wake(bool),
    Freeze,
    Suspend(u8),
    Stop,
    Delete,
    Place(u32),
    NotPlaced,
    /// The node answers: well, or with a failure.
    Answer(u8),
    Exited,
    NodeLost,
    Found(u32, bool, bool),
    Absent(bool),
    Seen(u64),
    /// Of the snapshots it has, one is in the store.
    Stored(bool),
    Elsewhere,
    Deadline,
    /// Its namespace has spent its wakes, or has some again.
    Spent(bool),
    Crash,
    /// An earlier event, again.
    Replay(prop::sample::Index),
}

fn nudge() -> impl Strategy<Value = Nudge> {
    prop_oneof![
        4 => any::<bool>().prop_map(Nudge::Wake),
        3 => (0..3u8).prop_map(Nudge::Suspend),
        3 => Just(Nudge::Freeze),
        1 => prop::bool::weighted(0.2).prop_map(|yes| if yes { Nudge::Delete } else { Nudge::Stop }),
        5 => (0..3u32).prop_map(Nudge::Place),
        1 => Just(Nudge::NotPlaced),
        8 => any::<u8>().prop_map(Nudge::Answer),
        1 => Just(Nudge::Exited),
        2 => Just(Nudge::NodeLost),
        1 => (0..3u32, any::<bool>(), any::<bool>()).prop_map(|(n, s, f)| Nudge::Found(n, s, f && !s)),
        3 => any::<bool>().prop_map(Nudge::Absent),
        1 => (0..9u64).prop_map(Nudge::Seen),
        1 => any::<bool>().prop_map(Nudge::Stored),
        1 => Just(Nudge::Elsewhere),
        1 => Just(Nudge::Deadline),
        1 => any::<bool>().prop_map(Nudge::Spent),
        2 => Just(Nudge::Crash),
        4 => any::<prop::sample::Index>().prop_map(Nudge::Replay),
    ]
}

static SPENT: LazyLock<NoWake> =
    LazyLock::new(|| NoWake { failure: failure(Reason::QuotaExceeded), news: true });

/// An actor with everything around it that a test must know.
struct World {
    actor: Actor,
    /// As a crash would leave it.
    stored: Actor,
    rules: Rules<'static>,
    history: Vec<Event>,
    /// Epochs whose bindings were given out and not revoked.
    given_out: BTreeSet<Epoch>,
    /// Activations asked for, and neither confirmed gone, nor being destroyed, nor out of reach.
    alive: BTreeSet<Epoch>,
}

impl World {
    fn new(rules: Rules<'static>) -> Self {
        let actor = Actor::new(Epoch(0));
        Self {
            stored: actor.clone(),
            actor,
            rules,
            history: Vec::new(),
            given_out: BTreeSet::new(),
            alive: BTreeSet::new(),
        }
    }

    fn apply(&mut self, event: Event) -> Step {
        let before = self.actor.clone();
        let step = self.actor.apply(self.rules, event.clone());
        assert!(self.actor.epoch >= before.epoch, "the epoch fell: {event:?}");
        if quoted(&event).is_some_and(|epoch| epoch != before.epoch) {
            assert_eq!(self.actor.state, before.state, "a stale event counted: {event:?}");
        }
        if step.write != Write::Nothing {
            self.stored = self.actor.stored();
        } else {
            let durable = |actor: &Actor| actor.stored();
            let exempt = matches!(event, Event::Exited { .. });
            assert!(exempt || durable(&before) == durable(&self.actor), "not stored: {event:?}");
        }
        // The node says itself that nothing of these is there.
        if let Event::ActivateFailed { epoch, .. }
        | Event::Elsewhere { epoch, .. }
        | Event::Fenced { epoch, .. } = &event
        {
            self.alive.remove(epoch);
        }
        for effect in &step.effects {
            self.observe(effect);
        }
        self.check();
        self.history.push(event);
        step
    }

    fn observe(&mut self, effect: &Effect) {
        match effect {
            Effect::Activate(epoch, ..) => {
                assert_eq!(*epoch, self.stored.epoch, "asked for before it was stored");
                assert!(self.alive.iter().all(|alive| alive == epoch), "two activations");
                self.alive.insert(*epoch);
            }
            Effect::Free(epoch, _) | Effect::Destroy(epoch, _) => {
                self.alive.retain(|alive| alive > epoch);
            }
            Effect::Purge => self.alive.clear(),
            Effect::Drain(epoch, ..) | Effect::Revoke(epoch, _) => {
                self.given_out.remove(epoch);
            }
            Effect::Serve(_) => {
                assert_eq!(self.actor.phase(), Phase::Running, "served while not running");
                let epoch = self.actor.epoch;
                assert!(self.given_out.iter().all(|e| *e == epoch), "two bindings");
                self.given_out.insert(epoch);
            }
            _ => {}
        }
    }

    fn check(&mut self) {
        let phase = self.actor.phase();
        let settled = phase.is_rest() || matches!(phase, Phase::Running | Phase::Frozen);
        // Their node is waited for.
        let resuming =
            matches!(&self.actor.state, State::Checkpointing(Checkpointing { resuming: true, .. }));
        let waits = resuming || phase == Phase::Thawing;
        assert_eq!(self.actor.deadline().is_none(), settled || waits, "{phase:?}");
        if let State::Rest(rest) = &self.actor.state
            && rest.lost().is_some_and(|lost| lost.unreachable.is_some())
        {
            self.alive.clear();
        }
        if phase.is_rest() {
            assert!(self.given_out.is_empty(), "a binding outlived its activation");
        }
    }

    fn event(&mut self, nudge: Nudge) -> Event {
        let epoch = self.actor.epoch;
        match nudge {
            Nudge::Wake(user) => Event::Wake(if user { Asker::User } else { Asker::Traffic }),
            Nudge::Freeze => Event::Freeze(Cause::Idle(Moment(7_000)), Some(epoch)),
            Nudge::Suspend(0) => suspend(Cause::User, None),
            Nudge::Suspend(1) => suspend(Cause::Idle(Moment(7_000)), Some(epoch)),
            Nudge::Suspend(_) => suspend(Cause::Pressure(Moment(7_000)), Some(epoch)),
            Nudge::Stop => stop(),
            Nudge::Delete => Event::Delete,
            Nudge::Place(n) => Event::Placed(place(n)),
            Nudge::NotPlaced => Event::NotPlaced(failure(Reason::NoCapacity)),
            Nudge::Answer(how) => self.answer(how),
            Nudge::Exited => {
                let node = self.actor.place().map_or("n1".into(), |place| place.node.clone());
                Event::Exited { node, epoch, message: "died".into() }
            }
            Nudge::NodeLost => Event::NodeLost { node: "n1".into() },
            Nudge::Found(n, serving, frozen) => {
                Event::Found { place: place(n), epoch, serving, frozen }
            }
            Nudge::Absent(with) => Event::Absent {
                node: "n1".into(),
                epoch,
                snapshots: self.pending().filter(|_| with).into_iter().collect(),
            },
            Nudge::Seen(n) => Event::Seen(Epoch(n)),
            Nudge::Stored(current) => {
                let of = if current { &self.actor.snapshot } else { &self.actor.previous };
                Event::Stored(of.as_ref().map_or("none".into(), |s| s.id.clone()))
            }
            Nudge::Elsewhere => Event::Elsewhere { epoch, failure: failure(Reason::RestoreFailed) },
            Nudge::Deadline => match self.actor.deadline() {
                Some(Deadline::Place) => Event::NotPlaced(failure(Reason::NoCapacity)),
                Some(deadline) => Event::DeadlinePassed(deadline),
                None => Event::DeadlinePassed(Deadline::Purge),
            },
            Nudge::Spent(spent) => {
                self.rules.no_wake = spent.then(|| &*SPENT);
                Event::Seen(Epoch(0))
            }
            Nudge::Crash => Event::Recover,
            Nudge::Replay(index) if !self.history.is_empty() => index.get(&self.history).clone(),
            Nudge::Replay(_) => Event::Purged,
        }
    }

    fn pending(&self) -> Option<Snapshot> {
        match &self.actor.state {
            State::Checkpointing(c) => Some(self.taken(c)),
            State::Waking(Waking { stage: Stage::Placing(rest), .. }) | State::Rest(rest) => {
                let id = rest.lost()?.pending.clone()?;
                Some(snapshot(&id, self.actor.epoch.0))
            }
            _ => None,
        }
    }

    fn taken(&self, c: &Checkpointing) -> Snapshot {
        let node = c.activation.place.node.clone();
        Snapshot { node, ..snapshot(&c.snapshot, self.actor.epoch.0) }
    }

    /// What the node or the routers might say to the present state.
    fn answer(&self, how: u8) -> Event {
        let epoch = self.actor.epoch;
        match &self.actor.state {
            State::Waking(_) => match how % 5 {
                0 => Event::ActivateFailed { epoch, failure: failure(Reason::RestoreFailed) },
                1 => Event::ActivateFailed { epoch, failure: failure(Reason::StartFailed) },
                2 if how.is_multiple_of(2) => {
                    Event::Fenced { epoch, seen: Epoch(epoch.0.saturating_sub(1)) }
                }
                2 => Event::Fenced { epoch, seen: Epoch(epoch.0 + u64::from(how)) },
                _ => activated(epoch.0),
            },
            State::Draining(draining) => Event::Drained {
                epoch,
                term: draining.term,
                in_flight: u32::from(how.is_multiple_of(4)),
                last_active: Moment(if how.is_multiple_of(3) { 9_000 } else { 7_000 }),
                silent: how.is_multiple_of(7),
                snapshot: format!("s{epoch}-{}", draining.term),
            },
            State::Frozen(Frozen { stage: Ice::Thawing, .. }) => Event::Thawed(epoch),
            State::Frozen(_) if how.is_multiple_of(3) => {
                Event::FreezeFailed { epoch, message: "no".into() }
            }
            State::Frozen(_) => Event::Frozen(epoch),
            State::Checkpointing(c) => match how % 3 {
                0 => Event::Resumed { epoch, snapshot: c.snapshot.clone() },
                1 => {
                    let (snapshot, message) = (c.snapshot.clone(), "no".into());
                    Event::CheckpointFailed { epoch, snapshot, message }
                }
                _ => Event::Committed { epoch, snapshot: self.taken(c) },
            },
            State::Deleting(_) => Event::Purged,
            State::Rest(_) | State::Running(_) => activated(epoch.0),
        }
    }

    fn crash(&mut self) {
        // The way over the disk.
        let json = serde_json::to_string(&self.stored).unwrap();
        self.actor = serde_json::from_str(&json).unwrap();
        assert_eq!(self.actor, self.stored);
        self.apply(Event::Recover);
    }

    /// As the driver does it for somebody who waits; the world outside is `helpful` or lets every deadline pass, and loses the
    /// node where there is none.
    fn wake_and_wait(&mut self, helpful: bool) -> bool {
        let mut step = self.apply(Event::Wake(Asker::User));
        for _ in 0..12 {
            let answered =
                |e: &Effect| matches!(e, Effect::Serve(_) | Effect::Refuse(_) | Effect::Remove);
            if step.effects.iter().any(answered) {
                return true;
            }
            let event = match (self.actor.phase(), helpful) {
                (phase, _) if phase.is_rest() || phase == Phase::Frozen => Event::Wake(Asker::User),
                (Phase::Placing, true) => Event::Placed(place(0)),
                (Phase::Starting, true) => activated(self.actor.epoch.0),
                (Phase::Freezing | Phase::Thawing, true) => self.answer(1),
                (Phase::Checkpointing, true) => self.answer(0),
                _ if self.actor.deadline().is_none() => {
                    let node = self.actor.place().unwrap().node.clone();
                    Event::NodeLost { node }
                }
                _ => self.event(Nudge::Deadline),
            };
            step = self.apply(event);
        }
        false
    }
}

/// The epoch an event quotes, where it is about one activation.
fn quoted(event: &Event) -> Option<Epoch> {
    match event {
        Event::Activated { epoch, .. }
        | Event::ActivateFailed { epoch, .. }
        | Event::Elsewhere { epoch, .. }
        | Event::Fenced { epoch, .. }
        | Event::Drained { epoch, .. }
        | Event::Committed { epoch, .. }
        | Event::Resumed { epoch, .. }
        | Event::CheckpointFailed { epoch, .. }
        | Event::Frozen(epoch)
        | Event::FreezeFailed { epoch, .. }
        | Event::Thawed(epoch)
        | Event::Exited { epoch, .. }
        | Event::Found { epoch, .. }
        | Event::Absent { epoch, .. }
        | Event::Freeze(_, Some(epoch))
        | Event::Suspend { decided_for: Some(epoch), .. } => Some(*epoch),
        _ => None,
    }
}

fn rules() -> impl Strategy<Value = Rules<'static>> {
    use OnRestoreFailure::{ColdStart, PreviousSnapshot, Refuse};
    prop::sample::select(vec![Refuse, PreviousSnapshot, ColdStart])
        .prop_map(|on_restore_failure| Rules { on_restore_failure, ..RULES })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_life_breaks_an_invariant_and_every_wake_is_answered(
        rules in rules(),
        nudges in prop::collection::vec(nudge(), 1..60),
        helpful in any::<bool>(),
    ) {
        let mut world = World::new(rules);
        for nudge in nudges {
            if matches!(nudge, Nudge::Crash) {
                world.crash();
            } else {
                let event = world.event(nudge);
                world.apply(event);
            }
        }
        prop_assert!(world.wake_and_wait(helpful), "no answer from {:?}", world.actor);
    }
}

/// Lives too rare for chance.
fn directed() -> Vec<(Rules<'static>, Vec<Nudge>)> {
    use Nudge::{
        Absent, Answer, Deadline, Delete, Exited, Found, Freeze, NodeLost, Place, Stop, Suspend,
        Wake,
    };
    let up_and_down = |n| [Wake(true), Place(n), Answer(3), Suspend(0), Answer(1), Answer(2)];
    let previous = Rules { on_restore_failure: OnRestoreFailure::PreviousSnapshot, ..RULES };
    let survivor =
        vec![Wake(true), Place(0), Answer(3), NodeLost, Wake(true), Found(0, true, false)];
    let mut elsewhere = [up_and_down(2), up_and_down(0)].concat();
    elsewhere.extend([Wake(true), Place(0), Answer(0)]);
    let up = [Wake(true), Place(0), Answer(3), Stop];
    let stopped = [&up[..], &[NodeLost, Found(0, true, false)]].concat();
    let adopted = [&up_and_down(0)[..5], &[NodeLost, Wake(true), Absent(true)]].concat();
    let died = |how| [&up[..], &[Answer(1), Exited, Answer(how)]].concat();
    let deleted = |how| [&up[..3], &[Delete, how]].concat();
    // Drained while nothing was in flight, and nothing happened since.
    let frozen = [&up[..3], &[Freeze, Answer(1), Answer(1)]].concat();
    let then = |more: &[Nudge]| (RULES, [&frozen[..], more].concat());
    vec![
        then(&[NodeLost, Found(0, false, true)]),
        then(&[NodeLost, Wake(true), Found(0, false, true)]),
        then(&[Stop]),
        then(&[Suspend(0), Delete]),
        then(&[Wake(true), Delete]),
        then(&[Found(0, true, false)]),
        then(&[Wake(true), NodeLost]),
        then(&[Wake(true), Exited]),
        then(&[Wake(true), Absent(false)]),
        then(&[Wake(true), Found(0, false, true)]),
        then(&[Wake(true), Nudge::Crash]),
        then(&[Delete]),
        then(&[Absent(false)]),
        then(&[Exited]),
        (RULES, [&up[..3], &[Found(0, false, true)]].concat()),
        (RULES, [&frozen[..5], &[Deadline]].concat()),
        (RULES, [&frozen[..5], &[Delete]].concat()),
        (RULES, [&frozen[..5], &[NodeLost]].concat()),
        (RULES, [&frozen[..5], &[Absent(false)]].concat()),
        (RULES, [&frozen[..5], &[Found(0, true, false)]].concat()),
        (RULES, [&frozen[..5], &[Exited]].concat()),
        (RULES, [&frozen[..5], &[Answer(3)]].concat()),
        then(&[Found(0, false, true)]),
        (RULES, [&up_and_down(0)[..5], &[Absent(false)]].concat()),
        (RULES, survivor),
        (previous, elsewhere),
        (RULES, stopped),
        (RULES, [&up[..], &[Answer(1), Deadline, Deadline]].concat()),
        (RULES, adopted),
        (RULES, died(0)),
        (RULES, died(1)),
        (RULES, [&up_and_down(0)[..5], &[Exited, Answer(1)]].concat()),
        (RULES, vec![Wake(true), Place(0), Answer(3), NodeLost, Found(0, true, false)]),
        (RULES, [&up_and_down(0)[..5], &[Delete]].concat()),
        (RULES, [&up_and_down(0)[..5], &[Absent(true)]].concat()),
        (RULES, [&up_and_down(0)[..5], &[Absent(false)]].concat()),
        (RULES, [&up[..], &[Answer(1), NodeLost]].concat()),
        (RULES, [&up[..], &[Answer(1), Absent(true)]].concat()),
        (RULES, deleted(Answer(1))),
        (RULES, deleted(Exited)),
        (RULES, deleted(NodeLost)),
        (RULES, deleted(Absent(false))),
        (RULES, deleted(Deadline)),
    ]
}

#[test]
fn every_row_of_the_table_can_happen() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let lives = (rules(), prop::collection::vec(nudge(), 150));
    let random = (0..300).map(|_| lives.new_tree(&mut runner).unwrap().current());
    let mut seen = BTreeSet::new();
    for (rules, nudges) in directed().into_iter().chain(random) {
        let mut world = World::new(rules);
        for nudge in nudges {
            let (from, kind) = if matches!(nudge, Nudge::Crash) {
                let from = world.stored.phase();
                world.crash();
                (from, Kind::Recover)
            } else {
                let (from, event) = (world.actor.phase(), world.event(nudge));
                let kind = event.kind();
                world.apply(event);
                (from, kind)
            };
            seen.insert((from, kind, world.actor.phase()));
        }
    }
    let rows = table::ROWS.iter();
    let rows = rows.flat_map(|(from, kind, to)| to.iter().map(|to| (*from, *kind, *to)));
    let never: Vec<_> = rows.filter(|row| !seen.contains(row)).collect();
    assert!(never.is_empty(), "never happened: {never:?}");
}
