//! `Names`: what DNS servers ask about actors that they are asked for.

use std::sync::Arc;

use reveille_api::{
    ActorKey,
    proto::{LookReply, LookRequest, names_server::Names},
};
use tonic::{Request, Response, Status};

use super::verbs;
use crate::{
    fleet::{Fleet, Origin},
    lifecycle::Asker,
};

/// The service.
#[derive(Clone)]
pub struct NamesService(Arc<Fleet>);

impl NamesService {
    /// For these actors.
    pub fn new(fleet: Arc<Fleet>) -> Self {
        Self(fleet)
    }
}

#[tonic::async_trait]
impl Names for NamesService {
    async fn look(&self, request: Request<LookRequest>) -> Result<Response<LookReply>, Status> {
        let LookRequest { actor, wake } = request.into_inner();
        let key = ActorKey::try_from(actor)?;
        let exists = self.0.view(&key).map_err(verbs::store)?.is_some();
        if exists && wake {
            let fleet = Arc::clone(&self.0);
            // Bounded as every wake is; who is to be told of its outcome is the request that comes.
            self.0.tasks.spawn("wake hint", async move {
                if let Err(failure) = fleet.wake(&key, Asker::Traffic, Origin::default()).await {
                    tracing::debug!(actor = %key, %failure, "a hinted wake failed");
                }
            });
        }
        Ok(Response::new(LookReply { exists }))
    }
}
