//! How long wakes took lately, by template and kind: what the next one may be expected to take. Kept in memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use reveille_api::ActorKey;

use crate::record::{LastWake, WokenBy};

/// Wakes that are remembered of each template and kind.
const KEPT: usize = 16;
/// Templates and kinds that are remembered; beyond that it begins anew.
const MOST: usize = 4_096;

type Key = (String, String, WokenBy);

/// See the module.
#[derive(Debug, Default)]
pub struct Pace(Mutex<HashMap<Key, VecDeque<u64>>>);

/// What a wake may be expected to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The median of the last ones.
    pub us: u64,
    /// So many of them.
    pub of: u32,
}

impl Pace {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, VecDeque<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An actor of this template has woken.
    pub fn note(&self, actor: &ActorKey, template: &str, wake: &LastWake) {
        let key = (actor.namespace().to_owned(), template.to_owned(), wake.kind);
        let mut all = self.lock();
        if all.len() >= MOST && !all.contains_key(&key) {
            all.clear();
        }
        let last = all.entry(key).or_default();
        if last.len() >= KEPT {
            last.pop_front();
        }
        last.push_back(wake.phases.total_us);
    }

    /// Of actors of this template in this namespace.
    pub fn of(&self, namespace: &str, template: &str, kind: WokenBy) -> Option<Expected> {
        let key = (namespace.to_owned(), template.to_owned(), kind);
        let mut last: Vec<u64> = self.lock().get(&key)?.iter().copied().collect();
        last.sort_unstable();
        let us = *last.get(last.len() / 2)?;
        Some(Expected { us, of: last.len() as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{record::Phases, testing::key};

    fn took(us: u64, kind: WokenBy) -> LastWake {
        let phases = Phases { total_us: us, ..Phases::default() };
        LastWake { unix_ms: 0, kind, phases, asked: None }
    }

    #[test]
    fn the_median_of_the_last_wakes_of_a_kind_is_expected() {
        let pace = Pace::default();
        let of = |kind| pace.of("demo", "t", kind);
        assert_eq!(of(WokenBy::Restored), None);
        for us in [9_000_000, 10, 30, 20] {
            pace.note(&key("a"), "t", &took(us, WokenBy::Restored));
        }
        pace.note(&key("b"), "t", &took(7, WokenBy::Thawed));
        assert_eq!(of(WokenBy::Restored), Some(Expected { us: 30, of: 4 }));
        assert_eq!(of(WokenBy::Thawed), Some(Expected { us: 7, of: 1 }));
        assert_eq!(pace.of("other", "t", WokenBy::Thawed), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let pace = Pace::default();
        for n in 0..2 * MOST {
            pace.note(&key("a"), &format!("t{n}"), &took(1, WokenBy::Restored));
        }
        for us in 0..100 {
            pace.note(&key("a"), "t", &took(us, WokenBy::Restored));
        }
        assert!(pace.lock().len() <= MOST);
        assert_eq!(pace.of("demo", "t", WokenBy::Restored), Some(Expected { us: 92, of: 16 }));
    }
}
