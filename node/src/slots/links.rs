//! Interfaces, addresses and routes, by netlink from inside a namespace.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr},
};

use futures::TryStreamExt;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::AddressAttribute,
        link::{InfoData, InfoVeth, LinkAttribute},
        route::{RouteAddress, RouteAttribute},
    },
};

use super::netns::{Netns, thread};

/// A netlink connection of one namespace. Lives for the length of one [`inside`].
pub(super) struct Links(Handle);

/// Runs `work` with a connection to the namespace `ns`, or to the agent's own.
pub(super) async fn inside<T, F>(
    ns: Option<&Netns>,
    work: impl FnOnce(Links) -> F + Send + 'static,
) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>>,
{
    let session = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            tokio::select! {
                done = work(Links(handle)) => done,
                () = connection => Err(io::Error::other("the netlink connection ended")),
            }
        })
    };
    match ns {
        Some(ns) => ns.enter(session).await?,
        None => thread("netlink", session).await?,
    }
}

/// The far end of a veth pair: its name, its namespace, and its hardware address if it is to be a certain one.
pub(super) struct Peer<'a> {
    pub(super) name: &'a str,
    pub(super) ns: i32,
    pub(super) mac: Option<[u8; 6]>,
}

impl Links {
    /// Makes a veth pair with its far end in another namespace.
    pub(super) async fn add_veth(
        &self,
        name: &str,
        mac: Option<[u8; 6]>,
        peer: Peer<'_>,
    ) -> io::Result<()> {
        let mut far = LinkMessageBuilder::<LinkUnspec>::new().name(peer.name).setns_by_fd(peer.ns);
        if let Some(mac) = peer.mac {
            far = far.address(mac.to_vec());
        }
        let far = InfoData::Veth(InfoVeth::Peer(far.build()));
        let mut near = LinkVeth::new(name, peer.name).set_info_data(far);
        if let Some(mac) = mac {
            near = near.address(mac.to_vec());
        }
        self.0.link().add(near.build()).execute().await.map_err(error("add", name))
    }

    /// Gives an interface its address and sets it up. Returns its index.
    pub(super) async fn configure(&self, name: &str, addr: Ipv4Addr, bits: u8) -> io::Result<u32> {
        let index = self.index(name).await?;
        let add = self.0.address().add(index, IpAddr::V4(addr), bits);
        add.execute().await.map_err(error("set the address of", name))?;
        self.up(index, name).await?;
        Ok(index)
    }

    pub(super) async fn up(&self, index: u32, name: &str) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.0.link().set(message).execute().await.map_err(error("set up", name))
    }

    pub(super) async fn loopback_up(&self) -> io::Result<()> {
        let index = self.index("lo").await?;
        self.up(index, "lo").await
    }

    /// A neighbour that need not be asked for its hardware address, and never goes stale.
    pub(super) async fn add_neighbour(
        &self,
        index: u32,
        addr: Ipv4Addr,
        mac: [u8; 6],
    ) -> io::Result<()> {
        let add = self.0.neighbours().add(index, IpAddr::V4(addr)).link_layer_address(&mac);
        add.execute().await.map_err(error("add a neighbour", &addr.to_string()))
    }

    /// In place of the one there is.
    pub(super) async fn default_route(&self, gateway: Ipv4Addr) -> io::Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        let add = self.0.route().add(route).replace();
        add.execute().await.map_err(error("add a route by", &gateway.to_string()))
    }

    /// All IPv4 addresses of the namespace.
    pub(super) async fn addresses(&self) -> io::Result<Vec<Ipv4Addr>> {
        let mut all = self.0.address().get().execute();
        let mut addresses = Vec::new();
        while let Some(found) = all.try_next().await.map_err(error("list", "addresses"))? {
            addresses.extend(found.attributes.into_iter().filter_map(
                |attribute| match attribute {
                    // Of a point-to-point link `Address` is the other end's.
                    AddressAttribute::Local(IpAddr::V4(address)) => Some(address),
                    _ => None,
                },
            ));
        }
        Ok(addresses)
    }

    /// Deletes an interface; none of that name is well too.
    pub(super) async fn delete(&self, name: &str) -> io::Result<()> {
        let index = match self.index(name).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            index => index?,
        };
        match self.0.link().del(index).execute().await.map_err(error("delete", name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            deleted => deleted,
        }
    }

    /// Names of all interfaces.
    pub(super) async fn names(&self) -> io::Result<Vec<(u32, String)>> {
        let mut all = self.0.link().get().execute();
        let mut names = Vec::new();
        while let Some(link) = all.try_next().await.map_err(error("list", "interfaces"))? {
            let name = link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            names.extend(name.map(|name| (link.header.index, name)));
        }
        Ok(names)
    }

    /// Destinations of all IPv4 routes but default ones: address, prefix length, interface.
    pub(super) async fn routes(&self) -> io::Result<Vec<(Ipv4Addr, u8, u32)>> {
        let mut all = self.0.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let mut routes = Vec::new();
        while let Some(route) = all.try_next().await.map_err(error("list", "routes"))? {
            let (mut destination, mut interface) = (None, 0);
            for attribute in route.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(addr)) => {
                        destination = Some(addr)
                    }
                    RouteAttribute::Oif(index) => interface = index,
                    _ => {}
                }
            }
            let bits = route.header.destination_prefix_length;
            routes.extend(destination.map(|addr| (addr, bits, interface)));
        }
        Ok(routes)
    }

    async fn index(&self, name: &str) -> io::Result<u32> {
        let mut found = self.0.link().get().match_name(name).execute();
        let link = found.try_next().await.map_err(error("find", name))?;
        link.map(|link| link.header.index).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn error<'a>(verb: &'a str, what: &'a str) -> impl FnOnce(rtnetlink::Error) -> io::Error + 'a {
    move |error| match error {
        rtnetlink::Error::NetlinkError(message) => {
            let source = message.to_io();
            // ENODEV has no kind of its own.
            let kind = match source.raw_os_error() {
                Some(code) if code == nix::errno::Errno::ENODEV as i32 => io::ErrorKind::NotFound,
                _ => source.kind(),
            };
            io::Error::new(kind, format!("cannot {verb} {what}: {source}"))
        }
        error => io::Error::other(format!("cannot {verb} {what}: {error}")),
    }
}
