//! [`Lease`]: what an activation does with its slot.

use std::{
    io,
    net::SocketAddrV4,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use reveille_api::manifest::egress::{Egress, IpBlock};
use tokio::sync::OwnedMutexGuard;
use tokio_util::task::TaskTracker;

use super::{Held, Slot, Wiring, connections, egress, links, netns::Netns};

/// The right to a slot. See [`slots`](super) for what dropping it means.
#[derive(Debug)]
pub(crate) struct Lease {
    slot: Arc<Slot>,
    wiring: OwnedMutexGuard<Wiring>,
    recycling: TaskTracker,
}

impl Lease {
    pub(super) fn new(
        slot: Arc<Slot>,
        wiring: OwnedMutexGuard<Wiring>,
        recycling: TaskTracker,
    ) -> Self {
        Self { slot, wiring, recycling }
    }

    /// A port that no activation of this worker had within the quarantine.
    pub(crate) async fn next_endpoint(&self) -> io::Result<SocketAddrV4> {
        match self.wiring.prepared {
            Some(prepared) => Ok(prepared.endpoint),
            None => self.slot.next_endpoint().await,
        }
    }

    pub(crate) fn held(&self, endpoint: SocketAddrV4) -> Held {
        let link = self.wiring.link.clone().unwrap_or_default();
        Held { index: self.slot.index, link, endpoint }
    }

    /// A fresh inside, after what had this one has ended.
    pub(crate) async fn renew(&mut self) -> io::Result<()> {
        self.slot.renew(&mut self.wiring).await
    }

    /// The namespace for the sandbox.
    pub(crate) fn netns(&self) -> PathBuf {
        self.wiring.inner.as_ref().map(Netns::path).unwrap_or_default()
    }

    /// From now on the sandbox holds its namespace, and it ends with the sandbox.
    pub(crate) fn let_go_of_netns(&mut self) {
        self.wiring.inner = None;
    }

    /// Connections to the endpoint reach this port of the sandbox. Nothing is left to do where that was foreseen.
    pub(crate) async fn open_first(
        &mut self,
        endpoint: SocketAddrV4,
        inner: u16,
    ) -> io::Result<()> {
        self.slot.usual_port.store(inner, Ordering::Relaxed);
        match self.wiring.prepared.take() {
            Some(prepared) if (prepared.endpoint, prepared.inner) == (endpoint, inner) => Ok(()),
            _ => self.open(endpoint, inner).await,
        }
    }

    /// From now on, until the endpoint is closed, the sandbox reaches these, and nobody else.
    pub(crate) async fn let_out(&self, egress: &[Egress]) -> io::Result<()> {
        if egress.is_empty() {
            return Ok(());
        }
        let slot = &self.slot;
        let own = links::inside(None, |links| async move { links.addresses().await }).await?;
        let own = own.into_iter().map(|address| IpBlock::of(address, 32));
        let rules = egress::rules(egress, own.chain(slot.workers.iter().copied()));
        let let_out = slot.firewall.let_out(&slot.outer, &rules);
        tokio::try_join!(slot.firewall.guard(), let_out).map(drop)
    }

    /// The sandbox reaches nobody any more; its endpoint stays as it is.
    pub(crate) async fn shut_in(&self) -> io::Result<()> {
        self.slot.firewall.let_out(&self.slot.outer, "").await
    }

    /// Connections to the endpoint, which was closed, reach this port of the sandbox again.
    pub(crate) async fn open(&self, endpoint: SocketAddrV4, inner: u16) -> io::Result<()> {
        self.slot.firewall.open(&self.slot.outer, endpoint.port(), inner).await
    }

    /// Connections to the endpoint are refused, and those of the sandbox to others; those that exist are reset. Closing it
    /// again is well too.
    pub(crate) async fn close(&self) -> io::Result<()> {
        self.slot.firewall.close(&self.slot.outer).await
    }

    /// Ends the connections made through an endpoint that is closed, and by the sandbox, so that it has none open.
    pub(crate) async fn end_connections(&self, endpoint: SocketAddrV4) -> io::Result<()> {
        self.slot.outer.enter(move || connections::end_all(endpoint)).await?
    }

    /// Gives the slot back. It gets a fresh inside before anybody has it again; that goes on in the background.
    pub(crate) fn recycle(self) {
        self.recycle_after(std::future::ready(()));
    }

    /// The same for one whose sandbox is about to end: it is made ready when that is over, and whoever leases it waits so long.
    pub(crate) fn recycle_after(self, over: impl Future<Output = ()> + Send + 'static) {
        *self.slot.occupant() = None;
        self.recycling.spawn(async move {
            over.await;
            self.slot.give_back(self.wiring).await;
        });
    }
}

/// Undoes an occupation unless it is kept.
pub(super) struct Vacate(Option<Arc<Slot>>);

impl Vacate {
    pub(super) fn of(slot: Arc<Slot>) -> Self {
        Self(Some(slot))
    }

    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Vacate {
    fn drop(&mut self) {
        if let Some(slot) = &self.0 {
            *slot.occupant() = None;
        }
    }
}
