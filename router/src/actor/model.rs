//! [`Actor`] as a plain value, for a model checker: it can be cloned, compared and hashed, and every operation is the
//! real machine's, rebuilt from the value before it and read back after it. Templates say nothing here, and few wait: all go on
//! at once.

#![expect(clippy::expect_used, reason = "only a checker is here, and it is to stop")]

use std::{collections::BTreeMap, sync::Arc};

use reveille_api::{ActorKey, proto::WakeKind};
use tokio::sync::watch;

use super::{Parked, WaiterId};
use crate::{
    activation::{Activation, Clock},
    binding::{Binding, Grant, Protocol, Version},
};

/// `(epoch, term)`.
pub type At = (u64, u64);

/// One actor on one router. Who waits is named by a number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Actor {
    /// Where it stands.
    pub state: State,
    /// Epoch and requests in flight of activations given up.
    pub older: Vec<(u64, u32)>,
}

/// Where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// No binding and no wake.
    #[default]
    Unknown,
    /// A wake is under way.
    Waking {
        /// Who waits for it.
        waiters: Vec<u64>,
        /// The highest version revoked since it began.
        fence: Option<At>,
    },
    /// Requests go there at once.
    Bound {
        /// Where.
        at: At,
        /// Requests in flight of that epoch.
        in_flight: u32,
    },
}

/// How a wake's reply was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Installed; these are in flight now.
    Bound(Vec<u64>),
    /// Ask again.
    Stale,
    /// Nobody waits for it.
    Dropped,
}

impl Actor {
    /// Lets a request wait; true when a wake has to begin.
    pub fn park(&mut self, id: u64) -> bool {
        self.with(|actor, _| actor.park(WaiterId(id), id, None).0) == Parked::First
    }

    /// A caller that waited left.
    pub fn leave(&mut self, id: u64) {
        self.with(|actor, _| actor.leave(WaiterId(id)));
    }

    /// A request to a bound actor begins.
    pub fn begin(&mut self) -> Option<At> {
        self.with(|actor, _| {
            let binding = actor.binding()?;
            binding.activation.begin(1);
            Some(at(binding.version()))
        })
    }

    /// A request in flight of this epoch ends.
    pub fn end(&mut self, epoch: u64) {
        self.with(|actor, _| {
            let activation = actor.activation_of(Version::new(epoch, 0).epoch);
            activation.expect("it has a request in flight").end();
            actor.forget_rested();
        });
    }

    /// The wake was answered with a binding.
    pub fn woken(&mut self, at: At) -> Woken {
        self.with(|actor, clock| match actor.woken(grant(at), 0, clock) {
            super::Woken::Bound(released) => Woken::Bound(released.waiters),
            super::Woken::Stale => Woken::Stale,
            super::Woken::Dropped => Woken::Dropped,
        })
    }

    /// The wake ended without a binding; who waited for it.
    pub fn failed(&mut self) -> Vec<u64> {
        self.with(|actor, _| actor.failed(|_| false))
    }

    /// Gives nothing up to `at` out any more. Requests of that epoch still in flight.
    pub fn revoke(&mut self, at: At) -> u32 {
        self.with(|actor, _| {
            let revoked = actor.revoke(Version::new(at.0, at.1));
            revoked.draining.map_or(0, |activation| activation.in_flight())
        })
    }

    /// Requests in flight of this epoch.
    pub fn in_flight(&self, epoch: u64) -> u32 {
        let older = self.older.iter().find(|(of, _)| *of == epoch);
        match self.state {
            State::Bound { at, in_flight } if at.0 == epoch => in_flight,
            _ => older.map_or(0, |(_, in_flight)| *in_flight),
        }
    }

    /// What a new session is told: a version and its requests in flight.
    pub fn held(&self) -> Vec<(At, u32)> {
        let real = self.build(Clock::start());
        real.held().map(|(version, activation)| (at(version), activation.in_flight())).collect()
    }

    fn with<T>(&mut self, operate: impl FnOnce(&mut super::Actor<u64>, Clock) -> T) -> T {
        let clock = Clock::start();
        let mut actor = self.build(clock);
        let outcome = operate(&mut actor, clock);
        *self = Self::read(&actor);
        outcome
    }

    fn build(&self, clock: Clock) -> super::Actor<u64> {
        let activation = |epoch, in_flight| {
            let activation = Activation::new(key(), Version::new(epoch, 0).epoch, clock);
            activation.begin(in_flight);
            activation
        };
        let older = self.older.iter().map(|(epoch, in_flight)| activation(*epoch, *in_flight));
        let state = match &self.state {
            State::Unknown => super::State::Unknown,
            State::Waking { waiters, fence } => {
                let waiters: BTreeMap<_, _> =
                    waiters.iter().map(|id| (WaiterId(*id), *id)).collect();
                let fence = fence.map(|(epoch, term)| Version::new(epoch, term));
                let (policy, _) = watch::channel(None);
                super::State::Waking(Box::new(super::Waking { waiters, fence, policy }))
            }
            State::Bound { at, in_flight } => {
                let Grant { version, endpoint, protocol, woken_by, .. } = grant(*at);
                super::State::Bound(Arc::new(Binding {
                    activation: activation(at.0, *in_flight),
                    term: version.term,
                    endpoint,
                    protocol,
                    woken_by,
                }))
            }
        };
        let older = super::Older(older.collect());
        super::Actor { state, older: (!older.0.is_empty()).then(|| Box::new(older)) }
    }

    fn read(actor: &super::Actor<u64>) -> Self {
        let older = actor.older().iter().map(|a| (a.epoch().0, a.in_flight())).collect();
        let state = match &actor.state {
            super::State::Unknown => State::Unknown,
            super::State::Waking(waking) => State::Waking {
                waiters: waking.waiters.values().copied().collect(),
                fence: waking.fence.map(at),
            },
            super::State::Bound(binding) => State::Bound {
                at: at(binding.version()),
                in_flight: binding.activation.in_flight(),
            },
            super::State::Releasing(_) => unreachable!("all who wait go on at once here"),
        };
        Self { state, older }
    }
}

fn at(version: Version) -> At {
    (version.epoch.0, version.term)
}

fn key() -> ActorKey {
    ActorKey::new("model", "actor").expect("two labels")
}

fn grant(at: At) -> Grant {
    Grant {
        actor: key(),
        version: Version::new(at.0, at.1),
        endpoint: ([10, 0, 0, 1], 20_000).into(),
        protocol: Protocol::Http1,
        woken_by: WakeKind::Restored,
    }
}
