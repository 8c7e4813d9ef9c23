//! The control plane dies in every transitional state; nodes go and come back.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_crash_while_waiting_for_a_worker_leaves_it_at_rest() {
    let mut world = World::new(1, "").await;
    let key = world.create("a").await;
    world.node_leaves();
    let _waking = world.waking(&key);
    world.until(&key, Phase::Placing).await;
    world.crash().await;
    assert_eq!(world.record(&key).life.phase(), Phase::Suspended);
    world.node_joins().await;
    assert_eq!(world.wake(&key).await.unwrap().binding.epoch, 1);
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_starting_ends_in_the_same_activation() {
    let mut world = World::new(1, "").await;
    let key = world.create("a").await;
    world.node.starts.send_replace(false);
    let _waking = world.waking(&key);
    world.until(&key, Phase::Starting).await;
    world.crash().await;
    assert_eq!(world.record(&key).life.phase(), Phase::Starting);
    world.node.starts.send_replace(true);
    let mut waking = world.waking(&key);
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.node_joins().await;
    let served = waking.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(served.binding.epoch, 1);
    assert_eq!(world.node.state().activations.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_running_changes_nothing_and_the_router_is_known_again() {
    let mut world = World::new(1, "").await;
    let key = world.create("a").await;
    let router = world.router("r", "i1");
    let served = world.wake_through(&router, &key).await.unwrap();
    world.crash().await;
    let router = world.router("r", "i1");
    let held = proto::HeldBinding {
        actor: Some((&key).into()),
        epoch: served.binding.epoch,
        term: served.binding.term,
        in_flight: 1,
        ..Default::default()
    };
    let held = proto::Held { bindings: vec![held], complete: true };
    world.fleet.routers.held("r", &held);
    world.node_joins().await;
    let again = world.wake_through(&router, &key).await.unwrap();
    assert_eq!(again.binding.endpoint, served.binding.endpoint);
    assert_eq!(world.node.state().count("activate"), 1);
    world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    assert_eq!(router.revoked.lock().unwrap().len(), 1, "it was asked");
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_nothing_is_suspended_before_the_known_routers_have_spoken() {
    let mut world = World::new(1, IDLE).await;
    let key = world.create("a").await;
    let router = world.router("r", "i1");
    world.wake_through(&router, &key).await.unwrap();
    world.crash().await;
    world.node_joins().await;
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(world.record(&key).life.phase(), Phase::Running);
    world.until(&key, Phase::Suspended).await;
    assert!(begun.elapsed() >= world.timings.settle);
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_draining_goes_on_for_a_user_and_forgets_a_guess() {
    let mut world = World::new(2, "").await;
    let (a, b) = (world.create("a").await, world.create("b").await);
    let router = world.router("r", "i1");
    for key in [&a, &b] {
        world.wake_through(&router, key).await.unwrap();
    }
    *router.in_flight.lock().unwrap() = (1, 0);
    let _stop = world.going_down(&a, Down::Stop);
    world.until(&a, Phase::Draining).await;
    let idle = Cause::Idle(world.fleet.clock.now());
    // The router is away, so that this one stays where it is.
    world.router_leaves(&router);
    let (decided_for, snapshot) = (Some(Epoch(1)), "s".into());
    world.fleet.tell(&b, Event::Suspend { cause: idle, decided_for, snapshot }).await;
    world.until(&b, Phase::Draining).await;
    world.crash().await;
    world.node_joins().await;
    world.until(&a, Phase::Stopped).await;
    let record = world.until(&b, Phase::Running).await;
    assert!(matches!(&record.life.state, State::Running(r) if r.term == 1));
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_checkpointing_learns_how_it_ended() {
    // (while the control plane was down) the node: goes on · has committed · died
    for case in ["goes on", "committed", "died"] {
        let mut world = World::new(1, "").await;
        let key = world.create("a").await;
        world.wake(&key).await.unwrap();
        world.node.commits.send_replace(false);
        let _suspend = world.going_down(&key, SUSPEND);
        let record = world.until(&key, Phase::Checkpointing).await;
        let id = record.life.needed()[0].to_owned();
        world.crash().await;
        match case {
            "died" => world.node.kill(&key),
            "committed" => {
                world.node.commits.send_replace(true);
                eventually("commit", || match world.node.state().snapshots.len() {
                    0 => Err("none".into()),
                    _ => Ok(()),
                })
                .await;
            }
            _ => {}
        }
        world.node_joins().await;
        world.node.commits.send_replace(true);
        match case {
            "died" => drop(world.until(&key, Phase::Lost).await),
            _ => {
                let record = world.until(&key, Phase::Suspended).await;
                assert_eq!(record.life.snapshot.as_ref().unwrap().id, id, "{case}");
                assert_eq!(world.node.state().snapshots.len(), 1, "{case}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_deleting_goes_on_deleting() {
    let mut world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    // As if it had died right after storing the intent.
    let mut record = (*world.record(&key)).clone();
    world.crash().await;
    world.fleet.tasks.stop().await;
    record.life.apply(Default::default(), Event::Delete);
    let records = crate::store::records::Records::new(world.store.clone());
    records.put_actor(&record, crate::store::Expect::Anything).await.unwrap();
    world.crash().await;
    world.node_joins().await;
    eventually("deletion", || match world.fleet.view(&key).unwrap() {
        None if world.node.state().activations.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_returns_without_an_activation_has_lost_it() {
    let mut world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.node_leaves();
    world.node.kill(&key);
    world.node_joins().await;
    world.until(&key, Phase::Lost).await;
    let other = world.create("b").await;
    assert!(world.wake(&other).await.is_ok(), "its worker is free");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stays_away_loses_its_actors_and_gives_them_back_when_it_returns() {
    let mut world = World::new(1, "").await;
    let key = world.create("a").await;
    let served = world.wake(&key).await.unwrap();
    world.node_leaves();
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(world.record(&key).life.phase(), Phase::Running, "within the grace");
    world.until(&key, Phase::Lost).await;
    world.node_joins().await;
    world.until(&key, Phase::Running).await;
    let again = world.wake(&key).await.unwrap();
    assert_eq!(again.binding.endpoint, served.binding.endpoint);
    assert_eq!((again.binding.epoch, again.binding.term), (1, 1));
    world.until_event(&key, "FoundAgain").await;
}

#[tokio::test(start_paused = true)]
async fn a_suspend_that_arrives_after_its_actor_was_taken_back_changes_nothing() {
    let mut world = World::new(1, "").await;
    let key = world.create("a").await;
    let served = world.wake(&key).await.unwrap();
    world.node.held.send_replace("suspend");
    let _suspend = world.going_down(&key, SUSPEND);
    world.until(&key, Phase::Checkpointing).await;
    world.node_leaves();
    world.until(&key, Phase::Lost).await;
    world.node_joins().await;
    world.until(&key, Phase::Running).await;
    world.node.held.send_replace("");
    eventually("it arrives", || {
        let state = world.node.state();
        let arrived = state.late.len() + state.count("suspend");
        if arrived == 1 { Ok(()) } else { Err(format!("{:?}", state.calls)) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let again = world.wake(&key).await.unwrap();
    assert_eq!(again.binding.endpoint, served.binding.endpoint);
    assert!(world.node.state().activations.contains_key(&key), "it serves");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_outlasts_its_stay_is_asked_again_in_the_next() {
    let mut world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.node.held.send_replace("suspend");
    let mut suspend = world.going_down(&key, SUSPEND);
    world.until(&key, Phase::Checkpointing).await;
    world.node_leaves();
    world.node_joins().await;
    world.node.held.send_replace("");
    suspend.join_next().await.unwrap().unwrap().unwrap().unwrap();
    let state = world.node.state();
    assert_eq!((state.late.len(), state.count("suspend"), state.snapshots.len()), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stay_is_above_every_other_that_a_node_has_heard_of() {
    let mut world = World::new(1, "").await;
    world.node.state().newest = reveille_api::Stay(41);
    world.crash().await;
    world.node_joins().await;
    assert_eq!(world.node.state().newest.0, 42);
    // An agent that was started anew has heard of none.
    world.node_leaves();
    world.node.state().newest = reveille_api::Stay(0);
    world.node_joins().await;
    assert_eq!(world.node.state().newest.0, 43);
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_at_an_actor_that_was_out_of_reach_still_count_when_it_is_back() {
    let mut world = World::new(1, "").await;
    let key = world.create("a").await;
    let router = world.router("r1", "i1");
    world.wake_through(&router, &key).await.unwrap();
    *router.in_flight.lock().unwrap() = (1, 0);
    world.report(&router, &key, 1, 0);
    world.node_leaves();
    world.until(&key, Phase::Lost).await;
    world.node_joins().await;
    world.until(&key, Phase::Running).await;
    assert_eq!(world.fleet.routers.usage(&key), crate::routers::Use::Busy);
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_waits_for_a_lost_node_gets_its_actor_back_alive() {
    let mut world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    world.wake(&key).await.unwrap();
    world.node_leaves();
    world.until(&key, Phase::Lost).await;
    let mut waking = world.waking(&key);
    world.until(&key, Phase::Placing).await;
    world.node_joins().await;
    let served = waking.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!((served.binding.epoch, served.binding.term), (2, 1), "nothing was lost");
}

#[tokio::test(start_paused = true)]
async fn what_a_node_has_and_nobody_knows_is_destroyed() {
    let mut world = World::new(1, "").await;
    world.node_leaves();
    let stranger = crate::testing::key("stranger");
    let activation = proto::Activation {
        actor: Some((&stranger).into()),
        epoch: 9,
        worker: "n1-0".into(),
        endpoint: "10.0.0.1:1".into(),
        serving: true,
        frozen: false,
    };
    world.node.state().activations.insert(stranger.clone(), activation);
    world.node_joins().await;
    let key = world.create("a").await;
    assert!(world.wake(&key).await.is_ok(), "the worker is free once it is destroyed");
    assert!(!world.node.state().activations.contains_key(&stranger));
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_calling_a_checkpoint_off_asks_in_the_same_order() {
    let mut world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.node.held.send_replace("suspend");
    let _suspend = world.going_down(&key, SUSPEND);
    world.until(&key, Phase::Checkpointing).await;
    let _waking = world.waking(&key);
    eventually("the wish is stored", || match &world.record(&key).life.state {
        State::Checkpointing(c) if c.resuming => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    world.crash().await;
    world.node.commits.send_replace(false);
    world.node.held.send_replace("");
    // The one of before the crash arrives all the same.
    eventually("it arrives", || match world.node.state().count("suspend") {
        0 => Err("not yet".into()),
        _ => Ok(()),
    })
    .await;
    world.node.state().calls.clear();
    world.node_joins().await;
    world.until(&key, Phase::Running).await;
    assert_eq!(world.node.state().calls, ["suspend demo/a 1", "resume demo/a 1"]);
}
