//! What one activation is doing for this router: requests in flight, and when the last one ended.
//!
//! Counted per epoch, not per binding: the terms of one epoch lead to the same process, and a revoke asks
//! whether *that process* still has requests of ours.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
};

use reveille_api::metrics::Gauge;
use reveille_api::{ActorKey, Epoch, proto};
use tokio::{sync::Notify, time::Instant};

use crate::table::Turn;

/// Milliseconds since the router started; fits an atomic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now_ms(self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }
}

/// One stay of an actor on a worker, as this router sees it.
#[derive(Debug)]
pub(crate) struct Activation {
    actor: ActorKey,
    epoch: Epoch,
    clock: Clock,
    in_flight: AtomicU32,
    /// Begun since the last report.
    requests: AtomicU64,
    /// When the last request ended, by `clock`.
    last_ms: AtomicU64,
    /// Requests among them that were let go in turns.
    turns: AtomicU32,
    /// True while it is in [`Active`].
    listed: AtomicBool,
    /// Its process is no more.
    gone: AtomicBool,
    /// It came to rest, or it is gone.
    changed: Notify,
}

impl Activation {
    pub(crate) fn new(actor: ActorKey, epoch: Epoch, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            actor,
            epoch,
            clock,
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            last_ms: AtomicU64::new(clock.now_ms()),
            turns: AtomicU32::new(0),
            listed: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    pub(crate) fn actor(&self) -> &ActorKey {
        &self.actor
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(SeqCst)
    }

    /// Time since the last request began or ended; 0 while any is in flight.
    pub(crate) fn idle_ms(&self) -> u64 {
        match self.in_flight() {
            0 => self.clock.now_ms().saturating_sub(self.last_ms.load(SeqCst)),
            _ => 0,
        }
    }

    /// Counts `n` requests as begun. Only under the table's lock, so that a revoke sees them or they see it.
    pub(crate) fn begin(&self, n: u32) {
        self.in_flight.fetch_add(n, SeqCst);
        self.requests.fetch_add(n.into(), SeqCst);
    }

    pub(crate) fn end(&self) {
        self.last_ms.store(self.clock.now_ms(), SeqCst);
        if self.in_flight.fetch_sub(1, SeqCst) == 1 {
            self.changed.notify_waiters();
        }
    }

    pub(crate) fn turns(&self) -> u32 {
        self.turns.load(SeqCst)
    }

    /// Only under the table's lock, as [`Activation::begin`].
    pub(crate) fn begin_turns(&self, n: u32) {
        self.turns.fetch_add(n, SeqCst);
    }

    pub(crate) fn end_turn(&self) {
        self.turns.fetch_sub(1, SeqCst);
    }

    /// Ends every request that is at it: nobody is there to answer them.
    pub(crate) fn cut(&self) {
        self.gone.store(true, SeqCst);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(SeqCst)
    }

    /// Returns once nothing is in flight.
    pub(crate) async fn at_rest(&self) {
        self.until(|| self.in_flight() == 0).await;
    }

    /// Returns once its process is no more.
    pub(crate) async fn gone(&self) {
        self.until(|| self.is_gone()).await;
    }

    async fn until(&self, so: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Subscribed before the look, so that nothing is missed.
            changed.as_mut().enable();
            if so() {
                return;
            }
            changed.await;
        }
    }
}

/// A request in flight, counted by [`Activation::begin`]; its end is this value's.
#[derive(Debug)]
pub(crate) struct InFlight {
    activation: Arc<Activation>,
    all: Gauge,
    turn: Option<Turn>,
}

impl InFlight {
    /// Takes over one request that was counted as begun.
    pub(crate) fn adopt(activation: Arc<Activation>, all: Gauge) -> Self {
        all.inc();
        Self { activation, all, turn: None }
    }

    /// The same, with a turn that was counted.
    pub(crate) fn in_turn(mut self, turn: Turn) -> Self {
        self.turn = Some(turn);
        self
    }

    /// Where it is.
    pub(crate) fn actor(&self) -> &ActorKey {
        self.activation.actor()
    }

    /// Returns once the process that should answer is no more.
    pub(crate) async fn gone(&self) {
        self.activation.gone().await;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // First, so that there is no moment in between in which nothing seems to be in flight.
        drop(self.turn.take());
        self.activation.end();
        self.all.dec();
    }
}

/// Activations used since the last report. Each is in it at most once, so it is bounded by their number.
#[derive(Debug, Default)]
pub(crate) struct Active(Mutex<Vec<Arc<Activation>>>);

impl Active {
    /// Notes that `activation` began a request. Takes the lock only for the first since a report.
    pub(crate) fn note(&self, activation: &Arc<Activation>) {
        if !activation.listed.load(SeqCst) && !activation.listed.swap(true, SeqCst) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(activation));
        }
    }

    /// What changed since the last call. One with requests in flight stays listed, so that its end is told too.
    pub(crate) fn report(&self) -> Vec<proto::ActorActivity> {
        let listed = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut report = Vec::with_capacity(listed.len());
        for activation in listed {
            // Unlisted before the counts are read: a request that begins after the read lists it again.
            activation.listed.store(false, SeqCst);
            let in_flight = activation.in_flight();
            report.push(proto::ActorActivity {
                actor: Some(activation.actor().into()),
                epoch: activation.epoch().0,
                in_flight,
                requests: activation.requests.swap(0, SeqCst),
                idle_ms: activation.idle_ms(),
            });
            if in_flight > 0 {
                self.note(&activation);
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activation() -> Arc<Activation> {
        let actor = ActorKey::new("demo", "counter").unwrap();
        Activation::new(actor, Epoch(3), Clock::start())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_reported_while_it_lasts_and_once_more_when_it_ended() {
        let (active, activation) = (Active::default(), activation());
        activation.begin(1);
        active.note(&activation);
        active.note(&activation);
        let request = InFlight::adopt(Arc::clone(&activation), Gauge::default());
        let counts = || {
            active.report().iter().map(|r| (r.in_flight, r.requests, r.idle_ms)).collect::<Vec<_>>()
        };
        assert_eq!(counts(), [(1, 1, 0)]);
        assert_eq!(counts(), [(1, 0, 0)]);
        drop(request);
        tokio::time::advance(std::time::Duration::from_millis(70)).await;
        assert_eq!(counts(), [(0, 0, 70)]);
        assert_eq!(counts(), []);
    }

    #[tokio::test]
    async fn rest_is_seen_by_those_who_wait_for_it() {
        let activation = activation();
        activation.at_rest().await;
        activation.begin(2);
        let all = Gauge::default();
        let [a, b] = [0, 1].map(|_| InFlight::adopt(Arc::clone(&activation), all.clone()));
        assert_eq!(all.get(), 2);
        let mut waiting = tokio_test_poll(activation.at_rest());
        assert!(!waiting());
        drop(a);
        assert!(!waiting());
        drop(b);
        assert!(waiting());
        assert_eq!(all.get(), 0);
    }

    /// Polls a future by hand; tells whether it is done.
    fn tokio_test_poll(future: impl Future<Output = ()>) -> impl FnMut() -> bool {
        let mut future = Box::pin(future);
        move || {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            future.as_mut().poll(&mut cx).is_ready()
        }
    }
}
