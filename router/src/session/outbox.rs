//! What waits to be said to the control plane, in the order it has to be said in.

use std::{collections::VecDeque, time::Duration};

use reveille_api::proto::{
    Activity, ActorActivity, Held, HeldBinding, Hello, RevokeAck, router_report::Report,
};
use tokio::time::Instant;

/// Rows in one message.
const ROWS: usize = 1_000;
/// How long an acknowledgement is said again on a new session, and how many.
const REPEAT_FOR: Duration = Duration::from_secs(120);
const REPEAT_MOST: usize = 16_384;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<Report>,
    /// Said already, but the stream may have broken before they arrived.
    said: VecDeque<(Instant, RevokeAck)>,
}

impl Outbox {
    /// A new session begins: who this is, what it holds, and what may have been lost. What waited for the old one is
    /// gone, except acknowledgements, which are among `said`; `as_now` gives one the counts of today, because the control
    /// plane takes them for such.
    pub(crate) fn begin(
        &mut self,
        hello: Hello,
        held: Vec<HeldBinding>,
        as_now: impl Fn(&RevokeAck, Duration) -> RevokeAck,
    ) {
        self.waiting.clear();
        self.waiting.push_back(Report::Hello(hello));
        let mut parts: Vec<Held> = held
            .chunks(ROWS)
            .map(|rows| Held { bindings: rows.to_vec(), complete: false })
            .collect();
        match parts.last_mut() {
            Some(last) => last.complete = true,
            None => parts.push(Held { bindings: Vec::new(), complete: true }),
        }
        self.waiting.extend(parts.into_iter().map(Report::Held));
        self.said.retain(|(since, _)| since.elapsed() < REPEAT_FOR);
        let repeated = self.said.iter().map(|(since, ack)| as_now(ack, since.elapsed()));
        let repeated = repeated.map(Report::RevokeAck);
        self.waiting.extend(repeated);
    }

    pub(crate) fn ack(&mut self, ack: RevokeAck) {
        if self.said.len() == REPEAT_MOST {
            self.said.pop_front();
        }
        self.said.push_back((Instant::now(), ack.clone()));
        self.waiting.push_back(Report::RevokeAck(ack));
    }

    /// Also when nothing was used: it tells that we live.
    pub(crate) fn activity(&mut self, mut rows: Vec<ActorActivity>) {
        loop {
            let rest = rows.split_off(rows.len().min(ROWS));
            self.waiting.push_back(Report::Activity(Activity { actors: rows }));
            if rest.is_empty() {
                return;
            }
            rows = rest;
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Report> {
        self.waiting.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox) -> Vec<Report> {
        std::iter::from_fn(|| outbox.pop()).collect()
    }

    fn begin(outbox: &mut Outbox, bindings: usize) {
        let held = vec![HeldBinding::default(); bindings];
        outbox.begin(Hello::default(), held, |ack, _| ack.clone());
    }

    fn ack(term: u64) -> RevokeAck {
        RevokeAck { term, ..Default::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn bindings_are_told_in_parts_of_which_the_last_says_so() {
        for (bindings, parts) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (2_500, 3)] {
            let mut outbox = Outbox::default();
            begin(&mut outbox, bindings);
            let said = drain(&mut outbox);
            assert!(matches!(said[0], Report::Hello(_)));
            let held: Vec<_> = said[1..]
                .iter()
                .map(|report| match report {
                    Report::Held(held) => (held.bindings.len(), held.complete),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(held.len(), parts);
            assert_eq!(held.iter().map(|(rows, _)| rows).sum::<usize>(), bindings);
            assert!(held.iter().rev().enumerate().all(|(i, (_, complete))| *complete == (i == 0)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn acknowledgements_are_said_again_on_a_new_session_and_not_for_ever() {
        let mut outbox = Outbox::default();
        begin(&mut outbox, 0);
        outbox.ack(ack(1));
        drain(&mut outbox);
        outbox.ack(ack(2));
        outbox.activity(vec![ActorActivity::default()]);
        begin(&mut outbox, 0);
        let again = drain(&mut outbox);
        assert_eq!(again[2..], [Report::RevokeAck(ack(1)), Report::RevokeAck(ack(2))]);
        tokio::time::advance(REPEAT_FOR).await;
        begin(&mut outbox, 0);
        assert_eq!(drain(&mut outbox).len(), 2);
    }
}
