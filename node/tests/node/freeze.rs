//! Freeze and thaw.

use std::{collections::BTreeSet, io::ErrorKind};

use reveille_api::proto::{self, suspend_reply::Outcome};
use rstest::rstest;
use tonic::Code;

use crate::support::{CRIU, GVISOR, Place, ask, cgroups, count, get, is_ended};

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_actor_refuses_at_once_and_goes_on_where_it_stopped(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    let woken = node.activate(&place.wake(1)).await.unwrap();
    let before = count(&woken.endpoint).await;
    let waiting = ask(&woken.endpoint, "/slow?ms=60000").await;
    count(&woken.endpoint).await;

    node.freeze(1, 0).await.unwrap();
    node.freeze(1, 0).await.unwrap();
    for trace in place.traces() {
        if let ["group", name, ..] = trace.split(' ').collect::<Vec<_>>()[..] {
            let events = std::fs::read_to_string(cgroups().join(name).join("cgroup.events"));
            assert!(events.unwrap().contains("frozen 1"), "{name}");
        }
    }
    is_ended(&place, waiting).await;
    let here = &node.inventory().await.activations[0];
    assert!(here.frozen && !here.serving);
    let refused = get(&woken.endpoint, "/").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    assert!(node.resume_term(1, 0).await.unwrap());
    let after = count(&woken.endpoint).await;
    assert_eq!((after.nonce.clone(), after.count), (before.nonce.clone(), before.count + 2));
    // What comes late freezes nothing; a later one does.
    assert_eq!(node.freeze(1, 0).await.unwrap_err().code(), Code::Aborted);
    assert!(node.inventory().await.activations[0].serving);
    node.freeze(1, 1).await.unwrap();

    // Straight from there to a snapshot.
    let suspended = node.suspend(1, "s1").await.unwrap();
    assert!(matches!(suspended.outcome, Some(Outcome::Committed(_))));
    let again = node.activate(&place.wake(2).from("s1")).await.unwrap();
    assert_eq!(count(&again.endpoint).await.nonce, before.nonce);
    node.freeze(2, 0).await.unwrap();
    node.destroy_activation(2).await.unwrap();
    assert_eq!(node.freeze(2, 0).await.unwrap_err().code(), Code::NotFound);
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_agent_finds_a_frozen_actor_frozen_and_thaws_it(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let node = place.start(1).await;
    let woken = node.activate(&place.wake(1)).await.unwrap();
    let before = count(&woken.endpoint).await;
    node.freeze(1, 0).await.unwrap();
    node.crash().await;
    let node = place.start(1).await;
    let here: Vec<proto::Activation> = node.inventory().await.activations;
    assert!(here.len() == 1 && here[0].frozen && !here[0].serving, "{here:?}");
    get(&woken.endpoint, "/").await.unwrap_err();
    assert!(node.resume_term(1, 0).await.unwrap());
    assert_eq!(count(&woken.endpoint).await.nonce, before.nonce);
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}
