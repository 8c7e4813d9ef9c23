//! Freeze and thaw.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use reveille_api::proto::{self, suspend_reply::Outcome};
use rstest::rstest;
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::task::JoinSet;
use tonic::Code;

use crate::{
    support::{CRIU, GVISOR, Place, Wake, ask, cgroups, count, eventually, get, is_ended},
    swap::Swap,
};

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_actor_refuses_at_once_and_goes_on_where_it_stopped(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    let woken = node.activate(&place.wake(1)).await.unwrap();
    let before = count(&woken.endpoint).await;
    let waiting = ask(&woken.endpoint, "/slow?ms=60000").await;
    count(&woken.endpoint).await;

    node.freeze(1, 0).await.unwrap();
    node.freeze(1, 0).await.unwrap();
    for trace in place.traces() {
        if let ["group", name, ..] = trace.split(' ').collect::<Vec<_>>()[..] {
            let events = std::fs::read_to_string(cgroups().join(name).join("cgroup.events"));
            assert!(events.unwrap().contains("frozen 1"), "{name}");
        }
    }
    is_ended(&place, waiting).await;
    let here = &node.inventory().await.activations[0];
    assert!(here.frozen && !here.serving);
    let refused = get(&woken.endpoint, "/").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    assert!(node.resume_term(1, 0).await.unwrap());
    let after = count(&woken.endpoint).await;
    assert_eq!((after.nonce.clone(), after.count), (before.nonce.clone(), before.count + 2));
    // What comes late freezes nothing; a later one does.
    assert_eq!(node.freeze(1, 0).await.unwrap_err().code(), Code::Aborted);
    assert!(node.inventory().await.activations[0].serving);
    node.freeze(1, 1).await.unwrap();

    // Straight from there to a snapshot.
    let suspended = node.suspend(1, "s1").await.unwrap();
    assert!(matches!(suspended.outcome, Some(Outcome::Committed(_))));
    let again = node.activate(&place.wake(2).from("s1")).await.unwrap();
    assert_eq!(count(&again.endpoint).await.nonce, before.nonce);
    node.freeze(2, 0).await.unwrap();
    node.destroy_activation(2).await.unwrap();
    assert_eq!(node.freeze(2, 0).await.unwrap_err().code(), Code::NotFound);
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_agent_finds_a_frozen_actor_frozen_and_thaws_it(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    let woken = node.activate(&place.wake(1)).await.unwrap();
    let before = count(&woken.endpoint).await;
    node.freeze(1, 0).await.unwrap();
    node.crash().await;
    let node = place.start(1).await;
    let here: Vec<proto::Activation> = node.inventory().await.activations;
    assert!(here.len() == 1 && here[0].frozen && !here[0].serving, "{here:?}");
    get(&woken.endpoint, "/").await.unwrap_err();
    assert!(node.resume_term(1, 0).await.unwrap());
    assert_eq!(count(&woken.endpoint).await.nonce, before.nonce);
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

/// Bytes of the sandbox that are in memory; what its processes share is counted for each.
fn resident(place: &Place) -> u64 {
    let mut bytes = 0;
    for trace in place.traces() {
        let ["group", name, ..] = trace.split(' ').collect::<Vec<_>>()[..] else { continue };
        let pids = std::fs::read_to_string(cgroups().join(name).join("cgroup.procs")).unwrap();
        for pid in pids.lines() {
            // One may end meanwhile.
            let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
            let pages = text.split(' ').nth(1).map_or(0, |pages| pages.parse().unwrap());
            bytes += pages * 4096;
        }
    }
    bytes
}

const HOLDER: &str = r#"
import hashlib, http.server, os
kept = os.urandom(64 << 20)
class Holder(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = hashlib.blake2b(kept).hexdigest().encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("", 8080), Holder).serve_forever()
"#;

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_a_frozen_actor_goes_to_swap_and_comes_back_as_it_was(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(mut place) = Place::of(runtime) else { return };
    if !place.python() {
        return;
    }
    let _swap = Swap::on(256 << 20);
    let node = place.start(1).await;
    let command = ["/usr/bin/python3", "-c", HOLDER];
    let wake = place.wake(1).with("command", command.as_slice().into());
    let woken = node.activate(&wake).await.unwrap();
    let before = get(&woken.endpoint, "/").await.unwrap();
    let running = resident(&place);
    assert!(running > 64 << 20, "{running}");
    node.freeze(1, 0).await.unwrap();
    // Of gVisor's memory most is mapped by two processes, which the kernel moves only if it is asked by group.
    let moves = runtime == CRIU || cgroups().join("memory.reclaim").exists();
    eventually("its memory is in swap", async || match resident(&place) {
        _ if !moves => Ok(()),
        now if running - now.min(running) > 60 << 20 => Ok(()),
        now => Err(format!("{now} bytes of {running} are in memory")),
    })
    .await;
    assert!(node.resume_term(1, 0).await.unwrap());
    assert_eq!(get(&woken.endpoint, "/").await.unwrap(), before);
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_actor_whose_suspend_came_to_nothing_serves_on(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    let woken = node.activate(&place.wake(1)).await.unwrap();
    let first = count(&woken.endpoint).await;
    node.freeze(1, 1).await.unwrap();
    let record = place.path("node/records/demo/counter.json");
    let in_the_way = record.with_extension("json.tmp");
    fs::create_dir(&in_the_way).unwrap();
    node.suspend(1, "s1").await.unwrap_err();
    let second = count(&woken.endpoint).await;
    assert_eq!((second.count, &second.nonce), (2, &first.nonce));
    fs::remove_dir(&in_the_way).unwrap();

    // As by an agent that dies before it has thawed it.
    node.freeze(1, 2).await.unwrap();
    node.crash().await;
    let text = fs::read_to_string(&record).unwrap();
    let mut edited: serde_json::Value = serde_json::from_str(&text).unwrap();
    edited["activation"]["phase"] = serde_json::json!({ "suspending": { "snapshot": "s2" } });
    fs::write(&record, edited.to_string()).unwrap();
    let node = place.start(1).await;
    assert_eq!(node.running, ["demo/counter"]);
    let third = count(&woken.endpoint).await;
    assert_eq!((third.count, third.nonce), (3, first.nonce));
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

const MANY: u32 = 12;
/// Of those, with one processor: two that are saved, and some that were and are just being killed.
const AT_A_TIME: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_actors_that_are_suspended_at_once_run_a_few_at_a_time() {
    let Some(place) = Place::of(CRIU) else { return };
    // An agent that is started by this thread counts the processors that are this thread's.
    let mut one = CpuSet::new();
    one.set(0);
    sched_setaffinity(None, &one).unwrap();
    let node = place.start(MANY).await;
    let key =
        |number: u32| proto::ActorKey { namespace: "demo".into(), name: format!("a{number}") };
    for number in 0..MANY {
        let actor = key(number).name.leak();
        node.activate(&Wake { actor, worker: number, ..place.wake(1) }).await.unwrap();
        let actor = Some(key(number));
        let frozen = proto::ActivationRef { actor, epoch: 1, ..Default::default() };
        node.client.clone().freeze(frozen).await.unwrap();
    }
    let groups = place.traces().into_iter().filter_map(|trace| {
        let name = trace.strip_prefix("group ")?.split(' ').next()?.to_owned();
        Some(cgroups().join(name).join("cgroup.events"))
    });
    let groups: Vec<_> = groups.collect();
    assert_eq!(groups.len(), MANY as usize);
    let done = Arc::new(AtomicBool::new(false));
    let most = tokio::task::spawn_blocking({
        let done = done.clone();
        let runs = |events: String| events.contains("frozen 0") && events.contains("populated 1");
        move || {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                let running = groups.iter().filter(|it| fs::read_to_string(it).is_ok_and(runs));
                most = most.max(running.count());
            }
            most
        }
    });
    let mut suspends = JoinSet::new();
    for number in 0..MANY {
        let request = proto::SuspendRequest {
            actor: Some(key(number)),
            epoch: 1,
            snapshot: "s1".into(),
            deadline_ms: 20_000,
            ..Default::default()
        };
        let mut client = node.client.clone();
        suspends.spawn(async move { client.suspend(request).await.unwrap().into_inner().outcome });
    }
    let outcomes = suspends.join_all().await;
    done.store(true, Ordering::Relaxed);
    assert!(outcomes.iter().all(|it| matches!(it, Some(Outcome::Committed(_)))), "{outcomes:?}");
    let most = most.await.unwrap();
    assert!((1..=AT_A_TIME).contains(&most), "{most} ran at a time");
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}
