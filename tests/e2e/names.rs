//! DNS of a whole instance.

use std::{net::Ipv4Addr, time::Duration};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::net::UdpSocket;

use crate::harness::{
    cluster::{Cluster, Options},
    machine_can_run_it,
    manifest::Manifests,
};

async fn ask(cluster: &Cluster, name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.send_to(&query.to_vec().expect("encodes"), cluster.dns).await.expect("sent");
    let mut buffer = [0u8; 1500];
    let (n, _) = tokio::time::timeout(Duration::from_secs(5), socket.recv_from(&mut buffer))
        .await
        .expect("an answer")
        .expect("received");
    Message::from_vec(&buffer[..n]).expect("decodes")
}

#[tokio::test(flavor = "multi_thread")]
async fn actor_names_resolve_to_the_front() {
    if !machine_can_run_it("dns") {
        return;
    }
    let cluster =
        Cluster::start(Options::new(Manifests::new().counter("demo", "counter", ""))).await;
    let answer = ask(&cluster, "counter.demo.actors.localhost.", RecordType::A).await;
    assert_eq!(answer.response_code, ResponseCode::NoError);
    let data: Vec<_> = answer.answers.iter().map(|r| r.data.clone()).collect();
    assert_eq!(data, [RData::A(Ipv4Addr::LOCALHOST.into())]);
    let answer = ask(&cluster, "counter.demo.actors.localhost.", RecordType::AAAA).await;
    assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
    let answer = ask(&cluster, "example.com.", RecordType::A).await;
    assert_eq!(answer.response_code, ResponseCode::Refused);
    cluster.stop().await;
}
