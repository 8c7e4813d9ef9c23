//! What is bounded, and what is told of it.

use std::num::NonZero;

use hickory_proto::{op::Message, rr::RecordType};
use reveille_dns::{Config, Source};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::rig::*;

#[tokio::test]
async fn a_source_above_its_rate_gets_less_than_it_asked_for_and_everything_by_tcp() {
    let limited = Config { rate_limit: NonZero::new(5), ..config(Source::Given(loopback())) };
    let dns = run(limited).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let asked = question(ACTOR, RecordType::A).to_vec().unwrap();
    for _ in 0..100 {
        socket.send_to(&asked, dns.addr()).await.unwrap();
    }
    eventually(async || match dns.metric("reveille_dns_queries_total{transport=\"udp\"}").await {
        100 => Ok(()),
        n => Err(format!("{n} came")),
    })
    .await;
    let truncated = dns.metric("reveille_dns_limited_total{outcome=\"truncated\"}").await;
    let dropped = dns.metric("reveille_dns_limited_total{outcome=\"dropped\"}").await;
    // Some of the rate comes back while they are sent.
    assert!(truncated > 20 && dropped > 20, "{truncated} {dropped}");
    let (mut whole, mut cut) = (0, 0);
    let mut buffer = [0; 512];
    for _ in 0..100 - dropped {
        let n = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("no reply").unwrap();
        let reply = Message::from_vec(&buffer[..n]).unwrap();
        match reply.metadata.truncation {
            true => {
                assert_eq!(n, asked.len());
                cut += 1;
            }
            false => whole += 1,
        }
    }
    assert_eq!((whole, cut), (100 - dropped - truncated, truncated));
    assert_eq!(tcp(dns.addr(), question(ACTOR, RecordType::A)).await.answers.len(), 1);
}

#[tokio::test]
async fn of_too_many_connections_the_one_that_is_idle_for_longest_makes_room() {
    let dns = start().await;
    let mut held = Vec::new();
    let series = "reveille_dns_connections_refused_total{limit=\"network\"}";
    while dns.metric(series).await == 0 {
        assert!(held.len() < 10_000);
        for _ in 0..64 {
            held.push(TcpStream::connect(dns.addr()).await.unwrap());
        }
    }
    let reply = stream(held.last_mut().unwrap(), question(ACTOR, RecordType::A)).await;
    assert_eq!(reply.answers.len(), 1);
    assert!(timeout(PATIENCE, held[0].read_u8()).await.expect("it is held").is_err());
    drop(held);
    eventually(async || match dns.metric("reveille_dns_connections").await {
        0 => Ok(()),
        n => Err(format!("{n} connections")),
    })
    .await;
    assert_eq!(tcp(dns.addr(), question(ACTOR, RecordType::A)).await.answers.len(), 1);
}

#[tokio::test]
async fn a_client_that_says_too_much_or_half_or_nothing_is_hung_up_on() {
    let dns = start().await;
    let mut long = TcpStream::connect(dns.addr()).await.unwrap();
    long.write_u16(5_000).await.unwrap();
    let mut half = TcpStream::connect(dns.addr()).await.unwrap();
    half.write_all(&[0, 40, 1]).await.unwrap();
    let mut silent = TcpStream::connect(dns.addr()).await.unwrap();
    for client in [&mut long, &mut half, &mut silent] {
        let ended = timeout(PATIENCE, client.read_u8()).await.expect("it is held");
        assert!(ended.is_err());
    }
}

#[tokio::test]
async fn questions_in_one_connection_are_answered_one_after_another() {
    let dns = start().await;
    let mut client = TcpStream::connect(dns.addr()).await.unwrap();
    let asked: Vec<_> = (0..50).map(|_| question(ACTOR, RecordType::A)).collect();
    for message in &asked {
        let bytes = message.to_vec().unwrap();
        client.write_u16(bytes.len() as u16).await.unwrap();
        client.write_all(&bytes).await.unwrap();
    }
    for message in &asked {
        let len = timeout(PATIENCE, client.read_u16()).await.expect("no reply").unwrap();
        let mut reply = vec![0; len.into()];
        client.read_exact(&mut reply).await.unwrap();
        assert_eq!(Message::from_vec(&reply).unwrap().metadata.id, message.metadata.id);
    }
}

#[tokio::test]
async fn every_series_is_there_from_the_start_and_counts() {
    let dns = start().await;
    let page = dns.get("/metrics").await;
    for series in [
        "queries_total{transport=\"udp\"}",
        "queries_total{transport=\"tls\"}",
        "replies_total{transport=\"udp\",code=\"noerror\"}",
        "replies_total{transport=\"tcp\",code=\"badvers\"}",
        "limited_total{outcome=\"dropped\"}",
        "connections_refused_total{limit=\"all\"}",
        "truncated_total",
        "ignored_total",
        "unsent_total",
        "query_log_dropped_total",
    ] {
        assert!(page.contains(&format!("\nreveille_dns_{series} 0\n")), "{series}: {page}");
    }
    udp(dns.addr(), question(ACTOR, RecordType::A)).await;
    tcp(dns.addr(), question("a_b.actors.localhost.", RecordType::A)).await;
    let count = async |series: &str| dns.metric(&format!("reveille_dns_{series}")).await;
    assert_eq!(count("replies_total{transport=\"udp\",code=\"noerror\"}").await, 1);
    assert_eq!(count("replies_total{transport=\"tcp\",code=\"nxdomain\"}").await, 1);
    let page = dns.get("/metrics").await;
    assert!(!page.contains("counter") || !page.to_lowercase().contains("demo"), "{page}");
}

#[tokio::test]
async fn the_query_log_has_a_line_for_each_question() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queries");
    let logged = Config { query_log: Some(path.clone()), ..config(Source::Given(loopback())) };
    let dns = run(logged).await;
    udp(dns.addr(), question(ACTOR, RecordType::AAAA)).await;
    tcp(dns.addr(), question("example.com.", RecordType::A)).await;
    dns.stop().await;
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!((lines[0]["name"].as_str(), lines[0]["type"].as_str()), (Some(ACTOR), Some("AAAA")));
    assert_eq!((&lines[0]["transport"], &lines[0]["code"]), (&"udp".into(), &"NOERROR".into()));
    assert!(lines[0]["client"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!((&lines[1]["transport"], &lines[1]["code"]), (&"tcp".into(), &"REFUSED".into()));
}
