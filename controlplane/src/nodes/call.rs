//! Calls that outlast a broken connection and a restarted agent.
//!
//! Every operation of a node is idempotent under its epoch, so a call whose outcome is unknown is simply repeated once
//! the node is ready again. The caller's deadline ends it: these futures are dropped, not told.

use std::{sync::Arc, time::Duration};

use reveille_api::{ActorKey, Epoch, Failure, Reason, failure::UNFIT_HEADER, proto};
use tonic::{Code, Status};

use super::{Agent, Nodes, agent::Reply};
use crate::{lifecycle::Place, placement::Placement};

/// Between two tries of the same call.
const RETRY: Duration = Duration::from_millis(100);

/// What a node answered instead of doing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has seen a higher epoch, or the end of this one.
    Fenced,
    /// It has no such activation.
    NotRunning,
    /// It failed, and nothing of it is left.
    Failed(Failure),
    /// As `Failed`; another node may be able to.
    Unfit(Failure),
}

/// Nothing when the outcome is unknown: the connection broke, or the agent is not there.
fn refusal(status: &Status) -> Option<Refusal> {
    // Statuses that name a reason come from the agent itself.
    let named = Failure::from_status(status, Reason::Internal);
    let has_reason = status.metadata().contains_key("reveille-reason");
    match status.code() {
        _ if status.metadata().contains_key(UNFIT_HEADER) => Some(Refusal::Unfit(named)),
        _ if has_reason => Some(Refusal::Failed(named)),
        Code::FailedPrecondition => Some(Refusal::Fenced),
        Code::NotFound => Some(Refusal::NotRunning),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Aborted => None,
        Code::DeadlineExceeded | Code::Internal => None,
        _ => Some(Refusal::Failed(named)),
    }
}

impl Nodes {
    /// Calls until the node has answered.
    pub async fn call<T>(
        &self,
        node: &str,
        operation: impl Fn(Arc<dyn Agent>) -> Reply<T>,
    ) -> Result<T, Refusal> {
        loop {
            let agent = self.when_ready(node).await;
            match operation(agent).await {
                Ok(reply) => return Ok(reply),
                Err(status) => match refusal(&status) {
                    Some(refusal) => return Err(refusal),
                    None => {
                        let message = status.message();
                        tracing::debug!(node, message, "a call's outcome is unknown: repeating it");
                        tokio::time::sleep(RETRY).await;
                    }
                },
            }
        }
    }

    /// The highest epoch this node has seen of an actor.
    pub async fn highest_epoch(&self, node: &str, actor: &ActorKey) -> Epoch {
        let inventory = self.call(node, |agent| agent.inventory()).await.unwrap_or_default();
        let of_actor = |key: &Option<proto::ActorKey>| {
            key.as_ref().is_some_and(|k| k.namespace == actor.namespace() && k.name == actor.name())
        };
        let seen = inventory.epochs.iter().filter(|e| of_actor(&e.actor)).map(|e| e.epoch);
        let live = inventory.activations.iter().filter(|a| of_actor(&a.actor)).map(|a| a.epoch);
        Epoch(seen.chain(live).max().unwrap_or(0))
    }

    /// Tells the node to destroy an activation until it confirms; then its worker is free.
    pub async fn clean(
        &self,
        placement: Arc<Placement>,
        place: Place,
        actor: ActorKey,
        epoch: Epoch,
    ) {
        let reference = proto::ActivationRef {
            actor: Some((&actor).into()),
            epoch: epoch.0,
            term: 0,
            ..Default::default()
        };
        loop {
            match self.call(&place.node, |agent| agent.destroy(reference.clone())).await {
                Ok(_) | Err(Refusal::NotRunning) => break,
                // It has a later activation: is this one still there?
                Err(Refusal::Fenced) => {
                    let inventory = self.call(&place.node, |agent| agent.inventory()).await;
                    let key = reference.actor.clone();
                    let here = |a: &proto::Activation| a.actor == key && a.epoch == epoch.0;
                    if inventory.is_ok_and(|inventory| !inventory.activations.iter().any(here)) {
                        break;
                    }
                }
                Err(Refusal::Failed(failure) | Refusal::Unfit(failure)) => {
                    tracing::warn!(%actor, %epoch, %failure, "an activation is not destroyed yet");
                }
            }
            tokio::time::sleep(RETRY * 10).await;
        }
        placement.free(&place, &actor, epoch);
    }
}
