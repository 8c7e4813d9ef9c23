//! One run: the hosts, what callers do, what goes wrong when, and what must hold at the end.

use std::{
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reveille_api::{
    Ladder,
    proto::{ApplyRequest, CreateActorRequest, control_client::ControlClient},
};
use reveille_controlplane::store::memory::MemoryStore;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use turmoil::Sim;

use crate::{
    agent, chance, clock, control,
    envoy::{self, Envoy},
    faults::{Fault, Faults},
    mutant::Mutant,
    net,
    node::{Machine, key_of},
    oracle::{ANSWERED, Oracle},
};

pub(crate) const ROUTERS: [&str; 2] = ["router-1", "router-2"];
pub(crate) const AGENTS: [&str; 2] = ["agent-1", "agent-2"];
pub(crate) const NODES: [&str; 2] = ["node-1", "node-2"];
const ENVOYS: [&str; 2] = ["envoy-1", "envoy-2"];
/// One more than there are workers.
const ACTORS: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Callers of each Envoy, who ask one request after another.
const CALLERS: u64 = 4;
/// From here to there callers come and things go wrong.
const LOAD: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// After the last fault an actor answers by then: a connection that lost a message is missed only after 30 s.
const HEALED: Duration = Duration::from_secs(75);
const TEMPLATE: &str = r#"{"apiVersion":"reveille.dev/v1alpha1","kind":"ActorTemplate",
    "metadata":{"name":"t","namespace":"demo"},
    "spec":{"runtime":"gvisor","rootfs":{"directory":"/x"},"command":["/a"],"idle":{"suspendAfter":"1s"}}}"#;

/// The one source of chance.
#[derive(Clone)]
pub(crate) struct Dice(Arc<Mutex<StdRng>>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    pub(crate) fn between(&self, least: u64, most: u64) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random_range(least..=most)
    }

    pub(crate) fn chance(&self, of: f64) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random_bool(of)
    }

    pub(crate) fn one<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.between(0, of.len() as u64 - 1) as usize]
    }
}

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// What may go wrong.
    pub(crate) faults: &'static [Fault],
    pub(crate) mutant: Option<Mutant>,
}

/// Runs it until it is over, or a promise is broken.
pub(crate) fn run(plan: Plan) -> Oracle {
    chance::begin(plan.seed);
    clock::set(Duration::ZERO);
    let oracle = Oracle::default();
    let dice = Dice::new(plan.seed);
    let mut sim = turmoil::Builder::new()
        .rng_seed(plan.seed)
        .enable_random_order()
        .tick_duration(Duration::from_millis(10))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(if plan.faults.is_empty() { 10 } else { 60 }))
        .tcp_capacity(4_096)
        .simulation_duration(LOAD.1 + HEALED * 3)
        .build();
    let machines: Rc<[Machine]> = NODES
        .map(|name| Machine::new(name, oracle.clone(), dice.clone(), plan.mutant))
        .into_iter()
        .collect();
    hosts(&mut sim, &machines, &dice);
    let faultless = plan.faults.is_empty();
    for (i, name) in ENVOYS.into_iter().enumerate() {
        let (oracle, dice) = (oracle.clone(), dice.clone());
        let callers = callers(i, plan.mutant, faultless, oracle, dice);
        sim.client(name, callers);
    }
    sim.client("operator", operator(Rc::clone(&machines), oracle.clone(), dice.clone()));
    let mut faults = Faults::new(plan.faults, dice, LOAD);
    loop {
        clock::set(sim.elapsed());
        match sim.step() {
            Ok(true) => return oracle,
            Ok(false) => faults.step(&mut sim, &machines, &oracle),
            Err(error) => {
                oracle.seen().broken.push(format!("the run did not end: {error}"));
                return oracle;
            }
        }
        if !oracle.seen().broken.is_empty() {
            return oracle;
        }
    }
}

fn hosts(sim: &mut Sim<'_>, machines: &Rc<[Machine]>, dice: &Dice) {
    let disk = Arc::new(MemoryStore::default());
    let of_control = dice.clone();
    sim.host("control", move || control::control_plane(Arc::clone(&disk), of_control.clone()));
    for name in ROUTERS {
        sim.host(name, move || control::router(name, Ladder::default()));
    }
    for (i, machine) in machines.iter().enumerate() {
        let (door, of_door) = (machine.clone(), dice.clone());
        sim.host(NODES[i], move || envoy::serve(door.clone(), of_door.clone()));
        let (machine, dice) = (machine.clone(), dice.clone());
        sim.host(AGENTS[i], move || agent::agent(machine.clone(), AGENTS[i], dice.clone()));
    }
}

/// Those who come through one Envoy.
async fn callers(
    i: usize,
    mutant: Option<Mutant>,
    faultless: bool,
    oracle: Oracle,
    dice: Dice,
) -> turmoil::Result {
    let mut routers = ROUTERS.map(|name| net::channel(&format!("{name}:{}", control::PORT)));
    routers.rotate_left(i);
    let envoy = Envoy { routers: routers.into(), ladder: Ladder::default(), mutant };
    let end = Instant::now() + LOAD.1;
    sleep(LOAD.0).await;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (envoy, oracle, dice) = (envoy.clone(), oracle.clone(), dice.clone());
        reveille_api::task::spawn(&mut callers, "caller", async move {
            let mut id = (i as u64 * CALLERS + caller) * 1_000_000;
            while Instant::now() < end {
                id += 1;
                let actor = *dice.one(&ACTORS);
                let leaves = dice.chance(0.05).then(|| dice.between(0, 500));
                let request = one(&envoy, actor, id, faultless, &oracle);
                match leaves {
                    Some(after) => drop(timeout(Duration::from_millis(after), request).await),
                    None => request.await,
                }
                sleep(Duration::from_millis(dice.between(0, 1_500))).await;
            }
        });
    }
    while callers.join_next().await.transpose()?.is_some() {}
    Ok(())
}

/// Invariant 3: an answer, or with faults at least a reason, within the budget.
async fn one(envoy: &Envoy, actor: &str, id: u64, faultless: bool, oracle: &Oracle) {
    match timeout(envoy.budget(), envoy.request(actor, id)).await {
        Ok(end) if faultless && end != ANSWERED => oracle.seen().unanswered(actor, id, &end),
        Ok(end) => oracle.seen().ended(actor, id, &end),
        Err(_) => oracle.seen().unanswered(actor, id, "it has no end"),
    }
}

/// Creates the actors, suspends some, and at the end wants an answer from each.
async fn operator(machines: Rc<[Machine]>, oracle: Oracle, dice: Dice) -> turmoil::Result {
    let (begin, channel) = (Instant::now(), net::channel(&format!("control:{}", control::PORT)));
    let mut control = ControlClient::new(channel);
    while control.apply(ApplyRequest { manifest: TEMPLATE.into(), check: false }).await.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
    for actor in ACTORS {
        let request = CreateActorRequest { actor: Some(key_of(actor)), template: "t".into() };
        control.create_actor(request).await?;
        // With a snapshot: one that has none is lost with its machine.
        while control.suspend_actor(key_of(actor)).await.is_err() || !oracle.seen().has(actor) {
            let _ = control.wake_actor(key_of(actor)).await;
        }
    }
    sleep_until(begin + LOAD.0).await;
    while begin.elapsed() < LOAD.1 {
        sleep(Duration::from_millis(dice.between(100, 1_500))).await;
        let call = control.suspend_actor(key_of(dice.one::<&str>(&ACTORS)));
        let _ = timeout(Duration::from_secs(3), call).await;
    }
    sleep_until(begin + LOAD.1).await;
    let routers = ROUTERS.map(|name| net::channel(&format!("{name}:{}", control::PORT)));
    let envoy = Envoy { routers: routers.into(), ladder: Ladder::default(), mutant: None };
    for (i, actor) in ACTORS.into_iter().enumerate() {
        let mut id = 100_000_000 * (i as u64 + 1);
        loop {
            id += 1;
            let end = envoy.request(actor, id).await;
            oracle.seen().ended(actor, id, &end);
            if end == ANSWERED {
                break;
            }
            if begin.elapsed() > LOAD.1 + HEALED {
                oracle.seen().unanswered(actor, id, "all is well, and it does not answer");
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        let mut serving = machines.iter().filter_map(|machine| machine.done(actor));
        let has_it = serving.rfind(|done| done.contains(&id));
        oracle.seen().finally(actor, &has_it.unwrap_or_default());
    }
    Ok(())
}
