//! What may be found after a kill, and what it means for the actor. Whatever is not here is a violation.
//!
//! | operation | told or found | then the actor is |
//! | --- | --- | --- |
//! | start, wake, fetch | an activation of the epoch that was asked for | that one |
//! | | none, and no success was told | what it was before |
//! | freeze, thaw | the activation of before, frozen or serving; as it was told | that one |
//! | suspend, upload | the activation of before, no new snapshot, and no success was told | that one |
//! | | no activation, the new snapshot | that snapshot |
//! | delete | nothing at all | gone |
//! | | anything, if no success was told | to be deleted again |
//! | any but delete | no activation, and its sandbox was killed, or a program at work on it | its last snapshot |
//!
//! An operation that was not disturbed succeeds. The highest epoch that the node has seen is never lower than one that has served.

use crate::plan::{Operation, Victim};

/// An operation that was told to have succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Serves,
    Frozen,
    Committed,
    Deleted,
}

/// What there is afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) activation: Option<Activation>,
    /// On the node or in the store, whole.
    pub(crate) snapshots: Vec<String>,
    /// The highest epoch the node knows of.
    pub(crate) epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Activation {
    pub(crate) epoch: u64,
    pub(crate) endpoint: String,
    pub(crate) serving: bool,
    pub(crate) frozen: bool,
}

/// What is to be judged.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) operation: Operation,
    pub(crate) victim: Victim,
    /// The kill could reach this actor: it was meant, or something of the agent was.
    pub(crate) hit: bool,
    /// Its sandbox was killed, or may have been.
    pub(crate) killed: bool,
    /// The success, or why not.
    pub(crate) told: Result<Told, String>,
    /// The epoch it had, and the one that was asked for: the same but for wakes.
    pub(crate) had: u64,
    pub(crate) asked: u64,
    /// Its last snapshot before, if any, and the one that was to be made.
    pub(crate) last: Option<String>,
    pub(crate) new: String,
    pub(crate) seen: Seen,
}

/// What the actor is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Serves(Activation),
    /// Wakes from this snapshot with the memory it had when the operation began.
    New(String),
    /// Wakes from its last snapshot, with the memory of that. The text says why, if that is a step back.
    Last(Option<&'static str>),
    /// Never was, or is to be deleted.
    Nothing,
}

/// See the module.
pub(crate) fn judge(case: &Case) -> Result<Verdict, String> {
    let Case { operation, told, seen, .. } = case;
    if let Err(why) = told {
        if !case.hit {
            return Err(format!("it was not disturbed and failed: {why}"));
        }
        if why.trim().is_empty() {
            return Err("it failed without a word".into());
        }
    }
    let deletes = *operation == Operation::Delete;
    let last = case.last.iter().find(|id| !seen.snapshots.contains(id));
    if let Some(lost) = last.filter(|_| !deletes) {
        return Err(format!("its last snapshot {lost} is lost"));
    }
    if let Some(activation) = &seen.activation {
        if activation.epoch != case.asked && activation.epoch != case.had {
            return Err(format!("an activation of epoch {}", activation.epoch));
        }
        if activation.serving == activation.frozen {
            return Err("it neither serves nor is frozen, and nothing is under way".into());
        }
    }
    if !deletes && seen.epoch < case.had {
        return Err(format!("the node has forgotten epoch {}: it knows {}", case.had, seen.epoch));
    }
    match operation {
        Operation::Start | Operation::Wake | Operation::Fetch => woken(case),
        Operation::Freeze | Operation::Thaw => turned(case),
        Operation::Suspend | Operation::SuspendFrozen | Operation::Upload => suspended(case),
        Operation::Delete => match told {
            Ok(_) if *seen != Seen::default() => Err(format!("it was deleted: {seen:?}")),
            _ => Ok(Verdict::Nothing),
        },
    }
}

fn woken(case: &Case) -> Result<Verdict, String> {
    match (&case.seen.activation, &case.told) {
        (Some(activation), _) if activation.epoch != case.asked || activation.frozen => {
            Err("another activation than was asked for".into())
        }
        (Some(activation), _) => Ok(Verdict::Serves(activation.clone())),
        (None, Ok(_)) if !case.killed => Err("it was said to serve, and is not there".into()),
        (None, _) if case.last.is_some() => Ok(Verdict::Last(None)),
        (None, _) => Ok(Verdict::Nothing),
    }
}

fn turned(case: &Case) -> Result<Verdict, String> {
    match (&case.seen.activation, &case.told) {
        (Some(activation), Ok(told)) if activation.frozen != (*told == Told::Frozen) => {
            Err(format!("it was said that {told:?}"))
        }
        (Some(activation), _) => Ok(Verdict::Serves(activation.clone())),
        (None, _) => died(case),
    }
}

fn suspended(case: &Case) -> Result<Verdict, String> {
    let committed = case.seen.snapshots.contains(&case.new);
    match (&case.seen.activation, &case.told) {
        (Some(_), _) if committed => Err("it lives twice: as a process and as a snapshot".into()),
        (Some(_), Ok(_)) => Err("it was said to sleep, and runs".into()),
        (Some(activation), Err(_)) => Ok(Verdict::Serves(activation.clone())),
        (None, _) if committed => Ok(Verdict::New(case.new.clone())),
        (None, Ok(_)) => Err("it was said to be committed, and is not there".into()),
        (None, Err(_)) => died(case),
    }
}

/// It ran, and there is nothing of it but what it was before.
fn died(case: &Case) -> Result<Verdict, String> {
    let why = if case.killed {
        "its sandbox was killed"
    } else if case.victim == Victim::Programs {
        // See node/src/runtime/criu.rs and gvisor.rs.
        "the program was killed that was at work on it"
    } else {
        return Err("it is gone, and nothing of it was killed".into());
    };
    Ok(if case.last.is_some() { Verdict::Last(Some(why)) } else { Verdict::Nothing })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An actor of epoch 3 that ran, with snapshot `a`; a suspend makes `b`.
    fn case(operation: Operation, told: Result<Told, &str>) -> Case {
        let wakes = operation.wakes();
        Case {
            operation,
            victim: Victim::Agent,
            hit: true,
            killed: false,
            told: told.map_err(str::to_owned),
            had: 3,
            asked: if wakes { 4 } else { 3 },
            last: Some("a".into()),
            new: "b".into(),
            seen: Seen { activation: None, snapshots: vec!["a".into()], epoch: 3 },
        }
    }

    fn runs(case: Case, epoch: u64, frozen: bool) -> Case {
        let activation = Activation { epoch, endpoint: "here".into(), serving: !frozen, frozen };
        Case { seen: Seen { activation: Some(activation), ..case.seen }, ..case }
    }

    fn with(case: Case, snapshots: &[&str]) -> Case {
        let snapshots = snapshots.iter().map(ToString::to_string).collect();
        Case { seen: Seen { snapshots, ..case.seen }, ..case }
    }

    const CUT: Result<Told, &str> = Err("the connection is gone");

    #[test]
    fn the_old_state_or_the_new_is_right() {
        let suspend = || case(Operation::Suspend, CUT);
        assert!(matches!(judge(&runs(suspend(), 3, false)), Ok(Verdict::Serves(_))));
        assert_eq!(judge(&with(suspend(), &["a", "b"])), Ok(Verdict::New("b".into())));
        let told = case(Operation::Upload, Ok(Told::Committed));
        assert_eq!(judge(&with(told, &["a", "b"])), Ok(Verdict::New("b".into())));
        assert_eq!(judge(&case(Operation::Wake, CUT)), Ok(Verdict::Last(None)));
        let woken = runs(case(Operation::Wake, Ok(Told::Serves)), 4, false);
        assert!(matches!(judge(&woken), Ok(Verdict::Serves(_))));
        let frozen = runs(case(Operation::Freeze, CUT), 3, true);
        assert!(matches!(judge(&frozen), Ok(Verdict::Serves(_))));
        let dead = Case { killed: true, ..suspend() };
        assert!(matches!(judge(&dead), Ok(Verdict::Last(Some(_)))));
        let first = Case { last: None, ..case(Operation::Start, CUT) };
        assert_eq!(judge(&with(first, &[])), Ok(Verdict::Nothing));
        let deleted = Case { seen: Seen::default(), ..case(Operation::Delete, Ok(Told::Deleted)) };
        assert_eq!(judge(&deleted), Ok(Verdict::Nothing));
    }

    #[test]
    fn everything_else_is_a_violation() {
        let suspend = |told| case(Operation::Suspend, told);
        let asleep = || suspend(Ok(Told::Committed));
        for (wrong, what) in [
            ("gone, and nothing was killed", suspend(CUT)),
            ("its last snapshot is lost", with(runs(suspend(CUT), 3, false), &[])),
            ("committed, and not there", asleep()),
            ("committed, and runs", runs(asleep(), 3, false)),
            ("lives twice", runs(with(suspend(CUT), &["a", "b"]), 3, false)),
            ("stuck", {
                let mut stuck = runs(suspend(CUT), 3, false);
                stuck.seen.activation.as_mut().unwrap().serving = false;
                stuck
            }),
            ("serves, and is not there", case(Operation::Wake, Ok(Told::Serves))),
            ("another epoch", runs(case(Operation::Wake, CUT), 3, false)),
            ("a foreign epoch", runs(case(Operation::Freeze, CUT), 9, false)),
            ("frozen, and serves", runs(case(Operation::Freeze, Ok(Told::Frozen)), 3, false)),
            ("not disturbed", Case { hit: false, ..runs(suspend(CUT), 3, false) }),
            ("without a word", runs(suspend(Err(" ")), 3, false)),
            ("deleted, and there", case(Operation::Delete, Ok(Told::Deleted))),
            ("an epoch went back", {
                let mut back = runs(suspend(CUT), 3, false);
                back.seen.epoch = 2;
                back
            }),
        ] {
            assert!(judge(&what).is_err(), "{wrong}");
        }
    }
}
