//! What changes of the rules when an endpoint opens and closes, by a message to the kernel: a suspend, a freeze and a thaw wait
//! for no program to start.
//!
//! A batch is one transaction: all of it is done when it is acknowledged, or nothing.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use crate::slots::netns::until_the_end;

/// Names in the rules.
const TABLE: &str = "reveille";
const ENDPOINTS: &str = "endpoints";
const LIVE: &str = "live";
const EGRESS: &str = "egress";
const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_CHAIN: u16 = (NFTABLES << 8) | 3;
const DELETE_RULES: u16 = (NFTABLES << 8) | 8;
const NEW_ELEMENTS: u16 = (NFTABLES << 8) | 12;
const DELETE_ELEMENTS: u16 = (NFTABLES << 8) | 14;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const CREATE: u16 = 0x400;
const IPV4: u8 = 2;
const NESTED: u16 = 0x8000;
/// The first attribute of each change.
const OF_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const RULES_CHAIN: u16 = 2;
/// Attributes of a list of elements, of one in it, and of its values.
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const KEY: u16 = 1;
const DATA: u16 = 2;
const VALUE: u16 = 1;
const NLMSG_ERROR: u16 = 2;
/// nlmsghdr.
const HEADER: usize = 16;

type Change = (u16, u16, Vec<u8>);

/// Opens an endpoint in place of the one that is open, in the thread's namespace.
pub(super) fn open(port: u16, inside: Ipv4Addr, inner: u16) -> io::Result<()> {
    let key = attribute(KEY | NESTED, &attribute(VALUE, &port.to_be_bytes()));
    let target = [&inside.octets()[..], &inner.to_be_bytes(), &[0; 2]].concat();
    let data = attribute(DATA | NESTED, &attribute(VALUE, &target));
    let add = |set, element: &[u8]| {
        let elements = attribute(LIST_ELEMENTS | NESTED, &attribute(ELEMENT | NESTED, element));
        (NEW_ELEMENTS, CREATE, of(&[(LIST_SET, set)], &elements))
    };
    let [live, endpoints] = none();
    transact([live, endpoints, add(ENDPOINTS, &[&key[..], &data].concat()), add(LIVE, &key)])
}

/// Closes every endpoint and lets nothing out, in the thread's namespace. None open is well too.
pub(super) fn close() -> io::Result<()> {
    let [live, endpoints] = none();
    // It is not there yet in rules from before anybody could be let out. Without a rule's handle: all.
    let egress = (NEW_CHAIN, CREATE, of(&[(CHAIN_NAME, EGRESS)], &[]));
    let shut_in = (DELETE_RULES, 0, of(&[(RULES_CHAIN, EGRESS)], &[]));
    transact([live, endpoints, egress, shut_in])
}

/// No endpoint. Without elements: all.
fn none() -> [Change; 2] {
    [LIVE, ENDPOINTS].map(|set| (DELETE_ELEMENTS, 0, of(&[(LIST_SET, set)], &[])))
}

fn of(names: &[(u16, &str)], rest: &[u8]) -> Vec<u8> {
    let text = |(kind, text): (u16, &str)| attribute(kind, &[text.as_bytes(), &[0]].concat());
    let names = [(OF_TABLE, TABLE)].into_iter().chain(names.iter().copied());
    names.flat_map(text).chain(rest.iter().copied()).collect()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, flags: u16, sequence: u32, family: u8, subsystem: u16, of: &[u8]) -> Vec<u8> {
    let mut message = ((HEADER + 4 + of.len()) as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    // To the kernel; then nfgenmsg, version 0.
    message.extend([0; 4]);
    message.extend([family, 0]);
    message.extend(subsystem.to_be_bytes());
    message.extend(of);
    message
}

fn transact(changes: [Change; 4]) -> io::Result<()> {
    let mut batch = message(BATCH_BEGIN, 0, 0, 0, NFTABLES, &[]);
    let mut last = 0;
    for (kind, flags, of) in changes {
        last += 1;
        batch.extend(message(kind, flags | ACKNOWLEDGE, last, IPV4, 0, &of));
    }
    batch.extend(message(BATCH_END, 0, last + 1, 0, NFTABLES, &[]));
    let socket = until_the_end(socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?);
    send(socket.as_raw_fd(), &batch, MsgFlags::empty())?;
    acknowledged(&socket, last)
}

/// The kernel has done it, or not, before the batch was sent: its replies are there. An error comes before or instead of the
/// last acknowledgement.
fn acknowledged(socket: &OwnedFd, last: u32) -> io::Result<()> {
    let mut replies = vec![0; 8 << 10];
    loop {
        let length = recv(socket.as_raw_fd(), &mut replies, MsgFlags::MSG_DONTWAIT)?;
        let mut rest = &replies[..length];
        while let Some(reply) = Reply::read(rest) {
            match reply {
                Reply { kind: NLMSG_ERROR, error: 0, sequence, .. } if sequence == last => {
                    return Ok(());
                }
                Reply { kind: NLMSG_ERROR, error, .. } if error != 0 => {
                    return Err(io::Error::from_raw_os_error(-error));
                }
                _ => {}
            }
            rest = rest.get(reply.length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

struct Reply {
    length: usize,
    kind: u16,
    sequence: u32,
    error: i32,
}

impl Reply {
    fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| <[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok();
        let [a, b, ..] = word(4)?;
        let length = u32::from_ne_bytes(word(0)?) as usize;
        let (kind, sequence) = (u16::from_ne_bytes([a, b]), u32::from_ne_bytes(word(8)?));
        let error = i32::from_ne_bytes(word(HEADER)?);
        // Shorter than itself it would be read for ever.
        (length >= HEADER).then_some(Self { length, kind, sequence, error })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn reply(kind: u16, sequence: u32, error: i32) -> Vec<u8> {
        let mut reply = 36_u32.to_ne_bytes().to_vec();
        reply.extend([kind.to_ne_bytes(), [0; 2]].concat());
        reply.extend([sequence.to_ne_bytes(), [0; 4], error.to_ne_bytes()].concat());
        reply.resize(36, 0);
        reply
    }

    fn heard(replies: &[Vec<u8>]) -> io::Result<()> {
        let (ear, mouth) = UnixDatagram::pair().unwrap();
        for reply in replies {
            mouth.send(reply).unwrap();
        }
        acknowledged(&OwnedFd::from(ear), 2)
    }

    #[test]
    fn it_is_done_when_the_last_change_is_acknowledged_and_nothing_else_was_said() {
        heard(&[reply(NLMSG_ERROR, 1, 0), reply(NLMSG_ERROR, 2, 0)]).unwrap();
        heard(&[[reply(NLMSG_ERROR, 1, 0), reply(NLMSG_ERROR, 2, 0)].concat()]).unwrap();
        let refused = |replies: &[Vec<u8>]| heard(replies).unwrap_err().raw_os_error();
        assert_eq!(refused(&[reply(NLMSG_ERROR, 1, -2), reply(NLMSG_ERROR, 2, 0)]), Some(2));
        assert_eq!(refused(&[reply(NLMSG_ERROR, 0, -12)]), Some(12));
        // No answer is none, and no end to wait for.
        assert_eq!(refused(&[reply(NLMSG_ERROR, 1, 0)]), Some(11));
        assert_eq!(refused(&[vec![0; 36]]), Some(11));
    }
}
