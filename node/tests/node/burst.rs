//! Many connections at once, and then sleep.

use std::time::Duration;

use reveille_api::proto::suspend_reply::Outcome;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::support::{Place, count};

/// Fewer than a listener's usual backlog of 128, which gVisor handles badly when it is full.
const CONNECTIONS: usize = 100;
/// Without what [`a_snapshot_taken_after_a_burst_of_connections_restores`] is about, the second to seventh wake failed.
const ROUNDS: u64 = 10;

/// Asks on many connections at the same time.
async fn burst(endpoint: &str) -> Vec<TcpStream> {
    let mut asked = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let endpoint = endpoint.to_owned();
        asked.spawn(async move {
            let mut stream = TcpStream::connect(&endpoint).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: counter.demo\r\n\r\n").await.unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
            stream
        });
    }
    let answered = tokio::time::timeout(Duration::from_secs(10), asked.join_all()).await;
    answered.expect("an answer on each connection")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_taken_after_a_burst_of_connections_restores() {
    let Some(place) = Place::new() else { return };
    let node = place.start(2).await;
    let mut wake = place.wake(1);
    let (mut nonce, mut served) = (None, 0);
    for round in 1..=ROUNDS {
        let endpoint = node.activate(&wake).await.unwrap().endpoint;
        let answer = count(&endpoint).await;
        assert_eq!(*nonce.get_or_insert_with(|| answer.nonce.clone()), answer.nonce);
        assert_eq!(answer.count, served + 1, "round {round}");
        let mut streams = burst(&endpoint).await;
        served += 1 + CONNECTIONS as u64;
        if round % 2 == 0 {
            // Closed by the client now; else reset by the suspend.
            streams.clear();
        }
        let snapshot: &str = format!("s{round}").leak();
        let suspended = node.suspend(round, snapshot).await.unwrap();
        assert!(matches!(suspended.outcome, Some(Outcome::Committed(_))), "{suspended:?}");
        wake = place.wake(round + 1).from(snapshot);
        wake.worker = (round % 2) as u32;
    }
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}
