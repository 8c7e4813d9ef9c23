//! What a torture does, from its seed.

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Actors, each with a worker of its own; those with even numbers are in gVisor, the others in CRIU's containers.
pub(crate) const ACTORS: usize = 4;

/// What an actor is doing while something is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    /// Cold, by an actor that never was.
    Start,
    /// From a snapshot on the node.
    Wake,
    /// From one that is only in the store.
    Fetch,
    Freeze,
    Thaw,
    Suspend,
    /// Of one that is frozen.
    SuspendFrozen,
    /// A suspend, until its snapshot is in the store and evicted from the node.
    Upload,
    /// Of one that runs, and its snapshots.
    Delete,
}

impl Operation {
    /// Makes a sandbox.
    pub(crate) fn wakes(self) -> bool {
        matches!(self, Self::Start | Self::Wake | Self::Fetch)
    }
}

pub(crate) const OPERATIONS: [Operation; 9] = [
    Operation::Start,
    Operation::Wake,
    Operation::Fetch,
    Operation::Freeze,
    Operation::Thaw,
    Operation::Suspend,
    Operation::SuspendFrozen,
    Operation::Upload,
    Operation::Delete,
];

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Victim {
    Agent,
    /// What the agent has started and waits for: runsc, runc, criu, tar, nft.
    Programs,
    /// The processes of the actor that leads the round.
    Sandbox,
    /// All of these together, of every actor.
    Everything,
}

/// So often each.
const VICTIMS: &[Victim] = &[
    Victim::Agent,
    Victim::Agent,
    Victim::Agent,
    Victim::Programs,
    Victim::Programs,
    Victim::Sandbox,
    Victim::Everything,
    Victim::Everything,
];

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// So many thousandths of the time that the leader's operation usually takes.
    After(u32),
    /// So many microseconds after a step of it, by its number.
    Step(usize, u64),
}

/// What happens once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) operations: [Operation; ACTORS],
    /// Whose operation the kill is aimed at.
    pub(crate) leader: usize,
    pub(crate) victim: Victim,
    pub(crate) moment: Moment,
    /// The next agent dies too, after so many milliseconds.
    pub(crate) again: Option<u64>,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u32,
}

impl Plan {
    pub(crate) fn new(seed: u32) -> Self {
        Self { seed }
    }

    pub(crate) fn rounds(self) -> impl Iterator<Item = Round> {
        let mut random = StdRng::seed_from_u64(self.seed.into());
        // Each in its turn, so that short forms miss as little as they can.
        let (mut next, mut victims) = (random.random_range(0..OPERATIONS.len()), Vec::new());
        std::iter::repeat_with(move || {
            let leader = random.random_range(0..ACTORS);
            let mut operations =
                [(); ACTORS].map(|()| OPERATIONS[random.random_range(0..OPERATIONS.len())]);
            next = (next + 1) % OPERATIONS.len();
            operations[leader] = OPERATIONS[next];
            if victims.is_empty() {
                victims = VICTIMS.to_vec();
            }
            let victim = victims.swap_remove(random.random_range(0..victims.len()));
            let moment = match random.random_range(0..100) {
                0..40 => Moment::After(random.random_range(0..1_200)),
                40..60 => Moment::Step(random.random_range(0..64), 0),
                _ => Moment::Step(random.random_range(0..64), random.random_range(0..20_000)),
            };
            let again = random.random_ratio(1, 4).then(|| random.random_range(0..1_000));
            Round { operations, leader, victim, moment, again }
        })
    }
}

#[test]
fn a_seed_is_a_plan() {
    let draw = |seed| format!("{:?}", Plan::new(seed).rounds().take(50).collect::<Vec<_>>());
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

#[test]
fn few_rounds_have_every_operation_and_every_victim() {
    let rounds: Vec<_> = Plan::new(1).rounds().take(super::SHORT as usize).collect();
    let mut led: Vec<_> = rounds.iter().map(|round| round.operations[round.leader]).collect();
    led.sort();
    led.dedup();
    assert_eq!(led, OPERATIONS);
    let mut victims: Vec<_> = rounds.iter().map(|round| round.victim).collect();
    victims.sort();
    victims.dedup();
    assert_eq!(victims.len(), 4);
}
