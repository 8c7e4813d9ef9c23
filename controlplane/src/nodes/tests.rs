//! Who may have a node's name.

use std::time::Duration;

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
