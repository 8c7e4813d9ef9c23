//! What an answer says of the time it took, and what the logs say.

use std::{collections::BTreeMap, fs, time::Duration};

use tokio::time::Instant;

use crate::{
    COUNTER,
    harness::{
        client::{Answer, Client},
        cluster::{Cluster, Options},
        eventually, machine_can_run_it,
        manifest::Manifests,
    },
};

/// Every phase there is, in the order in which a request meets them.
const PHASES: [&str; 7] = ["park", "place", "fetch", "restore", "ready", "connect", "first_byte"];

/// `Server-Timing`, in milliseconds.
fn timing(answer: &Answer) -> BTreeMap<String, f64> {
    let header = answer.header("server-timing").expect("a Server-Timing");
    let metrics = header.split(", ").map(|metric| {
        let (name, duration) = metric.split_once(";dur=").expect(header);
        (name.to_owned(), duration.parse().expect(header))
    });
    metrics.collect()
}

/// What no phase explains of the total: the way between Envoy and router, and less than a millisecond of connecting. On a busy
/// machine any of that may take long once, so of several only the least counts.
fn unexplained(timing: &BTreeMap<String, f64>) -> f64 {
    let sum: f64 = PHASES.iter().map(|phase| timing[*phase]).sum();
    // Each phase is rounded to a tenth.
    assert!(sum <= timing["total"] + 0.5, "the phases are more than the total: {timing:?}");
    1.0 - sum / timing["total"]
}

fn adds_up(what: &str, phases: impl Iterator<Item = f64>, total: f64) {
    let sum: f64 = phases.sum();
    assert!((sum - total).abs() <= total * 0.02, "{what}: the phases are {sum}, the total {total}");
}

/// Wakes of a kind whose first byte was measured.
async fn first_bytes(cluster: &Cluster, kind: &str, wanted: u64) {
    let page = Client::new(cluster.status);
    let series = format!("reveille_router_first_byte_seconds_count{{kind=\"{kind}\"}} {wanted}");
    eventually(&series, Duration::from_secs(30), || async {
        let text = page.get("status", "/metrics").await.text();
        let of_it = text.lines().filter(|line| line.contains("first_byte_seconds_count"));
        let lines: Vec<_> = of_it.map(str::to_owned).collect();
        if lines.contains(&series) { Ok(()) } else { Err(lines) }
    })
    .await;
}

/// A line of Envoy's access log, by the id that the answer carries.
async fn logged(cluster: &Cluster, answer: &Answer) -> serde_json::Value {
    let id = answer.header("x-request-id").expect("an id");
    // Envoy writes its log every few seconds.
    eventually("the request is logged", Duration::from_secs(30), || async {
        let log = fs::read_to_string(cluster.data_dir().join("access.log")).unwrap_or_default();
        let line = log.lines().find(|line| line.contains(id)).map(str::to_owned);
        line.ok_or_else(|| format!("{id} is not in {} lines", log.lines().count()))
    })
    .await
    .parse()
    .expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_is_told_by_phases_that_add_up_and_a_warm_answer_tells_of_none() {
    if !machine_can_run_it("Server-Timing") {
        return;
    }
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let mut least = f64::INFINITY;
    for kind in ["cold_start", "restored", "restored", "restored"] {
        let begin = Instant::now();
        let answer = cluster.client.get(COUNTER, "/").await;
        let seen = begin.elapsed().as_secs_f64() * 1000.0;
        assert_eq!(answer.header("x-reveille-wake"), Some(kind), "{answer:?}");
        let timing = timing(&answer);
        let total = timing["total"];
        least = least.min(unexplained(&timing));
        assert_eq!(timing.len(), PHASES.len() + 1, "{timing:?}");
        assert!(
            total <= seen,
            "{kind}: the first byte came after {total} ms of the {seen} ms that the answer took"
        );
        assert!(timing["restore"] > 0.0 && timing["first_byte"] > 0.0, "{timing:?}");

        // The same wake, as the control plane saw it.
        let wake = &cluster.actor("demo", "counter").await["lastWake"];
        let micros = |name: &str| wake[name].as_f64().expect(name);
        let phases = ["placeUs", "fetchUs", "restoreUs", "readyUs"].map(micros);
        adds_up(&format!("{kind}: {wake}"), phases.into_iter(), micros("totalUs"));
        assert!(micros("restoreUs") / 1000.0 >= timing["restore"] - 0.1, "{wake} {timing:?}");

        // The log tells the same of the first byte.
        let log = logged(&cluster, &answer).await;
        assert_eq!(log["wake"], kind, "{log}");
        let first_byte = log["first_byte_ms"].as_f64().expect("a number");
        assert!((first_byte - total).abs() <= 1.0, "{log} {timing:?}");

        let warm = cluster.client.get(COUNTER, "/").await;
        assert_eq!(warm.status, 200);
        assert_eq!((warm.header("server-timing"), warm.header("x-reveille-wake")), (None, None));
        let log = logged(&cluster, &warm).await;
        assert!(log["first_byte_ms"].is_number() && log["wake"].is_null(), "{log}");
        cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    }
    assert!(least <= 0.02, "no phase explains {:.1} % of any of them", least * 100.0);
    // Once for each wake; a warm answer is none.
    first_bytes(&cluster, "cold_start", 1).await;
    first_bytes(&cluster, "restored", 3).await;
    cluster.stop().await;
}

/// Those who come when the wake is half over have met only its end.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_a_wake_is_told_of_the_time_it_waited_itself() {
    if !machine_can_run_it("Server-Timing of joined wakes") {
        return;
    }
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let answers = futures::future::join_all((0..20).map(|n| {
        let client = cluster.client.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(n * 7)).await;
            let begin = Instant::now();
            (client.get(COUNTER, "/").await, begin.elapsed().as_secs_f64() * 1000.0)
        }
    }))
    .await;
    let woken = answers.iter().filter(|(answer, _)| answer.header("server-timing").is_some());
    let mut count = 0;
    for (answer, seen) in woken {
        count += 1;
        let timing = timing(answer);
        unexplained(&timing);
        assert!(timing["total"] <= *seen, "{timing:?} within {seen} ms");
    }
    assert!(count > 1, "nobody joined");
    first_bytes(&cluster, "cold_start", 1).await;
    cluster.stop().await;
}
