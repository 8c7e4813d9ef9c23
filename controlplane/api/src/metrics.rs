//! What every part shows to who watches it: what it counts, and whether it can work.
//!
//! ```text
//!  Labels (closed) ─▶ Closed<L, Counter> ─▶ Registry ─▶ exposition ─▶ /metrics     also of the parts beside it: Others
//!                                                                     /readyz /healthz
//! ```
//!
//! A label has a closed set of values, written down once with [`labels!`](crate::labels): so every series is there from the start, as
//! zero, the [reference] can list all of them, and none can carry the name of an actor or of a client.

mod closed;
mod exposition;
mod others;
mod page;
mod reference;

pub use closed::{Closed, Label, Labels};
pub use exposition::{OPEN_METRICS, PROMETHEUS, exposition};
pub use others::{InvalidOther, Other, own};
pub use page::{Watched, listen, listenable, routes, serve};
pub use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
pub use reference::{Family, Part as Described, families, reference};

use crate::{
    Reason,
    proto::{ActorState, WakeKind},
};
use prometheus_client::metrics::histogram::exponential_buckets;

crate::labels! {
    /// A part that has a page.
    pub enum Part "part" {
        /// The control plane.
        ControlPlane "controlplane",
        /// A node agent.
        Node "node",
        /// A router.
        Router "router",
        /// The supervisor of an Envoy.
        Envoy "envoy",
        /// The DNS server.
        Dns "dns",
    }
}

impl Label for Reason {
    const KEY: &'static str = "reason";

    fn all() -> Vec<Self> {
        Self::ALL.to_vec()
    }

    fn value(self) -> &'static str {
        self.name()
    }
}

/// Every value of an enum of the protos but the one that says nothing.
fn all_of<E: TryFrom<i32>>() -> Vec<E> {
    (1..).map_while(|number| E::try_from(number).ok()).collect()
}

impl Label for WakeKind {
    const KEY: &'static str = "kind";

    fn all() -> Vec<Self> {
        all_of()
    }

    fn value(self) -> &'static str {
        match self {
            Self::Unspecified | Self::None => "none",
            Self::ColdStart => "cold_start",
            Self::Cloned => "cloned",
            Self::Restored => "restored",
            Self::PreviousSnapshot => "previous_snapshot",
            Self::ColdStartAfterFailure => "cold_start_after_failure",
            Self::Thawed => "thawed",
            Self::Resumed => "resumed",
        }
    }
}

impl Label for ActorState {
    const KEY: &'static str = "state";

    fn all() -> Vec<Self> {
        all_of()
    }

    fn value(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Suspended => "suspended",
            Self::Waking => "waking",
            Self::Running => "running",
            Self::Frozen => "frozen",
            Self::Draining => "draining",
            Self::Checkpointing => "checkpointing",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
            Self::Failed => "failed",
        }
    }
}

/// Times from 1 ms to 33 s, in steps of two.
pub fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

/// Times from 0.1 ms to 3.3 s, in steps of two: of what a disk or a store does.
pub fn short_durations() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.0, 16))
}

#[cfg(test)]
mod tests;
