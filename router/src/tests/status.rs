//! The status page, as the router makes it. In a browser it is tried by `tests/e2e/status.rs`.

use reveille_api::proto::{
    ActiveActor, ActorKey, ActorState, Node, OverviewReply, StateCount, WakeKind, WakeUnderWay,
    WorkerCounts, wake_under_way::Stage,
};
use serde_json::Value;

use super::{eventually, rig::Rig};

fn key(name: &str) -> Option<ActorKey> {
    Some(ActorKey { namespace: "demo".into(), name: name.into() })
}

fn fleet() -> OverviewReply {
    let count = |state: ActorState, count| StateCount { state: state.into(), count };
    OverviewReply {
        unix_ms: 100_000,
        started_unix_ms: 40_000,
        actors: vec![count(ActorState::Running, 3), count(ActorState::Suspended, 4_000)],
        workers: Some(WorkerCounts { free: 1, serving: 3, ..Default::default() }),
        active: vec![ActiveActor {
            actor: key("busy"),
            state: ActorState::Running.into(),
            in_flight: 7,
            rate: 12.34,
            ..Default::default()
        }],
        active_count: 3,
        wakes: vec![WakeUnderWay {
            actor: key("other"),
            stage: Stage::Start.into(),
            kind: WakeKind::Restored.into(),
            worker: "<b>w</b>".into(),
            since_unix_ms: 99_000,
        }],
        wake_count: 1,
        nodes: vec![Node { name: "n1".into(), ready: true, ..Default::default() }],
        ..Default::default()
    }
}

async fn json(rig: &Rig) -> Value {
    let (_, text) = rig.page("/statusz", "application/json").await;
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn it_is_html_for_people_and_json_for_programs() {
    let (rig, mut fake, _session) = Rig::in_session().await;
    fake.fleet.lock().unwrap().reply = fleet();
    let _request = rig.wake(&mut fake, 1, 0).await;
    let _parked = rig.get("other.demo.actors.test").await;
    eventually(1, || rig.router.wakes.len()).await;
    let (status, html) = rig.page("/statusz", "text/html,*/*;q=0.8").await;
    assert_eq!(status, 200);
    for text in [
        "router-1",
        "demo/counter",
        "10.0.0.1:20000",
        "demo/other",
        "session for",
        "Suspended <b>4000</b>",
        "<b class=\"\">3/4</b><span>workers in use",
        "12.3",
        "the node restores or starts it",
        "1 of 3 that do not sleep",
        "restored",
    ] {
        assert!(html.contains(text), "{text} is not in\n{html}");
    }
    assert!(html.contains("&lt;b&gt;w&lt;/b&gt;") && !html.contains("<b>w</b>"), "{html}");
    let json = json(&rig).await;
    assert_eq!(json["bindings"][0]["actor"], "demo/counter");
    assert_eq!((&json["bindings"][0]["epoch"], &json["in_flight"]), (&1.into(), &1.into()));
    assert_eq!(json["wakes"][0]["actor"], "demo/other");
    assert_eq!(json["control_plane"]["instance"], "cp-1");
    assert_eq!(json["fleet"]["wakes"][0]["phase"], "start");
    assert_eq!(json["fleet"]["wakes"][0]["for_ms"], 1_000);
    assert_eq!(json["fleet"]["control_plane_up_ms"], 60_000);
    assert_eq!(json["limits"]["parked_per_namespace"], 600);
}

/// What the policy names is what is there, to the byte: else the browser runs nothing, or anything.
#[tokio::test]
async fn its_policy_allows_its_own_script_and_styles_and_nothing_else() {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use sha2::{Digest, Sha256};

    let (rig, _fake) = Rig::start().await;
    let (_, html) = rig.page("/statusz", "text/html").await;
    let policy = html.lines().find_map(|l| l.strip_prefix("content-security-policy: ")).unwrap();
    for element in ["style", "script"] {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        let inside = html.split_once(&open).unwrap().1.split_once(&close).unwrap().0;
        let hash = BASE64_STANDARD.encode(Sha256::digest(inside));
        assert!(policy.contains(&format!("{element}-src 'sha256-{hash}'")), "{policy}");
        assert_eq!(html.matches(&open).count(), 1);
    }
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    assert!(!html.contains("style=\"") && !html.contains("http://"), "{html}");
}

#[tokio::test]
async fn what_waited_or_was_refused_is_listed_and_a_warm_request_is_not() {
    let (rig, mut fake, _session) = Rig::in_session().await;
    let mut first = rig.get("counter.demo.actors.test").await;
    let wake = fake.wake().await;
    wake.reply(super::reply(super::binding(&super::counter(), 1, 0)));
    first.endpoint().await;
    for _ in 0..5 {
        rig.get("counter.demo.actors.test").await.endpoint().await;
    }
    rig.get("nonsense.example").await.reason().await;
    rig.get("nonsense.example").await.reason().await;
    let requests = json(&rig).await["requests"].clone();
    let told = |n: usize, field: &str| requests[n][field].clone();
    assert_eq!(requests.as_array().unwrap().len(), 2, "{requests}");
    assert_eq!((told(0, "reason"), told(0, "times")), ("invalid_host".into(), 2.into()));
    assert_eq!((told(0, "actor"), told(0, "end")), (Value::Null, "refused".into()));
    assert_eq!((told(1, "actor"), told(1, "end")), ("demo/counter".into(), "woken".into()));
    let phases = requests[1]["phases"].as_object().unwrap();
    let sum: u64 = phases.values().map(|us| us.as_u64().unwrap()).sum();
    assert_eq!(told(1, "held_us"), sum, "{requests}");
}

#[tokio::test]
async fn the_control_plane_is_asked_once_however_many_look_and_what_it_said_stays_when_it_is_gone()
{
    let (rig, fake, session) = Rig::in_session().await;
    fake.fleet.lock().unwrap().reply = fleet();
    assert_eq!(fake.fleet.lock().unwrap().asked, 0, "nobody looked");
    let looks = (0..20).map(|_| json(&rig));
    for seen in futures::future::join_all(looks).await {
        assert_eq!(seen["fleet"]["active"][0]["in_flight"], 7);
        assert_eq!(seen["fleet"]["unanswered"], Value::Null);
    }
    assert!(fake.fleet.lock().unwrap().asked <= 2, "{}", fake.fleet.lock().unwrap().asked);
    drop(session);
    fake.kill().await;
    let stale = super::soon("stale", async {
        loop {
            let seen = json(&rig).await;
            if seen["fleet"]["unanswered"].is_string() {
                return Some(seen);
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(stale["fleet"]["active"][0]["in_flight"], 7, "{stale}");
    assert!(stale["fleet"]["age_ms"].as_u64() > Some(0), "{stale}");
    let (_, html) = rig.page("/statusz", "text/html").await;
    assert!(html.contains("ago is shown") && html.contains("demo/busy"), "{html}");
}
