//! What is stored, as types.

use reveille_api::{
    ActorKey,
    manifest::{ActorTemplateSpec, WorkerPoolSpec},
    proto,
};
use serde::{Deserialize, Serialize};

use crate::lifecycle::{self, Source};

/// One actor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActorRecord {
    /// Its name.
    pub key: ActorKey,
    /// Name of its template, in the same namespace.
    pub template: String,
    /// When it was created.
    pub created_unix_ms: u64,
    /// Its life; changed by [`lifecycle::Actor::apply`] alone.
    pub life: lifecycle::Actor,
    /// Last known activity; exact only while it is at rest.
    pub last_active_unix_ms: u64,
    /// When it came into its state; 0 in records of before this was noted.
    #[serde(default)]
    pub since_unix_ms: u64,
    /// The last wake that succeeded.
    pub last_wake: Option<LastWake>,
    /// The node that was last asked to run it: its logs are there.
    pub node: Option<String>,
}

impl ActorRecord {
    /// A new actor.
    pub fn new(key: ActorKey, template: String, now_unix_ms: u64) -> Self {
        Self {
            key,
            template,
            created_unix_ms: now_unix_ms,
            life: lifecycle::Actor::new(reveille_api::Epoch(0)),
            last_active_unix_ms: 0,
            since_unix_ms: now_unix_ms,
            last_wake: None,
            node: None,
        }
    }
}

/// How and how fast an actor woke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWake {
    /// When it served.
    pub unix_ms: u64,
    /// From what.
    pub kind: WokenBy,
    /// How long it took, by phase.
    pub phases: Phases,
    /// Who wanted it.
    #[serde(default)]
    pub asked: Option<Asked>,
}

/// Who was the first to want a wake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// A person or a program, by a verb.
    User,
    /// A request.
    Request {
        /// The router that had it.
        router: String,
        /// What Envoy calls it.
        id: String,
        /// Of its trace.
        traceparent: String,
    },
}

impl From<&Asked> for proto::Asked {
    fn from(asked: &Asked) -> Self {
        match asked {
            Asked::User => Self { user: true, ..Self::default() },
            Asked::Request { router, id, traceparent } => Self {
                user: false,
                router: router.clone(),
                request_id: id.clone(),
                traceparent: traceparent.clone(),
            },
        }
    }
}

/// How an activation came to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WokenBy {
    /// First start.
    ColdStart,
    /// First start, from the template's golden snapshot.
    Cloned,
    /// Its current snapshot.
    Restored,
    /// The snapshot before it.
    PreviousSnapshot,
    /// Anew, after no snapshot could be restored.
    ColdStartAfterFailure,
    /// It was frozen.
    Thawed,
}

impl From<&Source> for WokenBy {
    fn from(source: &Source) -> Self {
        match source {
            Source::Cold => Self::ColdStart,
            Source::Current(_) => Self::Restored,
            Source::Previous(_) => Self::PreviousSnapshot,
            Source::ColdAfterFailure => Self::ColdStartAfterFailure,
        }
    }
}

impl From<WokenBy> for proto::WakeKind {
    fn from(kind: WokenBy) -> Self {
        match kind {
            WokenBy::ColdStart => Self::ColdStart,
            WokenBy::Cloned => Self::Cloned,
            WokenBy::Restored => Self::Restored,
            WokenBy::PreviousSnapshot => Self::PreviousSnapshot,
            WokenBy::ColdStartAfterFailure => Self::ColdStartAfterFailure,
            WokenBy::Thawed => Self::Thawed,
        }
    }
}

/// Microseconds of one wake. They add up: `place` is what the node did not account for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// Finding a worker, storing the intent, asking the node.
    pub place_us: u64,
    /// Getting the snapshot to the node.
    pub fetch_us: u64,
    /// Restoring or starting.
    pub restore_us: u64,
    /// Until it answered.
    pub ready_us: u64,
    /// All of it.
    pub total_us: u64,
}

impl Phases {
    /// Of a wake that took `total_us`, with what the node measured.
    pub fn new(total_us: u64, node: &proto::ActivateReply) -> Self {
        let measured = node.fetch_us + node.restore_us + node.ready_us;
        Self {
            place_us: total_us.saturating_sub(measured),
            fetch_us: node.fetch_us,
            restore_us: node.restore_us,
            ready_us: node.ready_us,
            total_us: total_us.max(measured),
        }
    }

    /// Of a thaw: it keeps its worker and has nothing to fetch.
    pub fn thawed(total_us: u64) -> Self {
        Self { restore_us: total_us, total_us, ..Self::default() }
    }
}

impl From<Phases> for proto::WakePhases {
    fn from(phases: Phases) -> Self {
        let Phases { place_us, fetch_us, restore_us, ready_us, total_us } = phases;
        Self { place_us, fetch_us, restore_us, ready_us, total_us }
    }
}

/// How to run actors of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TemplateRecord {
    /// Where its actors are.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Grows with every change.
    pub generation: u64,
    /// When it was created.
    pub created_unix_ms: u64,
    /// What it says.
    pub spec: ActorTemplateSpec,
}

/// Which workers run what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// Its name.
    pub name: String,
    /// What it says.
    pub spec: WorkerPoolSpec,
}

/// A router that may hold bindings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterRecord {
    /// Its name.
    pub router: String,
}

/// An actor that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// When.
    pub deleted_unix_ms: u64,
}

/// One entry of the event log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Grows by one with each event.
    pub sequence: u64,
    /// When.
    pub unix_ms: u64,
    /// Of whom.
    pub actor: ActorKey,
    /// Of which activation.
    pub epoch: u64,
    /// CamelCase and short.
    pub kind: String,
    /// A failure reason's name, or empty.
    pub reason: String,
    /// For people.
    pub message: String,
}
