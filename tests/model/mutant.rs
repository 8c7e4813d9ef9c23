//! Rules of the protocol, each of which can be switched off to see that the checker misses it.

/// A rule that is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mutant {
    /// The node forgets which epochs it has seen (`record.rs`, `Fence`).
    NodeIgnoresEpochs,
    /// The next activation gets the endpoint of the one before (`slots/ports.rs`).
    EndpointsAreReused,
    /// The endpoint stays open until the process is killed (`suspend.rs`, `go_down`).
    EndpointOutlivesDrain,
    /// The node carries out calls of an earlier stay (`stay.rs`).
    StaysAreNotChecked,
    /// A router installs whatever a wake's reply brings (`actor.rs`, the fence).
    StaleRepliesAreInstalled,
    /// A router acknowledges a revoke with requests in flight as if there were none (`revoke.rs`).
    AcknowledgedBeforeTheEnd,
    /// The control plane does not wait for acknowledgements (`routers.rs`, `drain`).
    DrainIsNotAwaited,
    /// A router becomes a holder only when it says so (`perform.rs`, `serve`).
    HoldersAreNotNoted,
    /// Each revoke has the same term (`down.rs`, `stay_up`).
    TermsDoNotGrow,
    /// The intent to activate is not stored before it is carried out (`apply.rs`, `Write::First`).
    IntentIsNotStored,
    /// Each wake asks the node anew (`driver/waiters.rs`).
    WakesAreNotJoined,
    /// A silent router is waited for without end.
    NoDrainDeadline,
    /// A call whose answer was lost is not repeated (`nodes/call.rs`).
    CallsAreNotRepeated,
    /// After a restart the control plane does not wait to hear what its routers hold (`routers.rs`, `settled`).
    RoutersAreNotAwaited,
}
