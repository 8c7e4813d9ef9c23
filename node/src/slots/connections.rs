//! Connections into a sandbox, and out of it: finding them, and ending them from either side.
//!
//! A checkpoint of gVisor ends the connections that are open, but while it is written: a server that waits for events
//! with epoll then never sees another one after the restore (gvisor#13920 is of this kind), unless the image is
//! [mended](crate::runtime::gvisor). Closing the endpoint does not help: a connection that is idle sends nothing that
//! could be answered with a reset, and of one that is not the client is answered, not the server. So before the sandbox is
//! paused each of its connections is made to speak:
//!
//! ```text
//!   this module ── SYN with the client's address ──▶ sandbox
//!   rules       ◀─ ACK: that connection exists (RFC 5961) ── sandbox
//!   rules       ── reset, by the ACK's own numbers ──▶ sandbox: the connection is gone, the server sees it end
//!   this module ── reset, by the ACK's own numbers ──▶ client: a proxy takes it out of its pool
//!   this module ── SYN ──▶ sandbox ── SYN-ACK or reset: it is gone indeed
//!   this module ── reset ──▶ sandbox: nor is there the one that this SYN began
//! ```
//!
//! A sandbox that is gone without having ended its connections leaves clients that wait for an answer: their packets
//! are answered by nobody, or they have none to send. They are made to speak in the same way, in the endpoint's name.
//!
//! Those that the sandbox has made are ended just so, with the server it called in the client's place. One that is not made yet
//! answers the SYN with its own (RFC 9293, simultaneous open), and the reset that follows refuses it.
//!
//! The SYN carries a byte, which makes gVisor answer each one; a SYN's byte is never given to the server.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, send,
            sendto, setsockopt, socket, sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike},
    },
};

use tokio::time::Instant;

use super::{INSIDE, netns::until_the_end};

/// The connections of the thread's namespace as text. The kernel looks for them in a table of the whole machine, which takes it
/// 0.2 ms so, and 12 ms in the way of [`dump`], which locks each of its 262,144 places.
const TABLE: &str = "/proc/thread-self/net/nf_conntrack";
/// The kernel gives the text by the page, the smallest of which has 4096 bytes, and finds its way back into a table that
/// changes meanwhile as well as it can. What is shorter, by more than a line, was read in one go.
const ONE_GO: usize = 3072;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
const CONNTRACK_GET: u16 = (1 << 8) | 1;
const CONNTRACK_DELETE: u16 = (1 << 8) | 2;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// nlmsghdr and nfgenmsg.
const HEADERS: usize = 20;
/// Attributes of conntrack's messages.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const PROTO_STATE: u16 = 4;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_SOURCE: u16 = 1;
const IP_DESTINATION: u16 = 2;
const PROTO_NUMBER: u16 = 1;
const PROTO_SOURCE: u16 = 2;
const PROTO_DESTINATION: u16 = 3;
const STATE_TCP: u16 = 1;
const STATE_TCP_STATE: u16 = 1;
/// In the order of their numbers.
const STATES: [&str; 10] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
];
const SYN_RECV: u8 = 2;
const CLOSE_WAIT: u8 = 5;
const TIME_WAIT: u8 = 7;
const TCP: u8 = 6;
const RST: u8 = 0x04;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// How long [`end`] listens after it has spoken, at first and at most.
const SHORT: Duration = Duration::from_millis(2);
const LONG: Duration = Duration::from_millis(128);
/// How long it goes on when nothing comes of it any more, and in any case, however much the sandbox sends: many
/// connections take their time on a busy machine.
const SILENCE: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(5);

/// A connection into a sandbox, or out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    /// The other end.
    peer: SocketAddrV4,
    /// The sandbox's end as the other one knows it: the endpoint, or what the worker's rules made of the sandbox's address.
    outside: SocketAddrV4,
    /// The sandbox's port.
    port: u16,
    /// Made by the sandbox.
    outgoing: bool,
    /// As conntrack has it.
    state: u8,
}

impl Flow {
    /// Between the ends that its first packet named, with the answers between these.
    fn of(original: Pair, reply: Pair, state: u8) -> Self {
        if *original.from.ip() == INSIDE {
            let (peer, outside, port) = (reply.from, reply.to, original.from.port());
            Self { peer, outside, port, outgoing: true, state }
        } else {
            let (peer, outside, port) = (reply.to, original.to, reply.from.port());
            Self { peer, outside, port, outgoing: false, state }
        }
    }

    /// Established, or closed by one side.
    fn held_by_peer(&self) -> bool {
        (SYN_RECV..=CLOSE_WAIT).contains(&self.state)
    }

    /// Not closed by both sides. CLOSE does not say that: a peer that speaks after its endpoint was closed is answered
    /// with a reset by the rules, which takes conntrack to it, and the sandbox has heard nothing.
    fn held_by_sandbox(&self) -> bool {
        self.state != TIME_WAIT
    }
}

/// Who is spoken to, and in whose name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    from: SocketAddrV4,
    to: SocketAddrV4,
}

/// Ends every connection made through the endpoint or by the sandbox, in the thread's namespace. The endpoint must be closed.
pub(super) fn end_all(endpoint: SocketAddrV4) -> io::Result<()> {
    let ours = |flow: &Flow| flow.outgoing || flow.outside.port() == endpoint.port();
    let flows = flows()?.into_iter().filter(|flow| ours(flow) && flow.held_by_sandbox());
    let inside = |port| SocketAddrV4::new(INSIDE, port);
    let open = flows.map(|flow| (Pair { from: flow.peer, to: inside(flow.port) }, flow.outside));
    // The rules reset the sandbox's end.
    end(open.collect(), |pair, outside, heard| {
        (Pair { from: outside, to: pair.from }, heard.sequence)
    })
}

/// Ends every connection of the thread's namespace at the other end. There is no sandbox any more.
pub(super) fn reset_peers() -> io::Result<()> {
    let flows = flows()?.into_iter().filter(Flow::held_by_peer);
    let open = flows.map(|flow| (Pair { from: flow.outside, to: flow.peer }, flow.outside));
    end(open.collect(), |pair, _, heard| (pair, heard.acknowledged))
}

/// Makes each speak whose connection is still there and sends the reset that follows from what it says, until all are
/// gone. Beside each is the sandbox's end as others know it.
fn end(
    mut open: BTreeMap<Pair, SocketAddrV4>,
    reset: impl Fn(Pair, SocketAddrV4, Heard) -> (Pair, u32),
) -> io::Result<()> {
    if open.is_empty() {
        return Ok(());
    }
    let close = SockFlag::SOCK_CLOEXEC;
    let ear = socket(AddressFamily::Packet, SockType::Datagram, close, SockProtocol::EthAll)?;
    let ear = until_the_end(ear);
    let mouth = socket(AddressFamily::Inet, SockType::Raw, close, SockProtocol::Raw)?;
    let count = open.len();
    let begin = Instant::now();
    let (mut progress, mut patience) = (begin, SHORT);
    // Matters only to gVisor's TIME_WAIT, which answers a SYN from beyond what it has received: one of the two is.
    let mut sequence = 0;
    while begin.elapsed() < LIMIT && progress.elapsed() < SILENCE {
        let before = open.len();
        for pair in open.keys() {
            say(&mouth, *pair, SYN, sequence, &[0])?;
        }
        sequence ^= 1 << 31;
        let mut reset_now = BTreeSet::new();
        let deadline = Instant::now() + patience;
        while let Some(heard) = hear(&ear, deadline)? {
            let pair = heard.pair;
            let Some(outside) = open.get(&pair) else { continue };
            if heard.flags & SYN != 0 {
                // What the SYN began must not stay: for a sandbox it would be in the way of this client's port.
                say(&mouth, pair, RST, heard.acknowledged, &[])?;
                open.remove(&pair);
            } else if heard.flags & RST != 0 {
                open.remove(&pair);
            } else if heard.flags & ACK != 0 {
                let (to_peer, number) = reset(pair, *outside, heard);
                say(&mouth, to_peer, RST, number, &[])?;
                // Mostly it is gone by now, and says so at once.
                if reset_now.insert(pair) {
                    say(&mouth, pair, SYN, sequence, &[0])?;
                }
            }
            if open.is_empty() {
                tracing::debug!(count, "connections were ended");
                return Ok(());
            }
        }
        if open.len() < before {
            progress = Instant::now();
        }
        patience = LONG.min(patience * 2);
    }
    let left = open.len();
    Err(io::Error::other(format!("{left} of {count} connections of the actor could not be ended")))
}

/// A TCP packet: the answer to what was said to a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    pair: Pair,
    flags: u8,
    sequence: u32,
    acknowledged: u32,
}

/// The next packet; `None` at the deadline.
fn hear(ear: &OwnedFd, deadline: Instant) -> io::Result<Option<Heard>> {
    let mut packet = [0; 128];
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).as_micros() as i64;
        // A timeout of 0 would be none.
        if left == 0 {
            return Ok(None);
        }
        setsockopt(ear, ReceiveTimeout, &TimeVal::microseconds(left))?;
        match recv(ear.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(length) => {
                if let Some(heard) = understand(&packet[..length]) {
                    return Ok(Some(heard));
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn understand(packet: &[u8]) -> Option<Heard> {
    let first = *packet.first()?;
    let header = usize::from(first & 0xf) * 4;
    let address =
        |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    if first >> 4 != 4 || *packet.get(9)? != TCP {
        return None;
    }
    let tcp = packet.get(header..)?;
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let number = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
    let pair = Pair {
        from: SocketAddrV4::new(address(16)?, port(2)?),
        to: SocketAddrV4::new(address(12)?, port(0)?),
    };
    Some(Heard { pair, flags: *tcp.get(13)?, sequence: number(4)?, acknowledged: number(8)? })
}

fn say(mouth: &OwnedFd, pair: Pair, flags: u8, sequence: u32, payload: &[u8]) -> io::Result<()> {
    let packet = segment(pair, flags, sequence, payload);
    let address = SockaddrIn::from(SocketAddrV4::new(*pair.to.ip(), 0));
    sendto(mouth.as_raw_fd(), &packet, &address, MsgFlags::empty())?;
    Ok(())
}

/// A TCP segment with its IP header.
fn segment(Pair { from, to }: Pair, flags: u8, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(21);
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend([0; 4]); // acknowledgement
    tcp.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]); // header length, flags, window, checksum, urgent
    tcp.extend(payload);
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let mut summed = [&addresses[..], &[0, TCP, 0, tcp.len() as u8]].concat();
    summed.extend(&tcp);
    let sum = checksum(&summed);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    // Length, identification and checksum are filled in by the kernel.
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, TCP, 0, 0];
    packet.extend(addresses);
    packet.extend(tcp);
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high, ..] => u32::from(u16::from_be_bytes([high, 0])),
        [] => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Makes the thread's namespace forget every connection: the next activation may meet the same port numbers.
pub(super) fn forget_all() -> io::Result<()> {
    let socket = ask(CONNTRACK_DELETE, REQUEST | ACKNOWLEDGE)?;
    let mut reply = [0; 128];
    let length = recv(socket.as_raw_fd(), &mut reply, MsgFlags::empty())?;
    check_error(&reply[..length])
}

/// What conntrack remembers of connections through endpoints, and out.
fn flows() -> io::Result<Vec<Flow>> {
    let mut text = vec![0; ONE_GO];
    // Kernels may be built without it.
    match File::open(TABLE).and_then(|mut table| table.read(&mut text)) {
        Ok(length) if length < ONE_GO => {
            Ok(String::from_utf8_lossy(&text[..length]).lines().filter_map(told).collect())
        }
        _ => dump(),
    }
}

/// A line of [`TABLE`]: `ipv4 2 tcp 6 431999 ESTABLISHED src=… dst=… sport=… dport=… src=… dst=… sport=… dport=… …`
fn told(line: &str) -> Option<Flow> {
    let mut words = line.split_whitespace();
    if words.nth(2)? != "tcp" {
        return None;
    }
    let state = words.by_ref().take_while(|word| !word.starts_with("src=")).last()?;
    let state = STATES.iter().position(|name| *name == state)? as u8;
    let values =
        |key: &'static str| line.split_whitespace().filter_map(move |word| word.strip_prefix(key));
    let (mut ips, mut to_ips) = (values("src="), values("dst="));
    let (mut ports, mut to_ports) = (values("sport="), values("dport="));
    let mut ends = || {
        let from = SocketAddrV4::new(ips.next()?.parse().ok()?, ports.next()?.parse().ok()?);
        let to = SocketAddrV4::new(to_ips.next()?.parse().ok()?, to_ports.next()?.parse().ok()?);
        Some(Pair { from, to })
    };
    Some(Flow::of(ends()?, ends()?, state))
}

/// The same by netlink.
fn dump() -> io::Result<Vec<Flow>> {
    let socket = ask(CONNTRACK_GET, REQUEST | DUMP)?;
    let mut flows = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some(size) = word(rest, 0).map(|size| size as usize) {
            let Some(message) = rest.get(..size).filter(|message| message.len() >= 16) else {
                break;
            };
            match u16::from_ne_bytes([message[4], message[5]]) {
                NLMSG_DONE => return Ok(flows),
                NLMSG_ERROR => {
                    check_error(message)?;
                    return Ok(flows);
                }
                _ => flows.extend(message.get(HEADERS..).and_then(flow)),
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Sends a request about all of conntrack's table.
fn ask(kind: u16, flags: u16) -> io::Result<Rc<OwnedFd>> {
    let socket = until_the_end(socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?);
    let mut message = Vec::with_capacity(HEADERS);
    message.extend((HEADERS as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    // Of any family; version 0.
    message.extend([0; 4]);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    Ok(socket)
}

/// An acknowledgement is an error message whose code, after the header, is 0.
fn check_error(message: &[u8]) -> io::Result<()> {
    match word(message, 16).map(|code| code as i32) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The value of an attribute.
fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = bytes;
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        // Without the flags for nested and for network byte order.
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        if kind == wanted {
            return rest.get(4..length);
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn flow(message: &[u8]) -> Option<Flow> {
    let original = ends(attribute(message, TUPLE_ORIGINAL)?)?;
    let reply = ends(attribute(message, TUPLE_REPLY)?)?;
    let state =
        attribute(attribute(attribute(message, PROTO_STATE)?, STATE_TCP)?, STATE_TCP_STATE)?;
    Some(Flow::of(original, reply, *state.first()?))
}

/// Of a tuple, if it is one of TCP.
fn ends(tuple: &[u8]) -> Option<Pair> {
    let (ip, proto) = (attribute(tuple, TUPLE_IP)?, attribute(tuple, TUPLE_PROTO)?);
    if attribute(proto, PROTO_NUMBER)? != [TCP] {
        return None;
    }
    let end = |address, port| {
        let address: [u8; 4] = attribute(ip, address)?.try_into().ok()?;
        let port = u16::from_be_bytes(attribute(proto, port)?.try_into().ok()?);
        Some(SocketAddrV4::new(address.into(), port))
    };
    Some(Pair { from: end(IP_SOURCE, PROTO_SOURCE)?, to: end(IP_DESTINATION, PROTO_DESTINATION)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 213, 0, 1), 40_000);
    const WORKER: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 2);
    const ENDPOINT: SocketAddrV4 = SocketAddrV4::new(WORKER, 20_017);
    const FLOW: Flow =
        Flow { peer: CLIENT, outside: ENDPOINT, port: 8080, outgoing: false, state: 3 };

    #[test]
    fn a_segment_is_valid_and_its_answer_is_of_the_same_pair() {
        let knock = Pair { from: CLIENT, to: SocketAddrV4::new(INSIDE, FLOW.port) };
        let packet = segment(knock, SYN, 0, &[0]);
        assert_eq!(packet.len(), 41);
        let summed = [&packet[12..20], &[0, TCP, 0, 21], &packet[20..]].concat();
        assert_eq!(checksum(&summed), 0);
        let answer = segment(Pair { from: knock.to, to: knock.from }, SYN | ACK, 77, &[]);
        let heard = Heard { pair: knock, flags: SYN | ACK, sequence: 77, acknowledged: 0 };
        assert_eq!(understand(&answer), Some(heard));
        for length in 0..33 {
            assert_eq!(understand(&answer[..length]), None);
        }
    }

    #[test]
    fn a_sandbox_that_never_stops_sending_does_not_make_a_round_longer() {
        let (ear, mouth) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let ear = OwnedFd::from(ear);
        let begin = Instant::now();
        let flood = std::thread::spawn(move || {
            // Ends with the ear.
            while begin.elapsed() < Duration::from_secs(10) && mouth.send(&[0; 40]).is_ok() {}
        });
        assert_eq!(hear(&ear, begin + Duration::from_millis(30)).unwrap(), None);
        let took = begin.elapsed();
        drop(ear);
        flood.join().unwrap();
        assert!((20..5_000).contains(&took.as_millis()), "{took:?}");
    }

    #[test]
    fn a_flow_is_read_from_a_line() {
        let line = "ipv4     2 tcp      6 431999 ESTABLISHED src=10.213.0.1 dst=10.213.0.2 sport=40000 dport=20017 \
            packets=4 bytes=321 src=10.0.2.15 dst=10.213.0.1 sport=8080 dport=40000 [ASSURED] mark=0 zone=0 use=2";
        assert_eq!(told(line), Some(FLOW));
        for word in ["tcp", "ESTABLISHED", "src=10.0.2.15", "dport=40000", "sport=8080"] {
            assert_eq!(told(&line.replace(word, "")), None, "{word}");
        }
        assert_eq!(told(&line.replace("tcp      6", "udp      17")), None);
        let closed = line.replace("ESTABLISHED", "TIME_WAIT").replace("431999 ", "");
        assert_eq!(told(&closed), Some(Flow { state: TIME_WAIT, ..FLOW }));

        let out = "ipv4     2 tcp      6 119 SYN_SENT src=10.0.2.15 dst=192.0.2.1 sport=40000 dport=443 [UNREPLIED] \
            src=192.0.2.1 dst=10.213.0.2 sport=443 dport=1024 mark=0 use=1";
        let server = SocketAddrV4::new([192, 0, 2, 1].into(), 443);
        let outside = SocketAddrV4::new(WORKER, 1_024);
        let flow = Flow { peer: server, outside, port: 40_000, outgoing: true, state: 1 };
        assert_eq!(told(out), Some(flow));
    }

    #[test]
    fn a_flow_is_read_from_nested_attributes() {
        fn nest(kind: u16, value: &[u8]) -> Vec<u8> {
            let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        }
        let tuple = |kind: u16, from: SocketAddrV4, to: SocketAddrV4| {
            let ends = [(PROTO_SOURCE, from.port()), (PROTO_DESTINATION, to.port())];
            let ports = ends.map(|(kind, port)| nest(kind, &port.to_be_bytes())).concat();
            let proto = nest(TUPLE_PROTO | 0x8000, &[nest(PROTO_NUMBER, &[TCP]), ports].concat());
            let ends = [(IP_SOURCE, from.ip()), (IP_DESTINATION, to.ip())];
            let ip = ends.map(|(kind, address)| nest(kind, &address.octets())).concat();
            nest(kind | 0x8000, &[nest(TUPLE_IP | 0x8000, &ip), proto].concat())
        };
        let inside = |port| SocketAddrV4::new(INSIDE, port);
        let original = tuple(TUPLE_ORIGINAL, CLIENT, ENDPOINT);
        let reply = tuple(TUPLE_REPLY, inside(8080), CLIENT);
        let state = |state: u8| {
            nest(PROTO_STATE | 0x8000, &nest(STATE_TCP | 0x8000, &nest(STATE_TCP_STATE, &[state])))
        };
        let message = |number: u8| [original.clone(), reply.clone(), state(number)].concat();
        assert_eq!(flow(&message(3)), Some(FLOW));
        assert_eq!(flow(&message(3)[..20]), None);
        assert_eq!(flow(&message(TIME_WAIT)), Some(Flow { state: TIME_WAIT, ..FLOW }));
        assert!(!flow(&message(TIME_WAIT)).unwrap().held_by_sandbox());
        // A client was answered with a reset.
        assert!(flow(&message(8)).unwrap().held_by_sandbox());

        let (server, outside) =
            (SocketAddrV4::new([192, 0, 2, 1].into(), 443), SocketAddrV4::new(WORKER, 1_024));
        let original = tuple(TUPLE_ORIGINAL, inside(40_000), server);
        let reply = tuple(TUPLE_REPLY, server, outside);
        let out = Flow { peer: server, outside, port: 40_000, outgoing: true, state: 3 };
        assert_eq!(flow(&[original, reply, state(3)].concat()), Some(out));
    }
}
