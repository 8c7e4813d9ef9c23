//! Parking places: how many requests may wait on this router, and how many of one namespace.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reveille_api::metrics::Gauge;

/// All places of a router. Requests to bound actors never come here.
#[derive(Debug)]
pub(crate) struct Parking {
    capacity: usize,
    /// One namespace's part of `capacity`.
    share: usize,
    taken: Mutex<Taken>,
    gauge: Gauge,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Only namespaces with a place.
    by_namespace: HashMap<Box<str>, usize>,
}

/// Which limit refused a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Limit {
    Router,
    Namespace,
    Actor,
}

impl Parking {
    pub(crate) fn new(capacity: usize, share: usize, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { capacity, share, taken: Mutex::default(), gauge })
    }

    /// A place for a request of this namespace, given back when it is dropped.
    pub(crate) fn take(self: &Arc<Self>, namespace: &str) -> Result<Place, Limit> {
        let mut taken = self.lock();
        if taken.all >= self.capacity {
            return Err(Limit::Router);
        }
        match taken.by_namespace.get_mut(namespace) {
            Some(count) if *count >= self.share => return Err(Limit::Namespace),
            Some(count) => *count += 1,
            None => {
                taken.by_namespace.insert(namespace.into(), 1);
            }
        }
        taken.all += 1;
        self.gauge.set(taken.all as i64);
        Ok(Place { parking: Arc::clone(self), namespace: namespace.into() })
    }

    /// Places taken now.
    pub(crate) fn taken(&self) -> usize {
        self.lock().all
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Places that one namespace may take.
    pub(crate) fn share(&self) -> usize {
        self.share
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place.
#[derive(Debug)]
pub(crate) struct Place {
    parking: Arc<Parking>,
    namespace: Box<str>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.parking.lock();
        taken.all -= 1;
        self.parking.gauge.set(taken.all as i64);
        if let Some(count) = taken.by_namespace.get_mut(&self.namespace) {
            *count -= 1;
            if *count == 0 {
                taken.by_namespace.remove(&self.namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_namespace_cannot_take_all_places() {
        let parking = Parking::new(4, 2, Gauge::default());
        let _a = [parking.take("a").unwrap(), parking.take("a").unwrap()];
        assert_eq!(parking.take("a").unwrap_err(), Limit::Namespace);
        let _b = [parking.take("b").unwrap(), parking.take("c").unwrap()];
        assert_eq!(parking.take("d").unwrap_err(), Limit::Router);
    }

    #[test]
    fn a_place_given_back_can_be_taken_again_and_leaves_no_trace() {
        let parking = Parking::new(1, 1, Gauge::default());
        for namespace in ["a", "b", "a"] {
            drop(parking.take(namespace).unwrap());
        }
        assert_eq!((parking.taken(), parking.gauge.get()), (0, 0));
        assert!(parking.lock().by_namespace.is_empty());
    }
}
