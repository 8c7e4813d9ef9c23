//! The ADS server, seen by a real client of it.

use envoy_types::pb::envoy::config::{
    cluster::v3::Cluster,
    core::v3::{Address, Pipe, address},
};
use reveille_envoy::{ads::Kind, bootstrap::Protocol};

use crate::harness::{Options, Stack, envoy_or_skip, eventually};

const CDS: &str = "cluster_manager.cds.update_success";
const LDS: &str = "listener_manager.lds.update_success";

async fn start(protocol: Protocol) -> Option<Stack> {
    let binary = crate::harness::envoy_binary()?;
    Some(Stack::start(binary, Options { protocol, ..Options::default() }).await)
}

/// Waits until both kinds are acknowledged; returns their versions.
async fn versions(stack: &Stack) -> [String; 2] {
    eventually("all is acknowledged", || async {
        let view = stack.fleet.view();
        let envoy = view.envoys.values().next().ok_or("nobody is connected")?;
        let version = |kind| {
            let acked = envoy.acked.get(&kind).ok_or(format!("no {kind} acknowledged"))?;
            Ok::<_, String>(acked.version.clone())
        };
        Ok([version(Kind::Cluster)?, version(Kind::Listener)?])
    })
    .await
}

async fn updates(stack: &Stack) -> (u64, u64) {
    (stack.stat(CDS).await, stack.stat(LDS).await)
}

fn rename_a_statistic(cluster: &mut Cluster) {
    cluster.alt_stat_name = "renamed".into();
}

async fn accepts_changes_and_a_restart_of_the_server_without_a_push(protocol: Protocol) {
    let Some(mut stack) = start(protocol).await else { return };
    let before = versions(&stack).await;
    let view = stack.fleet.view();
    let envoy = view.envoys.values().next().unwrap();
    assert_eq!((envoy.node_id.as_str(), envoy.build.as_str()), ("envoy-under-test", "1.40.0"));
    assert_eq!(updates(&stack).await, (1, 1));

    // The same resources again are no change.
    stack.change(|_| ());
    stack.restart_ads().await;
    let after = eventually("it is connected again", || async {
        let view = stack.fleet.view();
        let again = view.envoys.keys().any(|stream| *stream == 2);
        if again { Ok(()) } else { Err(format!("{:?}", view.envoys.keys())) }
    });
    after.await;
    let again = versions(&stack).await;
    let hash = |version: &str| version.split_once('-').unwrap().1.to_owned();
    assert_eq!(again.each_ref().map(|v| hash(v)), before.each_ref().map(|v| hash(v)));
    assert_eq!(updates(&stack).await, (1, 1), "nothing was pushed");

    // One cluster changes: nothing is said of listeners.
    stack.change(|resources| rename_a_statistic(&mut resources.clusters[0]));
    eventually("the change is acknowledged", || async {
        let now = versions(&stack).await;
        if now[0] == again[0] { Err(format!("{now:?}")) } else { Ok(()) }
    })
    .await;
    assert_eq!(updates(&stack).await, (2, 1));
    assert!(stack.fleet.view().nacks.is_empty());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_delta_only_changes_are_pushed_also_by_a_server_that_restarted() {
    accepts_changes_and_a_restart_of_the_server_without_a_push(Protocol::Delta).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_state_of_the_world_only_changes_are_pushed_also_by_a_server_that_restarted() {
    accepts_changes_and_a_restart_of_the_server_without_a_push(Protocol::StateOfTheWorld).await;
}

async fn refusals_are_kept_and_the_last_good_configuration_serves(protocol: Protocol) {
    let Some(stack) = start(protocol).await else { return };
    let good = versions(&stack).await;
    stack.change(|resources| resources.listeners[0].filter_chains.clear());
    let nack = eventually("it is refused", || async {
        stack.fleet.view().nacks.back().cloned().ok_or("no refusal".into())
    })
    .await;
    assert_eq!((nack.kind, nack.node_id.as_str()), (Kind::Listener, "envoy-under-test"));
    assert!(nack.message.contains("http"), "{}", nack.message);
    assert_ne!(nack.version, good[1]);
    assert_eq!(versions(&stack).await, good);
    // It still serves, and takes the next good one.
    assert_eq!(stack.get("nobody.demo.test", "/").await.status, 404);
    let front = stack.front;
    stack.change(|resources| {
        let config = reveille_envoy::resources::Config::new(vec![front]);
        *resources = reveille_envoy::resources::build(&config).unwrap();
    });
    eventually("the next is acknowledged", || async {
        let now = versions(&stack).await;
        if now[1] == good[1] { Err(format!("{now:?}")) } else { Ok(()) }
    })
    .await;
    assert_eq!(stack.fleet.view().nacks.len(), 1);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_delta_a_refusal_is_kept_and_what_was_good_goes_on_serving() {
    refusals_are_kept_and_the_last_good_configuration_serves(Protocol::Delta).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_state_of_the_world_a_refusal_is_kept_and_what_was_good_goes_on_serving() {
    refusals_are_kept_and_the_last_good_configuration_serves(Protocol::StateOfTheWorld).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_goes_is_taken_away_from_envoy() {
    let binary = envoy_or_skip!();
    let stack = Stack::start(binary, Options::default()).await;
    versions(&stack).await;
    let active = || stack.stat("listener_manager.total_listeners_active");
    let before = active().await;
    stack.change(|resources| {
        let mut second = resources.listeners[0].clone();
        second.name = "second".into();
        let path = stack.dir.path().join("second.sock").to_string_lossy().into_owned();
        let pipe = address::Address::Pipe(Pipe { path, mode: 0 });
        second.address = Some(Address { address: Some(pipe) });
        resources.listeners.push(second);
    });
    let listeners = |wanted: u64| {
        eventually("the number of listeners", move || async move {
            let now = active().await;
            if now == wanted { Ok(()) } else { Err(now.to_string()) }
        })
    };
    listeners(before + 1).await;
    stack.change(|resources| drop(resources.listeners.pop()));
    listeners(before).await;
    assert!(stack.fleet.view().nacks.is_empty(), "{:?}", stack.fleet.view().nacks);
    stack.stop().await;
}
