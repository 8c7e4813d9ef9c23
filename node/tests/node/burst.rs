//! Sleep after many connections at once, and amid requests.

use std::time::Duration;

use reveille_api::proto::suspend_reply::Outcome;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use rstest::rstest;

use crate::support::{CRIU, GVISOR, Place, count, eventually};

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

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_taken_after_a_burst_of_connections_restores(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
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

/// Connections that are never idle.
const BUSY: usize = 16;
/// Without what [`a_snapshot_taken_amid_requests_restores`] is about, every third wake failed on a busy machine.
const BUSY_ROUNDS: u64 = 10;

/// Asks again and again on one connection, and on another when that has ended.
async fn keep_asking(endpoint: String, connection: &str) {
    let request =
        format!("GET / HTTP/1.1\r\nhost: counter.demo\r\nconnection: {connection}\r\n\r\n");
    loop {
        let Ok(mut stream) = TcpStream::connect(&endpoint).await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let mut answer = [0; 1024];
        while stream.write_all(request.as_bytes()).await.is_ok() {
            if !matches!(stream.read(&mut answer).await, Ok(1..)) {
                break;
            }
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_taken_amid_requests_restores(#[values(GVISOR, CRIU)] runtime: &'static str) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(2).await;
    let mut wake = place.wake(1);
    let (mut nonce, mut served) = (None, 0);
    for round in 1..=BUSY_ROUNDS {
        let endpoint = node.activate(&wake).await.unwrap().endpoint;
        let answer = count(&endpoint).await;
        assert_eq!(*nonce.get_or_insert_with(|| answer.nonce.clone()), answer.nonce);
        assert!(answer.count > served, "round {round}: {answer:?}");
        let mut clients = JoinSet::new();
        for client in 0..BUSY {
            let connection = if client % 4 == 0 { "close" } else { "keep-alive" };
            clients.spawn(keep_asking(endpoint.clone(), connection));
        }
        served = eventually("they are served", async || {
            let count = count(&endpoint).await.count;
            if count > answer.count + 100 { Ok(count) } else { Err(format!("{count}")) }
        })
        .await;
        let snapshot: &str = format!("s{round}").leak();
        let suspended = node.suspend(round, snapshot).await.unwrap();
        assert!(matches!(suspended.outcome, Some(Outcome::Committed(_))), "{suspended:?}");
        clients.shutdown().await;
        wake = place.wake(round + 1).from(snapshot);
        wake.worker = (round % 2) as u32;
    }
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}
