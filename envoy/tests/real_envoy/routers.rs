//! Several routers of one Envoy: the first one that serves is asked, and one that goes takes nothing with it.

use hyper::StatusCode;
use tokio::time::timeout;
use tonic_health::ServingStatus;

use crate::{
    actor::Actor,
    harness::{Options, PATIENCE, Script, Stack, envoy_or_skip, eventually},
};

const HOST: &str = "a.demo.test";

async fn two_routers(binary: std::path::PathBuf) -> (Stack, Actor) {
    let stack = Stack::start(binary, Options { second: true, ..Options::default() }).await;
    let actor = Actor::start().await;
    for router in [&stack.router, &stack.second] {
        router.on(HOST, Script::GoOn { endpoint: actor.addr, h2c: false, extra: Vec::new() });
    }
    (stack, actor)
}

fn asked(stack: &Stack) -> (usize, usize) {
    (stack.router.seen.lock().unwrap().len(), stack.second.seen.lock().unwrap().len())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_router_is_asked_until_it_says_that_it_does_not_serve_and_again_afterwards() {
    let (stack, _actor) = two_routers(envoy_or_skip!()).await;
    for n in 1..=20 {
        assert_eq!(stack.get(HOST, "/").await.status, StatusCode::OK);
        assert_eq!(asked(&stack), (n, 0));
    }
    stack.router.say(ServingStatus::NotServing).await;
    eventually("the second is asked", || async {
        assert_eq!(stack.get(HOST, "/").await.status, StatusCode::OK);
        if asked(&stack).1 > 0 { Ok(()) } else { Err(format!("{:?}", asked(&stack))) }
    })
    .await;
    let (first, _) = asked(&stack);
    for _ in 0..20 {
        assert_eq!(stack.get(HOST, "/").await.status, StatusCode::OK);
    }
    assert_eq!(asked(&stack).0, first, "the first is left alone");
    stack.router.say(ServingStatus::Serving).await;
    eventually("the first is asked again", || async {
        assert_eq!(stack.get(HOST, "/").await.status, StatusCode::OK);
        if asked(&stack).0 > first { Ok(()) } else { Err(format!("{:?}", asked(&stack))) }
    })
    .await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_at_a_router_that_is_killed_waits_on_at_the_other_one() {
    let (mut stack, _actor) = two_routers(envoy_or_skip!()).await;
    stack.router.on(HOST, Script::Silence);
    let killed = stack.ext_proc.take();
    let mut open = stack.router.open.subscribe();
    let kill = async {
        timeout(PATIENCE, open.wait_for(|open| *open == 10)).await.unwrap().unwrap();
        drop(killed);
    };
    let waiting = futures::future::join_all((0..10).map(|_| stack.get(HOST, "/")));
    let (answers, ()) = tokio::join!(waiting, kill);
    for answer in answers {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }
    assert_eq!(asked(&stack).1, 10);
    // It is gone, and nobody waits for that to be noticed.
    assert_eq!(stack.get(HOST, "/").await.status, StatusCode::OK);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_through_a_router_that_no_longer_serves_is_not_cut() {
    let (stack, _actor) = two_routers(envoy_or_skip!()).await;
    let mut open = stack.router.open.subscribe();
    let change = async {
        timeout(PATIENCE, open.wait_for(|open| *open == 1)).await.unwrap().unwrap();
        stack.router.say(ServingStatus::NotServing).await;
        eventually("the second is asked", || async {
            stack.get(HOST, "/").await;
            if asked(&stack).1 > 0 { Ok(()) } else { Err(format!("{:?}", asked(&stack))) }
        })
        .await;
    };
    let (stream, ()) = tokio::join!(stack.get(HOST, "/stream?n=200"), change);
    assert_eq!(stream.status, StatusCode::OK);
    assert_eq!(stream.body.lines().count(), 200);
    stack.stop().await;
}
