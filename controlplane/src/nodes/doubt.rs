//! A router could not connect to an activation that the record says serves: its node is asked before the binding is given
//! out again.
//!
//! | the node | then |
//! | --- | --- |
//! | has no such activation | it is `Lost`, and the wake goes on from its snapshot |
//! | has it | a moment for news of its end; then its binding is given out again: what was wrong is between the router and it |
//! | does not answer | it is asked again, until it does, or is given up, or the wake's time is over: who asks is held meanwhile |
//!
//! Nothing is decided here that is not decided when a node registers; a router's word alone ends no activation.

use std::{sync::Arc, time::Duration};

use reveille_api::{ActorKey, Epoch, Failure, Reason};
use tokio::time::{sleep, timeout};

use super::reconcile::by_actor;
use crate::{
    fleet::Fleet,
    lifecycle::{Event, Phase, Place},
    record::ActorRecord,
};

/// For one answer; a node that is cut off gives none.
const ASK: Duration = Duration::from_secs(2);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(100);
/// An activation that has just ended may be told to serve still.
const NEWS: Duration = Duration::from_millis(200);

impl Fleet {
    /// Returns once it is known whether this activation serves, or it is not believed to any more.
    pub async fn doubt(self: &Arc<Self>, key: &ActorKey, epoch: Epoch) -> Result<(), Failure> {
        let Some(mut view) = self.watched(key) else { return Ok(()) };
        let Some(record) = view.borrow().clone().filter(|record| is_believed(record, epoch)) else {
            return Ok(());
        };
        let Some(place) = record.life.place().cloned() else { return Ok(()) };
        let template = self.catalog.template(key.namespace(), &record.template);
        let patience = template.map_or(ASK, |template| template.spec.wake.timeout);
        tracing::debug!(actor = %key, %epoch, node = place.node, "a router could not reach it");
        let over = async {
            let believed = |record: &ActorRecord| is_believed(record, epoch);
            // An error says that its driver has ended: it is at rest.
            let _ = view.wait_for(|now| !now.as_deref().is_some_and(believed)).await;
        };
        let settled = async {
            tokio::select! {
                () = over => {}
                () = self.ask_node(key, epoch, &place) => {}
            }
        };
        timeout(patience, settled).await.map_err(|_| {
            let message = format!("node {} does not answer, nor does the actor there", place.node);
            Failure::new(Reason::WakeTimeout, message)
        })
    }

    async fn ask_node(self: &Arc<Self>, key: &ActorKey, epoch: Epoch, place: &Place) {
        let node = &place.node;
        let inventory = loop {
            let agent = self.nodes.when_ready(node).await;
            match timeout(ASK, agent.inventory()).await {
                Ok(Ok(inventory)) => break inventory,
                Ok(Err(_)) | Err(_) => sleep(RETRY).await,
            }
        };
        let here = by_actor(inventory, node).remove(key).unwrap_or_default();
        if here.activation.is_some_and(|found| found.epoch == epoch.0) {
            return sleep(NEWS).await;
        }
        let (node, snapshots) = (node.clone(), here.snapshots);
        self.tell(key, Event::Absent { node, epoch, snapshots }).await;
    }
}

fn is_believed(record: &ActorRecord, epoch: Epoch) -> bool {
    record.life.phase() == Phase::Running && record.life.epoch == epoch
}
