//! What a storm does, from its seed.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Actors; half of them in each namespace, a quarter speak h2c.
pub(crate) const ACTORS: u16 = 12;
/// Places to run them: too few on purpose.
pub(crate) const WORKERS: u32 = 6;
/// Clients. Each asks one actor at a time.
pub(crate) const CLIENTS: u64 = 12;
/// Requests under way at one actor. More at once can make a gVisor snapshot that does not restore.
pub(crate) const PER_ACTOR: usize = 16;
/// Kinds of kill; every storm has each once at least.
const KILLS: &[Part] = &[
    Part::Sandbox,
    Part::Router,
    Part::Node,
    Part::ControlPlane,
    Part::Envoy,
    Part::Sandbox,
    Part::EnvoySupervisor,
    Part::Up,
    Part::Everything,
];
/// Acknowledged increments between two kills, at least, but in the first round of a short storm.
const CALM: u64 = 4_000;

/// A number that stands for an actor.
pub(crate) type Actor = u16;

/// What is killed with kill -9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The processes of one actor.
    Sandbox,
    Node,
    ControlPlane,
    Router,
    Envoy,
    EnvoySupervisor,
    /// `up` alone: its roles end with it, sandboxes do not.
    Up,
    /// As a power loss would.
    Everything,
}

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// HTTP/1.1, one connection for all.
    KeepAlive,
    /// HTTP/1.1, a connection for each.
    Close,
    /// HTTP/2, several streams at a time.
    H2,
    /// POST with a body; some come slowly.
    Post,
    WebSocket,
    Sse,
}

/// What one client does next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Burst {
    pub(crate) actor: Actor,
    pub(crate) kind: Kind,
    /// Increments, at most.
    pub(crate) length: u64,
    /// And no longer than this: others want the worker.
    pub(crate) lasts: Duration,
    /// Greatest pause between two.
    pub(crate) pause: Duration,
}

/// What a user does next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chore {
    pub(crate) actor: Actor,
    /// Stop and wake, not suspend.
    pub(crate) stop: bool,
    pub(crate) pause: Duration,
}

/// A kill, once so many increments were acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kill {
    pub(crate) after: u64,
    pub(crate) part: Part,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Increments to be acknowledged.
    pub(crate) requests: u64,
    /// With so many, and the first round of kills, it may end when its time is over.
    pub(crate) at_least: u64,
    pub(crate) kills: Vec<Kill>,
}

impl Plan {
    pub(crate) fn new(seed: u64, requests: u64, at_least: u64) -> Self {
        let mut random = stream(seed, 0);
        // The first round is over when there are `at_least`.
        let mut gap = (at_least / (KILLS.len() as u64 + 1)).min(CALM);
        let mut kills = Vec::new();
        let mut after = gap;
        while after + gap <= requests {
            let mut round = KILLS.to_vec();
            while !round.is_empty() && after + gap <= requests {
                let part = round.swap_remove(random.random_range(0..round.len()));
                kills.push(Kill { after, part });
                after += gap;
            }
            gap = CALM;
        }
        Self { seed, requests, at_least, kills }
    }

    /// Kills that no storm ends without.
    pub(crate) fn first_round(&self) -> usize {
        KILLS.len().min(self.kills.len())
    }

    /// Bursts of one client.
    pub(crate) fn bursts(&self, client: u64) -> impl Iterator<Item = Burst> + use<> {
        let mut random = stream(self.seed, 1 + client);
        std::iter::repeat_with(move || {
            let kind = match random.random_range(0..100) {
                0..30 => Kind::KeepAlive,
                30..40 => Kind::Close,
                40..65 => Kind::H2,
                65..80 => Kind::Post,
                80..92 => Kind::WebSocket,
                _ => Kind::Sse,
            };
            // A slow one lets its actor fall asleep, or be in the middle of it.
            let slow = random.random_bool(0.25);
            let length =
                if slow { random.random_range(2..12) } else { random.random_range(50..600) };
            let pause = if slow { random.random_range(5..700) } else { 0 };
            let lasts = if slow { 3_000 } else { random.random_range(200..1_500) };
            let actor = random.random_range(0..ACTORS);
            // Over HTTP/2 an actor says no `Sec-WebSocket-Accept`, so a client of HTTP/1.1 gets none.
            let kind = if kind == Kind::WebSocket && is_h2c(actor) { Kind::H2 } else { kind };
            Burst {
                actor,
                kind,
                length,
                lasts: Duration::from_millis(lasts),
                pause: Duration::from_millis(pause),
            }
        })
    }

    /// What the user does.
    pub(crate) fn chores(&self) -> impl Iterator<Item = Chore> + use<> {
        let mut random = stream(self.seed, u64::MAX);
        std::iter::repeat_with(move || Chore {
            actor: random.random_range(0..ACTORS),
            stop: random.random_ratio(1, 40),
            pause: Duration::from_millis(random.random_range(0..150)),
        })
    }

    /// Everything else that is left to chance, for its user alone.
    pub(crate) fn random(&self, of: u64) -> StdRng {
        stream(self.seed, of)
    }
}

/// The seed's stream of that number: what one client draws does not depend on another.
fn stream(seed: u64, number: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// Namespace and name.
pub(crate) fn name(actor: Actor) -> (&'static str, String) {
    (if actor.is_multiple_of(2) { "gale" } else { "squall" }, format!("a{actor:02}"))
}

/// Where clients ask for it.
pub(crate) fn host(actor: Actor) -> String {
    let (namespace, name) = name(actor);
    format!("{name}.{namespace}.actors.localhost")
}

/// The actor of that name.
pub(crate) fn actor(name: &str) -> Option<Actor> {
    name.strip_prefix('a')?.parse().ok()
}

/// True when it speaks HTTP/2.
pub(crate) fn is_h2c(actor: Actor) -> bool {
    actor % 4 == 3
}

#[test]
fn a_seed_is_a_plan() {
    let draw = |seed| {
        let plan = Plan::new(seed, 100_000, 100_000);
        let bursts: Vec<_> = plan.bursts(3).take(50).collect();
        let chores: Vec<_> = plan.chores().take(50).collect();
        format!("{plan:?} {bursts:?} {chores:?}")
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

#[test]
fn the_short_form_kills_everything_there_is() {
    let plan = Plan::new(1, super::SHORT, super::AT_LEAST);
    let (first, later) = plan.kills.split_at(plan.first_round());
    let mut kills: Vec<_> = first.iter().map(|kill| kill.part).collect();
    kills.sort();
    let mut all = KILLS.to_vec();
    all.sort();
    assert_eq!(kills, all);
    assert!(first.iter().all(|kill| kill.after < super::AT_LEAST), "{first:?}");
    assert!(later.iter().all(|kill| kill.after >= super::AT_LEAST), "{later:?}");
}
