//! [`Core`]: what every activation of a node shares, and the errors of its operations.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use reveille_api::{
    ActorKey, Epoch, Failure, Reason,
    failure::UNFIT_HEADER,
    manifest::{
        egress::{self, Egress, IpBlock},
        template::Runtime as Kind,
    },
    proto::{self, node_report::Report},
};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tonic::{Status, metadata::MetadataValue};

use crate::{
    config::Layout,
    fetches::Fetches,
    files,
    golden::Goldens,
    images::{Image, Images, Pulls},
    limits::Watch,
    logs::Logs,
    metrics::Metrics,
    process::Process,
    record::{ActivationRecord, Fenced, Records},
    runtime::{Runtime, Runtimes},
    slots::{Lease, Slots},
    snapshots::Snapshots,
    stay::{Newest, Over},
    store::Store,
    turns::Turns,
    uploads::Uploads,
};

/// Shared by the drivers of all actors.
pub(crate) struct Core {
    pub(crate) node: String,
    /// Changes with every start of the agent.
    pub(crate) instance: String,
    pub(crate) layout: Layout,
    pub(crate) runtimes: Runtimes,
    pub(crate) newest: Newest,
    pub(crate) slots: Slots,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) images: Arc<Images>,
    pub(crate) pulls: Pulls,
    pub(crate) goldens: Goldens,
    /// Where snapshots are that all nodes can restore.
    pub(crate) store: Option<Store>,
    /// Bytes of the disk that snapshots may take which are in the store too.
    pub(crate) snapshot_cache: Option<u64>,
    pub(crate) uploads: Uploads,
    pub(crate) fetches: Fetches,
    pub(crate) records: Records,
    pub(crate) logs: Logs,
    pub(crate) rootfs_allow: Vec<PathBuf>,
    pub(crate) egress_allow: Vec<IpBlock>,
    /// What the control plane is told without having asked.
    pub(crate) reports: mpsc::Sender<Report>,
    /// What goes on after a reply: removing what dead sandboxes leave behind.
    pub(crate) cleanups: TaskTracker,
    pub(crate) sandboxes: AtomicU64,
    /// Of sandboxes that are made.
    pub(crate) turns: Turns,
    /// Of those that are saved. A wake does not wait for them.
    pub(crate) saves: Turns,
    pub(crate) metrics: Metrics,
}

/// Why an operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum OpError {
    #[error(transparent)]
    Fenced(#[from] Fenced),
    #[error(transparent)]
    Over(#[from] Over),
    #[error("this freeze was undone before it came")]
    Late,
    #[error("{actor} has no activation of epoch {epoch} on this node")]
    NotRunning { actor: ActorKey, epoch: Epoch },
    #[error("{0}")]
    Invalid(String),
    #[error("too many operations wait for this actor")]
    TooBusy,
    #[error("the node agent is stopping")]
    Stopping,
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The snapshot is not for this node.
    #[error(transparent)]
    Unfit(Failure),
}

impl OpError {
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::Failed(Failure::internal(message))
    }

    /// As the control plane is told, and as it is counted.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Failed(failure) | Self::Unfit(failure) => failure.reason,
            _ => Reason::Internal,
        }
    }
}

impl From<OpError> for Status {
    fn from(error: OpError) -> Self {
        let text = error.to_string();
        match error {
            OpError::Fenced(_) => Self::failed_precondition(text),
            OpError::Over(_) | OpError::Late => Self::aborted(text),
            OpError::NotRunning { .. } => Self::not_found(text),
            OpError::Invalid(_) => Self::invalid_argument(text),
            OpError::TooBusy => Self::resource_exhausted(text),
            OpError::Stopping => Self::unavailable(text),
            OpError::Failed(failure) => failure.into(),
            OpError::Unfit(failure) => {
                let mut status = Self::from(failure);
                status.metadata_mut().insert(UNFIT_HEADER, MetadataValue::from_static("1"));
                status
            }
        }
    }
}

impl Core {
    /// A new name for a sandbox: never used before, and as long as every other.
    pub(crate) fn sandbox_id(&self, actor: &ActorKey, epoch: Epoch) -> String {
        let number = self.sandboxes.fetch_add(1, Ordering::Relaxed);
        let seed = format!("{} {} {} {number}", self.instance, actor, epoch);
        format!("{}{}", self.layout.prefix, &blake3::hash(seed.as_bytes()).to_hex()[..12])
    }

    /// The runtime of a template.
    pub(crate) fn runtime(&self, kind: Kind) -> Result<&Arc<dyn Runtime>, String> {
        let name = kind.name();
        self.runtimes
            .get(kind)
            .ok_or_else(|| format!("this node has no runtime {name}: see `reveille doctor` on it"))
    }

    /// The index in `<node>-<index>`.
    pub(crate) fn worker_index(&self, worker: &str) -> Option<u32> {
        worker.strip_prefix(&self.node)?.strip_prefix('-')?.parse().ok()
    }

    /// A folder that something is to run from, if it may be used.
    pub(crate) fn rootfs(&self, path: &Path) -> Result<PathBuf, String> {
        allowed(path, &self.rootfs_allow)
    }

    /// Whether an actor may be let out to all of these.
    pub(crate) fn check_egress(&self, egress: &[Egress]) -> Result<(), String> {
        let allow = &self.egress_allow;
        let Some(refused) = egress::refused(egress, allow) else { return Ok(()) };
        let allow = match allow.as_slice() {
            [] => "nothing".into(),
            allow => allow.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        Err(format!(
            "the egress to {refused} is outside of what this node allows ({allow}): start the node with --allow-egress for it"
        ))
    }

    /// Ends an activation, whole or half-made. Nothing of it serves when this returns; the rest of the cleaning goes
    /// on in the background.
    pub(crate) async fn teardown(
        self: &Arc<Self>,
        runtime: &Arc<dyn Runtime>,
        sandbox: &str,
        process: Option<&Process>,
        lease: Option<Lease>,
    ) {
        match process {
            Some(process) => process.end().await,
            None => {
                if let Err(error) = runtime.kill(sandbox).await {
                    tracing::error!(sandbox, %error, "a sandbox could not be killed");
                }
            }
        }
        if let Some(lease) = lease {
            lease.recycle();
        }
        self.cleanups.spawn(discard(runtime.clone(), sandbox.to_owned()));
    }

    /// Tells the control plane that an activation is over without anybody having asked for it.
    pub(crate) fn report_exit(&self, actor: &ActorKey, epoch: Epoch, message: String) {
        tracing::warn!(%actor, %epoch, message, "an activation ended by itself");
        self.metrics.exited();
        let exited = proto::Exited { actor: Some(actor.into()), epoch: epoch.0, message };
        // Full only while the control plane is away, and then the next registration tells what still runs.
        let _ = self.reports.try_send(Report::Exited(exited));
    }

    /// Keeps to the limit of images. Goes on in the background.
    pub(crate) fn make_room_for_images(self: &Arc<Self>) {
        let core = self.clone();
        self.cleanups.spawn(async move {
            let evicting = core.clone();
            let evicted =
                files::blocking(move || evicting.images.evict(|| evicting.snapshots.images()));
            match evicted.await {
                Ok(0) => {}
                Ok(evicted) => tracing::info!(evicted, "images that nobody needs were evicted"),
                Err(error) => tracing::warn!(%error, "images could not be evicted"),
            }
        });
    }

    /// Tells the control plane that a snapshot is in the store.
    pub(crate) fn report_stored(&self, actor: &ActorKey, id: &str) {
        let stored = proto::Stored { actor: Some(actor.into()), snapshot: id.into() };
        // As above.
        let _ = self.reports.try_send(Report::Stored(stored));
    }
}

/// An activation that serves, or did until a moment ago. Dropping it leaves it as it is.
#[derive(Debug)]
pub(crate) struct Activation {
    pub(crate) record: ActivationRecord,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) process: Process,
    pub(crate) lease: Lease,
    pub(crate) watch: Watch,
    /// What it runs from, which must stay.
    pub(crate) image: Option<Image>,
    pub(crate) reply: Activated,
}

impl Activation {
    /// See [`Core::teardown`].
    pub(crate) async fn end(self, core: &Arc<Core>) {
        let Self { record, runtime, process, lease, image, .. } = self;
        core.teardown(&runtime, &record.sandbox, Some(&process), Some(lease)).await;
        drop(image);
    }

    /// Ends one that stands still and can be reached by nobody. It is killed when this returns and does nothing any more; that
    /// the kernel takes its memory back, which takes the longer the more it has, goes on in the background, and its slot is
    /// leased to nobody before that is over.
    pub(crate) fn let_go(self, core: &Arc<Core>) {
        let Self { record, runtime, process, lease, image, .. } = self;
        process.kill();
        let over = process.clone();
        lease.recycle_after(async move { over.exited().await });
        core.cleanups.spawn(async move {
            process.exited().await;
            drop(image);
            discard(runtime, record.sandbox).await;
        });
    }
}

async fn discard(runtime: Arc<dyn Runtime>, sandbox: String) {
    if let Err(error) = runtime.discard(&sandbox).await {
        tracing::warn!(sandbox, %error, "a dead sandbox was not deleted; the next start will do it");
    }
}

/// What an activation came from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// Its template's command.
    Start,
    /// The same, though its template is golden.
    StartWithoutGolden { why: String },
    /// The template's golden snapshot.
    Golden,
    /// The actor's own snapshot.
    Snapshot,
    /// An earlier agent.
    Adopted,
}

/// What a wake is told.
#[derive(Clone, Debug)]
pub(crate) struct Activated {
    pub(crate) endpoint: String,
    pub(crate) origin: Origin,
    pub(crate) fetch_us: u64,
    pub(crate) restore_us: u64,
    pub(crate) ready_us: u64,
}

impl From<Activated> for proto::ActivateReply {
    fn from(activated: Activated) -> Self {
        let Activated { endpoint, fetch_us, restore_us, ready_us, origin } = activated;
        let cloned = matches!(origin, Origin::Golden);
        let not_cloned = match origin {
            Origin::StartWithoutGolden { why } => why,
            _ => String::new(),
        };
        Self { endpoint, fetch_us, restore_us, ready_us, cloned, not_cloned }
    }
}

fn allowed(path: &Path, allow: &[PathBuf]) -> Result<PathBuf, String> {
    let shown = path.display();
    let real = path.canonicalize().map_err(|e| format!("the rootfs directory {shown}: {e}"))?;
    if !real.is_dir() {
        return Err(format!("the rootfs {shown} is not a directory"));
    }
    if allow.iter().any(|dir| real.starts_with(dir)) {
        return Ok(real);
    }
    let dirs = allow.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ");
    Err(format!(
        "the rootfs directory {shown} is outside of what this node allows ({dirs}): start the node with --allow-rootfs for it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rootfs_is_judged_by_where_it_really_is() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir_all(inside.join("rootfs")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        let allow = [inside.canonicalize().unwrap()];
        allowed(&inside.join("rootfs"), &allow).unwrap();
        for bad in ["link", "../out", "missing", "rootfs/../../out"] {
            let error = allowed(&inside.join(bad), &allow).unwrap_err();
            assert!(error.contains("rootfs directory"), "{error}");
        }
    }
}
