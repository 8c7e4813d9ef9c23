use std::collections::BTreeSet;

use proptest::prelude::*;
use reveille_api::{Epoch, Failure, Reason, manifest::template::OnRestoreFailure};

use super::*;
use crate::clock::Moment;

mod properties;

const RULES: Rules<'_> = Rules { on_restore_failure: OnRestoreFailure::Refuse, no_wake: None };

fn place(n: u32) -> Place {
    // The last one is on another node.
    let node = if n == 2 { "n2" } else { "n1" };
    Place { node: node.into(), worker: format!("{node}-{n}") }
}

fn snapshot(id: &str, epoch: u64) -> Snapshot {
    Snapshot {
        id: id.into(),
        node: "n1".into(),
        epoch: Epoch(epoch),
        bytes: 1,
        created_unix_ms: 0,
        runtime: "gvisor".into(),
        runtime_version: "1".into(),
        image: String::new(),
        storage: Storage::Waiting,
    }
}

fn activated(epoch: u64) -> Event {
    Event::Activated { epoch: Epoch(epoch), endpoint: "10.0.0.1:20000".into(), h2c: false }
}

fn drained(epoch: u64, term: u64) -> Event {
    Event::Drained {
        epoch: Epoch(epoch),
        term,
        in_flight: 0,
        last_active: Moment(0),
        silent: false,
        snapshot: format!("s{epoch}-{term}"),
    }
}

fn exited(node: &str, epoch: u64) -> Event {
    Event::Exited { node: node.into(), epoch: Epoch(epoch), message: "killed".into() }
}

fn failure(reason: Reason) -> Failure {
    Failure::new(reason, "scripted")
}

/// Applies events one after another; returns the last step.
fn run(actor: &mut Actor, rules: Rules, events: impl IntoIterator<Item = Event>) -> Step {
    events.into_iter().map(|event| actor.apply(rules, event)).last().unwrap_or_default()
}

fn running() -> Actor {
    let mut actor = Actor::new(Epoch(0));
    run(&mut actor, RULES, [Event::Wake(Asker::Traffic), Event::Placed(place(0)), activated(1)]);
    assert_eq!(actor.phase(), Phase::Running);
    actor
}

fn user_suspend() -> Event {
    suspend(Cause::User, None)
}

fn suspend(cause: Cause, decided_for: Option<Epoch>) -> Event {
    Event::Suspend { cause, decided_for, snapshot: "ice".into() }
}

fn stop() -> Event {
    Event::Stop { snapshot: "ice".into() }
}

fn checkpointing() -> Actor {
    let mut actor = running();
    run(&mut actor, RULES, [user_suspend(), drained(1, 0)]);
    assert_eq!(actor.phase(), Phase::Checkpointing);
    actor
}

fn committed(id: &str, epoch: u64) -> Event {
    Event::Committed { epoch: Epoch(epoch), snapshot: snapshot(id, epoch) }
}

fn suspended() -> Actor {
    let mut actor = checkpointing();
    run(&mut actor, RULES, [committed("s1-0", 1)]);
    assert_eq!(actor.phase(), Phase::Suspended);
    actor
}

/// With the snapshots s1-0 (previous) and s2-0 (current).
fn twice_suspended() -> Actor {
    let mut actor = suspended();
    run(
        &mut actor,
        RULES,
        [
            Event::Wake(Asker::Traffic),
            Event::Placed(place(0)),
            activated(2),
            user_suspend(),
            drained(2, 0),
            committed("s2-0", 2),
        ],
    );
    assert_eq!(actor.previous.as_ref().map(|s| s.id.as_str()), Some("s1-0"));
    actor
}

fn refused(step: &Step) -> Option<Reason> {
    step.effects.iter().find_map(|effect| match effect {
        Effect::Refuse(failure) => Some(failure.reason),
        _ => None,
    })
}

#[test]
fn the_table_in_the_documentation_names_every_state() {
    let text = include_str!("../lifecycle.rs");
    for phase in table::ROWS.iter().map(|(phase, ..)| phase).collect::<BTreeSet<_>>() {
        assert!(text.contains(&format!("//! | `{phase:?}` |")), "{phase:?}");
    }
}

#[test]
fn every_pair_has_one_row_at_most() {
    let pairs: BTreeSet<_> = table::ROWS.iter().map(|(phase, kind, _)| (phase, kind)).collect();
    assert_eq!(pairs.len(), table::ROWS.len());
}

#[test]
fn a_new_actor_starts_cold_and_the_intent_is_stored_before_the_node_is_asked() {
    let mut actor = Actor::new(Epoch(0));
    let step = actor.apply(RULES, Event::Wake(Asker::Traffic));
    assert_eq!(step, Step { write: Write::Nothing, effects: vec![Effect::Place(Source::Cold)] });
    assert_eq!(actor.stored(), Actor::new(Epoch(0)), "without a worker nothing is stored");
    let step = actor.apply(RULES, Event::Placed(place(0)));
    assert_eq!(step.write, Write::First);
    assert_eq!(step.effects[0], Effect::Activate(Epoch(1), place(0), Source::Cold));
    let step = actor.apply(RULES, activated(1));
    assert_eq!(step.write, Write::Behind);
    assert_eq!(step.effects[0], Effect::Serve(Serving::Woken));
}

#[test]
fn a_suspend_revokes_drains_checkpoints_and_keeps_one_earlier_snapshot() {
    let actor = twice_suspended();
    assert_eq!(actor.snapshot.as_ref().unwrap().id, "s2-0");
    assert_eq!(actor.needed(), ["s2-0", "s1-0"]);
    assert_eq!(actor.epoch, Epoch(2));
}

#[test]
fn a_wake_while_draining_gives_the_binding_back_one_term_later() {
    let mut actor = running();
    actor.apply(RULES, user_suspend());
    let step = actor.apply(RULES, Event::Wake(Asker::Traffic));
    assert_eq!(step.effects[0], Effect::Serve(Serving::Resumed));
    let State::Running(running) = &actor.state else { panic!("{actor:?}") };
    assert_eq!((actor.epoch, running.term), (Epoch(1), 1));
    assert_eq!(actor.apply(RULES, drained(1, 0)), Step::default(), "its drain is stale now");
}

#[test]
fn a_wake_while_checkpointing_resumes_and_the_node_decides() {
    for resumed in [true, false] {
        let mut actor = checkpointing();
        let step = actor.apply(RULES, Event::Wake(Asker::Traffic));
        assert_eq!(step.effects, [Effect::Resume(Epoch(1), place(0))]);
        assert_eq!(actor.apply(RULES, Event::Wake(Asker::Traffic)), Step::default(), "joined");
        if resumed {
            let snapshot = "s1-0".into();
            actor.apply(RULES, Event::Resumed { epoch: Epoch(1), snapshot });
            assert!(matches!(&actor.state, State::Running(r) if r.term == 1));
        } else {
            actor.apply(RULES, committed("s1-0", 1));
            assert_eq!(actor.phase(), Phase::Suspended);
        }
    }
}

#[test]
fn a_delete_drains_first_and_saves_nothing_and_nobody_calls_it_off() {
    let mut actor = running();
    let step = actor.apply(RULES, Event::Delete);
    assert!(step.effects.contains(&Effect::Drain(Epoch(1), 0, Cause::User)), "{step:?}");
    for asker in [Asker::Traffic, Asker::User] {
        let step = actor.apply(RULES, Event::Wake(asker));
        assert_eq!(refused(&step), Some(Reason::ActorNotFound));
    }
    actor.apply(RULES, stop());
    let step = actor.apply(RULES, drained(1, 0));
    assert_eq!(actor.phase(), Phase::Deleting);
    assert_eq!(step.effects, [Effect::Revoke(Epoch(1), 0), Effect::Purge]);
}

#[test]
fn a_delete_takes_over_a_suspend_that_drains() {
    for (cause, term) in [(Cause::User, 0), (Cause::Idle(Moment(0)), 1)] {
        let mut actor = running();
        actor.apply(RULES, suspend(cause, None));
        actor.apply(RULES, Event::Delete);
        assert_eq!(actor.phase(), Phase::Draining);
        actor.apply(RULES, drained(1, term));
        assert_eq!(actor.phase(), Phase::Deleting, "{cause:?}");
    }
}

#[test]
fn without_a_budget_nothing_is_woken_from_rest_and_what_is_awake_is_not_touched() {
    let spent = NoWake { failure: failure(Reason::QuotaExceeded), news: true };
    let rules = Rules { no_wake: Some(&spent), ..RULES };
    let mut actor = suspended();
    let step = actor.apply(rules, Event::Wake(Asker::User));
    assert_eq!((refused(&step), actor.phase()), (Some(Reason::QuotaExceeded), Phase::Suspended));
    assert!(step.effects.contains(&Effect::Note(Note::Refused(Reason::QuotaExceeded))));
    let mut actor = running();
    assert_eq!(refused(&actor.apply(rules, Event::Wake(Asker::Traffic))), None);
    actor.apply(rules, user_suspend());
    let step = actor.apply(rules, Event::Wake(Asker::Traffic));
    assert_eq!(step.effects[0], Effect::Serve(Serving::Resumed), "a resume costs nothing");
    actor.apply(rules, stop());
    actor.apply(rules, drained(1, 1));
    actor.apply(rules, committed("s1-1", 1));
    let step = actor.apply(rules, Event::Wake(Asker::Traffic));
    assert_eq!(refused(&step), Some(Reason::ActorStopped), "its own reason comes first");
}

#[test]
fn a_failed_checkpoint_leaves_it_running() {
    let mut actor = checkpointing();
    let event = Event::CheckpointFailed {
        epoch: Epoch(1),
        snapshot: "s1-0".into(),
        message: "disk full".into(),
    };
    let step = actor.apply(RULES, event);
    assert!(step.effects.contains(&Effect::Note(Note::CheckpointFailed("disk full".into()))));
    assert!(matches!(&actor.state, State::Running(r) if r.term == 1));
    assert_eq!(actor.snapshot, None);
}

#[test]
fn an_idle_decision_dies_with_newer_activity_or_requests_in_flight_or_silence() {
    let answer = |in_flight, last_active, silent| Event::Drained {
        epoch: Epoch(1),
        term: 0,
        in_flight,
        last_active: Moment(last_active),
        silent,
        snapshot: "s".into(),
    };
    let cases = [
        (answer(0, 5_000, false), Phase::Checkpointing),
        (answer(0, 5_040, false), Phase::Checkpointing),
        (answer(0, 5_100, false), Phase::Running),
        (answer(1, 5_000, false), Phase::Running),
        (answer(0, 5_000, true), Phase::Running),
    ];
    for (event, expected) in cases {
        for cause in [Cause::Idle(Moment(5_000)), Cause::Pressure(Moment(5_000))] {
            let mut actor = running();
            actor.apply(RULES, suspend(cause, Some(Epoch(1))));
            actor.apply(RULES, event.clone());
            assert_eq!(actor.phase(), expected, "{event:?}");
        }
        // A user's wish goes on.
        let mut actor = running();
        run(&mut actor, RULES, [user_suspend(), event]);
        assert_eq!(actor.phase(), Phase::Checkpointing);
    }
}

#[test]
fn an_idle_decision_for_another_epoch_changes_nothing() {
    let mut actor = running();
    let stale = suspend(Cause::Idle(Moment(0)), Some(Epoch(0)));
    assert_eq!(actor.apply(RULES, stale), Step::default());
    assert_eq!(actor.phase(), Phase::Running);
}

#[test]
fn a_users_suspend_takes_over_an_idle_one_and_gives_requests_their_time() {
    let mut actor = running();
    actor.apply(RULES, suspend(Cause::Idle(Moment(0)), Some(Epoch(1))));
    let step = actor.apply(RULES, user_suspend());
    assert_eq!(step.effects, [Effect::Drain(Epoch(1), 1, Cause::User)]);
    assert_eq!(actor.apply(RULES, drained(1, 0)), Step::default(), "of the idle one");
    actor.apply(RULES, drained(1, 1));
    assert_eq!(actor.phase(), Phase::Checkpointing);
}

#[test]
fn a_failed_restore_does_what_the_template_says() {
    use OnRestoreFailure::{ColdStart, PreviousSnapshot, Refuse};
    for reason in [Reason::RestoreFailed, Reason::SnapshotCorrupt] {
        for policy in [Refuse, PreviousSnapshot, ColdStart] {
            let rules = Rules { on_restore_failure: policy, ..RULES };
            let mut actor = twice_suspended();
            let failed =
                |epoch| Event::ActivateFailed { epoch: Epoch(epoch), failure: failure(reason) };
            run(&mut actor, rules, [Event::Wake(Asker::Traffic), Event::Placed(place(0))]);
            let step = actor.apply(rules, failed(3));
            match policy {
                Refuse => {
                    assert_eq!(refused(&step), Some(reason));
                    assert!(step.effects.contains(&Effect::Free(Epoch(3), place(0))));
                    assert_eq!(actor.snapshot.as_ref().unwrap().id, "s2-0", "it is kept");
                    let step = actor.apply(rules, Event::Wake(Asker::Traffic));
                    assert!(matches!(&step.effects[0], Effect::Place(Source::Current(_))));
                }
                PreviousSnapshot => {
                    let previous = Source::Previous(snapshot("s1-0", 1));
                    let effect = Effect::Activate(Epoch(4), place(0), previous);
                    assert_eq!(step.effects[0], effect);
                    let step = actor.apply(rules, failed(4));
                    assert_eq!(refused(&step), Some(reason), "there is nothing before that");
                }
                ColdStart => {
                    let effect = Effect::Activate(Epoch(4), place(0), Source::ColdAfterFailure);
                    assert_eq!(step.effects[0], effect);
                }
            }
        }
    }
}

#[test]
fn the_snapshot_that_was_good_becomes_the_previous_one() {
    let rules = Rules { on_restore_failure: OnRestoreFailure::PreviousSnapshot, ..RULES };
    let mut actor = twice_suspended();
    run(
        &mut actor,
        rules,
        [
            Event::Wake(Asker::Traffic),
            Event::Placed(place(0)),
            Event::ActivateFailed { epoch: Epoch(3), failure: failure(Reason::SnapshotCorrupt) },
            activated(4),
            user_suspend(),
            drained(4, 0),
            committed("s4-0", 4),
        ],
    );
    assert_eq!(actor.needed(), ["s4-0", "s1-0"]);
}

#[test]
fn a_lost_actor_wakes_from_its_snapshot_or_is_refused_without_one() {
    let exited = |epoch| exited("n1", epoch);
    let mut actor = running();
    let step = actor.apply(RULES, exited(1));
    assert_eq!(step.effects[0], Effect::Revoke(Epoch(1), 0));
    assert!(step.effects.contains(&Effect::Destroy(Epoch(1), place(0))));
    let step = actor.apply(RULES, Event::Wake(Asker::Traffic));
    assert_eq!(refused(&step), Some(Reason::ActorLost));
    assert_eq!(actor.phase(), Phase::Lost);
    let step = actor.clone().apply(RULES, Event::Wake(Asker::User));
    assert_eq!(step.effects, [Effect::Place(Source::ColdAfterFailure)]);
    let cold = Rules { on_restore_failure: OnRestoreFailure::ColdStart, ..RULES };
    let step = actor.apply(cold, Event::Wake(Asker::Traffic));
    assert_eq!(step.effects, [Effect::Place(Source::ColdAfterFailure)]);

    let mut actor = suspended();
    let up = [Event::Wake(Asker::Traffic), Event::Placed(place(0)), activated(2), exited(2)];
    run(&mut actor, RULES, up);
    let step = actor.apply(RULES, Event::Wake(Asker::Traffic));
    assert_eq!(step.effects, [Effect::Place(Source::Current(snapshot("s1-0", 1)))]);
}

#[test]
fn a_snapshot_is_known_to_be_stored_whatever_state_its_actor_is_in() {
    let stored = || Event::Stored("s1-0".into());
    let of = |actor: &Actor, id: &str| actor.lacks_in_store(id);
    let mut asleep = suspended();
    assert_eq!(asleep.apply(RULES, Event::Stored("s9".into())), Step::nothing());
    assert!(of(&asleep, "s1-0"));
    assert_eq!(asleep.apply(RULES, stored()).write, Write::First);
    assert!(!of(&asleep, "s1-0"));
    assert_eq!(asleep.apply(RULES, stored()), Step::nothing());

    let mut later = twice_suspended();
    run(&mut later, RULES, [Event::Wake(Asker::Traffic), Event::Placed(place(0)), stored()]);
    assert!(!of(&later, "s1-0") && of(&later, "s2-0"));
    assert_eq!(later.phase(), Phase::Starting);
}

#[test]
fn a_snapshot_that_does_not_fit_a_node_is_restored_by_another() {
    let mut actor = suspended();
    let unfit = Event::Elsewhere { epoch: Epoch(2), failure: failure(Reason::RestoreFailed) };
    let woken = [Event::Wake(Asker::Traffic), Event::Placed(place(0)), unfit.clone()];
    let step = run(&mut actor, RULES, woken);
    assert_eq!(actor.phase(), Phase::Placing);
    assert_eq!(step.effects[0], Effect::Free(Epoch(2), place(0)));
    assert_eq!(step.effects[1], Effect::Place(Source::Current(snapshot("s1-0", 1))));
    assert_eq!(actor.apply(RULES, unfit), Step::nothing());
    run(&mut actor, RULES, [Event::Placed(place(1)), activated(3)]);
    assert_eq!((actor.phase(), actor.place()), (Phase::Running, Some(&place(1))));
}

#[test]
fn after_a_move_the_old_node_is_told_what_is_not_needed_any_more() {
    let mut actor = suspended();
    let there = Place { node: "n2".into(), worker: "n2-0".into() };
    let moved = [Event::Wake(Asker::Traffic), Event::Placed(there), activated(2)];
    run(&mut actor, RULES, moved);
    run(&mut actor, RULES, [user_suspend(), drained(2, 0)]);
    let taken = Snapshot { node: "n2".into(), ..snapshot("s2-0", 2) };
    let step = actor.apply(RULES, Event::Committed { epoch: Epoch(2), snapshot: taken });
    for node in ["n1", "n2"] {
        assert!(step.effects.contains(&Effect::Collect(node.into())), "{node}: {step:?}");
    }
}

#[test]
fn only_the_node_that_has_an_activation_can_report_its_end() {
    let mut actor = running();
    assert_eq!(actor.apply(RULES, exited("n2", 1)), Step::nothing());
    assert_eq!(actor.phase(), Phase::Running);
    let mut starting = Actor::new(Epoch(0));
    let placed = [Event::Wake(Asker::Traffic), Event::Placed(place(0)), exited("n2", 1)];
    run(&mut starting, RULES, placed);
    assert!(starting.apply(RULES, activated(1)).effects.contains(&Effect::Serve(Serving::Woken)));
    actor.apply(RULES, exited("n1", 1));
    assert_eq!(actor.phase(), Phase::Lost);
}

#[test]
fn a_process_that_ends_before_the_nodes_answer_is_never_given_out() {
    let mut actor = Actor::new(Epoch(0));
    let step = run(
        &mut actor,
        RULES,
        [Event::Wake(Asker::Traffic), Event::Placed(place(0)), exited("n1", 1), activated(1)],
    );
    assert_eq!(refused(&step), Some(Reason::StartFailed));
    assert_eq!(step.effects[0], Effect::Destroy(Epoch(1), place(0)));
}

#[test]
fn a_wake_that_is_too_slow_fails_and_is_cleaned_up() {
    let mut actor = Actor::new(Epoch(0));
    let step = run(
        &mut actor,
        RULES,
        [
            Event::Wake(Asker::Traffic),
            Event::Placed(place(0)),
            Event::DeadlinePassed(Deadline::Start(Epoch(1))),
        ],
    );
    assert_eq!(refused(&step), Some(Reason::WakeTimeout));
    assert_eq!(step.effects[0], Effect::Destroy(Epoch(1), place(0)));
    assert_eq!(actor.apply(RULES, activated(1)), Step::default(), "too late");
    assert_eq!(actor.phase(), Phase::Failed);
}

#[test]
fn stop_is_for_traffic_and_not_for_its_user() {
    let mut actor = running();
    run(&mut actor, RULES, [stop()]);
    let step = actor.apply(RULES, Event::Wake(Asker::Traffic));
    assert_eq!(refused(&step), Some(Reason::ActorStopped), "while draining too");
    run(&mut actor, RULES, [drained(1, 0), committed("s1-0", 1)]);
    assert_eq!(actor.phase(), Phase::Stopped);
    let step = actor.apply(RULES, Event::Wake(Asker::Traffic));
    assert_eq!(refused(&step), Some(Reason::ActorStopped));
    actor.apply(RULES, Event::Wake(Asker::User));
    assert_eq!(actor.phase(), Phase::Placing);
    actor.apply(RULES, Event::NotPlaced(failure(Reason::NoCapacity)));
    assert_eq!(actor.phase(), Phase::Stopped, "it stays what it was");
}

#[test]
fn an_actor_of_a_silent_node_is_taken_back_unless_it_woke_elsewhere() {
    let lost = Event::NodeLost { node: "n1".into() };
    let found = Event::Found { place: place(0), epoch: Epoch(1), serving: true, frozen: false };
    let mut actor = running();
    let step = actor.apply(RULES, lost.clone());
    assert!(!step.effects.iter().any(|e| matches!(e, Effect::Destroy(..))), "it may live");
    let mut waiting = actor.clone();
    actor.apply(RULES, found.clone());
    assert!(matches!(&actor.state, State::Running(r) if r.term == 1));

    run(&mut waiting, RULES, [Event::Wake(Asker::User), Event::Placed(place(1))]);
    let step = waiting.apply(RULES, found);
    assert_eq!(step.effects[0], Effect::Destroy(Epoch(1), place(0)));
}

#[test]
fn a_snapshot_that_was_committed_unheard_is_adopted() {
    let absent = |snapshots| Event::Absent { node: "n1".into(), epoch: Epoch(1), snapshots };
    let mut actor = checkpointing();
    actor.apply(RULES, absent(vec![snapshot("s1-0", 1)]));
    assert_eq!(actor.snapshot.as_ref().unwrap().id, "s1-0");
    // Also when the node was given up meanwhile.
    let mut actor = checkpointing();
    actor.apply(RULES, Event::NodeLost { node: "n1".into() });
    assert_eq!(actor.phase(), Phase::Lost);
    actor.apply(RULES, absent(vec![snapshot("s1-0", 1)]));
    assert_eq!((actor.phase(), actor.needed()), (Phase::Suspended, vec!["s1-0"]));
    let mut actor = checkpointing();
    actor.apply(RULES, absent(vec![]));
    assert_eq!(actor.phase(), Phase::Lost);
}

#[test]
fn a_node_that_knows_a_higher_epoch_is_caught_up_with() {
    let mut actor = Actor::new(Epoch(0));
    let step = run(
        &mut actor,
        RULES,
        [
            Event::Wake(Asker::Traffic),
            Event::Placed(place(0)),
            Event::Fenced { epoch: Epoch(1), seen: Epoch(41) },
        ],
    );
    assert_eq!(step.effects[0], Effect::Activate(Epoch(42), place(0), Source::Cold));
}

#[test]
fn deletion_ends_even_when_the_node_is_silent() {
    let mut actor = running();
    let step = run(&mut actor, RULES, [Event::Delete, drained(1, 0)]);
    assert_eq!(step.effects.last(), Some(&Effect::Purge));
    let step = actor.clone().apply(RULES, Event::Purged);
    assert_eq!(step.effects.last(), Some(&Effect::Remove));
    let step = actor.apply(RULES, Event::DeadlinePassed(Deadline::Purge));
    assert_eq!(step.effects.last(), Some(&Effect::Remove));
}

#[test]
fn a_restart_asks_again_for_what_was_intended_and_forgets_guesses() {
    let mut actor = checkpointing();
    let step = actor.apply(RULES, Event::Recover);
    assert_eq!(step.effects, [Effect::Suspend(Epoch(1), place(0), "s1-0".into(), None)]);
    let mut actor = running();
    actor.apply(RULES, suspend(Cause::Idle(Moment(0)), Some(Epoch(1))));
    actor.apply(RULES, Event::Recover);
    assert!(matches!(&actor.state, State::Running(r) if r.term == 1));
    let mut actor = running();
    actor.apply(RULES, stop());
    let step = actor.apply(RULES, Event::Recover);
    assert_eq!(step.effects, [Effect::Drain(Epoch(1), 0, Cause::User)]);
}

/// Frozen once, in term 0.
fn frozen() -> Actor {
    let mut actor = running();
    let freeze = Event::Freeze(Cause::User, None);
    let step = run(&mut actor, RULES, [freeze, drained(1, 0)]);
    assert_eq!(step.effects, [Effect::Freeze(Epoch(1), 0, place(0))]);
    actor.apply(RULES, Event::Frozen(Epoch(1)));
    assert_eq!((actor.phase(), actor.deadline()), (Phase::Frozen, None));
    actor
}

#[test]
fn a_frozen_actor_is_thawed_by_a_wake_and_serves_one_term_later_in_the_same_epoch() {
    let mut actor = frozen();
    let step = actor.apply(RULES, Event::Wake(Asker::Traffic));
    assert_eq!(step.effects, [Effect::Thaw(Epoch(1), 0, place(0))]);
    let step = actor.apply(RULES, Event::Thawed(Epoch(1)));
    assert_eq!(step.effects[0], Effect::Serve(Serving::Thawed));
    assert!(matches!(&actor.state, State::Running(r) if r.term == 1));
    assert_eq!(actor.epoch, Epoch(1));
}

#[test]
fn a_freeze_that_is_wanted_back_or_fails_leaves_it_serving() {
    let mut actor = running();
    run(&mut actor, RULES, [Event::Freeze(Cause::User, None), drained(1, 0)]);
    let failed = Event::FreezeFailed { epoch: Epoch(1), message: "no".into() };
    let step = actor.apply(RULES, failed);
    assert_eq!(step.effects[0], Effect::Serve(Serving::Resumed));
    assert!(matches!(&actor.state, State::Running(r) if r.term == 1));

    let mut actor = running();
    actor.apply(RULES, Event::Freeze(Cause::Idle(Moment(0)), Some(Epoch(1))));
    actor.apply(RULES, Event::Wake(Asker::Traffic));
    assert!(matches!(&actor.state, State::Running(r) if r.term == 1), "before the node was asked");
}

#[test]
fn what_is_frozen_is_saved_as_it_stands_and_a_suspend_outdoes_a_freeze() {
    let mut actor = frozen();
    let step = actor.apply(RULES, user_suspend());
    let saved = Effect::Suspend(Epoch(1), place(0), "ice".into(), Some(Cause::User));
    assert_eq!(step.effects, [saved, Effect::Note(Note::SuspendStarted(Cause::User))]);
    // Wanted back before that was done, it serves by another binding.
    actor.apply(RULES, Event::Wake(Asker::Traffic));
    actor.apply(RULES, Event::Resumed { epoch: Epoch(1), snapshot: "ice".into() });
    assert!(matches!(&actor.state, State::Running(r) if r.term == 1));
    let mut actor = running();
    let idle = Event::Freeze(Cause::Idle(Moment(0)), Some(Epoch(1)));
    run(&mut actor, RULES, [idle, user_suspend(), drained(1, 1)]);
    assert_eq!(actor.phase(), Phase::Checkpointing);
}

#[test]
fn a_node_that_does_not_say_how_a_freeze_ended_is_told_to_thaw_and_waited_for() {
    let mut actor = running();
    run(&mut actor, RULES, [Event::Freeze(Cause::User, None), drained(1, 0)]);
    let late = Event::DeadlinePassed(actor.deadline().unwrap());
    let step = actor.apply(RULES, late);
    assert_eq!(step.effects, [Effect::Thaw(Epoch(1), 0, place(0))]);
    assert_eq!(actor.deadline(), None);
    actor.apply(RULES, Event::Thawed(Epoch(1)));
    assert_eq!(actor.phase(), Phase::Running);
}

#[test]
fn a_node_that_does_not_say_how_a_checkpoint_ended_is_told_to_resume_and_waited_for() {
    let mut actor = checkpointing();
    let late = Event::DeadlinePassed(actor.deadline().unwrap());
    let step = actor.apply(RULES, late);
    assert_eq!(step.effects, [Effect::Resume(Epoch(1), place(0))]);
    assert_eq!(actor.deadline(), None);
    // However late it tells: the snapshot is the actor.
    let snapshot = snapshot("s1-0", 1);
    actor.apply(RULES, Event::Committed { epoch: Epoch(1), snapshot });
    assert_eq!(actor.phase(), Phase::Suspended);
}

#[test]
fn the_survivor_of_a_silent_node_may_be_frozen() {
    let mut actor = frozen();
    actor.apply(RULES, Event::NodeLost { node: "n1".into() });
    let found = Event::Found { place: place(0), epoch: Epoch(1), serving: false, frozen: true };
    actor.apply(RULES, found);
    assert_eq!(actor.phase(), Phase::Frozen);
}
