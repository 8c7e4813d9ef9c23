use std::sync::Arc;

use futures::poll;
use reveille_api::task;

use super::*;
use crate::store::memory::MemoryStore;

#[tokio::test]
async fn a_deleted_actor_is_forgotten_also_when_the_queue_is_full() {
    let records = Records::new(Arc::new(MemoryStore::default()));
    let (events, log) = Events::open(records.clone()).unwrap();
    let (gone, other) = (crate::testing::key("gone"), crate::testing::key("other"));
    events.created(&gone, Epoch(0), "t");
    for _ in 0..QUEUE {
        events.created(&other, Epoch(0), "t");
    }
    let mut forget = Box::pin(events.forget(&gone));
    assert!(poll!(&mut forget).is_pending());
    let mut tasks = tokio::task::JoinSet::new();
    task::spawn(&mut tasks, "log", log.run());
    forget.await;
    drop(events);
    tasks.join_next().await.unwrap().unwrap();
    assert_eq!(records.events(Some(&gone)).unwrap(), []);
    assert!(!records.events(Some(&other)).unwrap().is_empty());
}
