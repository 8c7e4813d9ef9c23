//! The transition table: which events a state listens to, and which states they may lead to.
//!
//! An event without a row is ignored by [`super::Actor::apply`], as is a stale one; any other result that is not in the
//! row is a fault that debug builds stop at. The tests walk the same rows.

use super::{Kind, Phase};

type Row = (Phase, Kind, &'static [Phase]);

/// Every row.
#[rustfmt::skip]
pub const ROWS: &[Row] = {
    use Kind as K;
    use Phase::*;
    &[
        (Suspended, K::Wake, &[Suspended, Placing]),
        (Suspended, K::Stop, &[Stopped]),
        (Suspended, K::Delete, &[Deleting]),
        (Suspended, K::Found, &[Suspended]),
        (Suspended, K::Stored, &[Suspended]),
        (Suspended, K::Seen, &[Suspended]),

        (Stopped, K::Wake, &[Stopped, Placing]),
        (Stopped, K::Delete, &[Deleting]),
        (Stopped, K::Found, &[Stopped, Draining]),
        (Stopped, K::Absent, &[Stopped]),
        (Stopped, K::Stored, &[Stopped]),
        (Stopped, K::Seen, &[Stopped]),

        (Lost, K::Wake, &[Lost, Placing]),
        (Lost, K::Stop, &[Stopped]),
        (Lost, K::Delete, &[Deleting]),
        (Lost, K::Found, &[Lost, Running, Frozen]),
        (Lost, K::Absent, &[Lost, Suspended]),
        (Lost, K::Stored, &[Lost]),
        (Lost, K::Seen, &[Lost]),

        (Failed, K::Wake, &[Failed, Placing]),
        (Failed, K::Stop, &[Stopped]),
        (Failed, K::Delete, &[Deleting]),
        (Failed, K::Found, &[Failed]),
        (Failed, K::Stored, &[Failed]),
        (Failed, K::Seen, &[Failed]),

        (Placing, K::Wake, &[Placing]),
        (Placing, K::Stop, &[Stopped]),
        (Placing, K::Delete, &[Deleting]),
        (Placing, K::Placed, &[Starting]),
        (Placing, K::NotPlaced, &[Suspended, Stopped, Lost, Failed]),
        (Placing, K::Found, &[Placing, Running, Frozen]),
        (Placing, K::Absent, &[Placing, Suspended]),
        (Placing, K::Stored, &[Placing]),
        (Placing, K::Seen, &[Placing]),

        (Starting, K::Wake, &[Starting]),
        (Starting, K::Delete, &[Deleting]),
        (Starting, K::Activated, &[Running, Failed]),
        (Starting, K::ActivateFailed, &[Starting, Placing, Failed]),
        (Starting, K::Elsewhere, &[Placing]),
        (Starting, K::Fenced, &[Starting, Failed]),
        (Starting, K::Exited, &[Starting]),
        (Starting, K::Found, &[Starting]),
        (Starting, K::DeadlinePassed, &[Failed]),
        (Starting, K::Stored, &[Starting]),
        (Starting, K::Recover, &[Starting]),

        (Running, K::Wake, &[Running]),
        (Running, K::Freeze, &[Running, Draining]),
        (Running, K::Suspend, &[Running, Draining]),
        (Running, K::Stop, &[Draining]),
        (Running, K::Delete, &[Draining]),
        (Running, K::Exited, &[Lost]),
        (Running, K::NodeLost, &[Lost]),
        (Running, K::Found, &[Running, Thawing]),
        (Running, K::Absent, &[Lost]),
        (Running, K::Stored, &[Running]),
        (Running, K::Recover, &[Running]),

        (Draining, K::Wake, &[Draining, Running]),
        (Draining, K::Freeze, &[Draining]),
        (Draining, K::Suspend, &[Draining]),
        (Draining, K::Stop, &[Draining]),
        (Draining, K::Delete, &[Draining]),
        (Draining, K::Drained, &[Running, Freezing, Checkpointing, Deleting]),
        (Draining, K::Exited, &[Lost, Stopped, Deleting]),
        (Draining, K::NodeLost, &[Lost, Stopped, Deleting]),
        (Draining, K::Found, &[Draining]),
        (Draining, K::Absent, &[Lost, Stopped, Deleting]),
        (Draining, K::DeadlinePassed, &[Running, Deleting]),
        (Draining, K::Stored, &[Draining]),
        (Draining, K::Recover, &[Running, Draining]),

        (Freezing, K::Wake, &[Freezing]),
        (Freezing, K::Delete, &[Deleting]),
        (Freezing, K::Frozen, &[Frozen]),
        (Freezing, K::FreezeFailed, &[Running]),
        (Freezing, K::Exited, &[Lost]),
        (Freezing, K::NodeLost, &[Lost]),
        (Freezing, K::Found, &[Freezing]),
        (Freezing, K::Absent, &[Lost]),
        (Freezing, K::DeadlinePassed, &[Thawing]),
        (Freezing, K::Recover, &[Freezing]),

        (Frozen, K::Wake, &[Thawing]),
        (Frozen, K::Suspend, &[Checkpointing]),
        (Frozen, K::Stop, &[Checkpointing]),
        (Frozen, K::Delete, &[Deleting]),
        (Frozen, K::Exited, &[Lost]),
        (Frozen, K::NodeLost, &[Lost]),
        (Frozen, K::Found, &[Frozen, Thawing]),
        (Frozen, K::Absent, &[Lost]),
        (Frozen, K::Recover, &[Frozen]),

        (Thawing, K::Wake, &[Thawing]),
        (Thawing, K::Delete, &[Deleting]),
        (Thawing, K::Thawed, &[Running]),
        (Thawing, K::Exited, &[Lost]),
        (Thawing, K::NodeLost, &[Lost]),
        (Thawing, K::Found, &[Thawing]),
        (Thawing, K::Absent, &[Lost]),
        (Thawing, K::Recover, &[Thawing]),

        (Checkpointing, K::Wake, &[Checkpointing]),
        (Checkpointing, K::Stop, &[Checkpointing]),
        (Checkpointing, K::Delete, &[Deleting]),
        (Checkpointing, K::Committed, &[Suspended, Stopped]),
        (Checkpointing, K::Resumed, &[Running, Lost, Stopped]),
        (Checkpointing, K::CheckpointFailed, &[Running, Lost, Stopped]),
        (Checkpointing, K::Exited, &[Checkpointing]),
        (Checkpointing, K::NodeLost, &[Lost, Stopped]),
        (Checkpointing, K::Found, &[Checkpointing]),
        (Checkpointing, K::Absent, &[Suspended, Stopped, Lost]),
        (Checkpointing, K::DeadlinePassed, &[Checkpointing]),
        (Checkpointing, K::Stored, &[Checkpointing]),
        (Checkpointing, K::Recover, &[Checkpointing]),

        (Deleting, K::Wake, &[Deleting]),
        (Deleting, K::Found, &[Deleting]),
        (Deleting, K::DeadlinePassed, &[Deleting]),
        (Deleting, K::Purged, &[Deleting]),
        (Deleting, K::Recover, &[Deleting]),
    ]
};

/// Where an event may lead from a state; nothing when the state does not listen to it.
pub fn outcomes(phase: Phase, kind: Kind) -> Option<&'static [Phase]> {
    ROWS.iter().find(|(from, on, _)| *from == phase && *on == kind).map(|(_, _, to)| *to)
}
