//! The last requests that did not simply go on: those that waited, those refused here, and those whose actor went away
//! under them. For people to look at.
//!
//! A ring behind one lock, which a request to a bound actor never takes. Alike ones that follow each other closely are one
//! entry, so that a thousand which join one wake, or are refused alike, leave room for others.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use reveille_api::{
    ActorKey, Reason,
    proto::{WakeKind, WakePhases},
};
use uuid::Uuid;

/// Entries that are kept.
const KEPT: usize = 50;
/// Among so many of the last ones, alike ones are looked for.
const ALIKE: usize = 8;
/// Not older than that.
const CLOSE_MS: u64 = 2_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<VecDeque<Entry>>);

/// A request, or several that are alike.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Of the last of them.
    pub(crate) unix_ms: u64,
    /// Nothing when its host names no actor.
    pub(crate) actor: Option<ActorKey>,
    pub(crate) end: End,
    /// How long it waited; the longest of them.
    pub(crate) held: Duration,
    /// What Envoy calls it; the one that waited longest.
    pub(crate) id: Option<Uuid>,
    pub(crate) times: u64,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// It waited for this and went on.
    Woken(WakeKind, WakePhases),
    Refused(Reason),
    /// The caller left while it waited.
    Left,
    /// It was at an actor that is gone.
    Cut,
}

impl End {
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Woken(a, _), Self::Woken(b, _)) => a == b,
            (Self::Refused(a), Self::Refused(b)) => a == b,
            (Self::Left, Self::Left) | (Self::Cut, Self::Cut) => true,
            _ => false,
        }
    }
}

impl Recent {
    pub(crate) fn note(
        &self,
        actor: Option<&ActorKey>,
        end: End,
        held: Duration,
        id: Option<Uuid>,
    ) {
        let unix_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = all.iter_mut().rev().take(ALIKE);
        let alike = last.find(|entry| {
            let close = unix_ms.saturating_sub(entry.unix_ms) <= CLOSE_MS;
            close && entry.actor.as_ref() == actor && entry.end.is_like(&end)
        });
        if let Some(entry) = alike {
            entry.unix_ms = unix_ms;
            entry.times += 1;
            if held > entry.held {
                (entry.held, entry.end, entry.id) = (held, end, id);
            }
            return;
        }
        if all.len() >= KEPT {
            all.pop_front();
        }
        all.push_back(Entry { unix_ms, actor: actor.cloned(), end, held, id, times: 1 });
    }

    /// The newest first.
    pub(crate) fn newest(&self) -> Vec<Entry> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.make_contiguous().sort_by_key(|entry| std::cmp::Reverse(entry.unix_ms));
        all.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_requests_are_one_entry_and_the_ring_is_bounded() {
        let recent = Recent::default();
        let key = |n: usize| ActorKey::new("demo", &format!("a{n}")).unwrap();
        for held in [5, 90, 30] {
            let phases = WakePhases { restore_us: held, ..Default::default() };
            let end = End::Woken(WakeKind::Restored, phases);
            recent.note(Some(&key(0)), end, Duration::from_micros(held), None);
            recent.note(None, End::Refused(Reason::InvalidHost), Duration::ZERO, None);
        }
        let entries = recent.newest();
        assert_eq!(entries.len(), 2, "{entries:?}");
        let woken = entries.iter().find(|entry| entry.actor.is_some()).unwrap();
        assert_eq!((woken.times, woken.held), (3, Duration::from_micros(90)));
        assert!(matches!(woken.end, End::Woken(_, phases) if phases.restore_us == 90));
        recent.note(Some(&key(0)), End::Refused(Reason::WakeTimeout), Duration::ZERO, None);
        assert_eq!(recent.newest().len(), 3, "another end");
        for n in 0..1_000 {
            recent.note(Some(&key(n)), End::Left, Duration::ZERO, None);
        }
        assert_eq!(recent.newest().len(), KEPT);
    }
}
