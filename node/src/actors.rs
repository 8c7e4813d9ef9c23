//! [`Actors`]: finds the driver of an actor.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::join_all;
use reveille_api::{ActorKey, Failure, Stay, proto, task};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    actor::{Command, Driver, Handle, Reply},
    core::{Activation, Core, OpError},
    record::Fence,
};

/// The drivers of all actors this node knows.
pub(crate) struct Actors {
    core: Arc<Core>,
    stop: CancellationToken,
    handles: Arc<Handles>,
    tasks: Mutex<JoinSet<()>>,
}

/// The ways to the drivers.
#[derive(Default)]
struct Handles(Mutex<HashMap<ActorKey, Handle>>);

impl Handles {
    fn lock(&self) -> MutexGuard<'_, HashMap<ActorKey, Handle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a driver go that knows nothing, unless a command is on its way to it. Handles are cloned under the lock
    /// only: when this one is the last, there is none, and the next caller gets a new driver.
    fn release(&self, actor: &ActorKey, commands: &mpsc::Receiver<Command>) -> bool {
        let mut handles = self.lock();
        let released = commands.sender_strong_count() == 1 && commands.is_empty();
        if released {
            handles.remove(actor);
        }
        released
    }
}

impl Actors {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            stop: CancellationToken::new(),
            handles: Arc::default(),
            tasks: Mutex::default(),
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Starts the driver of an actor that an earlier agent knew.
    pub(crate) fn restore(
        &self,
        actor: ActorKey,
        fence: Fence,
        activation: Option<Box<Activation>>,
    ) {
        self.start(&mut self.handles.lock(), actor, fence, activation);
    }

    /// Has the actor's driver do something, and waits for its answer.
    pub(crate) async fn submit<T>(
        &self,
        actor: &ActorKey,
        stay: Option<Stay>,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, OpError> {
        let (reply, answer) = Reply::new(stay);
        let handle = self.handle(actor)?;
        handle.commands.send(command(reply)).await.map_err(|_| OpError::Stopping)?;
        // One that is held keeps the driver.
        drop(handle);
        answer.await.map_err(|_| OpError::Stopping)?
    }

    /// What is really on this node.
    pub(crate) fn inventory(&self) -> proto::Inventory {
        let (mut activations, mut epochs) = (Vec::new(), Vec::new());
        for (actor, handle) in self.handles.lock().iter() {
            let view = handle.view();
            activations.extend(view.activation);
            let epoch = view.fence.epoch.0;
            if epoch > 0 {
                epochs.push(proto::ActivationRef {
                    actor: Some(actor.into()),
                    epoch,
                    term: 0,
                    ..Default::default()
                });
            }
        }
        let snapshots = self.core.snapshots.list(&self.core.node);
        proto::Inventory { activations, snapshots, epochs }
    }

    /// Actors with an activation.
    pub(crate) fn active(&self) -> Vec<ActorKey> {
        let handles = self.handles.lock();
        let active = handles.iter().filter(|(_, handle)| handle.view().activation.is_some());
        active.map(|(actor, _)| actor.clone()).collect()
    }

    /// Ends every activation.
    pub(crate) async fn destroy_all(&self) {
        let all = self.active();
        let ended =
            join_all(all.iter().map(|actor| self.submit(actor, None, Command::DestroyAny))).await;
        for (actor, ended) in all.iter().zip(ended) {
            if let Err(error) = ended {
                tracing::error!(%actor, %error, "an activation was not destroyed");
            }
        }
    }

    /// Lets every driver finish its operation, and ends it.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks());
        while tasks.join_next().await.is_some() {}
    }

    fn handle(&self, actor: &ActorKey) -> Result<Handle, OpError> {
        if self.stop.is_cancelled() {
            return Err(OpError::Stopping);
        }
        let mut handles = self.handles.lock();
        if let Some(handle) = handles.get(actor) {
            return Ok(handle.clone());
        }
        Ok(self.start(&mut handles, actor.clone(), Fence::default(), None))
    }

    fn start(
        &self,
        handles: &mut HashMap<ActorKey, Handle>,
        actor: ActorKey,
        fence: Fence,
        activation: Option<Box<Activation>>,
    ) -> Handle {
        let (core, stop) = (self.core.clone(), self.stop.clone());
        let (handle, driver) = Driver::new(core, actor.clone(), fence, activation, stop);
        let all = Arc::clone(&self.handles);
        let run = driver.run(move |actor, commands| all.release(actor, commands));
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        task::spawn(&mut tasks, "actor", run);
        handles.insert(actor, handle.clone());
        handle
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<serde_json::Error> for OpError {
    fn from(error: serde_json::Error) -> Self {
        let reason = reveille_api::Reason::StartFailed;
        Failure::new(reason, format!("the template cannot be read: {error}")).into()
    }
}
