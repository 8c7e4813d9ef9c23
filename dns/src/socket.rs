//! Sockets as a DNS server needs them.
//!
//! One for IPv6 takes no IPv4, so that `0.0.0.0` and `[::]` can be listened on together. A socket on every address is told
//! with each question which one was asked, and the reply leaves from that: a resolver drops what comes from another.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    cmsg_space,
    libc::{in_pktinfo, in6_pktinfo},
    sys::socket::{
        self, AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag,
        SockType, SockaddrStorage, setsockopt, sockopt,
    },
};
use tokio::{
    io::Interest,
    net::{TcpListener, UdpSocket},
};

/// Ports tried for one that is free for both protocols, when the kernel chooses.
const PORT_TRIES: usize = 8;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Takes and sends datagrams.
pub(crate) struct Datagrams {
    socket: UdpSocket,
    /// For what tells which address was asked; empty where there is only one.
    control: Vec<u8>,
}

/// Which of our addresses a question came to.
#[derive(Clone, Copy)]
pub(crate) enum Asked {
    /// The socket's only one.
    Bound,
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

/// One port for both protocols. When the kernel chooses it, it may be taken for the other one.
pub(crate) fn bind(address: SocketAddr) -> io::Result<(SocketAddr, Datagrams, TcpListener)> {
    let tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..tries {
        let datagrams = Datagrams::bind(address)?;
        let bound = datagrams.socket.local_addr()?;
        match listen(bound) {
            Ok(listener) => return Ok((bound, datagrams, listener)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// For connections.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address, SockType::Stream)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    TcpListener::from_std(socket.into())
}

fn open(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, kind, flags, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(socket)
}

impl Datagrams {
    fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = open(address, SockType::Datagram)?;
        let mut control = Vec::new();
        if address.ip().is_unspecified() {
            match address {
                SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
                SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
            }
            control = cmsg_space!(in6_pktinfo);
        }
        socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, control })
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Its length, who sent it, and where to.
    pub(crate) fn receive(&mut self, message: &mut [u8]) -> io::Result<(usize, SocketAddr, Asked)> {
        let Self { socket, control } = self;
        if control.is_empty() {
            return socket
                .try_recv_from(message)
                .map(|(length, from)| (length, from, Asked::Bound));
        }
        socket.try_io(Interest::READABLE, || {
            let mut message = [IoSliceMut::new(message)];
            let received = socket::recvmsg::<SockaddrStorage>(
                socket.as_raw_fd(),
                &mut message,
                Some(control),
                MsgFlags::empty(),
            )?;
            let from = received.address.as_ref().and_then(address).ok_or(io::ErrorKind::Other)?;
            let asked = received.cmsgs()?.find_map(|told| match told {
                ControlMessageOwned::Ipv4PacketInfo(told) => Some(Asked::V4(told)),
                ControlMessageOwned::Ipv6PacketInfo(told) => Some(Asked::V6(told)),
                _ => None,
            });
            Ok((received.bytes, from, asked.unwrap_or(Asked::Bound)))
        })
    }

    /// From the address that was asked.
    pub(crate) fn reply(&self, message: &[u8], to: SocketAddr, asked: Asked) -> io::Result<usize> {
        // By the way that leads there, which need not be the one it came by.
        let from = match asked {
            Asked::Bound => return self.socket.try_send_to(message, to),
            Asked::V4(ours) => Asked::V4(in_pktinfo { ipi_ifindex: 0, ..ours }),
            Asked::V6(ours) => Asked::V6(in6_pktinfo { ipi6_ifindex: 0, ..ours }),
        };
        let from = match &from {
            Asked::Bound => None,
            Asked::V4(ours) => Some(ControlMessage::Ipv4PacketInfo(ours)),
            Asked::V6(ours) => Some(ControlMessage::Ipv6PacketInfo(ours)),
        };
        self.socket.try_io(Interest::WRITABLE, || {
            let (message, to) = ([IoSlice::new(message)], SockaddrStorage::from(to));
            let socket = self.socket.as_raw_fd();
            Ok(socket::sendmsg(socket, &message, from.as_slice(), MsgFlags::empty(), Some(&to))?)
        })
    }
}

fn address(from: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = from.as_sockaddr_in().map(|v4| SocketAddr::from(*v4));
    v4.or_else(|| from.as_sockaddr_in6().map(|v6| SocketAddr::from(*v6)))
}
