//! From an activation that serves to a snapshot, or back.
//!
//! ```text
//!  its turn ─▶ endpoint closed, connections ended ─▶ pause ─▶ checkpoint ─▶ sync, hash ─▶ ║ commit ║ ─▶ kill ─▶ slot recycled
//!        └───────────────────────────────┴──────────┴─────────────┴──────▶ let out, resume ─▶ endpoint open: it serves as before
//!                 Resume, a failure or the deadline
//! ```
//!
//! The [`Gate`] decides between a commit and a Resume that come together: exactly one of them passes.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reveille_api::{ActorKey, Epoch, Failure, Reason, proto};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::activate::chain;
use crate::{
    core::{Activation, Core, OpError},
    files,
    metrics::Down,
    record::{Fence, Phase, Record},
    snapshots::{Origin, Sealed, Upload, unix_ms},
};

/// Tries to give an endpoint back, and the pause between them. After that the activation is of no use.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// A request to suspend.
#[derive(Clone, Debug)]
pub(crate) struct Suspend {
    pub(crate) epoch: Epoch,
    /// The id of the new snapshot.
    pub(crate) snapshot: String,
    pub(crate) deadline: Duration,
    /// How long the snapshot stays on this node only; for ever if nothing is said.
    pub(crate) store_after: Option<Duration>,
}

impl Suspend {
    /// True for a repeated call.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        (self.epoch, &self.snapshot) == (other.epoch, &other.snapshot)
    }

    /// From now on.
    fn upload(&self) -> Upload {
        let due = |after: Duration| unix_ms().saturating_add(after.as_millis() as u64);
        self.store_after.map_or(Upload::Never, |after| Upload::Due(due(after)))
    }
}

/// How a suspend ended.
#[derive(Debug)]
pub(super) enum SuspendEnd {
    Committed(proto::Snapshot),
    /// Cancelled before the commit: it serves.
    Resumed(Box<Activation>),
    /// Not possible: it serves.
    Failed(Box<Activation>, OpError),
    /// Not possible, and it could not be brought back either.
    Lost(String),
}

impl SuspendEnd {
    /// What it is counted as.
    pub(super) fn how(&self) -> Down {
        match self {
            Self::Committed(_) => Down::Committed,
            Self::Resumed(_) => Down::Resumed,
            Self::Failed(..) => Down::Failed,
            Self::Lost(_) => Down::Lost,
        }
    }
}

/// Lets either the commit or a cancellation through, whichever comes first.
#[derive(Debug, Default)]
pub(super) struct Gate {
    committed: Mutex<bool>,
    cancelled: CancellationToken,
}

impl Gate {
    /// Too late once the commit has begun.
    pub(super) fn cancel(&self) {
        let committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        if !*committed {
            self.cancelled.cancel();
        }
    }

    fn begin_commit(&self) -> Result<(), Stop> {
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        *committed = true;
        Ok(())
    }

    fn check(&self) -> Result<(), Stop> {
        if self.cancelled.is_cancelled() { Err(Stop::Cancelled) } else { Ok(()) }
    }
}

/// Why the way down ended before the commit.
enum Stop {
    Cancelled,
    Failed(String),
}

/// See the module.
pub(super) async fn suspend(
    core: Arc<Core>,
    actor: ActorKey,
    fence: Fence,
    mut activation: Box<Activation>,
    request: Suspend,
    gate: Arc<Gate>,
) -> SuspendEnd {
    let begun = Instant::now();
    let deadline = begun + request.deadline;
    let descent = Descent { core: &core, actor: &actor, request: &request, gate: &gate, deadline };
    let snapshot = request.snapshot.clone();
    let frozen = activation.record.is_frozen();
    activation.record.phase = Phase::Suspending { snapshot };
    let going_down = async {
        let turn = tokio::select! {
            turn = core.saves.next() => turn,
            () = gate.cancelled.cancelled() => return Err(Stop::Cancelled),
            () = tokio::time::sleep_until(deadline) => return Err(descent.too_late()),
        };
        turn.of(async {
            save(&core, &actor, fence, &activation).map_err(Stop::Failed)?;
            if frozen {
                // Only what runs can be paused. Its endpoint stays closed.
                let thawed = activation.runtime.thaw(&activation.record.sandbox).await;
                thawed.map_err(|error| Stop::Failed(chain(&error)))?;
            }
            descent.go_down(&activation).await
        })
        .await
        .and_then(|down| gate.begin_commit().map(|()| down))
    };
    let committed = match going_down.await {
        Ok((sealed, phases)) => {
            let core = core.clone();
            let committed = files::blocking(move || core.snapshots.commit(sealed)).await;
            let committed = committed.map(|in_use| (in_use, phases));
            committed.map_err(|e| Stop::Failed(format!("the snapshot was not committed: {e}")))
        }
        Err(stop) => Err(stop),
    };
    let stop = match committed {
        Ok((in_use, phases)) => {
            let commit_us = phases.left_us();
            // From here on the snapshot is the actor: nothing may run beside it.
            activation.let_go(&core);
            let fence = Fence { epoch: fence.epoch, ended: true };
            let ended = Record { actor: actor.clone(), fence, activation: None };
            if let Err(error) = core.records.save(&ended) {
                tracing::error!(%actor, %error, "the actor's record was not written");
            }
            let [close_us, pause_us, checkpoint_us, seal_us] = phases.us;
            tracing::info!(
                %actor, epoch = %request.epoch, snapshot = request.snapshot,
                close_us, pause_us, checkpoint_us, seal_us, commit_us, "an actor sleeps"
            );
            core.uploads.look();
            let taken = core.snapshots.told(&actor, &request.snapshot, &core.node);
            // It may be in the store by now, and was not evicted then for our sake.
            drop(in_use);
            return match taken {
                Some(taken) => {
                    core.metrics.committed(taken.bytes, begun.elapsed());
                    SuspendEnd::Committed(taken)
                }
                None => SuspendEnd::Lost("its snapshot is gone".into()),
            };
        }
        Err(stop) => stop,
    };
    if matches!(stop, Stop::Cancelled) {
        activation.record.resumed = Some(request.snapshot.clone());
    }
    match come_back(&core, &actor, fence, &mut activation).await {
        Ok(()) => match stop {
            Stop::Cancelled => SuspendEnd::Resumed(activation),
            Stop::Failed(why) => {
                tracing::warn!(%actor, epoch = %request.epoch, why, "a suspend failed; the actor serves on");
                let why = format!("the actor was not suspended and serves on: {why}");
                SuspendEnd::Failed(activation, Failure::new(Reason::Internal, why).into())
            }
        },
        Err(error) => {
            activation.end(&core).await;
            let why = match stop {
                Stop::Cancelled => "it was to be resumed".into(),
                Stop::Failed(why) => why,
            };
            SuspendEnd::Lost(format!("{error}; before that: {why}"))
        }
    }
}

/// What each part of the way down took, for the log: until the endpoint is closed and no connection is left, the pause, the
/// checkpoint, and until everything is hashed and on the disk.
struct Phases {
    begun: Instant,
    us: [u64; 4],
    done: usize,
}

impl Phases {
    fn begin() -> Self {
        Self { begun: Instant::now(), us: [0; 4], done: 0 }
    }

    /// The next one has ended.
    fn end(&mut self) {
        let took = self.left_us();
        if let Some(phase) = self.us.get_mut(self.done) {
            *phase = took;
            self.done += 1;
        }
    }

    fn left_us(&self) -> u64 {
        (self.begun.elapsed().as_micros() as u64).saturating_sub(self.us.iter().sum())
    }
}

struct Descent<'a> {
    core: &'a Arc<Core>,
    actor: &'a ActorKey,
    request: &'a Suspend,
    gate: &'a Gate,
    deadline: Instant,
}

impl Descent<'_> {
    /// Between two steps. A step itself is never cut short: the sandbox would not be in a state to go on from.
    fn check(&self) -> Result<(), Stop> {
        self.gate.check()?;
        if Instant::now() < self.deadline { Ok(()) } else { Err(self.too_late()) }
    }

    fn too_late(&self) -> Stop {
        Stop::Failed(format!("not done within {:?}", self.request.deadline))
    }

    async fn go_down(&self, activation: &Activation) -> Result<(Sealed, Phases), Stop> {
        let mut phases = Phases::begin();
        let (core, record) = (self.core, &activation.record);
        let closed = activation.lease.close().await;
        closed.map_err(|e| Stop::Failed(format!("the endpoint was not closed: {e}")))?;
        self.check()?;
        let ended = activation.lease.end_connections(record.endpoint).await;
        ended.map_err(|e| Stop::Failed(e.to_string()))?;
        self.check()?;
        phases.end();

        let paused = activation.runtime.pause(&record.sandbox).await;
        paused.map_err(|error| Stop::Failed(chain(&error)))?;
        self.check()?;
        phases.end();
        let draft = core.snapshots.begin(self.actor, &self.request.snapshot);
        let mut draft = draft.map_err(|e| Stop::Failed(format!("no room for a snapshot: {e}")))?;
        let runtime = activation.runtime.clone();
        draft.follow(move |file| runtime.writes_in_order(file));
        let written = activation.runtime.checkpoint(&record.sandbox, draft.dir()).await;
        written.map_err(|error| Stop::Failed(draft.why_not_written(&chain(&error))))?;
        self.check()?;
        phases.end();
        let origin = Origin {
            actor: self.actor.clone(),
            epoch: record.epoch,
            template: record.template.clone(),
            runtime: activation.runtime.name().into(),
            runtime_version: activation.runtime.version().into(),
            image: record.image.clone(),
            upload: self.request.upload(),
        };
        let core = core.clone();
        tokio::select! {
            sealed = files::blocking(move || core.snapshots.seal(draft, origin)) => {
                phases.end();
                let sealed = sealed.map(|sealed| (sealed, phases));
                sealed.map_err(|e| Stop::Failed(format!("the snapshot was not written: {e}")))
            }
            () = self.gate.cancelled.cancelled() => Err(Stop::Cancelled),
            () = tokio::time::sleep_until(self.deadline) => Err(self.too_late()),
        }
    }
}

/// Lets an activation serve again that was on its way down, however far it had come.
///
/// It serves even if that cannot be written down (the disk is full): a record that says `Suspending` of a snapshot that
/// is not committed is brought back by the next agent too.
pub(crate) async fn come_back(
    core: &Arc<Core>,
    actor: &ActorKey,
    fence: Fence,
    activation: &mut Activation,
) -> Result<(), String> {
    let_out(activation).await?;
    let (runtime, sandbox) = (&activation.runtime, &activation.record.sandbox);
    // One that was frozen may have come no further, and a frozen runtime would not hear that it is to resume.
    runtime.thaw(sandbox).await.map_err(|error| chain(&error))?;
    let resumed = runtime.resume(sandbox).await;
    resumed.map_err(|error| chain(&error))?;
    give_back(core, actor, fence, activation).await
}

/// Gives an activation back whom it reaches, before its processes run.
pub(super) async fn let_out(activation: &Activation) -> Result<(), String> {
    let let_out = retried(|| activation.lease.let_out(&activation.record.egress)).await;
    let_out.map_err(|e| format!("it could not be let out again: {e}"))
}

async fn retried<F: Future<Output = io::Result<()>>>(attempt: impl Fn() -> F) -> io::Result<()> {
    let mut done = Ok(());
    for _ in 0..TRIES {
        done = attempt().await;
        if done.is_ok() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    done
}

/// The endpoint, to an activation whose processes run.
pub(super) async fn give_back(
    core: &Arc<Core>,
    actor: &ActorKey,
    fence: Fence,
    activation: &mut Activation,
) -> Result<(), String> {
    let (lease, record) = (&activation.lease, &activation.record);
    let opened = retried(|| lease.open(record.endpoint, record.port)).await;
    opened.map_err(|e| format!("the endpoint could not be given back: {e}"))?;
    // A runtime may call one running whose process is dead but not yet reaped.
    if activation.process.is_over() {
        return Err("its process has ended".into());
    }
    activation.record.phase = Phase::Serving;
    if let Err(error) = save(core, actor, fence, activation) {
        tracing::warn!(%actor, epoch = %activation.record.epoch, error, "the record of an actor that serves again was not written");
    }
    Ok(())
}

pub(super) fn save(
    core: &Core,
    actor: &ActorKey,
    fence: Fence,
    activation: &Activation,
) -> Result<(), String> {
    let record =
        Record { actor: actor.clone(), fence, activation: Some(activation.record.clone()) };
    core.records.save(&record).map_err(|e| format!("the actor's record was not written: {e}"))
}
