//! What a person calls the states of an actor, and the order to show them in.

use crate::proto::ActorState;

impl ActorState {
    /// From those that use most to those that need somebody to look.
    pub const IN_ORDER: [Self; 10] = [
        Self::Running,
        Self::Waking,
        Self::Draining,
        Self::Checkpointing,
        Self::Frozen,
        Self::Paused,
        Self::Suspended,
        Self::Stopped,
        Self::Lost,
        Self::Failed,
    ];

    /// The design's word for it; `Unknown` for one that a newer part has sent.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "Unknown",
            Self::Suspended => "Suspended",
            Self::Waking => "Waking",
            Self::Running => "Running",
            Self::Frozen => "Frozen",
            Self::Draining => "Draining",
            Self::Checkpointing => "Checkpointing",
            Self::Paused => "Paused",
            Self::Stopped => "Stopped",
            Self::Lost => "Lost",
            Self::Failed => "Failed",
        }
    }
}
