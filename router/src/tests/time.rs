//! On a clock that moves only when everything waits for it.

use std::{sync::Arc, time::Duration};

use reveille_api::{
    Reason,
    proto::{ActorPolicy, WakeReply},
};
use tokio::time::Instant;

use super::{
    HOST, binding, counter,
    fake::Fake,
    reply,
    rig::{core, ladder},
};
use crate::router::{Cold, Request, Router, Ticket};

const S: Duration = Duration::from_secs(1);

fn park(router: &Arc<Router>) -> Ticket {
    match router.request(Some(HOST), Cold::default) {
        Request::Parked(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

/// Waits it out: why it was refused, and after how long.
async fn refused(mut ticket: Ticket) -> (Reason, Duration) {
    let since = Instant::now();
    let reason = ticket.wait().await.map(|arrival| arrival.served.binding.version());
    (reason.unwrap_err().reason, since.elapsed())
}

fn about(duration: Duration) -> std::ops::Range<Duration> {
    duration..duration + Duration::from_millis(20)
}

#[tokio::test(start_paused = true)]
async fn a_request_is_refused_at_its_budget_and_the_wake_serves_the_next() {
    let (mut fake, channel) = Fake::in_memory();
    let router = core(ladder(), channel);
    let ticket = park(&router);
    let wake = fake.wake().await;
    let (reason, took) = refused(ticket).await;
    assert_eq!(reason, Reason::WakeTimeout);
    assert!(about(2 * S).contains(&took), "{took:?}");
    assert_eq!(router.table.parking().taken(), 0);
    wake.reply(reply(binding(&counter(), 1, 0)));
    while router.table.bindings(1).is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(router.request(Some(HOST), Cold::default), Request::Served(_)));
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_the_smaller_of_the_routers_and_the_templates() {
    for (park_ms, budget) in [(500, S / 2), (60_000, 2 * S), (0, 2 * S)] {
        let (_fake, channel) = Fake::in_memory();
        let router = core(ladder(), channel);
        let policy = ActorPolicy { park_ms, max_parked: 5, ..Default::default() };
        router.table.set_policy(counter(), &policy);
        let (reason, took) = refused(park(&router)).await;
        assert_eq!(reason, Reason::WakeTimeout);
        assert!(about(budget).contains(&took), "{park_ms}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_came_with_a_wake_is_remembered_while_the_actor_sleeps() {
    let (mut fake, channel) = Fake::in_memory();
    let router = core(ladder(), channel);
    let mut ticket = park(&router);
    let policy = ActorPolicy { park_ms: 300, ..Default::default() };
    let reply = reply(binding(&counter(), 1, 0));
    fake.wake().await.reply(WakeReply { policy: Some(policy), ..reply });
    let version = ticket.wait().await.unwrap().served.binding.version();
    router.table.revoke(&counter(), version);
    assert_eq!(router.table.len(), 0);
    let (_, took) = refused(park(&router)).await;
    assert!(about(S * 3 / 10).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wake_without_an_answer_ends_by_its_own_deadline_and_leaves_nothing() {
    let (mut fake, channel) = Fake::in_memory();
    let router = core(ladder(), channel);
    drop(park(&router));
    let _never = fake.wake().await;
    let since = Instant::now();
    while router.table.len() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(about(3 * S).contains(&since.elapsed()), "{:?}", since.elapsed());
    assert_eq!((router.wakes.len(), router.table.parking().taken()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_is_away_is_tried_for_two_seconds() {
    let (fake, channel) = Fake::in_memory();
    drop(fake);
    let second = Duration::from_secs(1);
    let ladder = reveille_api::Ladder::new(10 * second, 20 * second, 10, 100).unwrap();
    let router = core(ladder, channel);
    let (reason, took) = refused(park(&router)).await;
    assert_eq!(reason, Reason::ControlPlaneUnavailable);
    assert!(took > S && took < S * 5 / 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_takes_calls_and_says_nothing_is_unavailable_until_it_speaks() {
    let (mut fake, channel) = Fake::that_hangs();
    let router = core(reveille_api::Ladder::new(10 * S, 20 * S, 10, 100).unwrap(), channel);
    let (reason, took) = refused(park(&router)).await;
    assert_eq!(reason, Reason::ControlPlaneUnavailable);
    assert!(about(2 * S).contains(&took), "{took:?}");
    // Whoever comes now need not find that out again.
    let (reason, took) = refused(park(&router)).await;
    assert_eq!(reason, Reason::ControlPlaneUnavailable);
    assert!(about(Duration::ZERO).contains(&took), "{took:?}");
    fake.goes_on();
    tokio::time::sleep(3 * S).await;
    let mut ticket = park(&router);
    // It hears of those that were given up, too.
    let answers = async {
        loop {
            fake.wake().await.reply(reply(binding(&counter(), 1, 0)));
        }
    };
    tokio::select! {
        arrival = ticket.wait() => assert!(arrival.is_ok()),
        () = answers => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_takes_its_time_is_not_taken_for_a_control_plane_that_hangs() {
    let (mut fake, channel) = Fake::in_memory();
    let router = core(reveille_api::Ladder::new(10 * S, 20 * S, 10, 100).unwrap(), channel);
    let mut ticket = park(&router);
    let wake = fake.wake().await;
    tokio::time::sleep(9 * S).await;
    wake.reply(reply(binding(&counter(), 1, 0)));
    assert!(ticket.wait().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_router_that_stops_answers_those_who_wait() {
    let (mut fake, channel) = Fake::in_memory();
    let router = core(ladder(), channel);
    let ticket = park(&router);
    let _never = fake.wake().await;
    router.stop.cancel();
    assert_eq!(refused(ticket).await.0, Reason::ControlPlaneUnavailable);
    router.tasks.close();
    router.tasks.wait().await;
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_runs_out_of_time_does_so_for_those_who_waited_through_it() {
    for reason in [Reason::WakeTimeout, Reason::NoCapacity] {
        let (mut fake, channel) = Fake::in_memory();
        let router = core(ladder(), channel);
        let early = park(&router);
        let wake = fake.wake().await;
        tokio::time::sleep(S * 8 / 10).await;
        let mut late = park(&router);
        tokio::time::sleep(S / 10).await;
        wake.fail(reason);
        assert_eq!(refused(early).await.0, reason);
        fake.wake().await.reply(reply(binding(&counter(), 1, 0)));
        assert!(late.wait().await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_fails_late_fails_for_those_who_came_late_too() {
    let (mut fake, channel) = Fake::in_memory();
    let router = core(ladder(), channel);
    let early = park(&router);
    let wake = fake.wake().await;
    tokio::time::sleep(S * 8 / 10).await;
    let late = park(&router);
    tokio::time::sleep(S / 10).await;
    wake.fail(Reason::RestoreFailed);
    for ticket in [early, late] {
        assert_eq!(refused(ticket).await.0, Reason::RestoreFailed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_fails_at_once_fails_for_everybody() {
    for reason in [Reason::NoCapacity, Reason::RestoreFailed] {
        let (mut fake, channel) = Fake::in_memory();
        let router = core(ladder(), channel);
        let waiting = [park(&router), park(&router)];
        fake.wake().await.fail(reason);
        for ticket in waiting {
            assert_eq!(refused(ticket).await.0, reason);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_slow_answers_hold_nobody_back_for_long() {
    let (mut fake, channel) = Fake::in_memory();
    let router = core(ladder(), channel);
    let mut waiting: Vec<_> = (0..300).map(|_| park(&router)).collect();
    fake.wake().await.reply(reply(binding(&counter(), 1, 0)));
    let mut at_it = Vec::new();
    for ticket in &mut waiting {
        at_it.push(ticket.wait().await.unwrap());
    }
    // 32, 64, 128, 256, 300.
    assert!(about(S / 5).contains(&waiting[0].held()), "{:?}", waiting[0].held());
}

#[tokio::test(start_paused = true)]
async fn a_budget_told_while_a_request_waits_holds_for_it() {
    let (mut fake, channel) = Fake::in_memory();
    let router = core(ladder(), channel);
    let ticket = park(&router);
    let _never = fake.wake().await;
    let policy = ActorPolicy { park_ms: 700, ..Default::default() };
    router.table.set_policy(counter(), &policy);
    let (reason, took) = refused(ticket).await;
    assert_eq!(reason, Reason::WakeTimeout);
    assert!(about(S * 7 / 10).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_for_its_turn_is_told_that_the_actor_is_slow() {
    let (mut fake, channel) = Fake::in_memory();
    let router = core(ladder(), channel);
    let (mut first, second) = (park(&router), park(&router));
    let policy = ActorPolicy { concurrency: 1, ..Default::default() };
    let reply = reply(binding(&counter(), 1, 0));
    fake.wake().await.reply(WakeReply { policy: Some(policy), ..reply });
    let _slow = first.wait().await.unwrap();
    assert_eq!(refused(second).await.0, Reason::UpstreamTimeout);
    assert_eq!(router.table.parking().taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_with_its_turn_in_hand_passes_it_on() {
    let (mut fake, channel) = Fake::in_memory();
    let router = core(ladder(), channel);
    let (first, mut second) = (park(&router), park(&router));
    let policy = ActorPolicy { concurrency: 1, ..Default::default() };
    let reply = reply(binding(&counter(), 1, 0));
    fake.wake().await.reply(WakeReply { policy: Some(policy), ..reply });
    while router.table.bindings(1).is_empty() {
        tokio::task::yield_now().await;
    }
    // Its arrival was sent and never taken.
    drop(first);
    assert!(second.wait().await.is_ok());
}
