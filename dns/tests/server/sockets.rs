//! Where it listens, from where it replies, and how it ends.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket as StdUdpSocket},
    time::Duration,
};

use hickory_proto::{op::Message, rr::RecordType};
use reveille_dns::{BuildError, Config, Source};
use tokio::{net::UdpSocket, time::timeout};

use crate::rig::*;

/// Every address of both families, at one port.
async fn everywhere() -> Running {
    let mut last = None;
    for _ in 0..8 {
        // Of both protocols, and of both families too.
        let free = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        let Ok(udp) = StdUdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)) else { continue };
        drop((free, udp));
        let listen =
            [SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), (Ipv6Addr::UNSPECIFIED, port).into()];
        let config = Config { listen: listen.into(), ..config(Source::Given(loopback())) };
        match config.build().await {
            Ok(app) => return serve(app),
            Err(error @ BuildError::Listen { .. }) => last = Some(error),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("{last:?}")
}

#[tokio::test]
async fn every_address_of_both_families_is_listened_on_and_the_one_that_was_asked_replies() {
    let dns = everywhere().await;
    let port = dns.addr().port();
    let asked = question(ACTOR, RecordType::A).to_vec().unwrap();
    for (ours, client) in
        [("127.0.0.2", "127.0.0.1:0"), ("127.0.0.1", "127.0.0.1:0"), ("::1", "[::1]:0")]
    {
        let ours = SocketAddr::new(ours.parse().unwrap(), port);
        let client = UdpSocket::bind(client).await.unwrap();
        // What comes from elsewhere is not for it.
        client.connect(ours).await.unwrap();
        client.send(&asked).await.unwrap();
        let mut buffer = [0; 512];
        let n = timeout(PATIENCE, client.recv(&mut buffer)).await;
        let n = n.unwrap_or_else(|_| panic!("no reply from {ours}")).unwrap();
        assert_eq!(Message::from_vec(&buffer[..n]).unwrap().answers.len(), 1);
        assert_eq!(tcp(ours, question(ACTOR, RecordType::A)).await.answers.len(), 1);
    }
    dns.stop().await;
}

#[tokio::test]
async fn a_stop_is_told_before_anybody_goes_unanswered() {
    let grace = Duration::from_secs(3_600);
    let app = Config { grace, ..config(Source::Given(loopback())) }.build().await.unwrap();
    let hurry = tokio_util::sync::CancellationToken::new();
    let dns = serve(app.hurried_by(hurry.clone()));
    assert!(dns.get("/readyz").await.starts_with("HTTP/1.1 200"));
    dns.shutdown.cancel();
    eventually(async || match dns.get("/readyz").await {
        page if page.starts_with("HTTP/1.1 503") => Ok(()),
        page => Err(page),
    })
    .await;
    assert_eq!(udp(dns.addr(), question(ACTOR, RecordType::A)).await.answers.len(), 1);
    assert_eq!(tcp(dns.addr(), question(ACTOR, RecordType::A)).await.answers.len(), 1);
    hurry.cancel();
    dns.stop().await;
}
