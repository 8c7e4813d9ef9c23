//! The contract between the parts of Reveille.
//!
//! Everything two roles must agree on lives here and nothing else does: the protos ([`proto`]), names
//! ([`ActorKey`], [`Epoch`], [`Stay`], [`Zone`]), why a request fails ([`Reason`], [`Failure`]), what a user writes
//! ([`manifest`]), the one [`Ladder`] of timeouts, how the parts reach each other ([`net`]), and how they hand on the trace of a
//! request ([`trace`]), and what of that is lost ([`telemetry`]).
//!
//! ```text
//!  api ◀── envoy ◀── router
//!   ▲ ◀── dns, controlplane, node        no role depends on another role
//! ```

pub mod check;
pub mod failure;
pub mod key;
pub mod ladder;
pub mod manifest;
pub mod metrics;
pub mod net;
pub mod reason;
mod state;
pub mod stay;
pub mod task;
pub mod telemetry;
pub mod trace;
pub mod zone;

pub use failure::Failure;
pub use key::{ActorKey, Epoch, InvalidLabel};
pub use ladder::Ladder;
pub use reason::Reason;
pub use stay::Stay;
pub use zone::Zone;

/// Generated from `proto/reveille/v1`; documented there.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod proto {
    tonic::include_proto!("reveille.v1");

    /// The descriptor set, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/reveille.bin"));
}
