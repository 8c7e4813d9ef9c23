//! What can happen to an actor, and what then has to be done.

use reveille_api::{Epoch, Failure, Reason, manifest::template::OnRestoreFailure};
use serde::{Deserialize, Serialize};

use super::{Activation, Deadline, Place, Snapshot, Source};
use crate::clock::Moment;

/// What decides a transition besides the state and the event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules<'a> {
    /// When a snapshot cannot be restored.
    pub on_restore_failure: OnRestoreFailure,
    /// From rest it must not be woken.
    pub no_wake: Option<&'a NoWake>,
}

/// Why nothing may be woken now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoWake {
    /// For who waits.
    pub failure: Failure,
    /// It is so since just now: worth an event.
    pub news: bool,
}

/// Who wants an actor to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A request on a router.
    Traffic,
    /// A person or a program, by the wake verb.
    User,
}

/// Why an actor goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// Asked for. Requests in flight get until the drain deadline.
    User,
    /// The control plane drains everything.
    Shutdown,
    /// Idle since this moment: holds only as long as nothing happened after it.
    Idle(Moment),
    /// Another wake needs its worker; as `Idle`.
    Pressure(Moment),
}

impl Cause {
    /// The last activity the decision was based on, where it depends on there being no later one.
    pub fn basis(self) -> Option<Moment> {
        match self {
            Self::User | Self::Shutdown => None,
            Self::Idle(since) | Self::Pressure(since) => Some(since),
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It is to serve.
    Wake(Asker),
    /// Its processes are to be stopped where they stand. Quotes the epoch it was decided for, if it was decided and not asked for.
    Freeze(Cause, Option<Epoch>),
    /// It is to go to sleep.
    Suspend {
        /// Why.
        cause: Cause,
        /// The epoch it was decided for, if it was decided and not asked for.
        decided_for: Option<Epoch>,
        /// Name for the snapshot of one that is frozen: of others it is taken later, if at all.
        snapshot: String,
    },
    /// It is to sleep and not be woken by traffic.
    Stop {
        /// As for a suspend.
        snapshot: String,
    },
    /// It is to be gone.
    Delete,
    /// A worker was found.
    Placed(Place),
    /// No worker was found in time.
    NotPlaced(Failure),
    /// The node: it answers on this endpoint.
    Activated {
        /// Quoted.
        epoch: Epoch,
        /// `address:port`.
        endpoint: String,
        /// What it speaks there.
        h2c: bool,
    },
    /// The node: it could not be started, and nothing of it is left.
    ActivateFailed {
        /// Quoted.
        epoch: Epoch,
        /// Why.
        failure: Failure,
    },
    /// The node: this snapshot does not fit it, and nothing is left. It is in the store, and there are other nodes.
    Elsewhere {
        /// Quoted.
        epoch: Epoch,
        /// Why.
        failure: Failure,
    },
    /// A node: this snapshot is in the store now.
    Stored(String),
    /// The node has seen a higher epoch than the one asked for.
    Fenced {
        /// Quoted.
        epoch: Epoch,
        /// The highest it has seen.
        seen: Epoch,
    },
    /// The routers have answered a revoke, or their time is up.
    Drained {
        /// Quoted.
        epoch: Epoch,
        /// Quoted.
        term: u64,
        /// Requests that still use it.
        in_flight: u32,
        /// The last activity they know of.
        last_active: Moment,
        /// Some router did not answer.
        silent: bool,
        /// Name for the snapshot that is taken if it goes on.
        snapshot: String,
    },
    /// The node: its processes are stopped.
    Frozen(Epoch),
    /// The node: they could not be stopped; it serves again.
    FreezeFailed {
        /// Quoted.
        epoch: Epoch,
        /// For the operator.
        message: String,
    },
    /// The node: they go on, and it serves.
    Thawed(Epoch),
    /// The node: the snapshot is committed and the process gone.
    Committed {
        /// Quoted.
        epoch: Epoch,
        /// What was taken; its name is quoted too.
        snapshot: Snapshot,
    },
    /// The node: the suspend was cancelled; it serves again.
    Resumed {
        /// Quoted.
        epoch: Epoch,
        /// Quoted.
        snapshot: String,
    },
    /// The node: no snapshot could be taken; it serves again.
    CheckpointFailed {
        /// Quoted.
        epoch: Epoch,
        /// Quoted.
        snapshot: String,
        /// For the operator.
        message: String,
    },
    /// The process ended by itself.
    Exited {
        /// Who says so.
        node: String,
        /// Quoted.
        epoch: Epoch,
        /// For the operator.
        message: String,
    },
    /// A node was silent for too long.
    NodeLost {
        /// Which.
        node: String,
    },
    /// A node that came back has this activation.
    Found {
        /// Where.
        place: Place,
        /// Which.
        epoch: Epoch,
        /// It answers.
        serving: bool,
        /// Its processes are stopped.
        frozen: bool,
    },
    /// A node that came back has no such activation.
    Absent {
        /// Which node.
        node: String,
        /// Which activation.
        epoch: Epoch,
        /// The actor's snapshots there.
        snapshots: Vec<Snapshot>,
    },
    /// A node remembers this epoch.
    Seen(Epoch),
    /// Time is up.
    DeadlinePassed(Deadline),
    /// The nodes have destroyed everything of it, or will when they come back.
    Purged,
    /// The control plane has started: what this state intends must be asked for again.
    Recover,
}

/// The events by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Wake,
    Freeze,
    Suspend,
    Stop,
    Delete,
    Placed,
    NotPlaced,
    Activated,
    ActivateFailed,
    Elsewhere,
    Stored,
    Fenced,
    Drained,
    Frozen,
    FreezeFailed,
    Thawed,
    Committed,
    Resumed,
    CheckpointFailed,
    Exited,
    NodeLost,
    Found,
    Absent,
    Seen,
    DeadlinePassed,
    Purged,
    Recover,
}

impl Event {
    /// Its name.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Wake(_) => Kind::Wake,
            Self::Freeze(..) => Kind::Freeze,
            Self::Suspend { .. } => Kind::Suspend,
            Self::Stop { .. } => Kind::Stop,
            Self::Delete => Kind::Delete,
            Self::Placed(_) => Kind::Placed,
            Self::NotPlaced(_) => Kind::NotPlaced,
            Self::Activated { .. } => Kind::Activated,
            Self::ActivateFailed { .. } => Kind::ActivateFailed,
            Self::Elsewhere { .. } => Kind::Elsewhere,
            Self::Stored(_) => Kind::Stored,
            Self::Fenced { .. } => Kind::Fenced,
            Self::Drained { .. } => Kind::Drained,
            Self::Frozen(_) => Kind::Frozen,
            Self::FreezeFailed { .. } => Kind::FreezeFailed,
            Self::Thawed(_) => Kind::Thawed,
            Self::Committed { .. } => Kind::Committed,
            Self::Resumed { .. } => Kind::Resumed,
            Self::CheckpointFailed { .. } => Kind::CheckpointFailed,
            Self::Exited { .. } => Kind::Exited,
            Self::NodeLost { .. } => Kind::NodeLost,
            Self::Found { .. } => Kind::Found,
            Self::Absent { .. } => Kind::Absent,
            Self::Seen(_) => Kind::Seen,
            Self::DeadlinePassed(_) => Kind::DeadlinePassed,
            Self::Purged => Kind::Purged,
            Self::Recover => Kind::Recover,
        }
    }
}

/// When the new state is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Write {
    /// Not: nothing that must survive has changed.
    #[default]
    Nothing,
    /// Before the effects begin.
    First,
    /// While they are under way.
    Behind,
}

/// What a transition asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// When to store.
    pub write: Write,
    /// What to do, in order.
    pub effects: Vec<Effect>,
}

/// Something to do. Its outcome comes back as an [`Event`].
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Find a worker.
    Place(Source),
    /// Ask the node to start or restore it.
    Activate(Epoch, Place, Source),
    /// Ask the routers that hold the binding to give it up, and wait for their answers.
    Drain(Epoch, u64, Cause),
    /// Tell the routers that the binding is dead; nobody waits.
    Revoke(Epoch, u64),
    /// Ask the node to stop its processes.
    Freeze(Epoch, u64, Place),
    /// Ask the node to let them go on.
    Thaw(Epoch, u64, Place),
    /// Ask the node for a snapshot of this name, and the end of the process. The cause is not known any more after a crash.
    Suspend(Epoch, Place, String, Option<Cause>),
    /// Ask the node to call that off; the suspend tells how it ended.
    Resume(Epoch, Place),
    /// Ask the node, until it confirms, to destroy the activation; its worker is free then.
    Destroy(Epoch, Place),
    /// The node has confirmed that the activation is gone: its worker is free.
    Free(Epoch, Place),
    /// Ask this node to delete the actor's snapshots that are not needed any more.
    Collect(String),
    /// Ask the nodes to destroy everything of it.
    Purge,
    /// Remove the record.
    Remove,
    /// Answer everybody who waits for it to serve with its binding.
    Serve(Serving),
    /// Answer everybody who waits for it to serve with this.
    Refuse(Failure),
    /// Answer everybody who waits for it to go down with this.
    StayedUp(StayedUp),
    /// Tell the event log.
    Note(Note),
}

/// How it came to serve those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// It did already.
    Already,
    /// It was woken.
    Woken,
    /// A suspend was called off.
    Resumed,
    /// It was frozen.
    Thawed,
}

/// Why an actor did not go down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StayedUp {
    /// It was used, or somebody asked for it.
    InUse,
    /// The checkpoint failed.
    CheckpointFailed(String),
    /// Its processes could not be stopped.
    FreezeFailed(String),
    /// Its process ended first.
    Lost(String),
}

/// An entry of the event log. The text is made in `events`.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// A worker was found and the node asked.
    WakeStarted {
        /// From what.
        source: Source,
        /// Where.
        place: Place,
        /// After its process had been lost.
        lost: bool,
    },
    /// It serves.
    Woke(Activation),
    /// As a clone of its template's golden snapshot.
    Cloned(Activation),
    /// Not as a clone, though the template asks for it.
    NotCloned(String),
    /// It does not.
    WakeFailed(Failure),
    /// A snapshot could not be restored.
    RestoreFailed {
        /// Which.
        snapshot: String,
        /// Why.
        failure: Failure,
        /// What is tried instead, as the template allows.
        instead: Option<Source>,
    },
    /// Its processes are to be stopped.
    FreezeStarted(Cause),
    /// They are.
    Frozen,
    /// They could not be; it serves on.
    FreezeFailed(String),
    /// They go on.
    Thawed,
    /// It goes down.
    SuspendStarted(Cause),
    /// It does not, because it is wanted.
    SuspendCancelled,
    /// It sleeps.
    Suspended(Snapshot),
    /// It was stopped.
    Stopped,
    /// No snapshot could be taken; it serves on.
    CheckpointFailed(String),
    /// Its process is gone.
    Lost(String),
    /// Its node is back, and it was running there all the time.
    FoundAgain,
    /// A snapshot is in the store.
    Stored(String),
    /// A snapshot does not fit the node that was chosen; another one is tried.
    Elsewhere(Failure),
    /// A snapshot was committed although we had not heard of it.
    SnapshotAdopted(String),
    /// An activation that should not be was destroyed.
    StaleDestroyed(Epoch),
    /// The operator should know.
    Refused(Reason),
    /// It is being deleted.
    DeleteStarted,
    /// It is gone.
    Deleted,
}
