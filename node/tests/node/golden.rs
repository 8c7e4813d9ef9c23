//! Actors that start as clones of their template, booted once.

use std::{collections::BTreeSet, fs, time::Duration};

use rstest::rstest;
use serde_json::json;

use crate::{
    identity::{SCRIPT, ask},
    support::{CRIU, GVISOR, Place, Wake, eventually},
};

/// As the other script, but the template's own boot does not come up.
const ENDS_AS_NOBODY: &str = r#"
import sys
print('booted', flush=True)
if open('/run/reveille/actor').read().strip() == 'golden':
    sys.exit(1)
"#;

impl Place {
    fn golden(&self, actor: &'static str, worker: u32, script: &str) -> Wake {
        let wake = Wake { actor, worker, ..self.wake(1) };
        wake.with("command", json!(["/usr/bin/python3", "-c", script]))
            .with("readiness", json!({ "timeout": "15s" }))
            .with("golden", json!(true))
    }

    /// The golden snapshots there are, with what is half-made.
    fn goldens(&self) -> BTreeSet<String> {
        let dir = self.path("node/golden/demo/template");
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().display().to_string()).collect()
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actors_of_a_golden_template_are_clones_of_one_boot_and_each_is_itself(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(mut place) = Place::of(runtime) else { return };
    if !place.python() {
        return;
    }
    let node = place.start(3).await;
    // Both at once: one makes it, the other waits for it.
    let wakes = [place.golden("ann", 0, SCRIPT), place.golden("benedict", 1, SCRIPT)];
    let (a, b) = tokio::join!(node.activate(&wakes[0]), node.activate(&wakes[1]));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert!(a.cloned && b.cloned, "{a:?} {b:?}");
    let (ann, benedict) = (ask(&a.endpoint).await, ask(&b.endpoint).await);
    for (told, name) in [(&ann, "ann"), (&benedict, "benedict")] {
        let identity = json!({ "namespace": "demo", "actor": name, "epoch": "1" });
        assert_eq!((&told.read, &told.held), (&identity, &identity));
        assert_eq!(told.host, name);
    }
    assert_eq!((&ann.boot, ann.own), (&benedict.boot, benedict.own));
    assert_ne!(ann.kernel, benedict.kernel);
    // What one does is not the other's, and a clone is an actor as any other.
    let own = ask(&a.endpoint).await.own;
    assert_ne!(own, ann.own);
    assert_eq!(ask(&b.endpoint).await.own, own, "they go on alike");

    // Another template under the same name is booted anew, and the old one's is of no use.
    let before = place.goldens();
    assert_eq!(before.len(), 1);
    let other = place.golden("carl", 2, SCRIPT).with("env", json!([{ "name": "A", "value": "b" }]));
    let carl = node.activate(&other).await.unwrap();
    assert!(carl.cloned);
    assert_ne!(ask(&carl.endpoint).await.boot, ann.boot);
    let after = place.goldens();
    assert!(after.len() == 1 && after != before, "{after:?}");
    assert!(node.inventory().await.snapshots.is_empty(), "it is nobody's");
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actors_start_cold_and_say_so_when_their_golden_snapshot_cannot_be_made(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(mut place) = Place::of(runtime) else { return };
    if !place.python() {
        return;
    }
    let node = place.start(2).await;
    let script = format!("{ENDS_AS_NOBODY}{SCRIPT}");
    let ann = node.activate(&place.golden("ann", 0, &script)).await.unwrap();
    assert!(!ann.cloned);
    assert!(ann.not_cloned.contains("the golden snapshot was not made"), "{}", ann.not_cloned);
    assert_eq!(ask(&ann.endpoint).await.host, "ann");
    let benedict = node.activate(&place.golden("benedict", 1, &script)).await.unwrap();
    assert_eq!(benedict.not_cloned, ann.not_cloned);
    let log = fs::read_to_string(place.path("node/logs/demo/benedict.log")).unwrap();
    assert_eq!(log.matches("booted").count(), 1, "it is not tried again: {log}");
    assert!(place.goldens().is_empty());
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_dies_while_it_makes_a_golden_snapshot_leaves_nothing_of_it(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(mut place) = Place::of(runtime) else { return };
    if !place.python() {
        return;
    }
    let mut node = place.start(1).await;
    let nothing = place.traces();
    let wake = place.golden("ann", 0, SCRIPT);
    for delay in [50, 150, 250, 350, 450, 600] {
        let cut = tokio::time::timeout(Duration::from_millis(delay), node.activate(&wake)).await;
        node.crash().await;
        node = place.start(1).await;
        if cut.is_ok() || !place.goldens().is_empty() {
            break;
        }
        place.eventually_traces(&nothing).await;
    }
    node.crash().await;
    // Unlike this one a process that is killed leaves what it was writing.
    fs::create_dir_all(place.path("node/golden/demo/template/.tmp-7")).unwrap();
    let node = place.start(1).await;
    let half = place.goldens().into_iter().filter(|name| name.starts_with('.')).count();
    assert_eq!(half, 0);
    let again = Wake { epoch: 2, ..wake };
    let ann = node.activate(&again).await.unwrap();
    assert!(ann.cloned, "{ann:?}");
    assert_eq!(ask(&ann.endpoint).await.read["actor"], "ann");
    node.destroy().await;
    eventually("nothing is left", async || {
        if place.traces().is_empty() { Ok(()) } else { Err(format!("{:?}", place.traces())) }
    })
    .await;
}
