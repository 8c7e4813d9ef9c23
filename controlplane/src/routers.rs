//! Who holds which binding, and what the routers tell about its use.
//!
//! ```text
//!  hold()   a wake's answer goes to a router: it is a holder from before it hears of it
//!  drain()  Revoke to every router that holds the binding or has requests on it ──▶ all acknowledged, or time is up
//!  usage()  busy, quiet since when, or unknown: a holder is away, or known routers have not come back yet
//! ```
//!
//! A router is known by its name, a process of it by its *instance*. A Hello with another instance is heard only when the
//! earlier process has no session any more, or is silent: then it is gone, with all it held. One that is merely away keeps its holdings for a grace:
//! it may still send requests to them. After a restart of the control plane nothing is decided on
//! activity until the routers known from before have said what they hold, or a shorter grace has passed.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reveille_api::{ActorKey, Epoch, proto};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    clock::{Clock, Moment, millis},
    config::Timings,
    record::RouterRecord,
    store::records::Records,
};

mod usage;

#[cfg(test)]
mod tests;

use usage::{Drain, Usage};
pub use usage::{Drained, Use};

/// Commands that may wait for one router. One that is so far behind is cut off and starts over.
pub const COMMANDS: usize = 4096;

/// A router from which nothing came for so many intervals of its reports does not live.
const SILENT: u32 = 5;

type Commands = mpsc::Sender<proto::RouterCommand>;

/// Every router, and every binding that may be in use.
pub struct Routers {
    inner: Mutex<Inner>,
    settled: watch::Sender<bool>,
    present: watch::Sender<()>,
    records: Records,
    clock: Clock,
    timings: Timings,
}

#[derive(Default)]
struct Inner {
    routers: HashMap<String, Router>,
    actors: HashMap<ActorKey, Usage>,
    /// Known from before our start, and not heard of yet.
    awaited: HashSet<String>,
    sessions: u64,
}

struct Router {
    instance: String,
    /// Reports on its session.
    words: u64,
    link: Link,
    /// Named by Held since the last Hello.
    named: HashSet<ActorKey>,
}

enum Link {
    /// Dropping the guard ends the session's stream.
    Up {
        session: u64,
        commands: Commands,
        _open: DropGuard,
    },
    Away {
        since: Moment,
    },
}

/// How an actor is used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests at it.
    pub in_flight: u32,
    /// Requests begun in a second.
    pub rate: f64,
    /// The last use known.
    pub last_active: Option<Moment>,
}

impl Routers {
    /// Knows the routers of the store; [`Routers::settle`] gives them time to come back.
    pub fn open(
        records: Records,
        clock: Clock,
        timings: Timings,
    ) -> Result<Self, crate::store::Error> {
        let awaited: HashSet<_> = records.routers()?.into_iter().map(|r| r.router).collect();
        let (settled, _) = watch::channel(awaited.is_empty());
        let (present, _) = watch::channel(());
        let inner = Mutex::new(Inner { awaited, ..Inner::default() });
        Ok(Self { inner, settled, present, records, clock, timings })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the waiting for routers that were known before our start.
    pub async fn settle(&self) {
        let mut settled = self.settled.subscribe();
        let all_back = settled.wait_for(|settled| *settled);
        if tokio::time::timeout(self.timings.settle, all_back).await.is_ok() {
            return;
        }
        let missing: Vec<_> = self.inner().awaited.drain().collect();
        for router in missing {
            tracing::warn!(router, "a router known from before has not come back");
            // Queued by the call itself.
            drop(self.records.remove_router(&router));
        }
        self.settled.send_replace(true);
    }

    /// Returns once the routers of before our start are back or given up.
    pub async fn settled(&self) {
        let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
    }

    /// Whether this process may have its name: no other one has a session, or it ends, or nothing is heard on it. Routers
    /// report all the time.
    pub async fn admits(&self, hello: &proto::Hello) -> bool {
        let Some(words) = self.inner().rival(hello) else { return true };
        let mut changes = self.present.subscribe();
        let gone = changes.wait_for(|()| self.inner().rival(hello).is_none());
        if tokio::time::timeout(self.timings.report * SILENT, gone).await.is_ok() {
            return true;
        }
        self.inner().rival(hello).is_none_or(|now| now == words)
    }

    /// A report came on this session.
    pub fn heard(&self, router: &str, session: u64) {
        if let Some(found) = self.inner().routers.get_mut(router)
            && matches!(found.link, Link::Up { session: s, .. } if s == session)
        {
            found.words += 1;
        }
    }

    /// A router's session begins. Returns its number, and what tells when it is over for us.
    pub fn connect(&self, hello: &proto::Hello, commands: Commands) -> (u64, CancellationToken) {
        let mut inner = self.inner();
        inner.sessions += 1;
        let session = inner.sessions;
        let instance = hello.instance.clone();
        let over = CancellationToken::new();
        let link = Link::Up { session, commands, _open: over.clone().drop_guard() };
        let earlier = inner.routers.insert(
            hello.router.clone(),
            Router { instance, words: 0, link, named: HashSet::new() },
        );
        match earlier {
            Some(earlier) if earlier.instance != hello.instance => {
                tracing::info!(router = hello.router, "a router's earlier process is gone");
                inner.drop_uses(&hello.router);
            }
            Some(_) => {}
            None => {
                // Queued by the call itself.
                drop(self.records.put_router(&RouterRecord { router: hello.router.clone() }));
            }
        }
        inner.repeat_revokes(&hello.router, self.clock.now());
        drop(inner);
        self.present.send_replace(());
        (session, over)
    }

    /// Ends every session.
    pub fn hang_up(&self) {
        let since = self.clock.now();
        self.inner().routers.values_mut().for_each(|router| router.link = Link::Away { since });
    }

    /// A router's session has ended.
    pub fn disconnect(&self, router: &str, session: u64) {
        let now = self.clock.now();
        if let Some(found) = self.inner().routers.get_mut(router)
            && matches!(found.link, Link::Up { session: s, .. } if s == session)
        {
            found.link = Link::Away { since: now };
        }
        self.present.send_replace(());
    }

    /// Waits until this instance has a session; false when `patience` ends first.
    pub async fn present(&self, instance: &str, patience: Duration) -> bool {
        let mut changes = self.present.subscribe();
        let up = |_: &()| self.inner().is_up(instance);
        tokio::time::timeout(patience, changes.wait_for(up)).await.is_ok_and(|r| r.is_ok())
    }

    /// The router whose process this is, while it has a session.
    pub fn router_of(&self, instance: &str) -> Option<String> {
        self.inner().name_of(instance)
    }

    /// A part of what a router holds.
    pub fn held(&self, router: &str, held: &proto::Held) {
        let now = self.clock.now();
        let mut inner = self.inner();
        for binding in &held.bindings {
            let Ok(actor) = ActorKey::try_from(binding.actor.clone()) else { continue };
            let (epoch, term) = (Epoch(binding.epoch), binding.term);
            if let Some(router) = inner.routers.get_mut(router) {
                router.named.insert(actor.clone());
            }
            let known = inner.actors.get_mut(&actor).filter(|usage| usage.epoch == epoch);
            let Some(usage) = known else {
                inner.send(router, gone(&actor, epoch, term), now);
                continue;
            };
            usage.report(router, binding.in_flight, now.minus(ms(binding.idle_ms)));
            if !usage.held(router, term) {
                // A drain that is about to begin brings its own deadline: an answer to this must not pass for its.
                let left = usage.remaining(now).unwrap_or(self.timings.router_grace);
                let drain_ms = millis(left);
                inner.send(router, revoke(&actor, epoch, term, drain_ms), now);
            }
        }
        if held.complete {
            inner.complete(router);
            if inner.awaited.remove(router) && inner.awaited.is_empty() {
                self.settled.send_replace(true);
            }
        }
    }

    /// What was used since the last report.
    pub fn activity(&self, router: &str, activity: &proto::Activity) {
        let now = self.clock.now();
        let mut inner = self.inner();
        for report in &activity.actors {
            let Ok(actor) = ActorKey::try_from(report.actor.clone()) else { continue };
            let usage = inner.actors.get_mut(&actor);
            if let Some(usage) = usage.filter(|usage| usage.epoch.0 == report.epoch) {
                usage.report(router, report.in_flight, now.minus(ms(report.idle_ms)));
                usage.rate.add(report.requests, now);
            }
        }
    }

    /// A binding is given out no more.
    pub fn acknowledge(&self, router: &str, ack: &proto::RevokeAck) {
        let now = self.clock.now();
        let Ok(actor) = ActorKey::try_from(ack.actor.clone()) else { return };
        let mut inner = self.inner();
        let usage = inner.actors.get_mut(&actor);
        if let Some(usage) = usage.filter(|usage| usage.epoch.0 == ack.epoch) {
            usage.report(router, ack.in_flight, now.minus(ms(ack.idle_ms)));
            usage.acknowledge(router, ack.term);
        }
    }

    /// This router process is about to get the binding. False when it has no session: then it must not.
    pub fn hold(&self, instance: &str, actor: &ActorKey, epoch: Epoch, term: u64) -> bool {
        let mut inner = self.inner();
        let Some(router) = inner.name_of(instance) else { return false };
        let usage = inner.actors.get_mut(actor).filter(|usage| usage.epoch == epoch);
        usage.is_some_and(|usage| usage.hold(&router, term))
    }

    /// What the router is to enforce while requests wait there. The binding brings it too: a router that is behind with
    /// its commands is spared it.
    pub fn tell_policy(&self, instance: &str, policy: proto::ActorPolicy) {
        let command = proto::router_command::Command::Policy(policy);
        let command = proto::RouterCommand { command: Some(command) };
        let mut inner = self.inner();
        let Some(name) = inner.name_of(instance) else { return };
        if inner.with_room().contains(&name) {
            inner.send(&name, command, self.clock.now());
        }
    }

    /// An actor was created; routers may have been told that there is none. One that is behind with its commands believes
    /// that for a moment longer.
    pub fn tell_created(&self, actor: &ActorKey) {
        let mut inner = self.inner();
        for name in inner.with_room() {
            let command = proto::router_command::Command::Created(actor.into());
            inner.send(&name, proto::RouterCommand { command: Some(command) }, self.clock.now());
        }
    }

    /// Bindings of this epoch may be in use from this term on. Called before any is given out.
    pub fn track(&self, actor: &ActorKey, epoch: Epoch, term: u64, last_active: Moment) {
        let mut inner = self.inner();
        match inner.actors.get_mut(actor).filter(|usage| usage.epoch == epoch) {
            Some(usage) => usage.valid_from = usage.valid_from.max(term),
            None => {
                let usage = Usage::new(epoch, term, last_active);
                inner.actors.insert(actor.clone(), usage);
            }
        }
    }

    /// It was used just now, by us: an actor that wakes begins its idle time then.
    pub fn touch(&self, actor: &ActorKey) {
        let now = self.clock.now();
        if let Some(usage) = self.inner().actors.get_mut(actor) {
            usage.last_active = usage.last_active.max(now);
        }
    }

    /// No binding of this actor is valid any more.
    pub fn forget(&self, actor: &ActorKey) {
        self.inner().actors.remove(actor);
    }

    /// How much an actor is used.
    pub fn usage(&self, actor: &ActorKey) -> Use {
        let settled = *self.settled.borrow();
        let mut inner = self.inner();
        inner.give_up_on_the_gone(self.clock.now(), self.timings.router_grace, &self.records);
        let Some(usage) = inner.actors.get(actor) else { return Use::Unknown };
        if !settled || usage.users().any(|router| inner.is_away(router)) {
            return Use::Unknown;
        }
        usage.used()
    }

    /// Requests in flight and last activity, as far as known.
    pub fn seen(&self, actor: &ActorKey) -> Option<(u32, Moment)> {
        self.inner().actors.get(actor).map(|usage| (usage.in_flight(), usage.last_active))
    }

    /// How each of these actors is used, for people.
    pub fn load(&self, actors: &[&ActorKey]) -> Vec<Load> {
        let now = self.clock.now();
        let inner = self.inner();
        let load = |usage: &Usage| Load {
            in_flight: usage.in_flight(),
            rate: usage.rate.now(now),
            last_active: Some(usage.last_active),
        };
        actors.iter().map(|actor| inner.actors.get(*actor).map(load).unwrap_or_default()).collect()
    }

    /// Who has to do with an actor, for people, by name; and whether everybody who could is heard of.
    pub fn uses(&self, actor: &ActorKey) -> (Vec<proto::RouterUse>, bool) {
        let settled = *self.settled.borrow();
        let inner = self.inner();
        let Some(usage) = inner.actors.get(actor) else { return (Vec::new(), settled) };
        let mut uses: Vec<_> = usage
            .all()
            .map(|mut used| {
                used.connected = !inner.is_away(&used.router);
                used
            })
            .collect();
        uses.sort_by(|a, b| a.router.cmp(&b.router));
        (uses, settled)
    }

    /// Kills a binding at once, and what is in flight with it: its activation is no more.
    pub fn revoke(&self, actor: &ActorKey, epoch: Epoch, term: u64) {
        let now = self.clock.now();
        let mut inner = self.inner();
        let Some(usage) = inner.actors.get_mut(actor).filter(|u| u.epoch == epoch) else { return };
        usage.valid_from = usage.valid_from.max(term + 1);
        let users: Vec<_> = usage.users().map(str::to_owned).collect();
        for router in users {
            inner.send(&router, gone(actor, epoch, term), now);
        }
    }

    /// Kills a binding, and waits until nothing uses it or `patience` has passed.
    pub async fn drain(
        &self,
        actor: &ActorKey,
        epoch: Epoch,
        term: u64,
        patience: Duration,
    ) -> Drained {
        self.settled().await;
        let mut done = {
            let now = self.clock.now();
            let mut inner = self.inner();
            inner.give_up_on_the_gone(now, self.timings.router_grace, &self.records);
            let usage = inner.actors.get_mut(actor).filter(|usage| usage.epoch == epoch);
            let Some(usage) = usage else { return Drained::unused(now) };
            let (drain, done) = Drain::begin(term, now.plus(patience), usage.users());
            let waiting: Vec<_> = drain.waiting.iter().cloned().collect();
            usage.drain(drain);
            for router in waiting {
                inner.send(&router, revoke(actor, epoch, term, millis(patience)), now);
            }
            done
        };
        let ended = done.wait_for(|ended| *ended);
        let silent = match tokio::time::timeout(patience + self.timings.ack, ended).await {
            Ok(ended) => ended.is_err(),
            Err(_) => true,
        };
        let (in_flight, last_active) = self.seen(actor).unwrap_or((0, self.clock.now()));
        Drained { in_flight, last_active, silent }
    }

    /// Routers with a session.
    pub fn connected(&self) -> usize {
        let up = |router: &&Router| matches!(router.link, Link::Up { .. });
        self.inner().routers.values().filter(up).count()
    }

    /// Every router, for people.
    pub fn list(&self) -> Vec<proto::RouterView> {
        let inner = self.inner();
        let mut views: Vec<_> = inner
            .routers
            .iter()
            .map(|(name, router)| proto::RouterView {
                router: name.clone(),
                instance: router.instance.clone(),
                connected: matches!(router.link, Link::Up { .. }),
                bindings: inner.actors.values().filter(|u| u.holds(name)).count() as u32,
            })
            .collect();
        views.sort_by(|a, b| a.router.cmp(&b.router));
        views
    }
}

impl Inner {
    fn is_up(&self, instance: &str) -> bool {
        self.name_of(instance).is_some()
    }

    /// What was heard so far of another process of this name, if it has a session.
    fn rival(&self, hello: &proto::Hello) -> Option<u64> {
        let known = self.routers.get(&hello.router)?;
        let up = matches!(known.link, Link::Up { .. });
        (up && known.instance != hello.instance).then_some(known.words)
    }

    /// The router whose process this is, if it has a session.
    fn name_of(&self, instance: &str) -> Option<String> {
        let up = |router: &Router| matches!(router.link, Link::Up { .. });
        let mut routers = self.routers.iter();
        let found = routers.find(|(_, router)| router.instance == instance && up(router));
        found.map(|(name, _)| name.clone())
    }

    fn is_away(&self, router: &str) -> bool {
        !self.routers.get(router).is_some_and(|r| matches!(r.link, Link::Up { .. }))
    }

    /// A router that does not take its commands is cut off: it comes back and says what it holds.
    /// Routers that have room for commands they can do without.
    fn with_room(&self) -> Vec<String> {
        let room = |link: &Link| match link {
            Link::Up { commands, .. } => commands.capacity() > commands.max_capacity() / 2,
            Link::Away { .. } => false,
        };
        let all = self.routers.iter().filter(|(_, router)| room(&router.link));
        all.map(|(name, _)| name.clone()).collect()
    }

    fn send(&mut self, router: &str, command: proto::RouterCommand, now: Moment) {
        let Some(found) = self.routers.get_mut(router) else { return };
        if let Link::Up { commands, .. } = &found.link
            && commands.try_send(command).is_err()
        {
            found.link = Link::Away { since: now };
        }
    }

    /// Of what it did not name, nothing is in flight; should it be, the next report tells. What a wake's answer may
    /// just have brought it stays its own.
    fn complete(&mut self, router: &str) {
        let Some(found) = self.routers.get_mut(router) else { return };
        let named = std::mem::take(&mut found.named);
        for (actor, usage) in &mut self.actors {
            if !named.contains(actor) {
                usage.nothing_in_flight(router);
            }
        }
    }

    fn drop_uses(&mut self, router: &str) {
        self.actors.values_mut().for_each(|usage| usage.drop_router(router));
    }

    /// What a router was asked before its session broke.
    fn repeat_revokes(&mut self, router: &str, now: Moment) {
        let pending: Vec<_> = self
            .actors
            .iter()
            .filter_map(|(actor, usage)| {
                let (term, until) = usage.awaits(router)?;
                Some((actor.clone(), usage.epoch, term, millis(until.since(now))))
            })
            .collect();
        for (actor, epoch, term, drain_ms) in pending {
            self.send(router, revoke(&actor, epoch, term, drain_ms), now);
        }
    }

    fn give_up_on_the_gone(&mut self, now: Moment, grace: Duration, records: &Records) {
        let gone = |router: &Router| match router.link {
            Link::Away { since } => now.since(since) >= grace,
            Link::Up { .. } => false,
        };
        let names: Vec<_> =
            self.routers.iter().filter(|(_, r)| gone(r)).map(|(name, _)| name.clone()).collect();
        for name in names {
            tracing::warn!(router = name, "a router has been away for too long");
            self.routers.remove(&name);
            self.drop_uses(&name);
            // Queued by the call itself.
            drop(records.remove_router(&name));
        }
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn revoke(actor: &ActorKey, epoch: Epoch, term: u64, drain_ms: u64) -> proto::RouterCommand {
    command(proto::Revoke {
        actor: Some(actor.into()),
        epoch: epoch.0,
        term,
        drain_ms,
        gone: false,
    })
}

/// Of an activation that is no more.
fn gone(actor: &ActorKey, epoch: Epoch, term: u64) -> proto::RouterCommand {
    let actor = Some(actor.into());
    command(proto::Revoke { actor, epoch: epoch.0, term, drain_ms: 0, gone: true })
}

fn command(revoke: proto::Revoke) -> proto::RouterCommand {
    proto::RouterCommand { command: Some(proto::router_command::Command::Revoke(revoke)) }
}
