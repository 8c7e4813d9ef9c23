//! What is answered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::RecordType,
};
use reveille_dns::{Config, Source};
use tokio::{net::UdpSocket, time::timeout};

use crate::rig::*;

#[tokio::test]
async fn an_actor_resolves_over_both_protocols_with_the_case_of_the_question() {
    let dns = start().await;
    for reply in [
        udp(dns.addr(), question(ACTOR, RecordType::A)).await,
        tcp(dns.addr(), question(ACTOR, RecordType::A)).await,
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
    let dns = start().await;
    let reply = udp(dns.addr(), question(ACTOR, RecordType::AAAA)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.answers.is_empty());
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    assert_eq!(reply.authorities[0].name.to_ascii(), "actors.LOCALHOST.");

    dns.fronts.set(&["::1".parse().unwrap(), "10.0.0.9".parse().unwrap()]);
    let reply = udp(dns.addr(), question(ACTOR, RecordType::AAAA)).await;
    assert_eq!(reply.answers[0].data.to_string(), "::1");
    let reply = udp(dns.addr(), question(ACTOR, RecordType::A)).await;
    assert_eq!(reply.answers[0].data.to_string(), "10.0.0.9");
}

#[tokio::test]
async fn malformed_names_are_nxdomain_and_foreign_ones_refused() {
    let dns = start().await;
    for name in ["a_b.demo.actors.localhost.", "x.counter.demo.actors.localhost."] {
        let reply = udp(dns.addr(), question(name, RecordType::A)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{name}");
        assert_eq!(reply.authorities[0].record_type(), RecordType::SOA, "{name}");
    }
    let reply = udp(dns.addr(), question("example.com.", RecordType::A)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    assert!(!reply.metadata.authoritative);
}

#[tokio::test]
async fn a_long_answer_is_truncated_to_the_clients_payload_and_whole_over_tcp() {
    let v4 = (0..100).map(|n| Ipv4Addr::new(10, 0, 0, n).into());
    let v6 = (0..100).map(|n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n).into());
    let dns = start_with(v4.chain(v6).collect()).await;
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
        let raw = udp_raw(dns.addr(), &message.to_vec().unwrap()).await;
        let reply = Message::from_vec(&raw).unwrap();
        assert!(raw.len() <= expected, "{payload:?}: {}", raw.len());
        assert!(reply.metadata.truncation, "{payload:?}");
        assert_eq!(reply.edns.is_some(), payload.is_some(), "{payload:?}");
    }
    let reply = tcp(dns.addr(), question(ACTOR, RecordType::A)).await;
    assert!(!reply.metadata.truncation);
    assert_eq!(reply.answers.len(), 100);
}

#[tokio::test]
async fn edns_is_answered_and_an_unknown_version_is_badvers() {
    let dns = start().await;
    let reply = udp(dns.addr(), with_edns(question(ACTOR, RecordType::A), 4096, 0)).await;
    assert_eq!(reply.edns.unwrap().max_payload(), 1232);
    assert_eq!(reply.answers.len(), 1);
    let reply = udp(dns.addr(), with_edns(question(ACTOR, RecordType::A), 4096, 1)).await;
    // BADVERS and BADSIG are both 16.
    assert_eq!(u16::from(reply.metadata.response_code), 16);
    assert!(reply.answers.is_empty());
}

#[tokio::test]
async fn transfers_updates_and_odd_messages_are_refused_and_garbage_does_no_harm() {
    let dns = start().await;
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        let reply = tcp(dns.addr(), question("actors.localhost.", kind)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused, "{kind}");
    }
    let mut update = question("actors.localhost.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(udp(dns.addr(), update).await.metadata.response_code, ResponseCode::Refused);
    let mut notify = question("actors.localhost.", RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(udp(dns.addr(), notify).await.metadata.response_code, ResponseCode::Refused);
    let mut status = question("actors.localhost.", RecordType::SOA);
    status.metadata.op_code = OpCode::Status;
    assert_eq!(udp(dns.addr(), status).await.metadata.response_code, ResponseCode::NotImp);
    let empty = udp(dns.addr(), Message::query()).await;
    assert_eq!(empty.metadata.response_code, ResponseCode::FormErr);

    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for garbage in [&[][..], &[0], &[0xff; 40], &[7; 12]] {
        socket.send_to(garbage, dns.addr()).await.unwrap();
    }
    let reply = udp(dns.addr(), question(ACTOR, RecordType::A)).await;
    assert_eq!(reply.answers.len(), 1);
}

#[tokio::test]
async fn a_taken_port_is_told_and_shutdown_ends_the_server() {
    let dns = start().await;
    let config = Config::new(dns.addr(), zone(), Source::Given(loopback()));
    let error = config.build().await.err().expect("the port is taken").to_string();
    assert!(error.contains(&dns.addr().to_string()), "{error}");

    dns.stop().await;
}

#[tokio::test]
async fn several_fronts_take_turns_to_be_first_over_both_protocols() {
    let fronts: Vec<IpAddr> = (1..=3).map(|n| Ipv4Addr::new(10, 0, 0, n).into()).collect();
    let dns = start_with(fronts).await;
    for over_tcp in [false, true] {
        let mut first = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let asked = question(ACTOR, RecordType::A);
            let reply = match over_tcp {
                false => udp(dns.addr(), asked).await,
                true => tcp(dns.addr(), asked).await,
            };
            assert_eq!(reply.answers.len(), 3);
            first.insert(reply.answers[0].data.to_string());
        }
        assert_eq!(first.len(), 3, "{first:?}");
    }
}

#[tokio::test]
async fn a_reply_is_never_replied_to() {
    let dns = start().await;
    let mut reply = question(ACTOR, RecordType::A);
    reply.metadata.message_type = hickory_proto::op::MessageType::Response;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&reply.to_vec().unwrap(), dns.addr()).await.unwrap();
    // In one queue: what comes first is the answer to the second.
    let asked = question(ACTOR, RecordType::A);
    socket.send_to(&asked.to_vec().unwrap(), dns.addr()).await.unwrap();
    let mut buffer = [0; 512];
    let n = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("no reply").unwrap();
    assert_eq!(Message::from_vec(&buffer[..n]).unwrap().metadata.id, asked.metadata.id);
}
