//! WebSockets and headers through a wake; other protocols are in [`crate::protocols`] and [`crate::grpc`].

use futures::{SinkExt, StreamExt};
use hyper::{Request, header::HOST};
use tokio::net::TcpStream;
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::{
    COUNTER,
    harness::{
        cluster::{Cluster, Options},
        machine_can_run_it,
        manifest::Manifests,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_opens_through_a_wake_and_echoes() {
    if !machine_can_run_it("websocket") {
        return;
    }
    let manifests = Manifests::new()
        .counter("demo", "counter", "idle: { suspendAfter: 1s }\n")
        .actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let stream = TcpStream::connect(cluster.http).await.expect("connects");
    let (mut socket, _) =
        client_async(format!("ws://{COUNTER}/ws"), stream).await.expect("upgrades");
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.expect("sent");
        let echo = socket.next().await.expect("open").expect("a frame");
        assert_eq!(echo.into_text().expect("text").as_str(), text);
        // Longer than the idle time: an open WebSocket is activity.
        tokio::time::sleep(std::time::Duration::from_millis(1600)).await;
    }
    assert_eq!(cluster.actor("demo", "counter").await["epoch"], 1);
    socket.close(None).await.expect("closes");
    cluster.reaches("demo", "counter", "Suspended").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_actor_sees_the_clients_host_and_none_of_its_reveille_headers() {
    if !machine_can_run_it("headers") {
        return;
    }
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let host = "Counter.Demo.Actors.LocalHost.:8080";
    let request = Request::get(cluster.client.uri("/headers?secret=yes"))
        .header(HOST, host)
        .header("x-reveille-endpoint", "127.0.0.1:1")
        .header("x-reveille-anything", "forged")
        .header("x-envoy-original-dst-host", "127.0.0.1:1")
        .header("authorization", "Bearer hush-hush");
    let answer = cluster.client.send(request, "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = answer.text().to_lowercase();
    assert!(!seen.contains("x-reveille"), "{seen}");
    assert!(seen.contains(&host.to_lowercase()), "{seen}");
    for set_by_envoy in ["x-forwarded-for", "x-forwarded-proto", "x-request-id"] {
        assert!(seen.contains(set_by_envoy), "{seen}");
    }
    let logs = cluster.log_text();
    assert!(!logs.contains("hush-hush") && !logs.contains("secret=yes"), "a log has a secret");
    cluster.stop().await;
}
