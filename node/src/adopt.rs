//! What a new agent does about what the one before it left.
//!
//! | record | process | snapshot | then |
//! | --- | --- | --- | --- |
//! | `Serving` | lives, its port listens | | adopted as it is |
//! | `Frozen` | lives | | frozen again, adopted |
//! | `Suspending` | | committed | killed: the snapshot is the actor |
//! | `Suspending` | lives | not committed | resumed, endpoint given back, adopted |
//! | anything else | | | destroyed |
//!
//! An adopted one reaches whom it reached, unless the new agent does not allow it any more: then nobody.
//!
//! Sandboxes without a record, and interfaces, namespaces and bundles without a sandbox, are removed.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reveille_api::{ActorKey, manifest::template::Runtime as Kind};

use crate::{
    actor::{chain, come_back, freeze_again},
    core::{Activated, Activation, Core, Origin},
    limits::Watch,
    process::Process,
    readiness::Check,
    record::{ActivationRecord, Fence, Phase, Record},
    runtime::{Runtime, Runtimes},
    slots::Held,
};

/// How long an adopted activation has to accept a connection.
const LISTENS: Duration = Duration::from_secs(2);

/// An activation whose process lives.
pub(crate) struct Candidate {
    actor: ActorKey,
    fence: Fence,
    record: ActivationRecord,
    runtime: Arc<dyn Runtime>,
    process: Process,
}

impl Candidate {
    /// The activations among the records that may be adopted.
    pub(crate) fn among(records: &[Record], runtimes: &Runtimes) -> Vec<Self> {
        records.iter().filter_map(|record| Self::of(record, runtimes)).collect()
    }

    fn of(record: &Record, runtimes: &Runtimes) -> Option<Self> {
        let (actor, fence) = (record.actor.clone(), record.fence);
        let record = record.activation.clone()?;
        let process = Process::reopen(record.process?).ok()?;
        let Some(runtime) = runtimes.get(record.runtime).cloned() else {
            tracing::error!(%actor, "its runtime is not here any more: it is killed");
            process.kill();
            return None;
        };
        if record.phase == Phase::Starting || process.is_over() {
            return None;
        }
        Some(Self { actor, fence, record, runtime, process })
    }

    pub(crate) fn kind(&self) -> Kind {
        self.record.runtime
    }

    pub(crate) fn sandbox(&self) -> &str {
        &self.record.sandbox
    }

    pub(crate) fn held(&self) -> Held {
        self.record.held()
    }

    pub(crate) fn actor(&self) -> &ActorKey {
        &self.actor
    }

    /// Takes it over, or destroys it.
    pub(crate) async fn adopt(self, core: &Arc<Core>) -> Option<Box<Activation>> {
        let Self { actor, fence, record, runtime, process } = self;
        let Some(lease) = core.slots.adopt(&record.held(), &actor, record.epoch).await else {
            tracing::warn!(%actor, "a sandbox without its network is destroyed");
            core.teardown(&runtime, &record.sandbox, Some(&process), None).await;
            return None;
        };
        let endpoint = record.endpoint.to_string();
        let reply = Activated {
            endpoint,
            fetch_us: 0,
            restore_us: 0,
            ready_us: 0,
            origin: Origin::Adopted,
        };
        let watch = Watch::new(&runtime, &record.sandbox, process.id().pid, &record.limits);
        let image = record.image.as_ref().and_then(|pin| core.images.get(&pin.digest));
        let mut activation =
            Box::new(Activation { record, runtime, process, lease, watch, image, reply });
        let narrowed = match core.check_egress(&activation.record.egress) {
            Ok(()) => Ok(()),
            Err(why) => {
                tracing::warn!(%actor, why, "a running actor reaches nobody any more");
                activation.record.egress.clear();
                activation
                    .lease
                    .shut_in()
                    .await
                    .map_err(|e| format!("it could not be shut in: {e}"))
            }
        };
        let outcome = match activation.record.phase.clone() {
            _ if narrowed.is_err() => narrowed,
            Phase::Suspending { snapshot } if core.snapshots.get(&actor, &snapshot).is_some() => {
                Err("its snapshot is committed".into())
            }
            Phase::Suspending { .. } => come_back(core, &actor, fence, &mut activation).await,
            Phase::Frozen { .. } => freeze_again(&activation).await,
            // The agent before this one may have died while it held it to its limits.
            Phase::Serving | Phase::Starting => {
                let thawed = activation.runtime.thaw(&activation.record.sandbox).await;
                thawed.map_err(|error| chain(&error))
            }
        };
        let outcome = match outcome {
            Ok(()) if activation.record.is_frozen() => Ok(()),
            Ok(()) => {
                let check = Check::listens(SocketAddr::V4(activation.record.endpoint));
                check.hurry();
                let listens = tokio::time::timeout(LISTENS, check.passed()).await;
                listens.map_err(|_| check.last_miss())
            }
            Err(why) => Err(why),
        };
        match outcome {
            Ok(()) => {
                tracing::info!(%actor, epoch = %activation.record.epoch, "a running actor was adopted");
                Some(activation)
            }
            Err(why) => {
                tracing::warn!(%actor, why, "a sandbox is not adopted but destroyed");
                activation.end(core).await;
                None
            }
        }
    }
}

/// The fence of an actor whose activation was not adopted. One that served is over; a start that was cut short may
/// be tried again.
pub(crate) fn fence_without(record: &Record) -> Fence {
    let mut fence = record.fence;
    if let Some(activation) = &record.activation
        && activation.phase != Phase::Starting
    {
        fence.end(activation.epoch);
    }
    fence
}
