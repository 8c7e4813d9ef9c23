//! What every store must do. A new one calls [`run`] with a way to make an empty store.

use std::sync::Arc;

use futures::future::join_all;

use super::{
    Batch,
    Collection::{Active, Actors, Pools},
    Error, Expect, Store,
};

/// Runs the whole suite; each part gets an empty store.
pub(super) async fn run(empty: impl Fn() -> Arc<dyn Store>) {
    versions_grow_by_one_and_epochs_are_kept(empty()).await;
    a_write_that_finds_something_else_is_refused(empty()).await;
    a_batch_is_written_as_a_whole_or_not_at_all(empty()).await;
    a_batch_sees_its_own_writes(empty()).await;
    lists_are_ordered_and_keep_to_their_prefix(empty()).await;
    of_many_writers_exactly_one_wins_each_turn(empty()).await;
    commits_take_effect_in_the_order_of_the_calls(empty()).await;
}

fn at(version: u64, epoch: u64) -> Expect {
    Expect::At { version, epoch }
}

fn put(key: &str, expect: Expect, epoch: u64, value: &str) -> Batch {
    Batch::default().put(Actors, key, expect, epoch, value.into())
}

fn seen(store: &dyn Store, key: &str) -> Option<(u64, u64, String)> {
    let found = store.get(Actors, key).unwrap();
    found.map(|r| (r.version, r.epoch, String::from_utf8(r.value).unwrap()))
}

async fn versions_grow_by_one_and_epochs_are_kept(store: Arc<dyn Store>) {
    assert_eq!(seen(&*store, "a/x"), None);
    store.commit(put("a/x", Expect::Absent, 7, "one")).await.unwrap();
    assert_eq!(seen(&*store, "a/x"), Some((1, 7, "one".into())));
    store.commit(put("a/x", at(1, 7), 8, "two")).await.unwrap();
    assert_eq!(seen(&*store, "a/x"), Some((2, 8, "two".into())));
    store.commit(put("a/x", Expect::Anything, 8, "three")).await.unwrap();
    assert_eq!(seen(&*store, "a/x"), Some((3, 8, "three".into())));
    let gone = Batch::default().delete(Actors, "a/x", at(3, 8));
    store.commit(gone.clone()).await.unwrap();
    assert_eq!(seen(&*store, "a/x"), None);
    assert!(store.commit(gone).await.is_err(), "it can be deleted only once");
}

async fn a_write_that_finds_something_else_is_refused(store: Arc<dyn Store>) {
    store.commit(put("a/x", Expect::Absent, 1, "one")).await.unwrap();
    for wrong in [Expect::Absent, at(2, 1), at(1, 2), at(0, 0)] {
        match store.commit(put("a/x", wrong, 9, "never")).await {
            Err(Error::Conflict { found, expect, key, .. }) => {
                assert_eq!((found, expect, key.as_str()), (Some((1, 1)), wrong, "a/x"));
            }
            other => panic!("{wrong:?}: {other:?}"),
        }
    }
    let nothing = store.commit(put("a/y", at(1, 1), 1, "never")).await;
    assert!(matches!(nothing, Err(Error::Conflict { found: None, .. })), "{nothing:?}");
    assert_eq!(seen(&*store, "a/x"), Some((1, 1, "one".into())));
}

async fn a_batch_is_written_as_a_whole_or_not_at_all(store: Arc<dyn Store>) {
    let batch =
        |expect| {
            put("a/x", Expect::Absent, 1, "x")
                .put(Active, "a/x", Expect::Anything, 1, Vec::new())
                .put(Actors, "a/y", expect, 1, "y".into())
        };
    assert!(store.commit(batch(at(1, 1))).await.is_err());
    assert_eq!(seen(&*store, "a/x"), None);
    assert_eq!(store.get(Active, "a/x").unwrap(), None);
    store.commit(batch(Expect::Absent)).await.unwrap();
    assert!(seen(&*store, "a/x").is_some() && seen(&*store, "a/y").is_some());
    assert!(store.get(Active, "a/x").unwrap().is_some());
}

async fn a_batch_sees_its_own_writes(store: Arc<dyn Store>) {
    let batch = put("a/x", Expect::Absent, 1, "one").put(Actors, "a/x", at(1, 1), 2, "two".into());
    store.commit(batch).await.unwrap();
    assert_eq!(seen(&*store, "a/x"), Some((2, 2, "two".into())));
    let again = Batch::default().delete(Actors, "a/x", at(2, 2)).put(
        Actors,
        "a/x",
        Expect::Absent,
        3,
        "three".into(),
    );
    store.commit(again).await.unwrap();
    assert_eq!(seen(&*store, "a/x"), Some((1, 3, "three".into())));
}

async fn lists_are_ordered_and_keep_to_their_prefix(store: Arc<dyn Store>) {
    for key in ["b/1", "a/2", "a-b/1", "a/10", "a/1", "a"] {
        store.commit(put(key, Expect::Absent, 0, key)).await.unwrap();
    }
    store.commit(Batch::default().put(Pools, "a/3", Expect::Absent, 0, vec![])).await.unwrap();
    let keys = |prefix: &str| -> Vec<String> {
        store.list(Actors, prefix).unwrap().into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys("a/"), ["a/1", "a/10", "a/2"]);
    assert_eq!(keys(""), ["a", "a-b/1", "a/1", "a/10", "a/2", "b/1"]);
    assert_eq!(keys("c/"), [""; 0]);
}

async fn of_many_writers_exactly_one_wins_each_turn(store: Arc<dyn Store>) {
    store.commit(put("a/x", Expect::Absent, 0, "")).await.unwrap();
    for turn in 1..=20 {
        let writers = (0..8).map(|n| store.commit(put("a/x", at(turn, 0), 0, &n.to_string())));
        let won = join_all(writers).await.into_iter().filter(Result::is_ok).count();
        assert_eq!(won, 1, "in turn {turn}");
    }
    assert_eq!(seen(&*store, "a/x").unwrap().0, 21);
}

async fn commits_take_effect_in_the_order_of_the_calls(store: Arc<dyn Store>) {
    // All are called before any is awaited, and awaited backwards.
    let mut calls: Vec<_> = (0..50)
        .map(|n| {
            let expect = if n == 0 { Expect::Absent } else { at(n, n - 1) };
            store.commit(put("a/x", expect, n, &n.to_string()))
        })
        .collect();
    calls.reverse();
    assert!(join_all(calls).await.into_iter().all(|r| r.is_ok()));
    assert_eq!(seen(&*store, "a/x"), Some((50, 49, "49".into())));
}
