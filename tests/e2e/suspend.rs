//! Suspends under traffic: whatever arrives in whichever phase is served once, and nobody sees a failure.
//!
//! ```text
//!  Draining ── nothing in flight ─▶ Checkpointing ── commit ─▶ asleep ── a request ─▶ woken
//!     └─ a request: it stays up        └─ a request: it resumes
//! ```

use std::time::Duration;

use futures::{SinkExt, channel::mpsc};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    Request,
    body::{Bytes, Frame},
    header::HOST,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, task::JoinSet, time::Instant};

use crate::{
    COUNTER,
    harness::{
        client::Answer,
        cluster::{Cluster, Options},
        eventually, machine_can_run_it,
        manifest::Manifests,
    },
};

/// Suspends that are asked for while traffic goes on.
const SUSPENDS: usize = 24;
/// How many of them at least must end each way, lest the test prove only one of the two.
const EACH_WAY: usize = 3;

/// What the counter answers on `/tally`.
#[derive(Debug, Deserialize)]
struct Tally {
    id: u64,
    count: u64,
    nonce: String,
    body: Digest,
}

#[derive(Debug, Deserialize)]
struct Digest {
    length: usize,
}

async fn cluster() -> Cluster {
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    Cluster::start(Options::new(manifests)).await
}

async fn tally(cluster: &Cluster, id: u64) -> (Tally, Answer) {
    let answer = cluster.client.get(COUNTER, &format!("/tally?id={id}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    (answer.json(), answer)
}

/// Asks for a suspend; true when it slept, false when it was in use. Anything else fails the test.
async fn suspend(cluster: &Cluster) -> bool {
    let output = cluster.cli(&["suspend", "actor", "counter", "-n", "demo"]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || error.contains("it is in use"), "{error}");
    output.status.success()
}

async fn state(cluster: &Cluster, state: &str) {
    eventually(&format!("it is {state}"), Duration::from_secs(20), || async {
        let seen = cluster.actor("demo", "counter").await["state"].clone();
        if seen == state { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_draining_calls_the_suspend_off_and_the_user_is_told() {
    if !machine_can_run_it("a request in Draining") {
        return;
    }
    let cluster = cluster().await;
    let (first, _) = tally(&cluster, 1).await;
    let slow = cluster.client.get(COUNTER, "/slow?ms=4000");
    let rest = async {
        eventually("the slow request is under way", Duration::from_secs(5), || async {
            let actor = cluster.actor("demo", "counter").await;
            if actor["inFlight"] == 1 { Ok(()) } else { Err(actor) }
        })
        .await;
        let draining = async {
            state(&cluster, "Draining").await;
            tally(&cluster, 2).await
        };
        tokio::join!(suspend(&cluster), draining)
    };
    let (slow, (asleep, (second, _))) = tokio::join!(slow, rest);
    assert_eq!(slow.status, 200, "{slow:?}");
    assert!(!asleep, "a suspend that lost against traffic said that it had won");
    assert_eq!((second.count, &second.nonce), (2, &first.nonce));
    assert_eq!(cluster.actor("demo", "counter").await["epoch"], 1, "it never went down");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_checkpointing_is_served_by_the_same_process_or_the_next() {
    if !machine_can_run_it("a request in Checkpointing") {
        return;
    }
    let cluster = cluster().await;
    let (first, _) = tally(&cluster, 1).await;
    // So much memory that its checkpoint takes long enough to be met.
    assert_eq!(cluster.client.get(COUNTER, "/fill?mb=600").await.status, 200);
    let request = async {
        state(&cluster, "Checkpointing").await;
        tally(&cluster, 2).await
    };
    let (asleep, (second, answer)) = tokio::join!(suspend(&cluster), request);
    assert_eq!((second.count, &second.nonce), (2, &first.nonce));
    let woken = answer.header("x-reveille-wake");
    let expected = if asleep { "restored" } else { "resumed" };
    assert_eq!(woken, Some(expected), "{answer:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_under_way_at_a_suspend_arrives_whole_and_counts_once() {
    if !machine_can_run_it("an upload at a suspend") {
        return;
    }
    let cluster = cluster().await;
    let (first, _) = tally(&cluster, 1).await;
    let io = TokioIo::new(TcpStream::connect(cluster.http).await.expect("connects"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("http");
    let connection = tokio::task::spawn(connection);
    let (mut pieces, body) = mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(0);
    let request = Request::post("/tally?id=2").header(HOST, COUNTER).body(StreamBody::new(body));
    let answer = sender.send_request(request.expect("a request"));
    let piece = || Ok(Frame::data(Bytes::from(vec![7; 64 << 10])));
    let upload = async {
        for _ in 0..8 {
            pieces.send(piece()).await.expect("taken");
        }
        state(&cluster, "Draining").await;
        for _ in 0..8 {
            pieces.send(piece()).await.expect("taken");
        }
        drop(pieces);
    };
    let begin = async {
        eventually("the upload is under way", Duration::from_secs(5), || async {
            let actor = cluster.actor("demo", "counter").await;
            if actor["inFlight"] == 1 { Ok(()) } else { Err(actor) }
        })
        .await;
        suspend(&cluster).await
    };
    let (answer, (), asleep) = tokio::join!(answer, upload, begin);
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.expect("whole").to_bytes();
    let second: Tally = serde_json::from_slice(&body).expect("a tally");
    assert_eq!((second.id, second.count, second.body.length), (2, 2, 1 << 20));
    assert!(asleep, "nothing else was asked of it: it waited for the upload and slept");
    let (third, _) = tally(&cluster, 3).await;
    assert_eq!((third.count, &third.nonce), (3, &first.nonce));
    drop(sender);
    let _ = connection.await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_that_never_waits_sees_nothing_of_many_suspends() {
    if !machine_can_run_it("open-loop traffic") {
        return;
    }
    let cluster = cluster().await;
    let (first, _) = tally(&cluster, 0).await;
    let end = Instant::now() + Duration::from_secs(120);
    let (mut asleep, mut in_use) = (0, 0);
    let suspends = async {
        while asleep + in_use < SUSPENDS || asleep < EACH_WAY || in_use < EACH_WAY {
            let both = format!("{asleep} slept, {in_use} were called off");
            assert!(Instant::now() < end, "the traffic met only one kind: {both}");
            if suspend(&cluster).await { asleep += 1 } else { in_use += 1 }
        }
    };
    let mut requests = JoinSet::new();
    let traffic = async {
        // Open loop: each is sent when its time has come, whether the one before was answered or not.
        for id in 1u64.. {
            let client = cluster.client.clone();
            requests.spawn(async move { client.get(COUNTER, &format!("/tally?id={id}")).await });
            tokio::time::sleep(Duration::from_millis(20 + id * 97 % 700)).await;
        }
    };
    tokio::select! {
        () = suspends => {}
        () = traffic => {}
    }
    let sent = requests.len() as u64;
    let mut counts: Vec<u64> = vec![first.count];
    for answer in requests.join_all().await {
        assert_eq!(answer.status, 200, "{answer:?}");
        let tally: Tally = answer.json();
        assert_eq!(tally.nonce, first.nonce, "restarted, not restored");
        counts.push(tally.count);
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=sent + 1).collect::<Vec<_>>(), "each answer has a count of its own");
    let mut ids: Vec<u64> = cluster.client.get(COUNTER, "/tally/ids").await.json();
    ids.sort_unstable();
    assert_eq!(ids, (0..=sent).collect::<Vec<_>>(), "each request counted once");
    cluster.stop().await;
}
