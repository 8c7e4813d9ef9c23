//! Two routers and two Envoys on one control plane: any of them may go and come while requests are served.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use crate::harness::{
    client::{Client, Count},
    eventually,
    fleet::{Fleet, in_a_network_of_its_own},
    machine_can_run_it,
    manifest::Manifests,
    processes,
};

const ACTORS: [&str; 3] = ["a", "b", "c"];
/// Not part of the load.
const IDLE: &str = "idle";

fn host(actor: &str) -> String {
    format!("{actor}.demo.actors.localhost")
}

fn manifests(extra: &str) -> Manifests {
    let template = Manifests::new().counter("demo", "counter", extra);
    ACTORS.into_iter().chain([IDLE]).fold(template, |all, name| all.actor("demo", name, "counter"))
}

/// Clients that ask again and again.
struct Load {
    over: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    /// By actor: every count that was answered, and the nonces.
    seen: Arc<Mutex<BTreeMap<&'static str, Vec<Count>>>>,
    failed: Arc<Mutex<Vec<String>>>,
    clients: JoinSet<()>,
}

impl Load {
    fn begin(fleet: &Fleet) -> Self {
        let mut load = Self {
            over: Arc::default(),
            served: Arc::default(),
            seen: Arc::default(),
            failed: Arc::default(),
            clients: JoinSet::new(),
        };
        for number in 0..9 {
            // HTTP/1.1 and HTTP/2 over connections that are kept, and a connection for each request.
            let http = fleet.http;
            let (client, anew) = match number / 3 {
                0 => (Client::new(http), false),
                1 => (Client::h2(http), false),
                _ => (Client::new(http), true),
            };
            let actor = ACTORS[number % 3];
            let (over, served) = (load.over.clone(), load.served.clone());
            let (seen, failed) = (load.seen.clone(), load.failed.clone());
            load.clients.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let client = if anew { Client::new(http) } else { client.clone() };
                    let request = client.request(&host(actor), "/");
                    match client.try_send(request, "").await {
                        Ok(answer) if answer.status == 200 => {
                            served.fetch_add(1, Ordering::Relaxed);
                            seen.lock().unwrap().entry(actor).or_default().push(answer.json());
                        }
                        other => failed.lock().unwrap().push(format!("{actor}: {other:?}")),
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
        load
    }

    /// So many more have been served.
    async fn goes_on(&self, fleet: &Fleet) {
        let before = self.served.load(Ordering::Relaxed);
        eventually("the load goes on", Duration::from_secs(60), || async {
            let now = self.served.load(Ordering::Relaxed);
            if now > before + 100 { Ok(()) } else { Err((now, fleet.tails())) }
        })
        .await;
    }

    fn has_not_failed(&self, after: &str, fleet: &Fleet) {
        let failed = self.failed.lock().unwrap();
        assert!(failed.is_empty(), "after {after}: {failed:#?}\n{}", fleet.tails());
    }

    /// Nothing failed, and no answer was given twice or by somebody else.
    async fn end(mut self, fleet: &Fleet) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client");
        }
        self.has_not_failed("all", fleet);
        for (actor, counts) in self.seen.lock().unwrap().iter_mut() {
            counts.sort_by_key(|count| count.count);
            assert!(counts.iter().all(|count| count.nonce == counts[0].nonce), "{actor}");
            let of = |count: &Count| count.count;
            assert!(counts.windows(2).all(|two| of(&two[0]) + 1 == of(&two[1])), "{actor}: a gap");
        }
        self.served.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn either_router_and_either_envoy_is_restarted_under_load_and_no_request_fails() {
    let test = "fleet::either_router_and_either_envoy_is_restarted_under_load_and_no_request_fails";
    if !machine_can_run_it("rolling restart") || !in_a_network_of_its_own(test).await {
        return;
    }
    let mut fleet = Fleet::start(&manifests(""), 4, &[]).await;

    // Callers of both Envoys, each of which asks its own router, cause one wake.
    let many =
        join_all((0..40).map(|_| async { Client::new(fleet.http).get(&host("a"), "/").await }));
    let many: Vec<Count> = many.await.iter().map(|answer| answer.count()).collect();
    assert!(many.iter().all(|count| count.nonce == many[0].nonce), "{many:#?}");
    assert_eq!(fleet.actor("a").await["epoch"], 1);
    assert_eq!(on_both(&fleet, "reveille_router_bindings").await, [1.0, 1.0]);

    let load = Load::begin(&fleet);
    load.goes_on(&fleet).await;
    for number in [1, 2] {
        let name = format!("router-{number}");
        fleet.stop(&name).await;
        load.goes_on(&fleet).await;
        load.has_not_failed(&format!("{name} went"), &fleet);
        fleet.start_router(number).await;
        load.goes_on(&fleet).await;
        load.has_not_failed(&format!("{name} came"), &fleet);
    }
    for number in [1, 2] {
        let name = format!("envoy-{number}");
        fleet.stop(&name).await;
        load.goes_on(&fleet).await;
        load.has_not_failed(&format!("{name} went"), &fleet);
        fleet.start_envoy(number).await;
        load.goes_on(&fleet).await;
        load.has_not_failed(&format!("{name} came"), &fleet);
    }
    // Under the load of the others an actor goes to sleep: both routers let it go, and say so.
    let idle = bind_both(&fleet, IDLE).await;
    let before = revokes(&fleet).await;
    fleet.ok(&["suspend", "actor", IDLE, "-n", "demo"]).await;
    let after = revokes(&fleet).await;
    assert_eq!(after, before.map(|revokes| revokes + 1.0));
    let woken = Client::new(fleet.http).get(&host(IDLE), "/").await.count();
    assert_eq!((woken.count, &woken.nonce), (idle.count + 1, &idle.nonce));
    load.goes_on(&fleet).await;
    let served = load.end(&fleet).await;
    eprintln!("{served} requests served, none failed");
    fleet.end().await;
}

async fn on_both(fleet: &Fleet, series: &str) -> [f64; 2] {
    [fleet.metric("router-1", series).await, fleet.metric("router-2", series).await]
}

async fn revokes(fleet: &Fleet) -> [f64; 2] {
    on_both(fleet, "reveille_router_revokes_total").await
}

/// Through both Envoys, until each router has one more binding.
async fn bind_both(fleet: &Fleet, actor: &str) -> Count {
    let held = || on_both(fleet, "reveille_router_bindings");
    let more = held().await.map(|bindings| bindings + 1.0);
    eventually("both routers hold it", Duration::from_secs(30), || async {
        let count = Client::new(fleet.http).get(&host(actor), "/").await.count();
        let now = held().await;
        if now == more { Ok(count) } else { Err((now, more)) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_stopped_holds_up_nobody_and_comes_back_to_the_right_place() {
    let test = "fleet::a_router_that_is_stopped_holds_up_nobody_and_comes_back_to_the_right_place";
    if !machine_can_run_it("stopped router") || !in_a_network_of_its_own(test).await {
        return;
    }
    // Requests that the stopped router was given before that was noticed wait for 25 s.
    let ladder = ["--wake", "15s", "--park", "20s"];
    let times = "wake: { timeout: 15s, park: 20s }\ndrain: { timeout: 2s }\n";
    let fleet = Fleet::start(&manifests(times), 1, &ladder).await;
    let first = bind_both(&fleet, "a").await;

    processes::signal(fleet.pid("router-1"), Signal::SIGSTOP);
    // Its Envoy turns to the other one: then whatever connection is made, the answer comes.
    eventually("every request is served", Duration::from_secs(60), || async {
        let asked = (0..20).map(|_| async { Client::new(fleet.http).get(&host("a"), "/").await });
        let answers = tokio::time::timeout(Duration::from_secs(5), join_all(asked)).await;
        let answers = answers.map_err(|_| "some wait".to_owned())?;
        match answers.iter().find(|answer| answer.status != 200) {
            None => Ok(()),
            Some(other) => Err(format!("{other:?}")),
        }
    })
    .await;
    // It does not acknowledge, and the suspend ends all the same; somebody else gets the worker.
    fleet.ok(&["suspend", "actor", "a", "-n", "demo"]).await;
    let other = Client::new(fleet.http).get(&host("b"), "/").await.count();
    assert_ne!(other.nonce, first.nonce);

    processes::signal(fleet.pid("router-1"), Signal::SIGCONT);
    let late = join_all((0..100).map(|n| {
        let (fleet, actor) = (&fleet, ["a", "b"][n % 2]);
        async move {
            tokio::time::sleep(Duration::from_millis(20 * n as u64)).await;
            (actor, Client::new(fleet.http).get(&host(actor), "/").await)
        }
    }))
    .await;
    for (actor, answer) in late {
        let nonce = if actor == "a" { &first.nonce } else { &other.nonce };
        match answer.status.as_u16() {
            200 => assert_eq!(&answer.count().nonce, nonce, "{actor}: the wrong actor answered"),
            _ => assert!(answer.reason().is_some(), "{answer:?}"),
        }
    }
    eventually("it is its old self", Duration::from_secs(60), || async {
        let answer = Client::new(fleet.http).get(&host("a"), "/").await;
        if answer.status == 200 { Ok(answer.count()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    eventually("the revoke has reached it", Duration::from_secs(30), || async {
        let revokes = revokes(&fleet).await;
        if revokes[0] > 0.0 { Ok(()) } else { Err(revokes) }
    })
    .await;
    fleet.end().await;
}
