use std::time::Duration;

use futures::future::join_all;
use reveille_api::{
    Ladder, Reason,
    proto::{self, ActorPolicy, router_command::Command},
};

use super::{
    HOST, binding, counter,
    envoy::{Answer, Exchange},
    eventually, reply,
    rig::Rig,
};

#[tokio::test]
async fn the_first_request_wakes_the_actor_and_says_what_it_waited_for() {
    let (rig, mut fake) = Rig::start().await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [(":authority", HOST), ("traceparent", traceparent)];
    let mut exchange = Exchange::begin(&rig.envoy, &headers).await;
    let wake = fake.wake().await;
    assert_eq!(wake.request.actor, Some((&counter()).into()));
    // For the log. That it is recorded is not for the client to say.
    assert_eq!(wake.request.traceparent, format!("{}00", &traceparent[..53]));
    let (hello, held) = fake.session().await.greeting().await;
    assert_eq!((hello.router.as_str(), held.len()), ("router-1", 0));
    assert_eq!(wake.request.router_instance, hello.instance);
    wake.reply(reply(binding(&counter(), 1, 0)));
    let Answer::Routed(fields) = exchange.answer().await else { panic!("refused") };
    assert_eq!(fields["wake"], "restored");
    // The node says 1 ms of which this wake may have taken less: then each phase is less.
    let timing = &fields["server_timing"];
    let phases = timing.split(", ").map(|phase| phase.split_once(";dur=").unwrap());
    let phases: Vec<_> = phases.map(|(name, ms)| (name, ms.parse::<f64>().unwrap())).collect();
    assert_eq!(phases[0].0, "park", "{timing}");
    let restore = phases.iter().find(|(name, _)| *name == "restore").unwrap().1;
    assert!(restore > 0.0 && restore <= 1.0, "{timing}");
}

#[tokio::test]
async fn a_thousand_concurrent_requests_make_one_wake() {
    let (rig, mut fake) = Rig::with(|config| config.namespace_share = 100).await;
    let mut exchanges = join_all((0..1_000).map(|_| rig.get(HOST))).await;
    eventually(1_000, || rig.router.metrics.parked.get()).await;
    fake.wake().await.reply(reply(binding(&counter(), 1, 0)));
    let endpoints = join_all(exchanges.iter_mut().map(Exchange::endpoint)).await;
    assert!(endpoints.iter().all(|endpoint| endpoint == "10.0.0.1:20000"));
    assert!(fake.wakes.try_recv().is_err(), "a second wake");
    assert_eq!(rig.router.metrics.parked.get(), 0);
    assert_eq!(rig.router.metrics.in_flight.get(), 1_000);
    assert_eq!(rig.metric("reveille_router_wakes_joined_total").await, 999.0);
    drop(exchanges);
    eventually(0, || rig.router.metrics.in_flight.get()).await;
}

#[tokio::test]
async fn callers_who_leave_free_their_places_and_the_wake_goes_on() {
    let (rig, mut fake) = Rig::start().await;
    let exchanges = join_all((0..10).map(|_| rig.get(HOST))).await;
    eventually(10, || rig.router.metrics.parked.get()).await;
    let wake = fake.wake().await;
    drop(exchanges);
    eventually(0, || rig.router.metrics.parked.get()).await;
    wake.reply(reply(binding(&counter(), 1, 0)));
    eventually(1, || rig.router.metrics.bindings.get()).await;
    assert_eq!(rig.get(HOST).await.endpoint().await, "10.0.0.1:20000");
    let left = "reveille_router_requests_total{class=\"cold\",outcome=\"left\"}";
    assert_eq!(rig.metric(left).await, 10.0);
    assert!(fake.wakes.try_recv().is_err(), "a second wake");
}

#[tokio::test]
async fn a_caller_is_gone_when_envoy_closes_its_side_too() {
    let (rig, mut fake) = Rig::start().await;
    let waiting = rig.get(HOST).await;
    let wake = fake.wake().await;
    assert_eq!(rig.router.metrics.parked.get(), 1);
    waiting.close().await;
    assert_eq!(rig.router.metrics.parked.get(), 0);
    wake.reply(reply(binding(&counter(), 1, 0)));
    eventually(1, || rig.router.metrics.bindings.get()).await;
    let mut bound = rig.get(HOST).await;
    bound.endpoint().await;
    assert_eq!(rig.router.metrics.in_flight.get(), 1);
    bound.close().await;
    assert_eq!(rig.router.metrics.in_flight.get(), 0);
}

#[tokio::test]
async fn a_full_house_refuses_at_once_and_bound_actors_are_not_affected() {
    let second = Duration::from_secs(1);
    let ladder = Ladder::new(5 * second, 10 * second, 4, 100).unwrap();
    let (rig, mut fake) = Rig::with(|config| config.ladder = ladder).await;
    rig.wake(&mut fake, 1, 0).await;
    let mut waiting = Vec::new();
    for actor in ["a.x", "b.x", "a.y"] {
        waiting.push(rig.get(&format!("{actor}.actors.test")).await);
    }
    eventually(3, || rig.router.metrics.parked.get()).await;
    // Half of the places is all that one namespace gets.
    assert_eq!(rig.get("c.x.actors.test").await.reason().await, "parking_full");
    waiting.push(rig.get("b.y.actors.test").await);
    eventually(4, || rig.router.metrics.parked.get()).await;
    assert_eq!(rig.get("a.z.actors.test").await.reason().await, "parking_full");
    assert_eq!(rig.get(HOST).await.endpoint().await, "10.0.0.1:20000");
    waiting.pop();
    eventually(3, || rig.router.metrics.parked.get()).await;
    let _takes_its_place = rig.get("a.z.actors.test").await;
    eventually(4, || rig.router.metrics.parked.get()).await;
    for (limit, refused) in [("namespace", 1.0), ("router", 1.0), ("actor", 0.0)] {
        let series = format!("reveille_router_parking_refused_total{{limit=\"{limit}\"}}");
        assert_eq!(rig.metric(&series).await, refused, "{limit}");
    }
    // Refused actors leave nothing behind: the bound one, and five that wake.
    assert_eq!(rig.router.table.len(), 6);
}

#[tokio::test]
async fn an_actors_own_limit_is_its_templates() {
    let (rig, mut fake, session) = Rig::in_session().await;
    let policy = ActorPolicy {
        actor: Some((&counter()).into()),
        max_parked: 2,
        park_ms: 60_000,
        ..Default::default()
    };
    session.command(Command::Policy(policy)).await;
    // Commands are obeyed in order: once this one is acknowledged, so is the policy.
    session.revoke(1, 0, 0).await;
    eventually(1, || rig.router.metrics.revokes.get()).await;
    let mut waiting = vec![rig.get(HOST).await, rig.get(HOST).await];
    eventually(2, || rig.router.metrics.parked.get()).await;
    assert_eq!(rig.get(HOST).await.reason().await, "actor_parking_full");
    fake.wake().await.reply(reply(binding(&counter(), 1, 1)));
    for exchange in &mut waiting {
        exchange.endpoint().await;
    }
}

#[tokio::test]
async fn an_unknown_actor_is_refused_at_once_and_for_a_moment_without_asking() {
    let (rig, mut fake) = Rig::start().await;
    let mut first = rig.get(HOST).await;
    fake.wake().await.fail(Reason::ActorNotFound);
    assert_eq!(first.reason().await, "actor_not_found");
    for _ in 0..5 {
        assert_eq!(rig.get(HOST).await.reason().await, "actor_not_found");
    }
    assert!(fake.wakes.try_recv().is_err(), "asked again");
    assert_eq!(rig.router.table.len(), 0);
    tokio::time::sleep(Duration::from_millis(1_010)).await;
    let mut later = rig.get(HOST).await;
    fake.wake().await.reply(reply(binding(&counter(), 1, 0)));
    later.endpoint().await;
}

#[tokio::test]
async fn an_actor_that_was_just_created_is_asked_for_although_it_was_unknown_a_moment_ago() {
    let (rig, mut fake, session) = Rig::in_session().await;
    let mut first = rig.get(HOST).await;
    fake.wake().await.fail(Reason::ActorNotFound);
    assert_eq!(first.reason().await, "actor_not_found");
    session.command(Command::Created((&counter()).into())).await;
    // Commands are obeyed in order.
    session.revoke(1, 0, 0).await;
    eventually(1, || rig.router.metrics.revokes.get()).await;
    let mut second = rig.get(HOST).await;
    fake.wake().await.reply(reply(binding(&counter(), 1, 1)));
    second.endpoint().await;
}

#[tokio::test]
async fn a_host_that_names_no_actor_is_refused_without_asking() {
    let (rig, mut fake) = Rig::start().await;
    for host in
        ["", "demo.actors.test", "counter.demo.example.com", "10.0.0.1", "a_b.c.actors.test"]
    {
        assert_eq!(rig.get(host).await.reason().await, "invalid_host", "{host}");
    }
    let mut none = Exchange::begin(&rig.envoy, &[(":method", "GET")]).await;
    assert_eq!(none.reason().await, "invalid_host");
    assert!(fake.wakes.try_recv().is_err(), "asked");
}

#[tokio::test]
async fn a_failed_wake_tells_everybody_its_reason_and_no_more_and_the_next_request_tries_again() {
    let (rig, mut fake) = Rig::start().await;
    for &reason in Reason::ALL {
        if matches!(reason, Reason::ActorNotFound | Reason::ControlPlaneUnavailable) {
            continue;
        }
        let mut exchanges = join_all((0..3).map(|_| rig.get(HOST))).await;
        let wake = fake.wake().await;
        eventually(3, || rig.router.metrics.parked.get()).await;
        wake.fail(reason);
        for exchange in &mut exchanges {
            let Answer::Refused(refused) = exchange.answer().await else { panic!("{reason}") };
            assert_eq!(refused.status.as_ref().unwrap().code, i32::from(reason.http_status()));
            assert!(!format!("{refused:?}").contains("secret"), "{refused:?}");
        }
    }
    assert_eq!(rig.router.table.len(), 0);
}

#[tokio::test]
async fn a_reply_that_makes_no_sense_is_given_to_nobody() {
    let (rig, mut fake) = Rig::start().await;
    let other = reveille_api::ActorKey::new("demo", "other").unwrap();
    let endpoint = "nowhere".to_owned();
    for reply in [
        reply(binding(&other, 1, 0)),
        reply(proto::Binding { endpoint, ..binding(&counter(), 1, 0) }),
        proto::WakeReply::default(),
    ] {
        let mut exchange = rig.get(HOST).await;
        fake.wake().await.reply(reply);
        assert_eq!(exchange.reason().await, "internal");
    }
    assert_eq!(rig.router.table.len(), 0);
}

#[tokio::test]
async fn grpc_callers_get_a_status_and_browsers_a_page() {
    let (rig, _fake) = Rig::start().await;
    for (name, value, grpc, body) in [
        ("content-type", "application/grpc", Some(5), "This host"),
        ("accept", "text/html", None, "<!doctype html>"),
        ("accept", "text/plain", None, "This host"),
        ("accept", "*/*", None, "{"),
    ] {
        let headers = [(":authority", "nobody"), (name, value)];
        let mut exchange = Exchange::begin(&rig.envoy, &headers).await;
        let Answer::Refused(refused) = exchange.answer().await else { panic!("{value}") };
        assert_eq!(refused.grpc_status.map(|status| status.status), grpc, "{value}");
        assert!(refused.body.starts_with(body.as_bytes()), "{value}: {:?}", refused.body);
    }
}

#[tokio::test]
async fn with_the_control_plane_away_a_sleeping_actor_is_refused_soon() {
    let (rig, fake) = Rig::start().await;
    fake.kill().await;
    let began = tokio::time::Instant::now();
    assert_eq!(rig.get(HOST).await.reason().await, "control_plane_unavailable");
    assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
}

fn policy(max_parked: u32, concurrency: u32, page: bool) -> ActorPolicy {
    let actor = Some((&counter()).into());
    ActorPolicy { actor, max_parked, concurrency, page, ..Default::default() }
}

#[tokio::test]
async fn a_limit_told_while_requests_wait_refuses_the_newest_of_them() {
    let (rig, mut fake, session) = Rig::in_session().await;
    let mut waiting = Vec::new();
    for parked in 1..=4 {
        waiting.push(rig.get(HOST).await);
        eventually(parked, || rig.router.metrics.parked.get()).await;
    }
    let wake = fake.wake().await;
    session.command(Command::Policy(policy(2, 0, false))).await;
    for refused in waiting.split_off(2).iter_mut() {
        assert_eq!(refused.reason().await, "actor_parking_full");
    }
    assert_eq!(rig.router.metrics.parked.get(), 2);
    wake.reply(reply(binding(&counter(), 1, 0)));
    for exchange in &mut waiting {
        exchange.endpoint().await;
    }
}

#[tokio::test]
async fn one_actor_cannot_take_all_places_of_its_namespace_whatever_its_template_says() {
    let ladder = Ladder::new(Duration::from_secs(5), Duration::from_secs(10), 16, 100).unwrap();
    let (rig, mut fake) = Rig::with(|config| config.ladder = ladder).await;
    let session = fake.welcomed().await;
    session.command(Command::Policy(policy(1_000, 0, false))).await;
    session.revoke(1, 0, 0).await;
    eventually(1, || rig.router.metrics.revokes.get()).await;
    // Half of the places is one namespace's, and half of those one actor's.
    let waiting = join_all((0..4).map(|_| rig.get(HOST))).await;
    eventually(4, || rig.router.metrics.parked.get()).await;
    assert_eq!(rig.get(HOST).await.reason().await, "actor_parking_full");
    let _other = rig.get("other.demo.actors.test").await;
    eventually(5, || rig.router.metrics.parked.get()).await;
    drop(waiting);
}

#[tokio::test]
async fn those_who_waited_are_let_go_in_turns_and_a_new_request_is_not_held_back() {
    let (rig, mut fake, mut session) = Rig::in_session().await;
    let mut waiting = Vec::new();
    for parked in 1..=5 {
        waiting.push(rig.get(HOST).await);
        eventually(parked, || rig.router.metrics.parked.get()).await;
    }
    let limited = Some(policy(100, 2, false));
    let woken = reply(binding(&counter(), 1, 0));
    fake.wake().await.reply(proto::WakeReply { policy: limited.clone(), ..woken });
    for exchange in &mut waiting[..2] {
        assert_eq!(exchange.endpoint().await, "10.0.0.1:20000");
    }
    let (parked, in_flight) = (&rig.router.metrics.parked, &rig.router.metrics.in_flight);
    assert_eq!((parked.get(), in_flight.get()), (3, 2));
    assert_eq!(rig.get(HOST).await.endpoint().await, "10.0.0.1:20000");
    eventually(2, || in_flight.get()).await;
    assert_eq!(parked.get(), 3, "the end of a request without a turn lets nobody go");
    waiting.remove(0);
    assert_eq!(waiting[1].endpoint().await, "10.0.0.1:20000");
    eventually((2, 2), || (parked.get(), in_flight.get())).await;
    // A revoke leaves the rest waiting, and waits for none of them.
    session.revoke(1, 0, 10_000).await;
    let wake = fake.wake().await;
    assert_eq!(parked.get(), 2);
    let rest = waiting.split_off(2);
    drop(waiting);
    assert!(matches!(session.word().await, proto::router_report::Report::RevokeAck(_)));
    let woken = reply(binding(&counter(), 2, 0));
    wake.reply(proto::WakeReply { policy: limited, ..woken });
    for mut exchange in rest {
        assert_eq!(exchange.endpoint().await, "10.0.0.2:20000");
    }
}

#[tokio::test]
async fn a_browser_is_shown_a_page_as_soon_as_the_template_is_known_and_the_wake_goes_on() {
    let (rig, mut fake, session) = Rig::in_session().await;
    let browser = "text/html,application/xhtml+xml,*/*;q=0.8";
    let open = async |method, accept| {
        let headers = [(":authority", HOST), (":method", method), ("accept", accept)];
        Exchange::begin(&rig.envoy, &headers).await
    };
    let mut page = open("GET", browser).await;
    let mut others = [open("POST", browser).await, open("GET", "*/*").await];
    eventually(3, || rig.router.metrics.parked.get()).await;
    let wake = fake.wake().await;
    session.command(Command::Policy(policy(100, 0, true))).await;
    let Answer::Refused(shown) = page.answer().await else { panic!("routed") };
    assert_eq!((shown.details.as_str(), shown.status.unwrap().code), ("reveille_waking", 503));
    assert!(String::from_utf8(shown.body).unwrap().contains("http-equiv=\"refresh\""));
    assert_eq!(open("HEAD", browser).await.reason().await, "waking");
    assert_eq!(rig.router.metrics.parked.get(), 2);
    wake.reply(reply(binding(&counter(), 1, 0)));
    for exchange in &mut others {
        exchange.endpoint().await;
    }
    open("GET", browser).await.endpoint().await;
    assert!(fake.wakes.try_recv().is_err(), "a second wake");
}

#[tokio::test]
async fn a_browser_is_told_once_why_the_wake_behind_its_page_failed() {
    let (rig, mut fake, session) = Rig::in_session().await;
    session.command(Command::Policy(policy(100, 0, true))).await;
    session.revoke(1, 0, 0).await;
    eventually(1, || rig.router.metrics.revokes.get()).await;
    let open = async || {
        let headers = [(":authority", HOST), (":method", "GET"), ("accept", "text/html")];
        Exchange::begin(&rig.envoy, &headers).await.reason().await
    };
    assert_eq!(open().await, "waking");
    fake.wake().await.fail(Reason::RestoreFailed);
    eventually(0, || rig.router.wakes.len()).await;
    assert_eq!(open().await, "restore_failed");
    // Everybody else tries again at once.
    let mut other = rig.get(HOST).await;
    fake.wake().await.fail(Reason::StartFailed);
    assert_eq!(other.reason().await, "start_failed");
}
