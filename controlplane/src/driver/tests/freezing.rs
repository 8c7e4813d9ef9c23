//! Freeze and thaw.

use super::*;

const FREEZE: Down = Down::Freeze(Cause::User);
const HOUR: Duration = Duration::from_secs(3600);
const LADDER: &str = ", idle: {freezeAfter: 2s, suspendAfter: 10s}";

async fn frozen(world: &World) -> reveille_api::ActorKey {
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.fleet.down(&key, FREEZE).await.unwrap().unwrap();
    assert_eq!(world.record(&key).life.phase(), Phase::Frozen);
    key
}

#[tokio::test(start_paused = true)]
async fn a_request_thaws_a_frozen_actor_in_the_same_epoch_and_finds_a_later_term() {
    let world = World::new(1, "").await;
    let key = frozen(&world).await;
    world.fleet.down(&key, FREEZE).await.unwrap().unwrap();
    assert_eq!(world.node.state().count("freeze"), 1, "asked twice, done once");
    let served = world.wake(&key).await.unwrap();
    assert_eq!((served.binding.epoch, served.binding.term), (1, 1));
    assert_eq!(served.binding.woken_by(), proto::WakeKind::Thawed);
    assert!(world.node.state().activations[&key].serving);
    assert_eq!(world.node.state().count("activate"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_actor_goes_down_the_ladder_and_is_frozen_before_it_is_suspended() {
    let world = World::new(1, LADDER).await;
    let key = world.create("a").await;
    let router = world.router("r", "i1");
    world.wake_through(&router, &key).await.unwrap();
    let woken = Instant::now();
    world.until(&key, Phase::Frozen).await;
    assert!(woken.elapsed() >= Duration::from_secs(2) && woken.elapsed() < Duration::from_secs(5));
    world.until(&key, Phase::Suspended).await;
    assert!(woken.elapsed() >= Duration::from_secs(10), "thawing it is no use of it");
    assert!(woken.elapsed() < Duration::from_secs(15));
    assert_eq!(world.node.state().count("freeze"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_actor_gives_its_worker_to_another_that_is_wanted() {
    let world = World::new(1, "").await;
    let key = frozen(&world).await;
    let other = world.create("b").await;
    world.wake(&other).await.unwrap();
    assert_eq!(world.record(&key).life.phase(), Phase::Suspended);
}

#[tokio::test(start_paused = true)]
async fn suspend_and_stop_and_delete_reach_a_frozen_actor() {
    let world = World::new(1, "").await;
    let key = frozen(&world).await;
    world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    assert_eq!(world.record(&key).life.phase(), Phase::Suspended);
    assert_eq!(world.node.state().count("resume"), 0, "it was thawed before its turn");
    world.wake(&key).await.unwrap();
    world.fleet.down(&key, FREEZE).await.unwrap().unwrap();
    world.fleet.down(&key, Down::Stop).await.unwrap().unwrap();
    assert_eq!(world.record(&key).life.phase(), Phase::Stopped);
    world.fleet.wake(&key, Asker::User, Origin::default()).await.unwrap();
    world.fleet.down(&key, FREEZE).await.unwrap().unwrap();
    world.fleet.down(&key, Down::Delete).await.unwrap().unwrap();
    assert!(world.node.state().activations.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_slow_to_thaw_or_to_save_costs_no_actor_its_memory() {
    let world = World::new(1, "").await;
    let key = frozen(&world).await;
    world.node.held.send_replace("resume");
    let late = world.wake(&key).await.unwrap_err();
    assert_eq!(late.reason, Reason::WakeTimeout);
    tokio::time::sleep(HOUR).await;
    assert_eq!(world.record(&key).life.phase(), Phase::Thawing);
    world.node.held.send_replace("");
    world.until(&key, Phase::Running).await;

    world.node.commits.send_replace(false);
    let _suspending = world.going_down(&key, SUSPEND);
    world.until(&key, Phase::Checkpointing).await;
    world.node.held.send_replace("resume");
    tokio::time::sleep(HOUR).await;
    assert_eq!(world.record(&key).life.phase(), Phase::Checkpointing);
    world.node.commits.send_replace(true);
    world.until(&key, Phase::Suspended).await;
    assert_eq!((world.epoch(&key), world.node.state().count("destroy")), (Epoch(1), 0));
}

#[tokio::test(start_paused = true)]
async fn a_freeze_that_fails_is_told_and_the_actor_serves_on() {
    let world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.node.state().refuse_freeze = true;
    let outcome = world.fleet.down(&key, FREEZE).await.unwrap();
    assert!(matches!(outcome, Err(NotDown::FreezeFailed(_))), "{outcome:?}");
    assert_eq!(world.record(&key).life.phase(), Phase::Running);
    world.fleet.down(&key, FREEZE).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_point_of_a_freeze_leaves_it_frozen_and_it_wakes() {
    let mut world = World::new(1, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.node.held.send_replace("freeze");
    let _freezing = world.going_down(&key, FREEZE);
    world.until(&key, Phase::Freezing).await;
    world.crash().await;
    world.node.held.send_replace("");
    world.node_joins().await;
    world.until(&key, Phase::Frozen).await;
    world.crash().await;
    world.node_joins().await;
    assert_eq!(world.wake(&key).await.unwrap().binding.epoch, 1);
}

#[tokio::test(start_paused = true)]
async fn a_freeze_that_arrives_after_its_thaw_freezes_nothing() {
    let world = World::new(1, "").await;
    let key = frozen(&world).await;
    world.wake(&key).await.unwrap();
    let late = proto::ActivationRef {
        actor: Some((&key).into()),
        epoch: 1,
        term: 0,
        ..Default::default()
    };
    let agent = world.fleet.nodes.agent("n1").unwrap();
    agent.freeze(late).await.unwrap_err();
    assert!(world.node.state().activations[&key].serving);
}
