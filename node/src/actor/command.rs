//! What a driver is asked, and where the answer goes.

use reveille_api::{Epoch, Stay, proto};
use tokio::sync::oneshot;

use super::{Activate, Suspend};
use crate::core::{Activated, OpError};

/// Where an answer goes. The caller may be gone.
pub(crate) struct Reply<T> {
    to: oneshot::Sender<Result<T, OpError>>,
    /// In which the control plane has asked; nothing if the agent itself did.
    stay: Option<Stay>,
}

impl<T> Reply<T> {
    pub(crate) fn new(stay: Option<Stay>) -> (Self, oneshot::Receiver<Result<T, OpError>>) {
        let (to, answer) = oneshot::channel();
        (Self { to, stay }, answer)
    }

    pub(super) fn answer(self, outcome: Result<T, OpError>) {
        let _ = self.to.send(outcome);
    }
}

/// What a driver is asked to do.
pub(crate) enum Command {
    Activate(Activate, Reply<Activated>),
    Suspend(Suspend, Reply<Suspended>),
    /// With the term of the revoke before it.
    Freeze(Epoch, u64, Reply<()>),
    /// With the term of the freeze that it undoes, if it undoes one.
    Resume(Epoch, u64, Reply<bool>),
    Destroy(Epoch, Reply<()>),
    DeleteSnapshots(Deletion, Reply<()>),
    /// Whatever epoch it has: the node is being given up.
    DestroyAny(Reply<()>),
}

/// Which snapshots go.
pub(crate) struct Deletion {
    /// Only older ones than this.
    pub(crate) epoch: Epoch,
    pub(crate) keep: Vec<String>,
    /// All of them, and all else that is known of the actor.
    pub(crate) everything: bool,
}

/// How a suspend ended well.
#[derive(Clone, Debug)]
pub(crate) enum Suspended {
    Committed(proto::Snapshot),
    Resumed,
}

impl Command {
    pub(super) fn stay(&self) -> Option<Stay> {
        match self {
            Self::Activate(_, reply) => reply.stay,
            Self::Suspend(_, reply) => reply.stay,
            Self::Freeze(_, _, reply) => reply.stay,
            Self::Resume(_, _, reply) => reply.stay,
            Self::Destroy(_, reply) | Self::DeleteSnapshots(_, reply) => reply.stay,
            Self::DestroyAny(reply) => reply.stay,
        }
    }

    pub(super) fn refuse(self, error: OpError) {
        match self {
            Self::Activate(_, reply) => reply.answer(Err(error)),
            Self::Suspend(_, reply) => reply.answer(Err(error)),
            Self::Freeze(_, _, reply) => reply.answer(Err(error)),
            Self::Resume(_, _, reply) => reply.answer(Err(error)),
            Self::Destroy(_, reply) | Self::DeleteSnapshots(_, reply) | Self::DestroyAny(reply) => {
                reply.answer(Err(error))
            }
        }
    }
}
