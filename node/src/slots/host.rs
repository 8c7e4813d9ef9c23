//! The host's side of the slots: whose addresses, which links, and what is left over.

use std::{
    collections::{BTreeMap, HashSet},
    io,
};

use super::{
    Error, Names, UPLINK,
    cidr::{Cidr, Subnet},
    links::{self, Links, Peer},
    netns::{self, Netns},
    ports::Ledger,
};
use crate::config::Layout;

/// The veth between host and worker.
pub(super) async fn connect(host_link: &str, outer: &Netns, subnet: Subnet) -> io::Result<()> {
    let (name, fd) = (host_link.to_owned(), outer.raw_fd());
    links::inside(None, move |links| async move {
        links.delete(&name).await?;
        links.add_veth(&name, None, Peer { name: UPLINK, ns: fd, mac: None }).await?;
        links.configure(&name, subnet.host(), Subnet::BITS).await?;
        Ok(())
    })
    .await?;
    links::inside(Some(outer), move |links| async move {
        netns::write_sysctl("ipv4/ip_forward", "1")?;
        links.loopback_up().await?;
        links.configure(UPLINK, subnet.worker(), Subnet::BITS).await?;
        Ok(())
    })
    .await
}

/// Settles the network of every worker: the one it had, if it still can have it, else the first that is free. Those of
/// the living stay what they are, also those beyond the workers.
pub(super) async fn choose_subnets(
    prefix: &str,
    cidr: Cidr,
    workers: u32,
    living: &BTreeMap<u32, Subnet>,
    ledger: &Ledger,
) -> Result<BTreeMap<u32, Subnet>, Error> {
    let ours = prefix.to_owned();
    let foreign = links::inside(None, move |links| async move {
        let names = links.names().await?;
        let own: HashSet<_> =
            names.iter().filter(|(_, name)| name.starts_with(&ours)).map(|(i, _)| *i).collect();
        let routes = links.routes().await?;
        Ok(routes
            .into_iter()
            .filter(|(_, _, interface)| !own.contains(interface))
            .collect::<Vec<_>>())
    })
    .await
    .map_err(Error::Host)?;
    let free =
        |subnet: Subnet| !foreign.iter().any(|(addr, bits, _)| subnet.overlaps(*addr, *bits));
    let mut chosen: Vec<_> = (0..workers)
        .map(|index| {
            let had = ledger.subnet(index).filter(|s| cidr.contains(*s) && free(*s));
            living.get(&index).copied().or(had)
        })
        .collect();
    let taken: HashSet<_> = chosen.iter().flatten().chain(living.values()).copied().collect();
    let mut fresh = cidr.subnets().filter(|subnet| !taken.contains(subnet) && free(*subnet));
    for place in chosen.iter_mut().filter(|place| place.is_none()) {
        *place = fresh.next();
    }
    let settled: Vec<_> = chosen.iter().flatten().copied().collect();
    if settled.len() < workers as usize {
        let wide = foreign.iter().find(|(addr, bits, _)| {
            *bits < Subnet::BITS && cidr.subnets().any(|subnet| subnet.overlaps(*addr, *bits))
        });
        return Err(match wide {
            Some((addr, bits, _)) => Error::Overlap { cidr, route: format!("{addr}/{bits}") },
            None => Error::Exhausted { cidr, room: settled.len(), workers },
        });
    }
    let mut settled: BTreeMap<_, _> = (0..workers).zip(settled).collect();
    settled.extend(living);
    for (index, subnet) in &settled {
        ledger.assign(*index, *subnet);
    }
    Ok(settled)
}

/// Removes interfaces and pins of our prefix but those of `keep`.
pub(super) async fn remove_orphans(layout: &Layout, keep: Vec<Names>) -> io::Result<()> {
    for name in crate::files::names(&layout.netns)? {
        let pin = layout.netns.join(&name);
        if name.starts_with(&layout.prefix) && !keep.iter().any(|names| names.pin == pin) {
            netns::unpin(&pin)?;
        }
    }
    let prefix = format!("{}h", layout.prefix);
    links::inside(None, move |links: Links| async move {
        for (_, name) in links.names().await? {
            if name.starts_with(&prefix) && !keep.iter().any(|names| names.host_link == name) {
                links.delete(&name).await?;
            }
        }
        Ok(())
    })
    .await
}

/// True for a pinned namespace, false for the file it was pinned on.
pub(super) fn is_netns(path: &std::path::Path) -> bool {
    const NSFS_MAGIC: i128 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|fs| i128::from(fs.f_type) == NSFS_MAGIC)
}

/// Removes every interface and pin of this data directory.
pub(crate) async fn remove_all(layout: &Layout) -> io::Result<()> {
    remove_orphans(layout, Vec::new()).await
}
