//! The driver with everything around it, in paused time.

use std::time::Duration;

use reveille_api::{Epoch, Failure, Reason, proto};
use tokio::time::Instant;

use super::{Down, NotDown};
use crate::{
    fleet::Origin,
    lifecycle::{Asker, Cause, Event, Phase, Rest, State},
    testing::{World, eventually},
};

mod doubt;
mod freezing;
mod going_down;
mod recovery;

const SUSPEND: Down = Down::Suspend(Cause::User);
const IDLE: &str = ", idle: {suspendAfter: 5s}";

fn exited(epoch: u64) -> Event {
    Event::Exited { node: "n1".into(), epoch: Epoch(epoch), message: "killed".into() }
}

#[tokio::test(start_paused = true)]
async fn a_first_wake_starts_cold_and_a_later_one_restores() {
    let world = World::new(2, "").await;
    let key = world.create("a").await;
    let served = world.wake(&key).await.unwrap();
    assert_eq!(served.binding.woken_by(), proto::WakeKind::ColdStart);
    assert_eq!((served.binding.epoch, served.binding.term), (1, 0));
    let p = served.phases;
    assert_eq!(p.place_us + p.fetch_us + p.restore_us + p.ready_us, p.total_us);
    world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    assert_eq!(world.record(&key).life.phase(), Phase::Suspended);
    let again = world.wake(&key).await.unwrap();
    assert_eq!(again.binding.woken_by(), proto::WakeKind::Restored);
    assert_eq!(again.binding.epoch, 2);
    assert_ne!(again.binding.endpoint, served.binding.endpoint);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_wakes_at_once_are_one_activation() {
    let world = World::new(2, "").await;
    let key = world.create("a").await;
    let wakes = (0..1_000).map(|_| world.wake(&key));
    let outcomes = futures::future::join_all(wakes).await;
    assert!(outcomes.iter().all(|o| o.as_ref().is_ok_and(|served| served.binding.epoch == 1)));
    assert_eq!(world.node.state().count("activate"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_does_not_cancel_the_wake() {
    let world = World::new(2, "").await;
    let key = world.create("a").await;
    let caller = tokio::time::timeout(Duration::from_millis(10), world.wake(&key));
    assert!(caller.await.is_err());
    world.until(&key, Phase::Running).await;
    let served = world.wake(&key).await.unwrap();
    assert_eq!(served.binding.woken_by(), proto::WakeKind::None);
    assert_eq!(world.node.state().count("activate"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_does_not_exist_is_not_found_at_once() {
    let world = World::new(1, "").await;
    let error = world.wake(&crate::testing::key("nobody")).await.unwrap_err();
    assert_eq!(error.reason, Reason::ActorNotFound);
}

#[tokio::test(start_paused = true)]
async fn a_slow_wake_answers_at_its_timeout_and_serves_the_next_request() {
    let world = World::new(1, ", wake: {timeout: 2s}, readiness: {timeout: 10s}").await;
    let key = world.create("a").await;
    world.node.starts.send_replace(false);
    let begun = Instant::now();
    let error = world.wake(&key).await.unwrap_err();
    assert_eq!(error.reason, Reason::WakeTimeout);
    assert_eq!(begun.elapsed().as_secs(), 2);
    world.node.starts.send_replace(true);
    world.until(&key, Phase::Running).await;
    assert_eq!(world.node.state().count("activate"), 1);
    assert!(world.wake(&key).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_is_stuck_is_destroyed_and_its_worker_is_free_again() {
    let world = World::new(1, ", wake: {timeout: 2s}, readiness: {timeout: 3s}").await;
    let key = world.create("a").await;
    world.node.starts.send_replace(false);
    world.wake(&key).await.unwrap_err();
    world.until(&key, Phase::Failed).await;
    eventually("destroy", || match world.node.state().count("destroy demo/a 1") {
        0 => Err("not destroyed".into()),
        _ => Ok(()),
    })
    .await;
    world.node.starts.send_replace(true);
    let served = world.wake(&key).await.unwrap();
    assert_eq!(served.binding.epoch, 2);
}

#[tokio::test(start_paused = true)]
async fn who_joins_a_wake_that_is_almost_over_gets_a_budget_of_its_own() {
    let world = World::new(1, ", wake: {timeout: 2s}, readiness: {timeout: 3s}").await;
    let key = world.create("a").await;
    world.node.starts.send_replace(false);
    world.wake(&key).await.unwrap_err();
    // Until 5 s, when the node's time is over.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let mut late = world.waking(&key);
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert!(world.epoch(&key) > Epoch(1), "another wake: {:?}", world.record(&key));
    world.node.starts.send_replace(true);
    let served = late.join_next().await.unwrap().unwrap();
    assert_eq!(served.unwrap().binding.epoch, 2);
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_worker_does_not_count_against_the_start() {
    let extra = ", wake: {timeout: 2s}, readiness: {timeout: 3s}, idle: {keepWarm: true}";
    let world = World::new(1, extra).await;
    let (a, b) = (world.create("a").await, world.create("b").await);
    world.wake(&a).await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(world.waking(&b));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(world.record(&b).life.phase(), Phase::Placing);
    world.fleet.down(&a, SUSPEND).await.unwrap().unwrap();
    let last = waiting.last_mut().unwrap().join_next().await.unwrap().unwrap();
    assert!(last.is_ok(), "{last:?}");
    assert_eq!(world.epoch(&b), Epoch(1));
}

#[tokio::test(start_paused = true)]
async fn a_failed_restore_keeps_the_snapshot_and_the_next_request_tries_again() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    let bad = Failure::new(Reason::RestoreFailed, "scripted");
    world.node.state().refuse_start.push(bad.clone());
    assert_eq!(world.wake(&key).await.unwrap_err(), bad);
    let record = world.record(&key);
    assert_eq!(record.life.phase(), Phase::Failed);
    assert!(record.life.snapshot.is_some());
    world.until_event(&key, "RestoreFailed").await;
    let served = world.wake(&key).await.unwrap();
    assert_eq!(served.binding.woken_by(), proto::WakeKind::Restored);
}

#[tokio::test(start_paused = true)]
async fn a_fallback_the_template_allows_is_visible() {
    let world = World::new(1, ", onRestoreFailure: ColdStart").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    let bad = Failure::new(Reason::SnapshotCorrupt, "scripted");
    world.node.state().refuse_start.push(bad);
    let served = world.wake(&key).await.unwrap();
    assert_eq!(served.binding.woken_by(), proto::WakeKind::ColdStartAfterFailure);
    world.until_event(&key, "RestoreFailed").await;
    world.until_event(&key, "ColdStartedAfterFailure").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_knows_more_epochs_than_the_store_is_caught_up_with() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    world.node.state().highest.insert(key.clone(), 41);
    let served = world.wake(&key).await.unwrap();
    assert_eq!(served.binding.epoch, 42);
}

#[tokio::test(start_paused = true)]
async fn without_a_free_worker_the_wake_waits_and_then_is_refused_with_the_cause() {
    let world = World::new(1, ", idle: {keepWarm: true}").await;
    let (a, b) = (world.create("a").await, world.create("b").await);
    world.wake(&a).await.unwrap();
    let begun = Instant::now();
    let error = world.wake(&b).await.unwrap_err();
    assert_eq!(error, Failure::new(Reason::NoCapacity, "1 of 1 workers in use"));
    let metrics = world.fleet.metrics.encode();
    assert!(metrics.contains("wake_failures_total{reason=\"no_capacity\"} 1\n"), "{metrics}");
    assert_eq!(begun.elapsed().as_secs(), 20);
    assert_eq!(world.record(&b).life.phase(), Phase::Suspended);
    assert_eq!(world.epoch(&b), Epoch(0), "it was never started");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_wake_gets_the_worker_of_the_least_recently_used() {
    let world = World::new(2, "").await;
    let (a, b, c) = (world.create("a").await, world.create("b").await, world.create("c").await);
    world.wake(&a).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.wake(&b).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.wake(&c).await.is_ok());
    assert_eq!(world.record(&a).life.phase(), Phase::Suspended);
    assert_eq!(world.record(&b).life.phase(), Phase::Running);
    world.until_event(&a, "PreemptedForCapacity").await;
}

#[tokio::test(start_paused = true)]
async fn an_actor_with_requests_in_flight_is_never_preempted() {
    let world = World::new(1, "").await;
    let (a, b) = (world.create("a").await, world.create("b").await);
    let router = world.router("r", "i1");
    world.wake_through(&router, &a).await.unwrap();
    world.report(&router, &a, 1, 0);
    let error = world.wake(&b).await.unwrap_err();
    assert_eq!(error.reason, Reason::NoCapacity);
    assert_eq!(world.record(&a).life.phase(), Phase::Running);
}

#[tokio::test(start_paused = true)]
async fn a_router_without_a_session_gets_no_binding() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    let error = world
        .fleet
        .wake(&key, Asker::Traffic, Origin { router: Some("nobody"), ..Origin::default() })
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::ControlPlaneUnavailable);
}

#[tokio::test(start_paused = true)]
async fn a_wake_before_the_node_is_ready_waits_for_it() {
    let mut world = World::new(1, "").await;
    let key = world.create("a").await;
    world.node_leaves();
    let mut waking = world.waking(&key);
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.node_joins().await;
    assert!(waking.join_next().await.unwrap().unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_is_lost_and_wakes_from_its_last_snapshot() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    let router = world.router("r", "i1");
    world.wake(&key).await.unwrap();
    world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    world.wake_through(&router, &key).await.unwrap();
    world.node.kill(&key);
    world.fleet.tell(&key, exited(2)).await;
    world.until(&key, Phase::Lost).await;
    assert_eq!(router.revoked.lock().unwrap()[0].epoch, 2, "the binding is killed at once");
    let served = world.wake_through(&router, &key).await.unwrap();
    assert_eq!(served.binding.woken_by(), proto::WakeKind::Restored);
    eventually("the age is told", || {
        let events = world.fleet.events.history(Some(&key)).unwrap();
        let told = events.iter().any(|event| event.message.contains("old on n1-0: what happened"));
        if told { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_actor_without_a_snapshot_is_refused_to_traffic() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.node.kill(&key);
    world.fleet.tell(&key, exited(1)).await;
    world.until(&key, Phase::Lost).await;
    assert_eq!(world.wake(&key).await.unwrap_err().reason, Reason::ActorLost);
    let served = world.fleet.wake(&key, Asker::User, Origin::default()).await.unwrap();
    assert_eq!(served.binding.woken_by(), proto::WakeKind::ColdStartAfterFailure);
}

#[tokio::test(start_paused = true)]
async fn an_actor_at_rest_has_no_driver() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    assert_eq!(world.fleet.active(), std::slice::from_ref(&key));
    world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    eventually("retirement", || match world.fleet.driven() {
        0 => Ok(()),
        n => Err(format!("{n} drivers")),
    })
    .await;
    assert_eq!(world.fleet.records.active().unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_failed_wake_of_a_stopped_actor_leaves_it_stopped() {
    let mut world = World::new(1, ", wake: {timeout: 1s}").await;
    let key = world.create("a").await;
    world.fleet.down(&key, Down::Stop).await.unwrap().unwrap();
    world.node_leaves();
    let error = world.fleet.wake(&key, Asker::User, Origin::default()).await.unwrap_err();
    assert_eq!(error, Failure::new(Reason::NoCapacity, "no node is ready"));
    assert!(matches!(world.record(&key).life.state, State::Rest(Rest::Stopped(None))));
}

#[tokio::test(start_paused = true)]
async fn many_actors_on_few_workers_are_all_served_and_never_two_on_one() {
    let world = World::new(3, "").await;
    let mut actors = Vec::new();
    for n in 0..12 {
        actors.push(world.create(&format!("a{n}")).await);
    }
    let mut clients = tokio::task::JoinSet::new();
    for (client, key) in actors.iter().cloned().enumerate() {
        let fleet = world.fleet.clone();
        reveille_api::task::spawn(&mut clients, "client", async move {
            let mut last = 0;
            for round in 0..25 {
                let pause = Duration::from_millis((client as u64 * 37 + round * 211) % 1_500);
                tokio::time::sleep(pause).await;
                if round % 7 == 3 {
                    let _ = fleet.down(&key, SUSPEND).await.unwrap();
                }
                let served = fleet.wake(&key, Asker::Traffic, Origin::default()).await.unwrap();
                assert!(served.binding.epoch >= last, "an old activation served");
                last = served.binding.epoch;
            }
            last
        });
    }
    let epochs: Vec<u64> = clients.join_all().await;
    assert!(epochs.iter().sum::<u64>() > 60, "there was no churn: {epochs:?}");
    assert_eq!(world.node.state().violations, [""; 0]);
    assert!(world.node.state().activations.len() <= 3);
}

#[tokio::test(start_paused = true)]
async fn a_router_hears_of_the_policy_while_the_wake_is_under_way() {
    let extra = ", wake: {maxParked: 7, concurrency: 3, page: true}";
    let world = World::new(1, extra).await;
    let key = world.create("a").await;
    let router = world.router("r", "i1");
    world.node.starts.send_replace(false);
    let waking = world.wake_through(&router, &key);
    let told = eventually("the policy", || {
        let told = router.policies.lock().unwrap().first().cloned();
        told.ok_or_else(|| "nothing".to_owned())
    });
    let told = tokio::select! {
        told = told => told,
        served = waking => panic!("{served:?}"),
    };
    let fields = (told.max_parked, told.concurrency, told.page, told.park_ms);
    assert_eq!(fields, (7, 3, true, 30_000));
    world.node.starts.send_replace(true);
    world.wake_through(&router, &key).await.unwrap();
    let so_far = router.policies.lock().unwrap().len();
    world.wake_through(&router, &key).await.unwrap();
    assert_eq!(router.policies.lock().unwrap().len(), so_far, "it is served at once");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_has_spent_its_wakes_is_refused_until_the_next_is_due() {
    let world = World::with_budget(4, "", 2).await;
    let (a, b, c) = (world.create("a").await, world.create("b").await, world.create("c").await);
    // Those who join cost nothing, nor does one who asks for what serves.
    let joined = (0..10).map(|_| world.wake(&a));
    assert!(futures::future::join_all(joined).await.iter().all(Result::is_ok));
    world.wake(&a).await.unwrap();
    world.fleet.wake(&b, Asker::User, Origin::default()).await.unwrap();
    for asker in [Asker::Traffic, Asker::User] {
        let refused = world.fleet.wake(&c, asker, Origin::default()).await.unwrap_err();
        assert_eq!(refused.reason, Reason::QuotaExceeded);
        let wait = refused.retry_after.unwrap().as_secs();
        assert!((28..=30).contains(&wait), "{wait}");
    }
    world.until_event(&c, "WakeRefused").await;
    let events = world.fleet.events.history(Some(&c)).unwrap();
    assert_eq!(events.iter().filter(|event| event.kind == "WakeRefused").count(), 1);
    let metrics = world.fleet.metrics.encode();
    assert!(metrics.contains("wake_failures_total{reason=\"quota_exceeded\"} 2"), "{metrics}");
    tokio::time::sleep(Duration::from_secs(31)).await;
    world.wake(&c).await.unwrap();
    assert_eq!(world.node.state().count("activate"), 3);
}
