//! [`Turns`]: how many sandboxes are made, or saved, at a time.
//!
//! Each takes a processor, or more, for as long as it is made. When many actors are woken at once, more than a few at a time
//! make none of them ready sooner: they take memory and processors from one another and from those who serve, and the
//! last of them run out of their time together. So the others wait, in the order they came. One that is made has its turn
//! until its program ends, but does not hold the others up when that takes long. It is the same with those that are saved: a frozen
//! one stays so until it is its turn.

use std::{num::NonZero, time::Duration};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

/// For each processor: a program that makes a sandbox waits now and then.
const EACH: usize = 2;
/// After that the next one begins all the same.
const LONG: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(crate) struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self(Semaphore::new(EACH * processors))
    }
}

impl Turns {
    /// The next one.
    pub(crate) async fn next(&self) -> Turn<'_> {
        // It is never closed.
        Turn(self.0.acquire().await.ok())
    }
}

/// It ends with this, or before.
#[derive(Debug)]
pub(crate) struct Turn<'a>(Option<SemaphorePermit<'a>>);

impl Turn<'_> {
    /// Makes a sandbox, or saves it.
    pub(crate) async fn of<T>(mut self, making: impl Future<Output = T>) -> T {
        let mut making = std::pin::pin!(making);
        if let Ok(made) = timeout(LONG, &mut making).await {
            return made;
        }
        self.0 = None;
        making.await
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_comes_when_all_turns_are_taken_waits_for_one_to_end_and_not_for_one_that_is_long()
    {
        let turns = Turns(Semaphore::new(2));
        let (quick, slow) = (turns.next().await, turns.next().await);
        assert!(turns.next().now_or_never().is_none());
        quick.of(ready(())).await;
        let third = turns.next().now_or_never().unwrap();
        let (hangs, fourth) = (slow.of(pending::<()>()), turns.next());
        tokio::select! {
            () = hangs => panic!("it ended"),
            _turn = fourth => drop(third),
        }
    }
}
