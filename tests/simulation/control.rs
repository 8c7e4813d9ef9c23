//! The real control plane and the real routers, as hosts; and a way to nodes that says some things twice.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use reveille_api::{Ladder, proto, task};
use reveille_controlplane::{
    Timings,
    nodes::{
        Dial, GrpcAgent,
        agent::{Agent, Reply},
    },
    store::{Batch, Collection, Error, Record, Store, memory::MemoryStore},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tonic::Status;

use crate::{net, world::Dice};

/// Where each server listens.
pub(crate) const PORT: u16 = 7000;

pub(crate) async fn control_plane(disk: Arc<MemoryStore>, dice: Dice) -> turmoil::Result {
    let store = Arc::new(Disk::new(disk, dice.clone()));
    let dial: Dial = Arc::new(move |_, address, stay| {
        let inner = Arc::new(GrpcAgent::over(net::channel(address), stay));
        Ok(Arc::new(Stammering { inner, dice: dice.clone() }) as Arc<dyn Agent>)
    });
    let incoming = net::listen(PORT).await?.boxed();
    reveille_controlplane::simulate(store, timings(), dial, incoming).await?;
    Ok(())
}

/// Silence is missed sooner than by default, so that some of it lasts longer than anybody waits.
fn timings() -> Timings {
    let secs = Duration::from_secs;
    Timings { node_grace: secs(10), router_grace: secs(12), ..Timings::default() }
}

pub(crate) async fn router(name: &'static str, ladder: Ladder) -> turmoil::Result {
    let zone = "actors.test".parse()?;
    let control_plane = net::channel(&format!("control:{PORT}"));
    let incoming = net::listen(PORT).await?.boxed();
    Ok(reveille_router::simulate(name, zone, ladder, control_plane, incoming).await?)
}

type Write = (Batch, oneshot::Sender<Result<(), Error>>);

/// A disk takes its time, one write after another: a crash comes before a write, or after it and before anybody knows.
struct Disk {
    disk: Arc<MemoryStore>,
    writes: mpsc::UnboundedSender<Write>,
}

impl Disk {
    fn new(disk: Arc<MemoryStore>, dice: Dice) -> Self {
        let (writes, mut queue) = mpsc::unbounded_channel::<Write>();
        let writer = Arc::clone(&disk);
        task::detach("disk", async move {
            while let Some((batch, told)) = queue.recv().await {
                sleep(Duration::from_millis(dice.between(0, 10))).await;
                let written = writer.commit(batch).await;
                sleep(Duration::from_millis(dice.between(0, 10))).await;
                let _ = told.send(written);
            }
        });
        Self { disk, writes }
    }
}

impl Store for Disk {
    fn get(&self, collection: Collection, key: &str) -> Result<Option<Record>, Error> {
        self.disk.get(collection, key)
    }

    fn list(&self, collection: Collection, prefix: &str) -> Result<Vec<(String, Record)>, Error> {
        self.disk.list(collection, prefix)
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'static, Result<(), Error>> {
        let (told, written) = oneshot::channel();
        self.writes.send((batch, told)).expect("a disk");
        async move { written.await.expect("a disk") }.boxed()
    }

    fn failed(&self) -> BoxFuture<'static, Error> {
        self.disk.failed()
    }
}

/// Repeats calls: a repeated suspend comes with the first, others also late.
struct Stammering {
    inner: Arc<GrpcAgent>,
    dice: Dice,
}

impl Stammering {
    fn again<T: Send + 'static>(&self, latest: u64, call: impl FnOnce(&GrpcAgent) -> Reply<T>) {
        if self.dice.chance(0.2) {
            let (pause, call) = (self.dice.between(0, latest), call(&self.inner));
            task::detach("again", async move {
                sleep(Duration::from_millis(pause)).await;
                let _ = call.await;
            });
        }
    }
}

/// How late a call may be repeated, in milliseconds.
const LATE: u64 = 2_000;

impl Agent for Stammering {
    fn activate(&self, request: proto::ActivateRequest) -> Reply<proto::ActivateReply> {
        self.again(LATE, |agent| agent.activate(request.clone()));
        self.inner.activate(request)
    }

    fn suspend(&self, request: proto::SuspendRequest) -> Reply<proto::SuspendReply> {
        self.again(0, |agent| agent.suspend(request.clone()));
        self.inner.suspend(request)
    }

    fn freeze(&self, request: proto::ActivationRef) -> Reply<proto::FreezeReply> {
        self.again(LATE, |agent| agent.freeze(request.clone()));
        self.inner.freeze(request)
    }

    fn resume(&self, request: proto::ActivationRef) -> Reply<proto::ResumeReply> {
        self.again(LATE, |agent| agent.resume(request.clone()));
        self.inner.resume(request)
    }

    fn destroy(&self, request: proto::ActivationRef) -> Reply<proto::DestroyReply> {
        self.again(LATE, |agent| agent.destroy(request.clone()));
        self.inner.destroy(request)
    }

    fn inventory(&self) -> Reply<proto::Inventory> {
        self.inner.inventory()
    }

    fn delete_snapshots(
        &self,
        request: proto::DeleteSnapshotsRequest,
    ) -> Reply<proto::DeleteSnapshotsReply> {
        self.inner.delete_snapshots(request)
    }

    fn logs(
        &self,
        request: proto::LogsRequest,
    ) -> Reply<BoxStream<'static, Result<proto::LogChunk, Status>>> {
        self.inner.logs(request)
    }
}
