//! A router could not connect to an activation.

use std::time::Duration;

use reveille_api::{Epoch, Reason, proto};
use tokio::time::{Instant, timeout};

use crate::{
    driver::Down,
    lifecycle::{Cause, Phase},
    testing::World,
};

const SUSPEND: Down = Down::Suspend(Cause::User);

#[tokio::test(start_paused = true)]
async fn an_activation_that_its_node_has_no_more_is_lost_and_wakes_from_its_snapshot() {
    let world = World::new(2, "").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.fleet.down(&key, SUSPEND).await.unwrap().unwrap();
    world.wake(&key).await.unwrap();
    world.node.kill(&key);
    // Nobody has told of it yet.
    assert_eq!(world.wake(&key).await.unwrap().binding.epoch, 2);
    world.fleet.doubt(&key, Epoch(2)).await.unwrap();
    let served = world.wake(&key).await.unwrap();
    assert_eq!(served.binding.epoch, 3);
    assert_eq!(served.binding.woken_by(), proto::WakeKind::Restored);
    assert_eq!(world.record(&key).life.losses, 1);
}

#[tokio::test(start_paused = true)]
async fn an_activation_that_its_node_has_is_not_ended_by_a_routers_word() {
    let world = World::new(2, "").await;
    let key = world.create("a").await;
    let before = world.wake(&key).await.unwrap();
    world.fleet.doubt(&key, Epoch(1)).await.unwrap();
    let after = world.wake(&key).await.unwrap();
    assert_eq!(before.binding.endpoint, after.binding.endpoint);
    assert_eq!((after.binding.epoch, world.record(&key).life.losses), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_doubt_about_another_epoch_asks_nobody() {
    let mut world = World::new(2, "").await;
    let key = world.create("a").await;
    let nobody = crate::testing::key("nobody");
    world.wake(&key).await.unwrap();
    world.node_leaves();
    let begun = Instant::now();
    for (key, epoch) in [(&key, 7), (&key, 0), (&nobody, 1)] {
        world.fleet.doubt(key, Epoch(epoch)).await.unwrap();
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn while_the_node_is_silent_who_asks_is_held_until_it_is_back_or_time_is_up() {
    let mut world = World::new(1, ", wake: {timeout: 5s}").await;
    let key = world.create("a").await;
    world.wake(&key).await.unwrap();
    world.node_leaves();
    let begun = Instant::now();
    let failure = world.fleet.doubt(&key, Epoch(1)).await.unwrap_err();
    assert_eq!((failure.reason, begun.elapsed().as_secs()), (Reason::WakeTimeout, 5));
    assert_eq!(world.record(&key).life.phase(), Phase::Running, "not given up before the grace");

    let fleet = std::sync::Arc::clone(&world.fleet);
    let mut held = Box::pin(fleet.doubt(&key, Epoch(1)));
    assert!(timeout(Duration::from_secs(1), &mut held).await.is_err(), "it is held");
    world.node.kill(&key);
    world.node_joins().await;
    held.await.unwrap();
    world.until(&key, Phase::Lost).await;
}
