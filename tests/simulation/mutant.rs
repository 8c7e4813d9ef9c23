//! Rules that can be switched off to see that the oracle misses them.

/// A rule that is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The node forgets which epochs it has seen.
    NodeIgnoresEpochs,
    /// The node lets an actor serve on whose snapshot is committed.
    NodeServesAfterCommit,
    /// Every activation of a node has the same endpoint.
    EndpointsAreReused,
    /// Envoy ends the ext_proc stream when it is answered, not when the request ends.
    StreamEndsEarly,
}

impl Mutant {
    const ALL: [Self; 4] = [
        Self::NodeIgnoresEpochs,
        Self::NodeServesAfterCommit,
        Self::EndpointsAreReused,
        Self::StreamEndsEarly,
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name)
    }
}
