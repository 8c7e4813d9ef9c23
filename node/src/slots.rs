//! Slots: the places of a node where activations live, each with a network of its own.
//!
//! ```text
//!   host                    outer namespace (one per worker,        inner namespace (one per activation)
//!                           pinned: outlives the agent)
//!   rv3f9a01h0 ────────────── up0                 in7 ────────────── eth0 ── gVisor takes it over
//!   10.213.0.1/30             10.213.0.2/30       10.0.2.2/24        10.0.2.15/24
//!                             nft: 10.213.0.2:20417 ─▶ 10.0.2.15:8080
//! ```
//!
//! An actor reaches others only if its template and its node allow it: by the same way out, see [`egress`].
//!
//! An endpoint is the outer address and a port of one activation. The inside address never changes, because a
//! checkpoint remembers it; so do the hardware addresses, so that nobody asks for them during a restore. The inner
//! namespace is made after the one before it has ended, not when it is needed; it is held by its sandbox and by
//! nothing else, and goes with it. The next endpoint is opened then too, so that a wake mostly has nothing to do here.
//!
//! A [`Lease`] is the right to a slot. It is given back only by [`Lease::recycle`]: one that is merely dropped (the
//! agent ends) leaves the network as it is, for the next agent to adopt.
//!
//! A sandbox that lives keeps its slot and its addresses, also when the next agent is told fewer workers or another
//! range. A slot beyond the workers is leased to nobody else and goes when its activation has ended.

mod cidr;
mod connections;
mod egress;
mod firewall;
mod host;
mod lease;
mod links;
mod netns;
mod ports;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use reveille_api::{ActorKey, Epoch, manifest::egress::IpBlock};
use tokio::sync::OwnedMutexGuard;
use tokio_util::task::TaskTracker;

pub use cidr::{Cidr, InvalidCidr};
pub(crate) use host::remove_all;
pub(crate) use lease::Lease;
pub(crate) use netns::{Netns, thread};

use crate::{config::Layout, files};
use cidr::Subnet;
use firewall::Firewall;
use host::{choose_subnets, connect, is_netns, remove_orphans};
use lease::Vacate;
use links::Peer;
use ports::Ledger;

/// Addresses and names that are the same in every slot.
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const INSIDE_BITS: u8 = 24;
const INSIDE_MAC: [u8; 6] = [0x02, 0x52, 0x56, 0, 0, 2];
const GATEWAY_MAC: [u8; 6] = [0x02, 0x52, 0x56, 0, 0, 1];
const UPLINK: &str = "up0";
/// Of a template that names no port.
const USUAL_PORT: u16 = 8080;
/// A slot that could not be made ready is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// Why the network cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not enough addresses.
    #[error(
        "--worker-cidr {cidr} has room for {room} workers beside what the machine's routes take, not for {workers}: give a larger one"
    )]
    Exhausted {
        /// The network.
        cidr: Cidr,
        /// Free pairs of addresses in it.
        room: usize,
        /// Workers asked for.
        workers: u32,
    },
    /// The machine has a route into it.
    #[error("--worker-cidr {cidr} overlaps the route to {route} of this machine: give another one")]
    Overlap {
        /// The network.
        cidr: Cidr,
        /// The route.
        route: String,
    },
    /// Something of a slot cannot be made.
    #[error("cannot {operation} of worker {index}")]
    Slot {
        /// What was tried.
        operation: &'static str,
        /// For which worker.
        index: u32,
        /// Why.
        source: io::Error,
    },
    /// The machine's network cannot be read.
    #[error("cannot read the machine's network")]
    Host(#[source] io::Error),
    /// The machine's rules cannot be set, or not be taken away.
    #[error("cannot set the machine's rules for egress")]
    Rules(#[source] io::Error),
}

/// What an operator says of the workers' network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network<'a> {
    pub(crate) cidr: Cidr,
    pub(crate) workers: u32,
    /// The program.
    pub(crate) nft: &'a Path,
    /// Actors may be let out.
    pub(crate) egress: bool,
}

/// All slots of a node.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: BTreeMap<u32, Arc<Slot>>,
    firewall: Firewall,
    recycling: TaskTracker,
}

/// One of them.
#[derive(Debug)]
struct Slot {
    index: u32,
    subnet: Subnet,
    outer: Netns,
    /// Beyond the workers: what is to be removed when its activation has ended.
    spare: Option<Names>,
    firewall: Firewall,
    /// The addresses of workers, which no other worker reaches.
    workers: Arc<[IpBlock]>,
    ledger: Arc<Ledger>,
    wiring: Arc<tokio::sync::Mutex<Wiring>>,
    occupant: Mutex<Option<(ActorKey, Epoch)>>,
    /// The port inside that the last activation had; the next one mostly has the same.
    usual_port: AtomicU16,
}

/// What a slot is called outside.
#[derive(Clone, Debug)]
struct Names {
    host_link: String,
    pin: PathBuf,
}

/// The inside of a slot.
#[derive(Debug, Default)]
struct Wiring {
    /// Its end in the outer namespace.
    link: Option<String>,
    /// Held until a sandbox holds it.
    inner: Option<Netns>,
    generation: u64,
    prepared: Option<Prepared>,
}

/// The next endpoint, opened ahead of its activation. Nobody knows it yet, and nothing listens inside.
#[derive(Clone, Copy, Debug)]
struct Prepared {
    endpoint: SocketAddrV4,
    inner: u16,
}

/// What an activation that is to be adopted has of its slot.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) index: u32,
    pub(crate) link: String,
    pub(crate) endpoint: SocketAddrV4,
}

/// Why a slot cannot be leased.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this node has no worker with index {0}")]
    Unknown(u32),
    #[error("the worker is in use by {0}, epoch {1}")]
    Occupied(ActorKey, Epoch),
}

impl Slots {
    /// Makes the slots. Those in `held` stay as they are if they are still whole, those in `living` also where they are;
    /// everything else that bears our prefix is removed first.
    pub(crate) async fn open(
        layout: &Layout,
        Network { cidr, workers, nft, egress }: Network<'_>,
        held: &[Held],
        living: &[Held],
    ) -> Result<Self, Error> {
        let ledger = Ledger::open(&layout.slots).map_err(Error::Host)?;
        let names = |index: u32| Names {
            host_link: format!("{}h{index}", layout.prefix),
            pin: layout.netns.join(format!("{}-{index}", layout.prefix)),
        };
        let whole = |held: &&Held| is_netns(&names(held.index).pin);
        let had = |held: &Held| {
            let subnet = ledger.subnet(held.index)?;
            (subnet.worker() == *held.endpoint.ip()).then_some((held.index, subnet))
        };
        let living: BTreeMap<_, _> = living.iter().filter(whole).filter_map(had).collect();
        let subnets = choose_subnets(&layout.prefix, cidr, workers, &living, &ledger).await?;
        tell_of_changes(&living, cidr, workers);
        let keep: BTreeSet<_> = held
            .iter()
            .filter(|held| {
                subnets.get(&held.index).is_some_and(|s| s.worker() == *held.endpoint.ip())
            })
            .filter(whole)
            .map(|held| held.index)
            .collect();
        remove_orphans(layout, keep.iter().map(|index| names(*index)).collect())
            .await
            .map_err(Error::Host)?;
        let ledger = Arc::new(ledger);
        let firewall = Firewall::new(nft, &layout.prefix);
        let guarded = if egress { firewall.guard().await } else { firewall.unguard().await };
        guarded.map_err(Error::Rules)?;
        let elsewhere = subnets.values().filter(|subnet| !cidr.contains(**subnet));
        let ranges: Arc<[_]> =
            elsewhere.map(|subnet| subnet.block()).chain([cidr.block()]).collect();
        let made = subnets.into_iter().map(|(index, subnet)| {
            let (names, keep) = (names(index), keep.contains(&index));
            let (spare, ranges) = ((index >= workers).then(|| names.clone()), ranges.clone());
            let slot = Slot::open(index, names, subnet, keep, &firewall, &ledger);
            async move {
                slot.await.map(|slot| (index, Arc::new(Slot { spare, workers: ranges, ..slot })))
            }
        });
        let slots = futures::future::try_join_all(made).await?.into_iter().collect();
        let slots = Self { slots, firewall, recycling: TaskTracker::new() };
        for slot in slots.slots.values().filter(|slot| !keep.contains(&slot.index)) {
            let wiring = slot.wiring.clone().lock_owned().await;
            slots.recycling.spawn(slot.clone().give_back(wiring));
        }
        Ok(slots)
    }

    /// Leases a free slot; one that is being made ready is waited for.
    pub(crate) async fn lease(
        &self,
        index: u32,
        actor: &ActorKey,
        epoch: Epoch,
    ) -> Result<Lease, Refused> {
        let slot = self.slots.get(&index).filter(|slot| slot.spare.is_none());
        let slot = slot.ok_or(Refused::Unknown(index))?;
        {
            let mut occupant = slot.occupant();
            if let Some((actor, epoch)) = &*occupant {
                return Err(Refused::Occupied(actor.clone(), *epoch));
            }
            *occupant = Some((actor.clone(), epoch));
        }
        // A caller that gives up while it waits must not leave the slot occupied.
        let vacate = Vacate::of(slot.clone());
        let wiring = slot.wiring.clone().lock_owned().await;
        vacate.keep();
        Ok(Lease::new(slot.clone(), wiring, self.recycling.clone()))
    }

    /// Takes over the slot of an activation of an earlier agent; `None` when it is not whole any more.
    pub(crate) async fn adopt(&self, held: &Held, actor: &ActorKey, epoch: Epoch) -> Option<Lease> {
        let slot = self.slots.get(&held.index)?;
        if slot.subnet.worker() != *held.endpoint.ip() {
            return None;
        }
        // A slot just made is locked while it is made ready: then its network was not whole.
        let mut wiring = slot.wiring.clone().try_lock_owned().ok()?;
        if wiring.link.is_some() {
            return None;
        }
        wiring.link = Some(held.link.clone());
        wiring.generation = held.link.trim_start_matches("in").parse().unwrap_or_default();
        *slot.occupant() = Some((actor.clone(), epoch));
        Some(Lease::new(slot.clone(), wiring, self.recycling.clone()))
    }

    /// Makes those ready that were kept for an adoption which then did not happen. Clients of what was there are told.
    pub(crate) fn ready_the_rest(&self) {
        for slot in self.slots.values() {
            let Ok(wiring) = slot.wiring.clone().try_lock_owned() else { continue };
            if wiring.link.is_none() {
                self.recycling.spawn(slot.clone().give_back(wiring));
            }
        }
    }

    /// Slots with an activation.
    pub(crate) fn used(&self) -> u32 {
        self.slots.values().filter(|slot| slot.occupant().is_some()).count() as u32
    }

    /// Waits for slots that are being made ready.
    pub(crate) async fn settle(&self) {
        self.recycling.close();
        self.recycling.wait().await;
    }

    /// Removes every slot. Their activations must be gone.
    pub(crate) async fn destroy(&self, layout: &Layout) -> io::Result<()> {
        self.settle().await;
        remove_orphans(layout, Vec::new()).await?;
        self.firewall.unguard().await
    }
}

/// Whether every worker can have a network.
pub(crate) async fn choose(layout: &Layout, cidr: Cidr, workers: u32) -> Result<(), Error> {
    let ledger = Ledger::open(&layout.slots).map_err(Error::Host)?;
    choose_subnets(&layout.prefix, cidr, workers, &BTreeMap::new(), &ledger).await.map(drop)
}

/// What the operator asked for and does not get yet.
fn tell_of_changes(living: &BTreeMap<u32, Subnet>, cidr: Cidr, workers: u32) {
    let beyond = living.keys().filter(|index| **index >= workers).count();
    if beyond > 0 {
        tracing::info!(
            beyond,
            workers,
            "actors run on more workers than there are to be: those are kept until they end"
        );
    }
    let outside = living.values().filter(|subnet| !cidr.contains(**subnet)).count();
    if outside > 0 {
        tracing::info!(outside, %cidr, "actors run outside of --worker-cidr: their workers move there at the first start at which they have ended");
    }
}

impl Slot {
    async fn open(
        index: u32,
        names: Names,
        subnet: Subnet,
        keep: bool,
        firewall: &Firewall,
        ledger: &Arc<Ledger>,
    ) -> Result<Self, Error> {
        let failed = |operation| move |source| Error::Slot { operation, index, source };
        let outer = if keep {
            Netns::open(&names.pin).map_err(failed("open the namespace"))?
        } else {
            let outer = Netns::create().await.map_err(failed("create the namespace"))?;
            outer.pin(&names.pin).map_err(failed("pin the namespace"))?;
            firewall.install(&outer).await.map_err(failed("set the rules"))?;
            connect(&names.host_link, &outer, subnet)
                .await
                .map_err(failed("connect the network"))?;
            outer
        };
        let (firewall, ledger) = (firewall.clone(), ledger.clone());
        let (wiring, occupant) = (Arc::default(), Mutex::default());
        let usual_port = AtomicU16::new(USUAL_PORT);
        Ok(Self {
            index,
            subnet,
            outer,
            spare: None,
            firewall,
            workers: Arc::default(),
            ledger,
            wiring,
            occupant,
            usual_port,
        })
    }

    fn occupant(&self) -> std::sync::MutexGuard<'_, Option<(ActorKey, Epoch)>> {
        self.occupant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its activation has ended, or there was none.
    async fn give_back(self: Arc<Self>, wiring: OwnedMutexGuard<Wiring>) {
        match &self.spare {
            None => self.make_ready(wiring).await,
            Some(names) => {
                if let Err(error) = self.remove(names).await {
                    tracing::warn!(worker = self.index, %error, "a worker that is not needed any more was not removed; the next start will do it");
                }
            }
        }
    }

    async fn remove(&self, names: &Names) -> io::Result<()> {
        self.hang_up().await?;
        netns::unpin(&names.pin)?;
        let link = names.host_link.clone();
        links::inside(None, move |links| async move { links.delete(&link).await }).await
    }

    /// Refuses connections, either way, and tells those who have one.
    async fn hang_up(&self) -> io::Result<()> {
        self.firewall.install(&self.outer).await?;
        if let Err(error) = self.outer.enter(connections::reset_peers).await.flatten() {
            tracing::debug!(%error, "those connected to a sandbox that is gone were not told");
        }
        Ok(())
    }

    /// Gives the slot a fresh inside, trying until it succeeds: a slot without one is of no use to anybody.
    async fn make_ready(self: Arc<Self>, mut wiring: OwnedMutexGuard<Wiring>) {
        let begin = tokio::time::Instant::now();
        while let Err(error) = self.renew(&mut wiring).await {
            tracing::warn!(worker = self.index, %error, "the slot is not ready yet");
            tokio::time::sleep(RETRY).await;
        }
        tracing::debug!(worker = self.index, took = ?begin.elapsed(), "the slot is ready");
    }

    async fn renew(&self, wiring: &mut Wiring) -> io::Result<()> {
        (wiring.inner, wiring.prepared) = (None, None);
        self.hang_up().await?;
        let old = wiring.link.take();
        wiring.generation += 1;
        let link = format!("in{}", wiring.generation);
        let inner = Netns::create().await?;
        let (fd, name, host) = (inner.raw_fd(), link.clone(), self.subnet.host());
        let rewired = links::inside(Some(&self.outer), move |links| async move {
            // All of them: one may be left of an agent that died.
            let stale = links.names().await?.into_iter().filter(|(_, name)| name.starts_with("in"));
            for (_, stale) in stale {
                links.delete(&stale).await?;
            }
            if let Err(error) = connections::forget_all() {
                tracing::debug!(%error, "old connections were not forgotten");
            }
            let peer = Peer { name: "eth0", ns: fd, mac: Some(INSIDE_MAC) };
            links.add_veth(&name, Some(GATEWAY_MAC), peer).await?;
            let index = links.configure(&name, GATEWAY, INSIDE_BITS).await?;
            links.add_neighbour(index, INSIDE, INSIDE_MAC).await?;
            links.default_route(host).await
        });
        if let Err(error) = rewired.await {
            wiring.link = old;
            return Err(error);
        }
        wiring.link = Some(link);
        links::inside(Some(&inner), |links| async move {
            links.loopback_up().await?;
            let index = links.configure("eth0", INSIDE, INSIDE_BITS).await?;
            links.add_neighbour(index, GATEWAY, GATEWAY_MAC).await?;
            links.default_route(GATEWAY).await
        })
        .await?;
        wiring.inner = Some(inner);
        let endpoint = self.next_endpoint().await?;
        let inner = self.usual_port.load(Ordering::Relaxed);
        self.firewall.open(&self.outer, endpoint.port(), inner).await?;
        wiring.prepared = Some(Prepared { endpoint, inner });
        Ok(())
    }

    async fn next_endpoint(&self) -> io::Result<SocketAddrV4> {
        let (ledger, index) = (self.ledger.clone(), self.index);
        let port = files::blocking(move || ledger.take(index)).await?;
        Ok(SocketAddrV4::new(self.subnet.worker(), port))
    }
}
