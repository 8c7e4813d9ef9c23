//! Suspend, stop, delete; by idle time, by a verb; and what calls them off.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_idle_actor_goes_to_sleep_and_a_request_restarts_the_clock() {
    let world = World::new(1, IDLE).await;
    let key = world.create("a").await;
    let router = world.router("r", "i1");
    world.wake_through(&router, &key).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    world.report(&router, &key, 0, 0);
    *router.in_flight.lock().unwrap() = (0, 5_000);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(world.record(&key).life.phase(), Phase::Running);
    world.until(&key, Phase::Suspended).await;
    world.until_event(&key, "IdleSuspend").await;
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_wakes_for_the_first_time_has_not_been_idle_since_1970() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    world.node.starts.send_replace(false);
    let _waking = world.waking(&key);
    world.until(&key, Phase::Starting).await;
    let (_, seen) = world.fleet.routers.seen(&key).unwrap();
    assert!(world.fleet.clock.now().since(seen) < Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_keep_it_awake() {
    let world = World::new(1, IDLE).await;
    let key = world.create("a").await;
    let router = world.router("r", "i1");
    world.wake_through(&router, &key).await.unwrap();
    world.report(&router, &key, 1, 0);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.record(&key).life.phase(), Phase::Running);
    world.report(&router, &key, 0, 0);
    *router.in_flight.lock().unwrap() = (0, 60_000);
    world.until(&key, Phase::Suspended).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_decision_is_cancelled_by_what_the_router_saw_since() {
    let world = World::new(1, IDLE).await;
    let key = world.create("a").await;
    let router = world.router("r", "i1");
    world.wake_through(&router, &key).await.unwrap();
    // Not reported yet when the decision falls; the acknowledgement tells.
    *router.in_flight.lock().unwrap() = (0, 3);
    world.until_event(&key, "SuspendCancelled").await;
    let record = world.until(&key, Phase::Running).await;
    assert_eq!(world.node.state().count("suspend"), 0);
    assert!(matches!(&record.life.state, State::Running(r) if r.term >= 1));
    let served = world.wake_through(&router, &key).await.unwrap();
    assert!(served.binding.term >= 1, "the binding of the revoked term is not given out again");
}

#[tokio::test(start_paused = true)]
async fn while_a_router_that_holds_the_binding_is_away_nothing_is_decided() {
    let world = World::new(1, IDLE).await;
    let key = world.create("a").await;
    let router = world.router("r", "i1");
    world.wake_through(&router, &key).await.unwrap();
    world.router_leaves(&router);
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(world.record(&key).life.phase(), Phase::Running);
    // Until it is given up.
    world.until(&key, Phase::Suspended).await;
}

#[tokio::test(start_paused = true)]
async fn a_router_process_that_was_replaced_does_not_hold_anything_up() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    let router = world.router("r", "i1");
    world.wake_through(&router, &key).await.unwrap();
    world.report(&router, &key, 3, 0);
    world.router_leaves(&router);
    let _new = world.router("r", "i2");
    let begun = Instant::now();
    world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_users_suspend_gives_requests_until_the_drain_deadline() {
    let world = World::new(1, ", drain: {timeout: 7s}").await;
    let key = world.create("a").await;
    let router = world.router("r", "i1");
    world.wake_through(&router, &key).await.unwrap();
    *router.in_flight.lock().unwrap() = (1, 0);
    let begun = Instant::now();
    world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    assert_eq!(begun.elapsed().as_secs(), 7);
    assert_eq!(router.revoked.lock().unwrap()[0].drain_ms, 7_000);
}

#[tokio::test(start_paused = true)]
async fn a_wake_while_draining_cancels_the_suspend_and_says_so() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    let router = world.router("r", "i1");
    let first = world.wake_through(&router, &key).await.unwrap();
    *router.in_flight.lock().unwrap() = (1, 0);
    let mut suspend = world.going_down(&key, SUSPEND);
    world.until(&key, Phase::Draining).await;
    let served = world.wake_through(&router, &key).await.unwrap();
    assert_eq!(served.binding.woken_by(), proto::WakeKind::Resumed);
    assert_eq!((served.binding.epoch, served.binding.term), (1, 1));
    assert_eq!(served.binding.endpoint, first.binding.endpoint);
    let outcome = suspend.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(outcome, Err(NotDown::InUse));
    assert_eq!(world.node.state().count("suspend"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_wake_while_checkpointing_is_served_by_the_same_activation() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.node.commits.send_replace(false);
    let mut suspend = world.going_down(&key, SUSPEND);
    world.until(&key, Phase::Checkpointing).await;
    let served = world.wake(&key).await.unwrap();
    assert_eq!((served.binding.epoch, served.binding.term), (1, 1));
    assert_eq!(served.binding.woken_by(), proto::WakeKind::Resumed);
    let outcome = suspend.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(outcome, Err(NotDown::InUse));
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_comes_too_late_for_the_checkpoint_is_served_by_the_next_activation() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    // The commit is passed before the resume arrives: the fake's process is gone by then.
    world.node.commits.send_replace(false);
    let mut suspend = world.going_down(&key, SUSPEND);
    world.until(&key, Phase::Checkpointing).await;
    world.node.commits.send_replace(true);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let served = world.wake(&key).await.unwrap();
    assert_eq!(served.binding.epoch, 2);
    assert_eq!(served.binding.woken_by(), proto::WakeKind::Restored);
    // It was down for a moment, and that is what the suspend was about.
    assert!(suspend.join_next().await.unwrap().unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_failed_checkpoint_leaves_it_serving_and_is_tried_again_later() {
    let world = World::new(1, IDLE).await;
    let key = world.create("a").await;
    let router = world.router("r", "i1");
    world.wake_through(&router, &key).await.unwrap();
    *router.in_flight.lock().unwrap() = (0, 5_000);
    world.node.state().refuse_checkpoint.push("disk full".into());
    world.until_event(&key, "CheckpointFailed").await;
    let failed_at = Instant::now();
    let record = world.until(&key, Phase::Running).await;
    assert_eq!(record.life.snapshot, None);
    assert!(world.node.state().activations.contains_key(&key));
    *router.in_flight.lock().unwrap() = (0, 20_000);
    world.until(&key, Phase::Suspended).await;
    assert!(failed_at.elapsed() >= Duration::from_secs(4), "{:?}", failed_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn verbs_are_idempotent() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    world.wake(&key).await.unwrap();
    let both =
        futures::future::join(world.fleet.down(&key, SUSPEND), world.fleet.down(&key, SUSPEND));
    let (first, second) = both.await;
    assert_eq!((first.unwrap(), second.unwrap()), (Ok(()), Ok(())));
    world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    assert_eq!(world.node.state().count("suspend"), 1);
    for _ in 0..2 {
        world.fleet.down(&key, Down::Stop).await.unwrap().unwrap();
        assert_eq!(world.record(&key).life.phase(), Phase::Stopped);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_actor_is_not_woken_by_traffic_and_keeps_its_memory() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.fleet.down(&key, Down::Stop).await.unwrap().unwrap();
    assert_eq!(world.wake(&key).await.unwrap_err().reason, Reason::ActorStopped);
    let served = world.fleet.wake(&key, Asker::User, Origin::default()).await.unwrap();
    assert_eq!(served.binding.woken_by(), proto::WakeKind::Restored);
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_a_wake_waits_for_it_and_then_stops() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    let mut waking = world.waking(&key);
    world.until(&key, Phase::Starting).await;
    world.fleet.down(&key, Down::Stop).await.unwrap().unwrap();
    assert_eq!(world.record(&key).life.phase(), Phase::Stopped);
    assert!(waking.join_next().await.unwrap().unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn only_the_last_two_snapshots_are_kept_on_the_node() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    for _ in 0..4 {
        world.wake(&key).await.unwrap();
        world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    }
    eventually("collection", || match world.node.state().snapshots.len() {
        2 => Ok(()),
        n => Err(format!("{n} snapshots")),
    })
    .await;
    let needed = world.record(&key).life.clone();
    let kept = world.node.state().snapshots.clone();
    assert!(kept.iter().all(|snapshot| needed.needs(&snapshot.id)));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_actor_leaves_nothing_and_its_name_goes_on_counting() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    let router = world.router("r", "i1");
    world.wake(&key).await.unwrap();
    world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    world.wake_through(&router, &key).await.unwrap();
    world.fleet.down(&key, Down::Delete).await.unwrap().unwrap();
    assert_eq!(world.wake(&key).await.unwrap_err().reason, Reason::ActorNotFound);
    assert_eq!(router.revoked.lock().unwrap().len(), 1);
    let empty = |state: &crate::testing::NodeState| {
        state.activations.is_empty() && state.snapshots.is_empty()
    };
    assert!(empty(&world.node.state()));
    world.create("a").await;
    let served = world.wake(&key).await.unwrap();
    assert_eq!(served.binding.epoch, 3, "the fence stands");
    assert_eq!(served.binding.woken_by(), proto::WakeKind::ColdStart);
}

#[tokio::test(start_paused = true)]
async fn a_delete_gives_requests_until_the_drain_deadline_and_then_ends_them() {
    let world = World::new(1, ", drain: {timeout: 7s}").await;
    let key = world.create("a").await;
    let router = world.router("r", "i1");
    world.wake_through(&router, &key).await.unwrap();
    *router.in_flight.lock().unwrap() = (1, 0);
    let begun = Instant::now();
    let mut delete = world.going_down(&key, Down::Delete);
    world.until(&key, Phase::Draining).await;
    assert_eq!(world.wake(&key).await.unwrap_err().reason, Reason::ActorNotFound);
    delete.join_next().await.unwrap().unwrap().unwrap().unwrap();
    assert_eq!(begun.elapsed().as_secs(), 7);
    let revoked: Vec<_> =
        router.revoked.lock().unwrap().iter().map(|r| (r.drain_ms, r.gone)).collect();
    assert_eq!(revoked, [(7_000, false), (0, true)]);
    assert_eq!(world.node.state().count("suspend"), 0);
    assert!(world.node.state().activations.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_actor_can_be_deleted_while_its_node_is_away_and_is_swept_when_it_returns() {
    let mut world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.node_leaves();
    world.fleet.down(&key, Down::Delete).await.unwrap().unwrap();
    assert!(world.node.state().activations.contains_key(&key));
    world.node_joins().await;
    eventually("sweep", || {
        let state = world.node.state();
        if state.activations.is_empty() && state.highest.is_empty() {
            Ok(())
        } else {
            Err(format!("{:?}", state.calls))
        }
    })
    .await;
    let other = world.create("b").await;
    assert!(world.wake(&other).await.is_ok(), "its worker is free");
}

#[tokio::test(start_paused = true)]
async fn a_draining_control_plane_wakes_nothing_and_suspends_everything() {
    let world = World::new(2, ", idle: {keepWarm: true}").await;
    let (a, b) = (world.create("a").await, world.create("b").await);
    world.wake(&a).await.unwrap();
    let mut waking = world.waking(&b);
    world.until(&b, Phase::Starting).await;
    world.fleet.begin_drain();
    for key in [&a, &b] {
        world.fleet.down(key, Down::Suspend(Cause::Shutdown)).await.unwrap().unwrap();
    }
    assert!(waking.join_next().await.unwrap().unwrap().is_ok());
    let error = world.wake(&a).await.unwrap_err();
    assert_eq!(error.reason, Reason::ControlPlaneUnavailable);
    assert_eq!(world.fleet.active(), []);
}

#[tokio::test(start_paused = true)]
async fn a_suspend_of_a_process_that_is_gone_finds_it_lost() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.node.kill(&key);
    let outcome = world.fleet.down(&key, SUSPEND).await.unwrap();
    assert!(matches!(outcome, Err(NotDown::Gone(_))), "{outcome:?}");
    assert_eq!(world.record(&key).life.phase(), Phase::Lost);
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_overtakes_its_suspend_decides_nothing() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.node.held.send_replace("suspend");
    let _suspend = world.going_down(&key, SUSPEND);
    let id = world.until(&key, Phase::Checkpointing).await.life.needed()[0].to_owned();
    let mut waking = world.waking(&key);
    eventually("resume", || match world.node.state().count("resume demo/a 1") {
        0 => Err("not asked".into()),
        _ => Ok(()),
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.node.state().count("suspend"), 0);
    assert_eq!(world.record(&key).life.phase(), Phase::Checkpointing, "the suspend decides");
    world.node.held.send_replace("");
    let served = waking.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(served.binding.epoch, 2);
    assert_eq!(served.binding.woken_by(), proto::WakeKind::Restored);
    assert_eq!(world.record(&key).life.snapshot.as_ref().unwrap().id, id, "nothing was lost");
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_waits_for_deletions_that_do_not_know_its_snapshot() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.node.held.send_replace("delete");
    world.fleet.collect(&key, "n1").await;
    let mut suspend = world.going_down(&key, SUSPEND);
    world.until(&key, Phase::Checkpointing).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.node.state().count("suspend"), 0);
    world.node.held.send_replace("");
    suspend.join_next().await.unwrap().unwrap().unwrap().unwrap();
    assert_eq!(world.node.state().snapshots.len(), 1);
}

/// Deletes an actor with a snapshot whose node does not answer in time.
async fn deleted_on_a_slow_node(world: &World) -> reveille_api::ActorKey {
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    world.wake(&key).await.unwrap();
    world.node.held.send_replace("destroy");
    let begun = Instant::now();
    world.fleet.down(&key, Down::Delete).await.unwrap().unwrap();
    assert_eq!(begun.elapsed(), world.timings.purge);
    assert_eq!(world.fleet.view(&key).unwrap(), None);
    assert_eq!(world.node.state().snapshots.len(), 1);
    key
}

#[tokio::test(start_paused = true)]
async fn a_deleted_actor_leaves_nothing_on_a_node_that_was_slow() {
    let world = World::new(1, "").await;
    deleted_on_a_slow_node(&world).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    world.node.held.send_replace("");
    eventually("the rest of the deletion", || {
        let state = world.node.state();
        let left = (state.activations.len(), state.snapshots.len(), state.highest.len());
        if left == (0, 0, 0) { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    let other = world.create("b").await;
    assert!(world.wake(&other).await.is_ok(), "its worker is free");
}

#[tokio::test(start_paused = true)]
async fn a_late_deletion_leaves_the_next_actor_of_the_name_alone() {
    let world = World::new(1, "").await;
    let key = deleted_on_a_slow_node(&world).await;
    world.create("a").await;
    world.node.held.send_replace("delete");
    assert_eq!(world.wake(&key).await.unwrap().binding.epoch, 3);
    world.node.held.send_replace("");
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(world.node.state().highest.get(&key), Some(&3), "the fence stands");
    assert!(world.node.state().activations.contains_key(&key));
}
