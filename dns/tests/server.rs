//! The server, asked over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use reveille_dns::{Config, Fronts};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(5);

struct Running {
    addr: SocketAddr,
    fronts: Fronts,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<(), reveille_dns::Error>>,
}

async fn start(fronts: Vec<IpAddr>) -> Running {
    let config = Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        zone: "actors.localhost".parse().unwrap(),
        fronts,
        ttl: Config::DEFAULT_TTL,
    };
    let app = config.build().await.unwrap();
    let (addr, fronts) = (app.addrs()[0], app.fronts());
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(app.run(shutdown.clone()));
    Running { addr, fronts, shutdown, tasks }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, payload: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_version(version);
    message.set_edns(edns);
    message
}

async fn udp_raw(addr: SocketAddr, message: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(message, addr).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let n = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("no reply").unwrap();
    buffer.truncate(n);
    buffer
}

async fn udp(addr: SocketAddr, message: Message) -> Message {
    let reply =
        Message::from_vec(&udp_raw(addr, &message.to_vec().unwrap()).await).expect("a message");
    assert_eq!(reply.metadata.id, message.metadata.id);
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    reply
}

async fn tcp(addr: SocketAddr, message: Message) -> Message {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let bytes = message.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let len = timeout(PATIENCE, stream.read_u16()).await.expect("no reply").unwrap();
    let mut reply = vec![0; len.into()];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

fn loopback() -> Vec<IpAddr> {
    vec![Ipv4Addr::LOCALHOST.into()]
}

const ACTOR: &str = "cOuNtEr.demo.actors.LOCALHOST.";

#[tokio::test]
async fn an_actor_resolves_over_both_protocols_with_the_case_of_the_question() {
    let dns = start(loopback()).await;
    for reply in [
        udp(dns.addr, question(ACTOR, RecordType::A)).await,
        tcp(dns.addr, question(ACTOR, RecordType::A)).await,
    ] {
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert!(reply.metadata.authoritative && !reply.metadata.recursion_available);
        assert_eq!(reply.queries[0].name.to_ascii(), ACTOR);
        assert_eq!(reply.answers[0].name.to_ascii(), ACTOR);
        assert_eq!(reply.answers[0].data.to_string(), "127.0.0.1");
        assert!(reply.edns.is_none());
    }
}

#[tokio::test]
async fn aaaa_without_an_ipv6_front_is_noerror_with_soa_and_with_one_it_is_answered() {
    let dns = start(loopback()).await;
    let reply = udp(dns.addr, question(ACTOR, RecordType::AAAA)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.answers.is_empty());
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    assert_eq!(reply.authorities[0].name.to_ascii(), "actors.LOCALHOST.");

    dns.fronts.set(&["::1".parse().unwrap(), "10.0.0.9".parse().unwrap()]);
    let reply = udp(dns.addr, question(ACTOR, RecordType::AAAA)).await;
    assert_eq!(reply.answers[0].data.to_string(), "::1");
    let reply = udp(dns.addr, question(ACTOR, RecordType::A)).await;
    assert_eq!(reply.answers[0].data.to_string(), "10.0.0.9");
}

#[tokio::test]
async fn malformed_names_are_nxdomain_and_foreign_ones_refused() {
    let dns = start(loopback()).await;
    for name in ["a_b.demo.actors.localhost.", "x.counter.demo.actors.localhost."] {
        let reply = udp(dns.addr, question(name, RecordType::A)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{name}");
        assert_eq!(reply.authorities[0].record_type(), RecordType::SOA, "{name}");
    }
    let reply = udp(dns.addr, question("example.com.", RecordType::A)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    assert!(!reply.metadata.authoritative);
}

#[tokio::test]
async fn a_long_answer_is_truncated_to_the_clients_payload_and_whole_over_tcp() {
    let v4 = (0..200).map(|n| Ipv4Addr::new(10, 0, 0, n).into());
    let v6 = (0..200).map(|n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n).into());
    let dns = start(v4.chain(v6).collect()).await;
    for (kind, payload, expected) in
        [RecordType::A, RecordType::AAAA].into_iter().flat_map(|kind| {
            [(None, 512), (Some(1), 512), (Some(900), 900), (Some(9000), 1232)]
                .map(|(payload, expected)| (kind, payload, expected))
        })
    {
        let mut message = question(ACTOR, kind);
        if let Some(payload) = payload {
            message = with_edns(message, payload, 0);
        }
        let raw = udp_raw(dns.addr, &message.to_vec().unwrap()).await;
        let reply = Message::from_vec(&raw).unwrap();
        assert!(raw.len() <= expected, "{payload:?}: {}", raw.len());
        assert!(reply.metadata.truncation, "{payload:?}");
        assert_eq!(reply.edns.is_some(), payload.is_some(), "{payload:?}");
    }
    let reply = tcp(dns.addr, question(ACTOR, RecordType::A)).await;
    assert!(!reply.metadata.truncation);
    assert_eq!(reply.answers.len(), 200);
}

#[tokio::test]
async fn edns_is_answered_and_an_unknown_version_is_badvers() {
    let dns = start(loopback()).await;
    let reply = udp(dns.addr, with_edns(question(ACTOR, RecordType::A), 4096, 0)).await;
    assert_eq!(reply.edns.unwrap().max_payload(), 1232);
    assert_eq!(reply.answers.len(), 1);
    let reply = udp(dns.addr, with_edns(question(ACTOR, RecordType::A), 4096, 1)).await;
    // BADVERS and BADSIG are both 16.
    assert_eq!(u16::from(reply.metadata.response_code), 16);
    assert!(reply.answers.is_empty());
}

#[tokio::test]
async fn transfers_updates_and_odd_messages_are_refused_and_garbage_does_no_harm() {
    let dns = start(loopback()).await;
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        let reply = tcp(dns.addr, question("actors.localhost.", kind)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused, "{kind}");
    }
    let mut update = question("actors.localhost.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(udp(dns.addr, update).await.metadata.response_code, ResponseCode::Refused);
    let mut notify = question("actors.localhost.", RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(udp(dns.addr, notify).await.metadata.response_code, ResponseCode::NotImp);
    let empty = udp(dns.addr, Message::query()).await;
    assert_eq!(empty.metadata.response_code, ResponseCode::FormErr);

    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for garbage in [&[][..], &[0], &[0xff; 40], &[7; 12]] {
        socket.send_to(garbage, dns.addr).await.unwrap();
    }
    let reply = udp(dns.addr, question(ACTOR, RecordType::A)).await;
    assert_eq!(reply.answers.len(), 1);
}

#[tokio::test]
async fn a_taken_port_is_told_and_shutdown_ends_the_server() {
    let mut dns = start(loopback()).await;
    let config = Config {
        listen: vec![dns.addr],
        zone: "actors.localhost".parse().unwrap(),
        fronts: loopback(),
        ttl: Config::DEFAULT_TTL,
    };
    let error = config.build().await.err().expect("the port is taken").to_string();
    assert!(error.contains(&dns.addr.to_string()), "{error}");

    dns.shutdown.cancel();
    let ended = timeout(PATIENCE, dns.tasks.join_next()).await.expect("it goes on").unwrap();
    assert!(ended.unwrap().is_ok());
}
