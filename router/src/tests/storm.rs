//! Everything at once, on real threads: requests that come, wait, leave and end, wakes whose replies are late, revokes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use reveille_api::{ActorKey, proto, task};
use tokio::task::JoinSet;

use super::{
    binding, eventually,
    fake::{Fake, Wake},
    reply,
    rig::{core, ladder},
};
use crate::{
    binding::Version,
    revoke::revoke,
    router::{Cold, Request, Router},
    table::Served,
};

const ACTORS: usize = 4;
const CALLERS: usize = 32;
const REQUESTS: usize = 150;
const REVOKES: usize = 600;

/// What the control plane and the actors know.
#[derive(Default)]
struct World {
    actors: HashMap<ActorKey, Actor>,
}

#[derive(Default)]
struct Actor {
    epoch: u64,
    term: u64,
    running: bool,
    /// The highest version that the router was told to give out no more.
    revoked: Option<Version>,
    /// Requests at it now.
    requests: HashMap<(u64, u64), u32>,
}

type Shared = Arc<Mutex<World>>;

fn actor(n: usize) -> ActorKey {
    ActorKey::new("demo", &format!("a{n}")).unwrap()
}

fn with<T>(world: &Shared, key: &ActorKey, f: impl FnOnce(&mut Actor) -> T) -> T {
    f(world.lock().unwrap().actors.entry(key.clone()).or_default())
}

async fn a_moment() {
    for _ in 0..rand::random_range(0..20) {
        tokio::task::yield_now().await;
    }
    if rand::random_bool(0.2) {
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..2_000))).await;
    }
}

/// The version is decided now; the reply arrives later.
async fn answer(world: Shared, wake: Wake) {
    let key = ActorKey::try_from(wake.request.actor.clone()).unwrap();
    a_moment().await;
    let (epoch, term) = with(&world, &key, |actor| {
        if !actor.running {
            actor.running = true;
            if actor.epoch > 0 && rand::random_bool(0.3) {
                actor.term += 1;
            } else {
                (actor.epoch, actor.term) = (actor.epoch + 1, 0);
            }
        }
        (actor.epoch, actor.term)
    });
    a_moment().await;
    let endpoint = "10.0.0.1:20000".into();
    wake.reply(reply(proto::Binding { endpoint, ..binding(&key, epoch, term) }));
}

async fn requests(router: Arc<Router>, world: Shared) {
    for _ in 0..REQUESTS {
        let key = actor(rand::random_range(0..ACTORS));
        let floor = with(&world, &key, |actor| actor.revoked);
        let host = format!("{}.actors.test", key.host_prefix());
        match router.request(Some(&host), Cold::default) {
            Request::Served(served) => request(&world, &key, floor, served).await,
            Request::Parked(mut ticket) if rand::random_bool(0.8) => {
                let arrival = ticket.wait().await.expect("a binding");
                request(&world, &key, floor, arrival.served).await;
            }
            Request::Parked(_leaves) => a_moment().await,
            Request::Refused(refused) => panic!("{refused:?}"),
        }
    }
}

async fn request(world: &Shared, key: &ActorKey, floor: Option<Version>, served: Served) {
    let version = served.binding.version();
    assert!(Some(version) > floor, "{version:?} was revoked by {floor:?} before the request came");
    let at = (version.epoch.0, version.term);
    with(world, key, |actor| *actor.requests.entry(at).or_default() += 1);
    a_moment().await;
    with(world, key, |actor| *actor.requests.entry(at).or_default() -= 1);
    drop(served);
}

async fn revokes(router: Arc<Router>, world: Shared) {
    for _ in 0..REVOKES {
        a_moment().await;
        let key = actor(rand::random_range(0..ACTORS));
        let running = with(&world, &key, |actor| {
            std::mem::take(&mut actor.running).then_some((actor.epoch, actor.term))
        });
        let Some((epoch, term)) = running else { continue };
        a_moment().await;
        let actor = Some((&key).into());
        let gone = false;
        let asked = proto::Revoke { actor, epoch, term, drain_ms: 60_000, gone };
        revoke(&router, asked).unwrap();
        with(&world, &key, |actor| {
            actor.revoked = actor.revoked.max(Some(Version::new(epoch, term)));
        });
    }
}

async fn acks(router: Arc<Router>, world: Shared) {
    loop {
        let ack = router.acks.next().await;
        let key = ActorKey::try_from(ack.actor.clone()).unwrap();
        assert_eq!(ack.in_flight, 0);
        let at_it: u32 = with(&world, &key, |actor| {
            let at_it = actor.requests.iter();
            let at_it = at_it.filter(|((e, t), _)| *e == ack.epoch && *t <= ack.term);
            at_it.map(|(_, requests)| requests).sum()
        });
        assert_eq!(at_it, 0, "{ack:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_given_out_twice_or_left_behind() {
    let (mut fake, channel) = Fake::in_memory();
    let router = core(ladder(), channel);
    let world = Shared::default();
    let mut around = JoinSet::new();
    task::spawn(&mut around, "acks", acks(Arc::clone(&router), Arc::clone(&world)));
    let replies = Arc::clone(&world);
    task::spawn(&mut around, "control plane", async move {
        let mut answers = JoinSet::new();
        while let Some(wake) = fake.wakes.recv().await {
            task::spawn(&mut answers, "answer", answer(Arc::clone(&replies), wake));
        }
    });
    let mut storm = JoinSet::new();
    task::spawn(&mut storm, "revokes", revokes(Arc::clone(&router), Arc::clone(&world)));
    for _ in 0..CALLERS {
        task::spawn(&mut storm, "caller", requests(Arc::clone(&router), Arc::clone(&world)));
    }
    while let Some(ended) = storm.join_next().await {
        ended.unwrap();
    }
    let metrics = &router.metrics;
    let left = || {
        let revokes = metrics.revokes_in_flight.get();
        (metrics.in_flight.get(), metrics.parked.get(), router.wakes.len(), revokes)
    };
    eventually((0, 0, 0, 0), left).await;
    for binding in router.table.bindings(ACTORS) {
        router.table.revoke(binding.activation.actor(), binding.version());
    }
    assert_eq!((router.table.len(), metrics.bindings.get()), (0, 0));
    assert!(metrics.wakes_stale.get() > 0, "no reply met a revoke: the storm is too calm");
    assert!(around.try_join_next().is_none(), "a check failed");
}
