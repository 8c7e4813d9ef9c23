//! Who may have a node's name.

use std::{path::Path, time::Duration};

use super::*;
use crate::testing::FakeNode;

const S: Duration = Duration::from_secs(1);

fn nodes() -> Nodes {
    let node = FakeNode::new();
    let dial: Dial = Arc::new(move |_, _, stay| Ok(Arc::new(node.of(stay)) as Arc<dyn Agent>));
    Nodes::new(dial, Clock::default(), Timings::default())
}

fn register(home: &str) -> proto::Register {
    let (node, address) = ("n1".into(), format!("http://{home}:8083"));
    proto::Register { node, address, home: home.into(), ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn a_name_is_kept_for_the_data_directory_that_has_it_until_the_node_is_lost() {
    let nodes = nodes();
    let first = nodes.join(register("a")).unwrap();
    assert!(nodes.ready(&first));
    let refused = nodes.join(register("b")).err().unwrap().to_string();
    assert!(refused.contains("n1 is in use") && refused.contains("http://a:8083"), "{refused}");
    assert!(nodes.heartbeat(&first, proto::Heartbeat::default()), "it is not disturbed");

    // Away it may come back with its actors; given up it may not.
    nodes.leave(&first);
    nodes.join(register("b")).err().unwrap();
    let lost = nodes.watch_for_lost(|_| {});
    tokio::time::timeout(Timings::default().node_grace + S, lost).await.unwrap_err();
    nodes.join(register("b")).unwrap();
    nodes.join(register("a")).err().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_restarted_has_its_name_at_once_and_the_session_before_is_over() {
    let nodes = nodes();
    let first = nodes.join(register("a")).unwrap();
    let again = nodes.join(register("a")).unwrap();
    assert!(!nodes.heartbeat(&first, proto::Heartbeat::default()));
    assert!(nodes.heartbeat(&again, proto::Heartbeat::default()));
    assert!(!nodes.leave(&first));
    assert!(nodes.leave(&again));
}

#[tokio::test(start_paused = true)]
async fn what_one_node_may_run_is_not_forbidden_because_another_may_not() {
    let nodes = nodes();
    let srv = Path::new("/srv/app");
    assert!(!nodes.forbid(srv) && !nodes.lack(Runtime::Criu), "nothing is known yet");
    let join = |node: &str, folder: &str, runtime: Runtime| {
        let found = proto::Runtime { name: runtime.name().into(), ..Default::default() };
        let (rootfs_folders, runtimes) = (vec![folder.into()], vec![found]);
        let instance = node.into();
        let register = register(node);
        nodes.join(proto::Register {
            node: node.into(),
            instance,
            rootfs_folders,
            runtimes,
            ..register
        })
    };
    join("n1", "/opt", Runtime::Gvisor).unwrap();
    assert!(nodes.forbid(srv) && nodes.lack(Runtime::Criu));
    join("n2", "/srv", Runtime::Criu).unwrap();
    assert!(!nodes.forbid(srv) && !nodes.lack(Runtime::Criu));
    assert!(nodes.forbid(Path::new("/srv-other/app")), "a folder, not a prefix");
}

#[tokio::test(start_paused = true)]
async fn actors_are_shut_in_when_no_node_names_their_network() {
    let nodes = nodes();
    let network = |text: &str| text.parse().unwrap();
    assert!(!nodes.shut_in(network("1.1.1.1/32")), "nothing is known yet");
    let join = |node: &str, egress: &[&str]| {
        let (instance, node) = (node.into(), node.into());
        let egress = egress.iter().map(ToString::to_string).collect();
        let register = register("home");
        nodes.join(proto::Register { node, instance, egress, ..register })
    };
    join("n1", &[]).unwrap();
    assert!(nodes.shut_in(network("1.1.1.1/32")));
    join("n2", &["0.0.0.0/0", "10.1.0.0/16"]).unwrap();
    assert!(!nodes.shut_in(network("1.1.1.1/32")) && !nodes.shut_in(network("10.1.2.0/24")));
    assert!(nodes.shut_in(network("10.2.0.0/24")), "a private one is not named with all");
}
