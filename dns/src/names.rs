//! What the control plane knows of actors that are asked for. Both uses are off unless asked for, and no reply waits for either.
//!
//! ```text
//!  question ─▶ reply, from what is remembered
//!           └▶ asked about in the last seconds? ─ no ─▶ queue ─▶ control plane ─▶ remembered; its wake begins, if that is wanted
//! ```
//!
//! An actor that is not remembered is answered as if it was there: the first question about one that does not exist gets the
//! front's address, as every question does without this, and later ones NXDOMAIN, until a few seconds after it was made. What
//! cannot be asked, because the control plane is down or above the limits, is taken to be there.
//!
//! A question over UDP may come from anybody, and a hint wakes: so hints are for networks that are trusted as far as requests are.
//! They are bounded per actor, in all, and by the namespace's wake budget.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hickory_proto::{op::Query, rr::RecordType};
use reveille_api::{
    ActorKey, Zone,
    proto::{LookRequest, names_client::NamesClient},
    task,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, timeout},
};
use tonic::transport::Channel;

use crate::metrics::{Look, Metrics};

/// Between two calls about one actor.
const EVERY: Duration = Duration::from_secs(5);
/// How long it is believed that an actor is not there: the next call may be under way.
const BELIEVED: Duration = Duration::from_secs(8);
/// Calls a second, in all.
const A_SECOND: u32 = 200;
/// Calls under way.
const AT_ONCE: usize = 32;
/// Calls that wait for their turn.
const WAITING: usize = 256;
/// Actors remembered.
const MOST: usize = 65_536;
/// Longest call.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the control plane is asked for.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    /// Where it is.
    pub channel: Channel,
    /// NXDOMAIN for actors that do not exist.
    pub existing: bool,
    /// A question begins its actor's wake.
    pub wake: bool,
}

pub(crate) struct Names {
    zone: Zone,
    existing: bool,
    seen: Mutex<Seen>,
    queue: mpsc::Sender<ActorKey>,
}

#[derive(Debug, Default)]
struct Seen {
    actors: HashMap<ActorKey, Entry>,
    /// Calls in this second, and when it began.
    spent: u32,
    second: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    /// When a call about it was last given to the queue.
    asked: Instant,
    /// When the control plane said that it does not exist, if that is what it said last.
    absent: Option<Instant>,
}

/// The calls.
pub(crate) struct Asker {
    control_plane: ControlPlane,
    queue: mpsc::Receiver<ActorKey>,
}

impl Names {
    pub(crate) fn new(zone: Zone, control_plane: ControlPlane) -> (Arc<Self>, Asker) {
        let (sender, queue) = mpsc::channel(WAITING);
        let existing = control_plane.existing;
        let names = Self { zone, existing, seen: Mutex::default(), queue: sender };
        (Arc::new(names), Asker { control_plane, queue })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn actor(&self, query: &Query) -> Option<ActorKey> {
        self.zone.actor(&query.name.to_ascii())
    }

    /// Whether this actor is known not to exist.
    pub(crate) fn is_absent(&self, query: &Query, now: Instant) -> bool {
        let Some(actor) = self.actor(query).filter(|_| self.existing) else { return false };
        let seen = self.seen();
        let absent = seen.actors.get(&actor).and_then(|entry| entry.absent);
        absent.is_some_and(|since| now.saturating_duration_since(since) < BELIEVED)
    }

    /// Somebody asked for it: ask about it, unless that was done just now.
    pub(crate) fn asked(&self, query: &Query, now: Instant, metrics: &Metrics) {
        // What is asked for before a request.
        if !matches!(query.query_type, RecordType::A | RecordType::AAAA | RecordType::HTTPS) {
            return;
        }
        let Some(actor) = self.actor(query) else { return };
        let place = self.queue.try_reserve().ok();
        match (self.seen().admit(&actor, now, place.is_some()), place) {
            (None, _) => {}
            (Some(true), Some(place)) => place.send(actor),
            (Some(_), _) => drop(metrics.looks.get(Look::Limited).inc()),
        }
    }

    fn remember(&self, actor: &ActorKey, absent: Option<Instant>) {
        if let Some(entry) = self.seen().actors.get_mut(actor) {
            entry.absent = absent;
        }
    }
}

impl Seen {
    /// Nothing when it was asked about just now; otherwise whether it may be, for which there must be `room`.
    fn admit(&mut self, actor: &ActorKey, now: Instant, room: bool) -> Option<bool> {
        if self.actors.get(actor).is_some_and(|entry| now - entry.asked < EVERY) {
            return None;
        }
        if self.second.is_none_or(|began| now - began >= Duration::from_secs(1)) {
            (self.second, self.spent) = (Some(now), 0);
        }
        if !room || self.spent >= A_SECOND {
            return Some(false);
        }
        if self.actors.len() >= MOST && !self.actors.contains_key(actor) {
            self.actors.retain(|_, entry| now - entry.asked < BELIEVED);
            if self.actors.len() >= MOST {
                return Some(false);
            }
        }
        self.spent += 1;
        let entry = self.actors.entry(actor.clone()).or_insert(Entry { asked: now, absent: None });
        entry.asked = now;
        Some(true)
    }
}

impl Asker {
    /// Asks for ever.
    pub(crate) async fn run(mut self, names: Arc<Names>, metrics: Metrics) -> Infallible {
        let ControlPlane { channel, wake, .. } = self.control_plane;
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut calls = JoinSet::new();
        loop {
            while calls.try_join_next().is_some() {}
            let (Some(actor), Ok(place)) =
                (self.queue.recv().await, Arc::clone(&places).acquire_owned().await)
            else {
                return std::future::pending().await;
            };
            let (names, metrics) = (Arc::clone(&names), metrics.clone());
            let mut control_plane = NamesClient::new(channel.clone());
            task::spawn(&mut calls, "look", async move {
                let request = LookRequest { actor: Some((&actor).into()), wake };
                match timeout(PATIENCE, control_plane.look(request)).await {
                    Ok(Ok(reply)) => {
                        let absent = !reply.into_inner().exists;
                        names.remember(&actor, absent.then(Instant::now));
                        metrics.looks.get(Look::Answered).inc();
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "the control plane did not tell of an actor");
                        names.remember(&actor, None);
                        metrics.looks.get(Look::Failed).inc();
                    }
                    Err(_) => {
                        names.remember(&actor, None);
                        metrics.looks.get(Look::Failed).inc();
                    }
                }
                drop(place);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;

    use super::*;

    /// Nobody answers there.
    fn names() -> (Arc<Names>, Asker) {
        let channel = Channel::from_static("http://127.0.0.1:1").connect_lazy();
        let control_plane = ControlPlane { channel, existing: true, wake: false };
        Names::new("actors.localhost".parse().unwrap(), control_plane)
    }

    fn question(actor: &str) -> Query {
        let name = format!("{actor}.demo.actors.localhost.");
        Query::query(Name::from_ascii(name).unwrap(), RecordType::A)
    }

    #[tokio::test]
    async fn a_full_queue_keeps_nobody_absent_and_who_found_no_room_is_asked_about_when_there_is() {
        let (names, mut asker) = names();
        let metrics = Metrics::default();
        let (late, actor) = (question("late"), ActorKey::new("demo", "late").unwrap());
        let start = Instant::now();
        names.asked(&late, start, &metrics);
        names.remember(&actor, Some(start));
        assert!(names.is_absent(&late, start + EVERY));
        // Nobody takes from it.
        for n in 0..WAITING as u32 {
            names.asked(&question(&format!("a{n}")), start + n * EVERY / 256, &metrics);
        }
        names.asked(&late, start + EVERY, &metrics);
        assert_eq!(metrics.looks.get(Look::Limited).get(), 2);
        assert!(!names.is_absent(&late, start + BELIEVED));
        assert_eq!(asker.queue.recv().await.unwrap(), actor);
        names.asked(&late, start + EVERY, &metrics);
        assert_eq!(metrics.looks.get(Look::Limited).get(), 2);
    }

    #[test]
    fn one_actor_is_asked_about_now_and_then_and_all_of_them_only_so_often() {
        let mut seen = Seen::default();
        let start = Instant::now();
        let actor = |n: u32| ActorKey::new("demo", &format!("a{n}")).unwrap();
        assert_eq!(seen.admit(&actor(0), start, true), Some(true));
        assert_eq!(seen.admit(&actor(0), start + EVERY / 2, true), None);
        assert_eq!(seen.admit(&actor(0), start + EVERY, true), Some(true));
        let later = start + 2 * EVERY;
        let admitted =
            (1..=500).filter(|n| seen.admit(&actor(*n), later, true) == Some(true)).count();
        assert_eq!(admitted, A_SECOND as usize);
        assert_eq!(seen.admit(&actor(500), later + Duration::from_secs(1), true), Some(true));
    }
}
