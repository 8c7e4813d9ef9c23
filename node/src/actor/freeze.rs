//! Freeze and thaw: an activation that stands still keeps its place, its memory and its endpoint, which is closed meanwhile.
//!
//! ```text
//!  written down ─▶ endpoint closed, connections ended ─▶ frozen     a failure: thawed, endpoint open, it serves as before
//!  let out, thawed ─▶ endpoint open ─▶ written down                 a failure: it is of no use, and ended
//! ```

use std::sync::Arc;

use futures::FutureExt;
use reveille_api::{ActorKey, Epoch, Failure, Reason, task};
use tokio_util::sync::CancellationToken;

use super::{
    Driver, Reply, Stage,
    activate::chain,
    suspend::{give_back, let_out, save},
};
use crate::{
    core::{Activation, Core, OpError},
    metrics::{End, Turn},
    record::{Fence, Phase},
};

/// Who asked.
pub(super) enum Waiter {
    Freeze(Reply<()>),
    Thaw(Reply<bool>),
}

/// What came of it.
pub(super) enum Turned {
    /// As asked.
    Done(Box<Activation>),
    /// Not frozen: it serves.
    Failed(Box<Activation>, OpError),
    /// It could not be brought back.
    Lost(String),
}

impl Driver {
    pub(super) fn freeze(&mut self, epoch: Epoch, term: u64, reply: Reply<()>) {
        if let Err(error) = self.fence.check(epoch) {
            return reply.answer(Err(error.into()));
        }
        match self.take_stage() {
            Stage::Serving(activation) if activation.record.epoch == epoch => {
                if activation.record.thawed.is_some_and(|thawed| term <= thawed) {
                    self.stage = Stage::Serving(activation);
                    return reply.answer(Err(OpError::Late));
                }
                if activation.record.is_frozen() {
                    self.stage = Stage::Serving(activation);
                    return reply.answer(Ok(()));
                }
                let (core, actor, fence) = (self.core.clone(), self.actor.clone(), self.fence);
                let mut shown = activation.record.to_proto(&self.actor);
                shown.serving = false;
                let done = freeze(core, actor, fence, activation, term).boxed();
                self.stage = Stage::Turning { epoch, waiter: Waiter::Freeze(reply), shown, done };
            }
            stage @ (Stage::Empty | Stage::Serving(_)) => {
                self.stage = stage;
                let actor = self.actor.clone();
                reply.answer(Err(OpError::NotRunning { actor, epoch }));
            }
            stage => {
                self.stage = stage;
                self.defer(super::Command::Freeze(epoch, term, reply));
            }
        }
    }

    /// The activation of this epoch serves, or is frozen.
    pub(super) fn thaw(&mut self, term: u64, reply: Reply<bool>) {
        self.paging = None;
        let Stage::Serving(mut activation) = self.take_stage() else { return };
        let thawed = &mut activation.record.thawed;
        *thawed = Some(thawed.unwrap_or(0).max(term));
        if !activation.record.is_frozen() {
            self.stage = Stage::Serving(activation);
            return reply.answer(Ok(true));
        }
        let (core, actor, fence) = (self.core.clone(), self.actor.clone(), self.fence);
        let (epoch, shown) = (activation.record.epoch, activation.record.to_proto(&self.actor));
        let done = thaw(core, actor, fence, activation).boxed();
        self.stage = Stage::Turning { epoch, waiter: Waiter::Thaw(reply), shown, done };
    }

    pub(super) fn turned(&mut self, turned: Turned) {
        let Stage::Turning { epoch, waiter, .. } = self.take_stage() else { return };
        let (actor, not_running) =
            (self.actor.clone(), |actor| OpError::NotRunning { actor, epoch });
        let outcome = match turned {
            Turned::Done(activation) => {
                if activation.record.is_frozen() {
                    let stop = CancellationToken::new();
                    self.paging = Some(stop.clone().drop_guard());
                    task::detach("page-out", page_out(actor.clone(), &activation, stop));
                }
                self.stage = Stage::Serving(activation);
                Ok(())
            }
            Turned::Failed(activation, error) => {
                self.stage = Stage::Serving(activation);
                Err(error)
            }
            Turned::Lost(why) => {
                self.end_activation(epoch);
                self.core.report_exit(&self.actor, epoch, why);
                Err(not_running(actor))
            }
        };
        match waiter {
            Waiter::Freeze(reply) => reply.answer(outcome),
            Waiter::Thaw(reply) => reply.answer(outcome.map(|()| true)),
        }
    }
}

async fn freeze(
    core: Arc<Core>,
    actor: ActorKey,
    fence: Fence,
    mut activation: Box<Activation>,
    term: u64,
) -> Turned {
    activation.record.phase = Phase::Frozen { term };
    let stopped = async {
        // Before anything is done: an agent that dies now leaves one that is frozen by the next.
        save(&core, &actor, fence, &activation)?;
        activation.lease.close().await.map_err(|e| format!("the endpoint was not closed: {e}"))?;
        let endpoint = activation.record.endpoint;
        activation.lease.end_connections(endpoint).await.map_err(|e| e.to_string())?;
        activation.runtime.freeze(&activation.record.sandbox).await.map_err(|error| chain(&error))
    };
    let Err(why) = stopped.await else {
        tracing::info!(%actor, epoch = %activation.record.epoch, "an actor is frozen");
        core.metrics.turned(Turn::Freeze, End::Done);
        return Turned::Done(activation);
    };
    tracing::warn!(%actor, epoch = %activation.record.epoch, why, "a freeze failed; the actor serves on");
    core.metrics.turned(Turn::Freeze, End::Failed);
    match thaw(core, actor, fence, activation).await {
        Turned::Done(activation) => {
            let why = format!("the actor was not frozen and serves on: {why}");
            Turned::Failed(activation, Failure::new(Reason::Internal, why).into())
        }
        other => other,
    }
}

async fn thaw(
    core: Arc<Core>,
    actor: ActorKey,
    fence: Fence,
    mut activation: Box<Activation>,
) -> Turned {
    let thawed = async {
        let_out(&activation).await?;
        let thawed = activation.runtime.thaw(&activation.record.sandbox).await;
        thawed.map_err(|error| chain(&error))?;
        give_back(&core, &actor, fence, &mut activation).await
    };
    let served = thawed.await;
    core.metrics.turned(Turn::Thaw, End::of(&served));
    match served {
        Ok(()) => Turned::Done(activation),
        Err(why) => {
            let Activation { record, runtime, process, lease, .. } = *activation;
            core.teardown(&runtime, &record.sandbox, Some(&process), Some(lease)).await;
            Turned::Lost(format!("it could not be thawed: {why}"))
        }
    }
}

/// Until there is no more to move, or `stop`.
fn page_out(
    actor: ActorKey,
    activation: &Activation,
    stop: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let (runtime, sandbox) = (Arc::clone(&activation.runtime), activation.record.sandbox.clone());
    async move {
        match runtime.page_out(&sandbox, stop).await {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(%actor, bytes, "memory of a frozen actor went to swap"),
            Err(error) => {
                tracing::warn!(%actor, error = chain(&error), "its memory did not go to swap");
            }
        }
    }
}

/// What a new agent does with one that was frozen, or about to be.
pub(crate) async fn freeze_again(activation: &Activation) -> Result<(), String> {
    activation.lease.close().await.map_err(|e| format!("the endpoint was not closed: {e}"))?;
    activation.runtime.freeze(&activation.record.sandbox).await.map_err(|error| chain(&error))
}
