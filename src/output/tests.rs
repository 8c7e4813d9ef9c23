use std::time::Duration;

use reveille_api::proto::{self, ActorState, WakeKind};

use super::{
    view::{ActorView, SnapshotView, TemplateView, WorkerView},
    *,
};

fn key() -> Option<proto::ActorKey> {
    Some(proto::ActorKey { namespace: "demo".into(), name: "counter".into() })
}

fn running() -> ActorView {
    let phases = proto::WakePhases { restore_us: 41_000, total_us: 45_000, ..Default::default() };
    proto::Actor {
        actor: key(),
        template: "counter".into(),
        state: ActorState::Running.into(),
        epoch: 7,
        worker: "local-0".into(),
        node: "local".into(),
        endpoint: "10.213.0.2:20001".into(),
        last_active_unix_ms: 1_700_000_000_000,
        last_wake: Some(proto::LastWake {
            unix_ms: 1_700_000_000_000,
            kind: WakeKind::Restored.into(),
            phases: Some(phases),
            asked: Some(proto::Asked {
                router: "local".into(),
                request_id: "r-1".into(),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
    .into()
}

#[test]
fn an_actor_in_json_has_the_fields_of_the_design() {
    let text = json(&running()).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    for field in [
        "namespace",
        "name",
        "template",
        "state",
        "epoch",
        "worker",
        "node",
        "endpoint",
        "snapshot",
        "lastActive",
    ] {
        assert!(value.get(field).is_some(), "{field} is missing: {text}");
    }
    assert_eq!(value["state"], "Running");
    assert_eq!(value["epoch"], 7);
    assert_eq!(value["snapshot"], serde_json::Value::Null);
    assert_eq!(value["lastActive"], "2023-11-14T22:13:20Z");
    assert_eq!(value["lastWake"]["kind"], "Restored");
    assert_eq!(value["lastWake"]["restoreUs"], 41_000);
}

#[test]
fn a_list_in_json_is_items_and_yaml_says_the_same() {
    let list = List { items: &[running()] };
    let value: serde_json::Value = serde_json::from_str(&json(&list).unwrap()).unwrap();
    assert_eq!(value["items"][0]["name"], "counter");
    let text = yaml(&list).unwrap();
    let back: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(back["items"][0]["endpoint"], "10.213.0.2:20001", "{text}");
    let none: List<'_, ActorView> = List { items: &[] };
    assert_eq!(serde_json::to_string(&none).unwrap(), r#"{"items":[]}"#);
}

#[test]
fn a_table_has_no_borders_and_shows_the_namespace_only_when_there_can_be_several() {
    let plain = table(&[running()], ActorView::PLAIN, false);
    let lines: Vec<_> = plain.lines().collect();
    assert!(lines[0].starts_with("NAME      TEMPLATE   STATE     EPOCH   WORKER"), "{plain}");
    assert!(lines[1].starts_with("counter   counter    Running   7       local-0"), "{plain}");
    assert!(!plain.contains("ENDPOINT"));
    let all = table(&[running()], ActorView::COLUMNS.len(), true);
    assert!(all.starts_with("NAMESPACE   NAME") && all.contains("10.213.0.2:20001"), "{all}");
}

#[test]
fn every_kind_has_a_cell_for_each_column() {
    fn check<T: View>(view: T) {
        assert_eq!(view.cells().len(), T::COLUMNS.len(), "{}", T::KIND);
        assert!(T::PLAIN <= T::COLUMNS.len(), "{}", T::KIND);
    }
    check(running());
    check(SnapshotView::from(proto::SnapshotView::default()));
    check(WorkerView::from(proto::Worker::default()));
    check(TemplateView::from(proto::Template {
        spec: r#"{"port":8080}"#.into(),
        ..<_>::default()
    }));
    check(view::PoolView::from(proto::Pool::default()));
    check(view::NodeView::from(proto::Node::default()));
    check(view::RouterView::from(proto::RouterView::default()));
    check(view::EventView::from(proto::Event::default()));
}

#[test]
fn ages_and_sizes_are_short() {
    let cases =
        [(0, "0s"), (59, "59s"), (192, "3m12s"), (3600, "1h"), (7260, "2h1m"), (200_000, "2d7h")];
    for (seconds, expected) in cases {
        assert_eq!(age::short(Duration::from_secs(seconds)), expected);
    }
    assert_eq!(age::bytes(10 << 20), "10MiB");
    assert_eq!(age::bytes(1536), "1.5KiB");
    assert_eq!(age::micros(950), "950µs");
    assert_eq!(age::micros(4_200), "4.2ms");
    assert_eq!(age::micros(2_340_000), "2.34s");
    assert_eq!(age::at(0), None);
}

#[test]
fn a_line_break_in_a_cell_does_not_break_the_table() {
    let mut table = Table::new(&["A", "B"]);
    table.row(["one\ntwo".into(), String::new()]);
    assert_eq!(table.to_string(), "A         B\none two   -\n");
}

#[test]
fn an_explanation_is_told_in_sections_and_has_the_same_in_json() {
    let actor =
        proto::Actor { actor: key(), state: ActorState::Running.into(), ..Default::default() };
    let wake = proto::LastWake {
        unix_ms: 1_700_000_000_000,
        kind: WakeKind::Restored.into(),
        phases: Some(proto::WakePhases { restore_us: 40_000, ready_us: 1, ..Default::default() }),
        asked: Some(proto::Asked {
            router: "r1".into(),
            request_id: "id-1".into(),
            ..Default::default()
        }),
    };
    let explanation = proto::Explanation {
        actor: Some(proto::Actor { last_wake: Some(wake), ..actor }),
        why: vec!["it serves\x1b[31m ".to_owned() + &"and so on ".repeat(20)],
        sleep: Some(proto::Sleep {
            blocker: proto::sleep::Blocker::InFlight.into(),
            message: "2 requests are in flight".into(),
            in_flight: 2,
            routers: vec![proto::RouterUse {
                router: "r1".into(),
                in_flight: 2,
                ..Default::default()
            }],
            ..Default::default()
        }),
        outlook: Some(proto::Outlook {
            fate: proto::outlook::Fate::Served.into(),
            message: "it goes to 10.0.0.1:1 at once".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let view = view::ExplanationView::from(explanation);
    let page = view.page();
    for line in [
        "demo/counter: Running, epoch 0\n",
        "\nWhy\n  it serves[31m and so on",
        "\nA request now\n  it goes to 10.0.0.1:1 at once\n",
        "\nSleep\n  2 requests are in flight\n  router r1: 2 in flight, has no session\n",
        "\nLast wake: Restored in 0µs",
        "  restore      40ms  ########################\n",
        "  ready         1µs  #\n",
        "  fetch         0µs\n",
        "  asked for by a request at router r1, request id id-1\n",
    ] {
        assert!(page.contains(line), "{line:?} is not in\n{page}");
    }
    assert!(page.lines().all(|line| line.chars().count() <= 100), "{page}");
    assert!(!page.contains('\x1b'), "{page:?}");
    let value: serde_json::Value = serde_json::from_str(&json(&view).unwrap()).unwrap();
    assert_eq!(value["sleep"]["blockedBy"], "InFlight");
    assert_eq!(value["requestNow"]["fate"], "Served");
    assert_eq!(value["actor"]["lastWake"]["asked"]["requestId"], "id-1");
}
