//! Large bodies, through a wake: nothing is lost, and nobody on the way holds them.

use std::{convert::Infallible, fs, time::Duration};

use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper::{
    Request,
    body::{Bytes, Frame},
};

use crate::{
    COUNTER,
    harness::{
        cluster::{Cluster, Options},
        machine_can_run_it,
        manifest::Manifests,
        wire,
    },
};

const SIZE: usize = 200 << 20;
const CHUNK: usize = 64 << 10;
/// What Envoy and the router may grow by, together with whatever else they do meanwhile.
const BOUND: usize = 32 << 20;

/// Bytes that a role has in memory.
fn resident(cluster: &Cluster, role: &str) -> usize {
    let pid = cluster.pid_of(role).expect("it runs");
    let pages = fs::read_to_string(format!("/proc/{pid}/statm")).expect("it runs");
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
}

/// Does this while it watches the memory of Envoy and the router, which must stay where it was.
async fn with_memory_flat<T>(cluster: &Cluster, what: &str, work: impl Future<Output = T>) -> T {
    let memory = || ["envoy", "router"].map(|role| resident(cluster, role));
    let before = memory();
    let mut peak = before;
    let mut work = std::pin::pin!(work);
    let mut look = tokio::time::interval(Duration::from_millis(50));
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = look.tick() => {
                let now = memory();
                peak = [peak[0].max(now[0]), peak[1].max(now[1])];
            }
        }
    };
    println!("{what}: envoy, router before {before:?}, peak {peak:?}");
    for (role, (before, peak)) in ["envoy", "router"].iter().zip(before.iter().zip(peak)) {
        assert!(peak - before < BOUND, "{what}: {role} grew by {} MiB", (peak - before) >> 20);
    }
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_through_a_wake_with_memory_flat() {
    if !machine_can_run_it("large bodies") {
        return;
    }
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let block = Bytes::from(vec![7; CHUNK]);
    let up = async {
        let chunks =
            (0..SIZE / CHUNK).map(move |_| Ok::<_, Infallible>(Frame::data(block.clone())));
        let request = Request::post("/echo").header("host", COUNTER);
        let request = request.body(wire::stream(stream::iter(chunks))).expect("a request");
        let answer = wire::h1(cluster.http).await.send_request(request).await.expect("an answer");
        wire::whole(answer).await.0
    };
    let answer = with_memory_flat(&cluster, "up", up).await;
    assert_eq!(answer.header("x-reveille-wake"), Some("cold_start"));
    assert_eq!(answer.json::<serde_json::Value>()["length"], SIZE);

    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    let down = async {
        let request = Request::get(format!("http://{COUNTER}/bytes?n={SIZE}"));
        let request = request.body(wire::empty()).expect("a request");
        let answer = wire::h2(cluster.http).await.send_request(request).await.expect("an answer");
        assert_eq!(answer.headers()["x-reveille-wake"], "restored");
        let mut body = answer.into_body().into_data_stream();
        let mut length = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.expect("a whole body");
            let expected = (length..).map(|at| (at % 251) as u8);
            assert!(chunk.iter().copied().eq(expected.take(chunk.len())), "after {length} bytes");
            length += chunk.len();
        }
        length
    };
    assert_eq!(with_memory_flat(&cluster, "down", down).await, SIZE);
    cluster.stop().await;
}
