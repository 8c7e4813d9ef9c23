//! The agent dies, and another one takes over.

use std::{collections::BTreeSet, fs, time::Duration};

use reveille_node::Config;
use rstest::rstest;

use crate::support::{CRIU, GVISOR, Node, Place, Wake, ask, count, eventually, get, is_ended};

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actors_answer_without_an_agent_and_the_next_one_adopts_them(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(2).await;
    let wake = node.activate(&place.wake(1)).await.unwrap();
    let first = count(&wake.endpoint).await;
    node.crash().await;
    assert_eq!(count(&wake.endpoint).await.count, 2);

    let node = place.start(2).await;
    assert_eq!(node.running, ["demo/counter"]);
    assert_eq!(count(&wake.endpoint).await.count, 3);
    let inventory = node.inventory().await;
    let activation = &inventory.activations[0];
    assert_eq!(
        (activation.endpoint.as_str(), activation.epoch, activation.serving),
        (&*wake.endpoint, 1, true)
    );
    assert_eq!(node.activate(&place.wake(1)).await.unwrap().endpoint, wake.endpoint);

    // It is as good as one's own: it can be suspended, and its worker used again.
    node.suspend(1, "s1").await.unwrap();
    assert!(get(&wake.endpoint, "/").await.is_err());
    let wake = node.activate(&place.wake(2).from("s1")).await.unwrap();
    let again = count(&wake.endpoint).await;
    assert_eq!((again.count, again.nonce), (4, first.nonce));
    node.stop().await;

    let node = place.start(2).await;
    assert_eq!(count(&wake.endpoint).await.count, 5);
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_in_the_middle_of_a_suspend_leaves_the_old_state_or_the_new(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let mut node = place.start(1).await;
    node.activate(&place.wake(1)).await.unwrap();
    let mut outcomes = BTreeSet::new();
    for (round, delay) in [5, 30, 60, 90, 120].into_iter().enumerate() {
        let epoch = node.inventory().await.activations[0].epoch;
        let endpoint = node.inventory().await.activations[0].endpoint.clone();
        let before = count(&endpoint).await;
        let snapshot = format!("s{round}");
        let suspend =
            tokio::time::timeout(Duration::from_millis(delay), node.suspend(epoch, &snapshot));
        let _ = suspend.await;
        node.crash().await;

        node = place.start(1).await;
        let inventory = node.inventory().await;
        let endpoint = match inventory.activations.first() {
            Some(activation) => {
                outcomes.insert("old");
                assert!(activation.serving);
                assert!(!inventory.snapshots.iter().any(|s| s.id == snapshot));
                activation.endpoint.clone()
            }
            None => {
                outcomes.insert("new");
                assert!(inventory.snapshots.iter().any(|s| s.id == snapshot), "{delay} ms: lost");
                let wake = place.wake(epoch + 1).from(snapshot.leak());
                node.activate(&wake).await.unwrap().endpoint
            }
        };
        let after = count(&endpoint).await;
        assert_eq!((after.count, after.nonce), (before.count + 1, before.nonce), "{delay} ms");
    }
    assert!(outcomes.contains("old"), "{outcomes:?}");
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_half_made_is_removed_and_a_dead_sandbox_is_not_adopted(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(2).await;
    let fresh = place.traces();
    // Cut off in the middle of a start, as soon as anything of it is there.
    let wake = place.wake(1);
    let is_empty = |dir| fs::read_dir(place.path(dir)).map_or(true, |mut dir| dir.next().is_none());
    let begun = async {
        while ["node/bundles", "node/criu"].into_iter().all(is_empty) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        started = node.activate(&wake) => panic!("it was not seen being made: {started:?}"),
        () = begun => {}
    }
    node.crash().await;
    let node = place.start(2).await;
    assert!(node.running.is_empty());
    place.eventually_traces(&fresh).await;

    // That epoch may be tried again. This time the sandbox dies together with the agent.
    let wake = node.activate(&place.wake(1)).await.unwrap();
    let waiting = ask(&wake.endpoint, "/slow?ms=60000").await;
    count(&wake.endpoint).await;
    node.crash().await;
    let record = fs::read_to_string(place.path("node/records/demo/counter.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let pid = record["activation"]["process"]["pid"].to_string();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    let node = place.start(2).await;
    assert!(node.running.is_empty());
    is_ended(&place, waiting).await;
    place.eventually_traces(&fresh).await;
    assert!(node.activate(&place.wake(1)).await.is_err(), "that epoch has served");
    count(&node.activate(&place.wake(2)).await.unwrap().endpoint).await;
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_in_the_middle_of_a_restore_leaves_nothing_but_the_snapshot(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let mut node = place.start(1).await;
    let fresh = place.traces();
    let first = count(&node.activate(&place.wake(1)).await.unwrap().endpoint).await;
    node.suspend(1, "s1").await.unwrap();
    let wake = place.wake(2).from("s1");
    let mut cut = 0;
    for delay in [10, 20, 30, 40] {
        // It waits for the worker, too.
        place.eventually_traces(&fresh).await;
        let restore = tokio::time::timeout(Duration::from_millis(delay), node.activate(&wake));
        if restore.await.is_ok() {
            break;
        }
        cut += 1;
        node.crash().await;
        node = place.start(1).await;
        assert!(node.running.is_empty());
    }
    assert!(cut > 0, "the restore was too quick for this test");
    let again = count(&node.activate(&wake).await.unwrap().endpoint).await;
    assert_eq!((again.count, again.nonce), (2, first.nonce));
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_do_not_share_a_data_directory(#[values(GVISOR, CRIU)] runtime: &'static str) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    let mut config = place.config(1);
    config.listen = crate::support::address(&place, "run/second.sock");
    let Err(error) = config.build().await else { panic!("two agents") };
    assert!(error.to_string().contains("in use by another node agent"), "{error}");
    node.destroy().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_keeps_its_worker_when_the_next_agent_has_fewer_or_another_range() {
    let Some(place) = Place::new() else { return };
    let node = place.start(2).await;
    let wake = Wake { worker: 1, ..place.wake(1) };
    let wake = node.activate(&wake).await.unwrap();
    count(&wake.endpoint).await;
    node.crash().await;

    let config = || Config { worker_cidr: "10.95.0.0/24".parse().unwrap(), ..place.config(1) };
    let node = Node::start(config()).await;
    assert_eq!(node.running, ["demo/counter"]);
    assert_eq!(count(&wake.endpoint).await.count, 2);
    // It is not a worker for anybody else, and goes with its actor.
    node.suspend(1, "s1").await.unwrap();
    let beyond = Wake { worker: 1, ..place.wake(2).from("s1") };
    assert!(node.activate(&beyond).await.is_err());
    eventually("the worker is gone", async || {
        let links: Vec<_> = place.traces().into_iter().filter(|t| t.starts_with("link")).collect();
        if links.len() == 1 { Ok(()) } else { Err(format!("{links:?}")) }
    })
    .await;
    let wake = node.activate(&place.wake(2).from("s1")).await.unwrap();
    assert!(wake.endpoint.starts_with("10.95.0."), "{}", wake.endpoint);
    assert_eq!(count(&wake.endpoint).await.count, 3);
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}
