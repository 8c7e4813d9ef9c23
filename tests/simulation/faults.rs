//! What goes wrong, and when it is put right.

use std::time::Duration;

use turmoil::Sim;

use crate::{
    node::Machine,
    oracle::Oracle,
    world::{AGENTS, Dice, NODES, ROUTERS},
};

/// A kind of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Messages between two hosts are lost.
    Cut,
    /// Those in one direction are.
    CutOneWay,
    /// They wait.
    Hold,
    /// A router is stopped: whatever it says and is told waits, until it comes back with what it knew.
    Stop,
    /// A process ends and starts again with what is on its disk: router, control plane, agent.
    Crash,
    /// A whole machine, with what ran on it.
    PowerCut,
}

impl Fault {
    pub(crate) const ALL: &[Self] =
        &[Self::Cut, Self::CutOneWay, Self::Hold, Self::Stop, Self::Crash, Self::PowerCut];
}

/// How long one lasts, in milliseconds.
const LASTS: (u64, u64) = (50, 8_000);
/// This share of them lasts so long instead: longer than the grace of nodes and routers.
const LONG: (f64, (u64, u64)) = (0.15, (10_000, 20_000));
/// From one to the next.
const PAUSE: (u64, u64) = (200, 4_000);
const PROCESSES: [&str; 5] = ["control", ROUTERS[0], ROUTERS[1], AGENTS[0], AGENTS[1]];
const LINKS: [(&str, &str); 12] = [
    ("control", "router-1"),
    ("control", "router-2"),
    ("control", "agent-1"),
    ("control", "agent-2"),
    ("envoy-1", "router-1"),
    ("envoy-1", "router-2"),
    ("envoy-2", "router-1"),
    ("envoy-2", "router-2"),
    ("envoy-1", "node-1"),
    ("envoy-1", "node-2"),
    ("envoy-2", "node-1"),
    ("envoy-2", "node-2"),
];

#[derive(Clone, Copy, Debug)]
enum Repair {
    Link(&'static str, &'static str),
    Release(&'static str, &'static str),
    Start(&'static str),
}

/// The plan of one run, made as it goes.
pub(crate) struct Faults {
    kinds: &'static [Fault],
    dice: Dice,
    next: Duration,
    end: Duration,
    repairs: Vec<(Duration, Repair)>,
}

impl Faults {
    pub(crate) fn new(
        kinds: &'static [Fault],
        dice: Dice,
        (begin, end): (Duration, Duration),
    ) -> Self {
        Self { kinds, dice, next: begin, end, repairs: Vec::new() }
    }

    /// After each step of the world.
    pub(crate) fn step(&mut self, sim: &mut Sim<'_>, machines: &[Machine], oracle: &Oracle) {
        let now = sim.elapsed();
        let due = |at: &Duration| *at <= now || now >= self.end;
        let (repairs, left) =
            std::mem::take(&mut self.repairs).into_iter().partition(|(at, _)| due(at));
        self.repairs = left;
        let repairs: Vec<(Duration, Repair)> = repairs;
        for (_, repair) in repairs {
            note(oracle, now, format!("{repair:?}"));
            match repair {
                Repair::Link(a, b) => sim.repair(a, b),
                Repair::Release(a, b) => sim.release(a, b),
                Repair::Start(host) => sim.bounce(host),
            }
        }
        if self.kinds.is_empty() || now < self.next || now >= self.end {
            return;
        }
        self.next = now + Duration::from_millis(self.dice.between(PAUSE.0, PAUSE.1));
        let (least, most) = if self.dice.chance(LONG.0) { LONG.1 } else { LASTS };
        let until = now + Duration::from_millis(self.dice.between(least, most));
        let kind = *self.dice.one(self.kinds);
        let &(a, b) = self.dice.one(&LINKS);
        let (a, b) = if self.dice.chance(0.5) { (a, b) } else { (b, a) };
        let process = *self.dice.one(&PROCESSES);
        let i = usize::from(self.dice.chance(0.5));
        let mut later = |repair| self.repairs.push((until, repair));
        match kind {
            Fault::Cut => {
                note(oracle, now, format!("cut {a} {b}"));
                sim.partition(a, b);
                later(Repair::Link(a, b));
            }
            Fault::CutOneWay => {
                note(oracle, now, format!("cut {a} to {b}"));
                sim.partition_oneway(a, b);
                later(Repair::Link(a, b));
            }
            Fault::Hold => {
                note(oracle, now, format!("hold {a} {b}"));
                sim.hold(a, b);
                later(Repair::Release(a, b));
            }
            Fault::Stop => {
                note(oracle, now, format!("stop {}", ROUTERS[i]));
                for (a, b) in LINKS.into_iter().filter(|(a, b)| [*a, *b].contains(&ROUTERS[i])) {
                    sim.hold(a, b);
                    later(Repair::Release(a, b));
                }
            }
            Fault::Crash if sim.is_host_running(process) => {
                note(oracle, now, format!("crash {process}"));
                sim.crash(process);
                later(Repair::Start(process));
            }
            Fault::PowerCut if sim.is_host_running(NODES[i]) => {
                note(oracle, now, format!("power cut {}", NODES[i]));
                machines[i].power_off();
                for host in [NODES[i], AGENTS[i]] {
                    sim.crash(host);
                    later(Repair::Start(host));
                }
            }
            Fault::Crash | Fault::PowerCut => {}
        }
    }
}

fn note(oracle: &Oracle, now: Duration, what: String) {
    oracle.seen().trace.push(format!("{:>9.3} s  ----- {what}", now.as_secs_f64()));
}
