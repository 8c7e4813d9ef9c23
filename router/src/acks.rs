//! Acknowledgements that wait for the session: one for each actor, so that they are bounded by the actors this router
//! has to do with, however long the control plane is away.
//!
//! The newest is enough: it says of every earlier revoke of that actor what the control plane wants to know, that the
//! binding is given out no more and how many requests are left.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use reveille_api::{ActorKey, proto::RevokeAck};
use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    pending: Mutex<Pending>,
    some: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    of: HashMap<ActorKey, RevokeAck>,
    /// In the order in which the actors came.
    order: VecDeque<ActorKey>,
}

impl Acks {
    /// Takes the place of an earlier one of this actor.
    pub(crate) fn put(&self, actor: &ActorKey, ack: RevokeAck) {
        let mut pending = self.lock();
        match pending.of.get_mut(actor) {
            Some(earlier) if (ack.epoch, ack.term) < (earlier.epoch, earlier.term) => {}
            Some(earlier) => *earlier = ack,
            None => {
                pending.of.insert(actor.clone(), ack);
                pending.order.push_back(actor.clone());
            }
        }
        drop(pending);
        self.some.notify_one();
    }

    /// The next one. For one taker at a time; it may be dropped at any time.
    pub(crate) async fn next(&self) -> RevokeAck {
        loop {
            if let Some(ack) = self.take() {
                return ack;
            }
            // One that came since the look has left its permit.
            self.some.notified().await;
        }
    }

    fn take(&self) -> Option<RevokeAck> {
        let mut pending = self.lock();
        let actor = pending.order.pop_front()?;
        pending.of.remove(&actor)
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_each_actor_the_newest_is_said_and_none_is_lost() {
        let acks = Acks::default();
        let [a, b] = ["a", "b"].map(|name| ActorKey::new("demo", name).unwrap());
        let ack = |epoch, term| RevokeAck { epoch, term, ..Default::default() };
        for (actor, epoch, term) in [(&a, 1, 0), (&b, 7, 0), (&a, 1, 2), (&a, 1, 1), (&b, 8, 0)] {
            acks.put(actor, ack(epoch, term));
        }
        assert_eq!([acks.next().await, acks.next().await], [ack(1, 2), ack(8, 0)]);
        assert_eq!(acks.take(), None);
        acks.put(&a, ack(2, 0));
        assert_eq!(acks.next().await, ack(2, 0));
    }
}
