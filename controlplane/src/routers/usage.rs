//! The use of one actor's bindings, over all routers.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use reveille_api::{Epoch, proto};
use tokio::sync::watch;

use crate::clock::Moment;

/// How much an actor is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Requests are in flight.
    Busy,
    /// None are; the last one ended then.
    Quiet(Moment),
    /// Somebody who could know is away.
    Unknown,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests that still use the binding.
    pub in_flight: u32,
    /// The last activity known.
    pub last_active: Moment,
    /// A router did not answer.
    pub silent: bool,
}

impl Drained {
    /// Nobody had the binding.
    pub(super) fn unused(now: Moment) -> Self {
        Self { in_flight: 0, last_active: now, silent: false }
    }
}

/// Requests begun in a second, over the last few: each report counts the less the older it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    value: f64,
    at: Moment,
}

impl Rate {
    /// After so many seconds a report counts for a third.
    const SPAN: f64 = 5.0;
    /// One that is lower is none: nobody waits for the last trace of a request.
    const LEAST: f64 = 0.05;

    pub(super) fn add(&mut self, requests: u64, now: Moment) {
        let value = self.value * self.left(now) + requests as f64 / Self::SPAN;
        *self = Self { value, at: now };
    }

    pub(super) fn now(&self, now: Moment) -> f64 {
        let value = self.value * self.left(now);
        if value < Self::LEAST { 0.0 } else { value }
    }

    fn left(&self, now: Moment) -> f64 {
        (-now.since(self.at).as_secs_f64() / Self::SPAN).exp()
    }
}

/// Use of one epoch.
pub(super) struct Usage {
    pub(super) epoch: Epoch,
    pub(super) rate: Rate,
    /// Bindings of lower terms are revoked.
    pub(super) valid_from: u64,
    pub(super) last_active: Moment,
    routers: HashMap<String, RouterUse>,
    drain: Option<Drain>,
}

#[derive(Default)]
struct RouterUse {
    /// Term of the binding it has.
    holds: Option<u64>,
    in_flight: u32,
}

/// A revoke that waits for acknowledgements.
pub(super) struct Drain {
    term: u64,
    until: Moment,
    pub(super) waiting: BTreeSet<String>,
    done: watch::Sender<bool>,
}

impl Drain {
    pub(super) fn begin<'a>(
        term: u64,
        until: Moment,
        routers: impl Iterator<Item = &'a str>,
    ) -> (Self, watch::Receiver<bool>) {
        let waiting: BTreeSet<_> = routers.map(str::to_owned).collect();
        let (done, ended) = watch::channel(waiting.is_empty());
        (Self { term, until, waiting, done }, ended)
    }

    fn heard(&mut self, router: &str) {
        self.waiting.remove(router);
        if self.waiting.is_empty() {
            self.done.send_replace(true);
        }
    }
}

impl Usage {
    pub(super) fn new(epoch: Epoch, valid_from: u64, last_active: Moment) -> Self {
        let rate = Rate::default();
        Self { epoch, rate, valid_from, last_active, routers: HashMap::new(), drain: None }
    }

    /// Routers that hold a binding or have requests in flight.
    pub(super) fn users(&self) -> impl Iterator<Item = &str> {
        let used = |r: &RouterUse| r.holds.is_some() || r.in_flight > 0;
        self.routers.iter().filter(move |(_, r)| used(r)).map(|(name, _)| name.as_str())
    }

    /// The same, for people; who of them has a session is not known here.
    pub(super) fn all(&self) -> impl Iterator<Item = proto::RouterUse> {
        let owes =
            |name: &str| self.drain.as_ref().is_some_and(|drain| drain.waiting.contains(name));
        let used = self.routers.iter().map(move |(name, router)| proto::RouterUse {
            router: name.clone(),
            connected: false,
            has_binding: router.holds.is_some_and(|term| term >= self.valid_from),
            in_flight: router.in_flight,
            owes_acknowledgement: owes(name),
        });
        used.filter(|used| used.has_binding || used.in_flight > 0 || used.owes_acknowledgement)
    }

    pub(super) fn holds(&self, router: &str) -> bool {
        self.routers.get(router).is_some_and(|r| r.holds.is_some())
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.routers.values().map(|router| router.in_flight).sum()
    }

    pub(super) fn used(&self) -> Use {
        if self.in_flight() > 0 { Use::Busy } else { Use::Quiet(self.last_active) }
    }

    /// False when this term is revoked.
    pub(super) fn hold(&mut self, router: &str, term: u64) -> bool {
        if term < self.valid_from {
            return false;
        }
        self.routers.entry(router.to_owned()).or_default().holds = Some(term);
        true
    }

    /// It had this binding as it said so, revoked or not, and may use it until it acknowledges; a wake's answer may have brought
    /// it a later one since. False when this term is revoked.
    pub(super) fn held(&mut self, router: &str, term: u64) -> bool {
        let used = self.routers.entry(router.to_owned()).or_default();
        used.holds = used.holds.max(Some(term));
        term >= self.valid_from
    }

    pub(super) fn report(&mut self, router: &str, in_flight: u32, last_active: Moment) {
        self.routers.entry(router.to_owned()).or_default().in_flight = in_flight;
        self.last_active = self.last_active.max(last_active);
    }

    pub(super) fn nothing_in_flight(&mut self, router: &str) {
        if let Some(used) = self.routers.get_mut(router) {
            used.in_flight = 0;
        }
    }

    pub(super) fn drain(&mut self, drain: Drain) {
        self.valid_from = self.valid_from.max(drain.term + 1);
        self.drain = Some(drain);
    }

    pub(super) fn acknowledge(&mut self, router: &str, term: u64) {
        if let Some(used) = self.routers.get_mut(router)
            && used.holds.is_some_and(|held| held <= term)
        {
            used.holds = None;
        }
        if let Some(drain) = self.drain.as_mut().filter(|drain| drain.term <= term) {
            drain.heard(router);
        }
    }

    /// The revoke this router has not acknowledged.
    pub(super) fn awaits(&self, router: &str) -> Option<(u64, Moment)> {
        let drain = self.drain.as_ref().filter(|drain| drain.waiting.contains(router))?;
        Some((drain.term, drain.until))
    }

    /// What is left of the time that requests in flight have.
    pub(super) fn remaining(&self, now: Moment) -> Option<Duration> {
        self.drain.as_ref().map(|drain| drain.until.since(now))
    }

    /// Its process is gone, and every request it had in flight.
    pub(super) fn drop_router(&mut self, router: &str) {
        self.routers.remove(router);
        if let Some(drain) = &mut self.drain {
            drain.heard(router);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_told_as_it_is_and_fades_when_it_ends() {
        let mut rate = Rate::default();
        let mut now = Moment(1_000_000);
        for _ in 0..200 {
            now = now.plus(Duration::from_millis(200));
            rate.add(10, now);
        }
        assert!((45.0..55.0).contains(&rate.now(now)), "{}", rate.now(now));
        let after = |secs| rate.now(now.plus(Duration::from_secs(secs)));
        assert!(after(5) < 20.0 && after(5) > 10.0, "{}", after(5));
        assert!(after(60) == 0.0, "{}", after(60));
    }
}
