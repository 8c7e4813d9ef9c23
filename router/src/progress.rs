//! What is under way, for people to look at: each thing with its age, for as long as its [`Step`] lives.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Things under way, oldest first.
#[derive(Debug)]
pub(crate) struct Progress<T>(Arc<Mutex<Steps<T>>>);

#[derive(Debug)]
struct Steps<T> {
    next: u64,
    steps: BTreeMap<u64, (T, Instant)>,
}

/// One thing under way.
#[derive(Debug)]
pub(crate) struct Step<T> {
    id: u64,
    all: Arc<Mutex<Steps<T>>>,
}

impl<T> Default for Progress<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Steps { next: 0, steps: BTreeMap::new() })))
    }
}

impl<T: Clone> Progress<T> {
    pub(crate) fn begin(&self, what: T) -> Step<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = all.next;
        all.next += 1;
        all.steps.insert(id, (what, Instant::now()));
        Step { id, all: Arc::clone(&self.0) }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).steps.len()
    }

    /// The oldest of them with their ages.
    pub(crate) fn oldest(&self, most: usize) -> Vec<(T, Duration)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.steps.values().take(most).map(|(what, since)| (what.clone(), since.elapsed())).collect()
    }
}

impl<T> Drop for Step<T> {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).steps.remove(&self.id);
    }
}
