//! The life of one actor: a pure function `state × event → state × effects`.
//!
//! ```text
//!              Wake             Placed           Activated
//!  Suspended ───────▶ Placing ─────────▶ Starting ─────────▶ Running ◀───────────────┐
//!  Failed    ◀─────── (Waking: no        (Waking)  ────────▶   │                     │ Wake, or
//!  Lost       NotPlaced worker yet)          │   another     Suspend, Stop           │ activity since
//!  Stopped                                   │   snapshot      ▼                     │ the decision
//!    ▲  ▲                   ActivateFailed,  │              Draining ────────────────┤
//!    │  │                   DeadlinePassed   ▼                 │ Drained             │ CheckpointFailed,
//!    │  └──────────────────────────────── Failed               ▼                     │ Resumed
//!    └──────────────────────────────────────────────────── Checkpointing ────────────┘
//!       Committed                                    Running, Draining, Checkpointing ──▶ Lost
//!                                                    Exited, NodeLost, Absent
//!
//!  Freeze: Draining ── Drained ──▶ Freezing ── Frozen ──▶ Frozen ── Wake ──▶ Thawing ── Thawed ──▶ Running
//!          Frozen ── Suspend, Stop ──▶ Checkpointing
//!  Delete: at once to Deleting; from Running by way of Draining, so that requests in flight have their time
//! ```
//!
//! | state | what it means | who moves it on |
//! | --- | --- | --- |
//! | `Suspended` | at rest: wakes from its snapshot, or cold when it never had one | a wake |
//! | `Stopped` | at rest by its user's wish; traffic does not wake it | a user's wake |
//! | `Lost` | its worker died under it: wakes from the last snapshot | a wake; its node, back with it still running |
//! | `Failed` | the last wake failed; the snapshot is kept | a wake tries again |
//! | `Placing` | *Waking*, first half: waits for a worker. Not stored: after a crash it is at rest again | placement, its deadline |
//! | `Starting` | *Waking*, second half: the node restores or starts it | the node, its deadline |
//! | `Running` | serves; its binding may be given out | idle time, a verb, the node |
//! | `Draining` | its binding is revoked; requests in flight finish | the routers, a wake, its deadline |
//! | `Freezing` | the node stops its processes where they stand | the node, its deadline |
//! | `Frozen` | holds its worker, uses no CPU; its memory may be in swap | a wake, idle time, a verb, the node |
//! | `Thawing` | the node lets them go on | the node |
//! | `Checkpointing` | the node takes the snapshot; nothing decided until its commit | the node, a wake; its deadline calls it off |
//! | `Deleting` | everything of it goes away, then its record | the node, its deadline |
//!
//! People are told `Paused` instead of `Suspended` while the snapshot is on its node only and there is a store that it is
//! to go to: for the machine that is one state, since the node decides when it uploads.
//!
//! Rules that hold in every row (`table.rs` lists the rows, and both the code and its tests use that list):
//!
//! * the epoch never falls, and grows by one before each activation is asked for;
//! * `term` counts the revokes of an epoch: `Draining` revokes its own, and a return to `Running` is one term later;
//! * an event that quotes another epoch, term or snapshot than the state's is stale and changes nothing;
//! * what a state intends is stored before the effect that begins it ([`Write::First`]). What leads to `Running` from
//!   `Starting` or `Frozen` is stored behind its effects, because a crash in between is healed by asking the node again;
//! * every state with work under way has a [`Deadline`], derived from the state itself, but two: when an actor thaws, or a checkpoint is
//!   called off, its memory is with a node that hears us, which is asked until it answers. To give up would be to lose it.

use reveille_api::{Epoch, Failure, Reason};
use serde::{Deserialize, Serialize};

mod apply;
mod down;
mod event;
mod frozen;
mod node;
pub mod table;

#[cfg(test)]
mod tests;

pub use event::{
    Asker, Cause, Effect, Event, Kind, NoWake, Note, Rules, Serving, StayedUp, Step, Write,
};

use crate::clock::Moment;

/// What the machine knows of one actor. Stored as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// Of the last activation asked for; 0 before the first.
    pub epoch: Epoch,
    /// Where it stands.
    pub state: State,
    /// What the next wake restores.
    pub snapshot: Option<Snapshot>,
    /// The one before it, kept for `onRestoreFailure: PreviousSnapshot`.
    pub previous: Option<Snapshot>,
    /// How often its process was lost.
    pub losses: u64,
}

/// Where an actor stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// It holds no worker.
    Rest(Rest),
    /// Being woken.
    Waking(Waking),
    /// Serving.
    Running(Running),
    /// Going down, first half.
    Draining(Draining),
    /// Its processes are stopped, or about to be, or about to go on.
    Frozen(Frozen),
    /// Going down, second half.
    Checkpointing(Checkpointing),
    /// Going away for good.
    Deleting(Deleting),
}

/// At rest, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Rest {
    /// Asleep, or never woken yet.
    Suspended,
    /// By its user. Remembers a loss: without a snapshot even its user's wake is a visible cold start.
    Stopped(Option<Lost>),
    /// Its process is gone and was not suspended.
    Lost(Lost),
    /// The last wake failed.
    Failed(Failed),
}

/// How a process was lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lost {
    /// For the operator.
    pub message: String,
    /// The activation may live on: its node fell silent. It is taken back when the node returns with it.
    pub unreachable: Option<Survivor>,
    /// Snapshot that was being taken; it is adopted if the node turns out to have committed it.
    pub pending: Option<String>,
}

/// An activation on a node that fell silent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Survivor {
    /// What it was.
    pub activation: Activation,
    /// Its last term.
    pub term: u64,
}

/// Why the last wake failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Failed {
    /// What callers are told.
    pub reason: Reason,
    /// For the operator.
    pub message: String,
}

/// Being woken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Waking {
    /// What it is woken from.
    pub source: Source,
    /// How far it is.
    pub stage: Stage,
}

/// How far a wake is.
#[expect(clippy::large_enum_variant, reason = "there is one in each actor that is being woken")]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stage {
    /// Waits for a worker. Without one it is back at this rest.
    Placing(Rest),
    /// The node is at it.
    Starting {
        /// Where.
        place: Place,
        /// The process ended before the node had answered.
        exited: Option<String>,
    },
}

/// What an activation is made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Source {
    /// Nothing: its first start.
    Cold,
    /// The current snapshot.
    Current(Snapshot),
    /// The snapshot before the current one, which could not be restored.
    Previous(Snapshot),
    /// Nothing, because no snapshot could be restored; the template or the user allowed it.
    ColdAfterFailure,
}

/// Serving.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Running {
    /// What serves.
    pub activation: Activation,
    /// Of the binding that may be given out.
    pub term: u64,
}

/// Its binding is revoked; requests in flight finish.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Draining {
    /// What still serves them.
    pub activation: Activation,
    /// Being revoked.
    pub term: u64,
    /// Why it goes down.
    pub cause: Cause,
    /// What it is to become.
    pub goal: Goal,
}

/// Its processes are stopped, or on the way to that, or from there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frozen {
    /// What is frozen.
    pub activation: Activation,
    /// Revoked.
    pub term: u64,
    /// How far it is.
    pub stage: Ice,
}

/// How far a freeze or a thaw is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ice {
    /// The node stops the processes.
    Freezing,
    /// They stand still.
    Frozen,
    /// The node lets them go on.
    Thawing,
}

/// The node takes a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Checkpointing {
    /// What is being saved.
    pub activation: Activation,
    /// Revoked.
    pub term: u64,
    /// Name of the snapshot: chosen and stored before the node was asked.
    pub snapshot: String,
    /// What it is to become.
    pub goal: Goal,
    /// Somebody wants it back: the node was asked to resume.
    pub resuming: bool,
    /// The process ended by itself meanwhile.
    pub exited: Option<String>,
}

/// Everything of it goes away.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Deleting {
    /// The activation to destroy.
    pub place: Option<Place>,
}

/// What a way down ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Goal {
    /// Its processes stopped, on its worker.
    Freeze,
    /// Asleep.
    Suspend,
    /// Not to be woken by traffic.
    Stop,
    /// Gone. No snapshot is taken on the way.
    Delete,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Its node.
    pub node: String,
    /// Its name, `<node>-<index>`.
    pub worker: String,
}

/// One stay on a worker that has served.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Activation {
    /// Where.
    pub place: Place,
    /// `address:port`.
    pub endpoint: String,
    /// True when it speaks HTTP/2 without TLS.
    pub h2c: bool,
    /// What it was made from.
    pub source: Source,
}

/// A committed snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name.
    pub id: String,
    /// The node that has it.
    pub node: String,
    /// Of the activation it was taken from.
    pub epoch: Epoch,
    /// Its size.
    pub bytes: u64,
    /// When it was taken.
    pub created_unix_ms: u64,
    /// What took it.
    pub runtime: String,
    /// And which version of that.
    pub runtime_version: String,
    /// The image it is of, by name and digest; empty for a directory.
    #[serde(default)]
    pub image: String,
    /// Where it is besides.
    #[serde(default)]
    pub storage: Storage,
}

/// Where a snapshot is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Storage {
    /// On its node, which has no store.
    #[default]
    Node,
    /// On its node, not in the store yet.
    Waiting,
    /// In the store: other nodes can restore it.
    Stored,
}

/// The states by name, with the two halves of *Waking* told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// [`Rest::Suspended`].
    Suspended,
    /// [`Rest::Stopped`].
    Stopped,
    /// [`Rest::Lost`].
    Lost,
    /// [`Rest::Failed`].
    Failed,
    /// [`Stage::Placing`].
    Placing,
    /// [`Stage::Starting`].
    Starting,
    /// [`State::Running`].
    Running,
    /// [`State::Draining`].
    Draining,
    /// [`Ice::Freezing`].
    Freezing,
    /// [`Ice::Frozen`].
    Frozen,
    /// [`Ice::Thawing`].
    Thawing,
    /// [`State::Checkpointing`].
    Checkpointing,
    /// [`State::Deleting`].
    Deleting,
}

/// Until when a state may last, named so precisely that a late one cannot be mistaken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Deadline {
    /// A worker must be found.
    Place,
    /// The node must have started it.
    Start(Epoch),
    /// The routers must have answered.
    Drain(Epoch, u64),
    /// The node must have stopped the processes.
    Freeze(Epoch, u64),
    /// The node must have said how the checkpoint went.
    Checkpoint(String),
    /// The nodes must have destroyed it.
    Purge,
}

impl Actor {
    /// One that was never woken. `epoch` is that of an earlier actor of the same name, or 0.
    pub fn new(epoch: Epoch) -> Self {
        let state = State::Rest(Rest::Suspended);
        Self { epoch, state, snapshot: None, previous: None, losses: 0 }
    }

    /// The state's name.
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Rest(rest) => rest.phase(),
            State::Waking(Waking { stage: Stage::Placing(_), .. }) => Phase::Placing,
            State::Waking(_) => Phase::Starting,
            State::Running(_) => Phase::Running,
            State::Draining(_) => Phase::Draining,
            State::Frozen(frozen) => match frozen.stage {
                Ice::Freezing => Phase::Freezing,
                Ice::Frozen => Phase::Frozen,
                Ice::Thawing => Phase::Thawing,
            },
            State::Checkpointing(_) => Phase::Checkpointing,
            State::Deleting(_) => Phase::Deleting,
        }
    }

    /// The worker it holds.
    pub fn place(&self) -> Option<&Place> {
        match &self.state {
            State::Waking(Waking { stage: Stage::Starting { place, .. }, .. }) => Some(place),
            State::Deleting(deleting) => deleting.place.as_ref(),
            _ => self.activation().map(|activation| &activation.place),
        }
    }

    /// What serves, or served until it began to go down.
    pub fn activation(&self) -> Option<&Activation> {
        match &self.state {
            State::Running(running) => Some(&running.activation),
            State::Draining(draining) => Some(&draining.activation),
            State::Frozen(frozen) => Some(&frozen.activation),
            State::Checkpointing(checkpointing) => Some(&checkpointing.activation),
            _ => None,
        }
    }

    /// What must happen by when.
    pub fn deadline(&self) -> Option<Deadline> {
        match &self.state {
            State::Rest(_) | State::Running(_) => None,
            State::Waking(Waking { stage: Stage::Placing(_), .. }) => Some(Deadline::Place),
            State::Waking(_) => Some(Deadline::Start(self.epoch)),
            State::Draining(draining) => Some(Deadline::Drain(self.epoch, draining.term)),
            State::Frozen(f) if f.stage == Ice::Freezing => {
                Some(Deadline::Freeze(self.epoch, f.term))
            }
            State::Checkpointing(c) if !c.resuming => {
                Some(Deadline::Checkpoint(c.snapshot.clone()))
            }
            State::Frozen(_) | State::Checkpointing(_) => None,
            State::Deleting(_) => Some(Deadline::Purge),
        }
    }

    /// True when its activation is out of reach and may be taken back.
    pub fn may_return(&self) -> bool {
        let rest = match &self.state {
            State::Rest(rest) | State::Waking(Waking { stage: Stage::Placing(rest), .. }) => rest,
            _ => return false,
        };
        rest.lost().is_some_and(|lost| lost.unreachable.is_some())
    }

    /// As it is stored: a wake that has no worker yet is still at rest.
    pub fn stored(&self) -> Self {
        let mut stored = self.clone();
        if let State::Waking(Waking { stage: Stage::Placing(rest), .. }) = &self.state {
            stored.state = State::Rest(rest.clone());
        }
        stored
    }

    /// True for a snapshot it has that is not known to be in the store.
    pub fn lacks_in_store(&self, id: &str) -> bool {
        let mut kept = self.snapshot.iter().chain(&self.previous);
        kept.any(|snapshot| snapshot.id == id && snapshot.storage != Storage::Stored)
    }

    /// True when this snapshot must be kept.
    pub fn needs(&self, id: &str) -> bool {
        self.needed().contains(&id)
    }

    /// Snapshots that must be kept, also one that may be about to be committed.
    pub fn needed(&self) -> Vec<&str> {
        let stage = match &self.state {
            State::Waking(Waking { stage: Stage::Placing(rest), .. }) | State::Rest(rest) => {
                rest.lost().and_then(|lost| lost.pending.as_deref())
            }
            State::Checkpointing(c) => Some(c.snapshot.as_str()),
            _ => None,
        };
        let kept = self.snapshot.iter().chain(&self.previous).map(|s| s.id.as_str());
        kept.chain(stage).collect()
    }
}

impl Phase {
    /// True when no worker is held and nothing is under way.
    pub fn is_rest(self) -> bool {
        matches!(self, Self::Suspended | Self::Stopped | Self::Lost | Self::Failed)
    }
}

impl Rest {
    /// Its name.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Suspended => Phase::Suspended,
            Self::Stopped(_) => Phase::Stopped,
            Self::Lost(_) => Phase::Lost,
            Self::Failed(_) => Phase::Failed,
        }
    }

    /// The loss it remembers.
    pub fn lost(&self) -> Option<&Lost> {
        match self {
            Self::Lost(lost) | Self::Stopped(Some(lost)) => Some(lost),
            _ => None,
        }
    }
}

impl Source {
    /// What is restored.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        match self {
            Self::Current(snapshot) | Self::Previous(snapshot) => Some(snapshot),
            Self::Cold | Self::ColdAfterFailure => None,
        }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self { reason: failure.reason, message: failure.message }
    }
}

impl From<&Failed> for Failure {
    fn from(failed: &Failed) -> Self {
        Self::new(failed.reason, failed.message.clone())
    }
}

/// Two reports of the same request may differ by the time they were under way.
pub(crate) const ACTIVITY_JITTER: std::time::Duration = std::time::Duration::from_millis(50);

/// True when `latest` is a later activity than the one a decision was based on.
pub(crate) fn newer(latest: Moment, basis: Moment) -> bool {
    latest > basis.plus(ACTIVITY_JITTER)
}
