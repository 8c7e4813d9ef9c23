//! From nothing to an activation that answers.
//!
//! ```text
//!  lease the slot ─▶ fetch, check the snapshot; pull the image ─▶ record `Starting` ─▶ start or restore ────┬▶ record `Serving`
//!                                                             ∥ endpoint open, probe ┘
//!  fetch                                                      restore      ready
//! ```
//!
//! The first start of an actor may be that of a [clone](golden).
//!
//! Whatever fails, and also a deadline or a cancellation, leaves nothing behind that runs or can be reached.

mod golden;
mod spans;

use std::{
    net::{SocketAddr, SocketAddrV4},
    path::PathBuf,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reveille_api::{
    ActorKey, Epoch, Failure, Reason,
    manifest::{ActorTemplateSpec, template::Rootfs},
    trace::Traceparent,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use spans::Spans;

use crate::{
    core::{Activated, Activation, Core, OpError, Origin},
    files,
    golden::NAME,
    images::{self, Pin},
    limits::Watch,
    metrics::End,
    process::Process,
    readiness::Check,
    record::{ActivationRecord, Fence, Phase, Record},
    runtime::{Identity, Runtime, Sandbox},
    slots::{Lease, Refused},
    snapshots::{Image, Unusable},
    store, uploads,
};

/// A request to activate.
#[derive(Clone, Debug)]
pub(crate) struct Activate {
    pub(crate) epoch: Epoch,
    pub(crate) worker: String,
    pub(crate) template: Arc<ActorTemplateSpec>,
    pub(crate) template_name: String,
    /// Hash of the template's text.
    pub(crate) digest: String,
    /// None: cold start.
    pub(crate) snapshot: Option<String>,
    pub(crate) deadline: Duration,
    /// Of the wake that asks for it.
    pub(crate) traceparent: Option<Traceparent>,
}

impl Activate {
    /// True for a repeated call.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        let key = |a: &Self| (a.epoch, a.worker.clone(), a.snapshot.clone());
        key(self) == key(other)
    }
}

/// See the module.
pub(super) async fn activate(
    core: Arc<Core>,
    actor: ActorKey,
    fence: Fence,
    request: Activate,
    cancel: CancellationToken,
) -> Result<Box<Activation>, OpError> {
    let begin = Instant::now();
    let spans = Spans::begin(&actor, &request);
    let deadline = begin + request.deadline;
    let index = core.worker_index(&request.worker).ok_or_else(|| unknown(&request.worker))?;
    let directory = match &request.template.rootfs {
        Rootfs::Directory(path) => Some(core.rootfs(path).map_err(OpError::Invalid)?),
        Rootfs::Image(_) | Rootfs::OciLayout(_) => None,
    };
    core.check_egress(&request.template.egress).map_err(OpError::Invalid)?;
    let runtime = core.runtime(request.template.runtime).map_err(OpError::Invalid)?;
    let lease = tokio::select! {
        lease = core.slots.lease(index, &actor, request.epoch) => lease,
        () = tokio::time::sleep_until(deadline) => {
            return Err(Failure::new(Reason::NoCapacity, "the worker did not become ready in time").into());
        }
        () = cancel.cancelled() => return Err(cancelled()),
    };
    let mut lease = lease.map_err(|refused| match refused {
        Refused::Unknown(_) => unknown(&request.worker),
        Refused::Occupied(..) => Failure::new(Reason::NoCapacity, refused.to_string()).into(),
    })?;
    let (fetching, sandbox) = (Mutex::new(None), Mutex::new(None));
    let attempt = Attempt {
        core: &core,
        runtime,
        actor: &actor,
        fence,
        request: &request,
        begin,
        fetching: &fetching,
        sandbox: &sandbox,
        spans: &spans,
    };
    let launched = tokio::select! {
        biased;
        launched = attempt.launch(&mut lease, directory) => launched,
        () = tokio::time::sleep_until(deadline) => {
            Err(attempt.too_late())
        }
        () = cancel.cancelled() => Err(cancelled()),
    };
    match launched {
        Ok(Launched { record, process, watch, image, reply }) => {
            lease.let_go_of_netns();
            tracing::info!(
                %actor, epoch = %request.epoch, worker = request.worker, endpoint = reply.endpoint,
                fetch_us = reply.fetch_us, restore_us = reply.restore_us, ready_us = reply.ready_us,
                origin = ?reply.origin, "an actor serves"
            );
            let runtime = runtime.clone();
            Ok(Box::new(Activation { record, runtime, process, lease, watch, image, reply }))
        }
        Err(error) => {
            tracing::warn!(%actor, epoch = %request.epoch, %error, "an activation failed");
            spans.fail(error.reason());
            let sandbox = attempt.present().take();
            match sandbox {
                Some(sandbox) => core.teardown(runtime, &sandbox, None, Some(lease)).await,
                None => lease.recycle(),
            }
            Err(error)
        }
    }
}

struct Attempt<'a> {
    core: &'a Arc<Core>,
    runtime: &'a Arc<dyn Runtime>,
    actor: &'a ActorKey,
    fence: Fence,
    request: &'a Activate,
    begin: Instant,
    /// What has to come from elsewhere first.
    fetching: &'a Mutex<Option<&'static str>>,
    /// What there is to be removed when this comes to nothing.
    sandbox: &'a Mutex<Option<String>>,
    spans: &'a Spans,
}

/// What a sandbox is made from.
#[derive(Clone, Copy)]
enum Source<'a> {
    Nothing,
    /// The actor's own snapshot.
    Own(&'a Image),
    /// Its template's golden one.
    Golden(&'a Image),
}

impl<'a> Source<'a> {
    fn image(self) -> Option<&'a Image> {
        match self {
            Self::Nothing => None,
            Self::Own(image) | Self::Golden(image) => Some(image),
        }
    }
}

/// What it runs from.
#[derive(Clone)]
struct Root {
    /// The uppermost first; of no image, the last one is the template's directory.
    layers: Vec<PathBuf>,
    process: images::Process,
    image: Option<images::Image>,
}

/// All of an [`Activation`] that an attempt comes to.
struct Launched {
    record: ActivationRecord,
    process: Process,
    watch: Watch,
    image: Option<images::Image>,
    reply: Activated,
}

/// A sandbox that answers.
struct Booted {
    process: Process,
    watch: Watch,
    /// When it ran, since the attempt began.
    up: Duration,
}

impl Attempt<'_> {
    async fn launch(
        &self,
        lease: &mut Lease,
        directory: Option<PathBuf>,
    ) -> Result<Launched, OpError> {
        let snapshot = match &self.request.snapshot {
            Some(snapshot) => Some(self.image(snapshot).await?),
            None => None,
        };
        let pin = snapshot.as_ref().map(|snapshot| snapshot.image.as_ref());
        let image = self.root(pin, directory.is_some()).await?;
        let (layers, process) = match (&image, directory) {
            (Some(image), _) => (image.layers.clone(), image.process.clone()),
            (None, directory) => {
                let layers = [self.core.images.mounts()].into_iter().chain(directory);
                (layers.collect(), images::Process::default())
            }
        };
        let root = Root { layers, process, image };
        match &snapshot {
            Some(snapshot) => self.serve(lease, root, Source::Own(snapshot)).await,
            None if self.request.template.golden => self.clone_or_start(lease, root).await,
            None => self.serve(lease, root, Source::Nothing).await,
        }
    }

    async fn serve(
        &self,
        lease: &mut Lease,
        root: Root,
        source: Source<'_>,
    ) -> Result<Launched, OpError> {
        let spec = &self.request.template;
        let identity = Identity { actor: self.actor.clone(), epoch: self.request.epoch };
        let mut sandbox = self.sandbox(lease, &root, identity)?;
        sandbox.image_of = matches!(source, Source::Golden(_)).then_some(NAME);
        let endpoint = self.endpoint(lease).await?;
        let held = lease.held(endpoint);
        let mut record = ActivationRecord {
            epoch: self.request.epoch,
            worker: self.request.worker.clone(),
            slot: held.index,
            link: held.link,
            runtime: spec.runtime,
            sandbox: sandbox.id.clone(),
            endpoint,
            port: spec.port,
            template: self.request.digest.clone(),
            image: root.image.as_ref().map(|image| image.pin.clone()),
            process: None,
            phase: Phase::Starting,
            resumed: None,
            thawed: None,
            limits: spec.resources.clone(),
            egress: spec.egress.clone(),
        };
        self.save(&record)?;
        let fetch = self.begin.elapsed();
        self.spans.next("restore");
        let Booted { process, watch, up } =
            self.boot(lease, &sandbox, source.image(), endpoint).await?;
        record.process = Some(process.id());
        record.phase = Phase::Serving;
        self.save(&record)?;
        let micros = |duration: Duration| duration.as_micros() as u64;
        let reply = Activated {
            endpoint: endpoint.to_string(),
            fetch_us: micros(fetch),
            restore_us: micros(up - fetch),
            ready_us: micros(self.begin.elapsed() - up),
            origin: match source {
                Source::Nothing => Origin::Start,
                Source::Own(_) => Origin::Snapshot,
                Source::Golden(_) => Origin::Golden,
            },
        };
        Ok(Launched { record, process, watch, image: root.image, reply })
    }

    fn sandbox(&self, lease: &Lease, root: &Root, identity: Identity) -> Result<Sandbox, OpError> {
        let (core, spec, own) = (self.core, &self.request.template, &root.process);
        let output =
            core.logs.open(self.actor).map_err(|e| self.failure(format!("no log file: {e}")))?;
        let command = own.command(spec);
        if command.is_empty() {
            return Err(self.failure(
                "the image does not say what to run: write spec.command into the template",
            ));
        }
        let id = core.sandbox_id(&identity.actor, identity.epoch);
        *self.present() = Some(id.clone());
        Ok(Sandbox {
            id,
            identity,
            image_of: None,
            command,
            env: own.env(spec),
            directory: own.directory.clone().unwrap_or_else(|| "/".into()),
            user: own.user.clone(),
            layers: root.layers.clone(),
            limits: spec.resources.clone(),
            netns: lease.netns(),
            output: Arc::new(output),
        })
    }

    async fn endpoint(&self, lease: &Lease) -> Result<SocketAddrV4, OpError> {
        let endpoint = lease.next_endpoint().await;
        endpoint.map_err(|e| self.failure(format!("no endpoint: {e}")))
    }

    fn present(&self) -> MutexGuard<'_, Option<String>> {
        self.sandbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once it answers through the endpoint.
    async fn boot(
        &self,
        lease: &mut Lease,
        sandbox: &Sandbox,
        image: Option<&Image>,
        endpoint: SocketAddrV4,
    ) -> Result<Booted, OpError> {
        let spec = &self.request.template;
        // Before it runs: it may want somebody at once.
        let let_out = lease.let_out(&spec.egress).await;
        let_out.map_err(|e| self.failure(format!("it was not let out: {e}")))?;
        let check = Check::new(SocketAddr::V4(endpoint), &sandbox.identity.actor, spec);
        let turn = self.core.turns.next().await;
        let launched = async {
            let launched = turn.of(match image {
                Some(image) => self.runtime.restore(sandbox, &image.dir),
                None => self.runtime.start(sandbox),
            });
            let launched = launched.await;
            let pid = launched.map_err(|error| self.failure(chain(&error)))?;
            let watch = Watch::new(self.runtime, &sandbox.id, pid, &sandbox.limits);
            let process = Process::open(pid).map_err(|_| self.ended(&watch))?;
            Ok((process, watch))
        };
        let opened = async {
            let opened = lease.open_first(endpoint, spec.port).await;
            opened.map_err(|e| self.failure(format!("the endpoint was not opened: {e}")))
        };
        let mut launched = pin!(async { tokio::try_join!(launched, opened) });
        let mut passed = pin!(check.passed());
        tokio::select! {
            biased;
            launched = &mut launched => {
                let ((process, watch), ()) = launched?;
                let up = self.begin.elapsed();
                self.spans.next("ready");
                check.hurry();
                tokio::select! {
                    biased;
                    () = &mut passed => {}
                    () = process.exited() => return Err(self.ended(&watch)),
                    excess = watch.exceeded() => return Err(self.failure(excess)),
                    () = tokio::time::sleep(spec.readiness.timeout) => {
                        let (limit, miss) = (spec.readiness.timeout, check.last_miss());
                        return Err(self.failure(format!("not ready within {limit:?}: {miss}")));
                    }
                }
                Ok(Booted { process, watch, up })
            }
            // It answers already, and the program is only about to end.
            () = &mut passed => {
                let up = self.begin.elapsed();
                self.spans.next("ready");
                let ((process, watch), ()) = launched.await?;
                Ok(Booted { process, watch, up })
            }
        }
    }

    /// What it runs from, if that is not the template's directory. A snapshot knows its `pin`.
    async fn root(
        &self,
        pin: Option<Option<&Pin>>,
        is_directory: bool,
    ) -> Result<Option<images::Image>, OpError> {
        let images = &self.core.images;
        let (source, digest) = match pin {
            Some(None) if is_directory => return Ok(None),
            Some(None) => {
                return Err(self.failure(
                    "the snapshot is of a directory, and its template has an image now: delete the actor, or go back",
                ));
            }
            Some(Some(pin)) => (&pin.source, Some(&pin.digest)),
            None if is_directory => return Ok(None),
            None => (&self.request.template.rootfs, None),
        };
        // What a name stands for is found out once for a template, and what a layout holds each time.
        let lasts = matches!(source, Rootfs::Image(_)).then_some(self.request.digest.as_str());
        let here = match digest {
            Some(digest) => images.get(digest),
            None => lasts.and_then(|template| images.resolved(template)),
        };
        if here.is_some() {
            return Ok(here);
        }
        if let Rootfs::Directory(dir) | Rootfs::OciLayout(dir) = source {
            self.core.rootfs(dir).map_err(OpError::Invalid)?;
        }
        self.fetching("image");
        let lasts = lasts.filter(|_| digest.is_none());
        let pulled = self.core.pulls.pull(images, source, digest, lasts).await;
        self.fetched();
        let image = pulled.map_err(|error| self.not_pulled(source, &error))?;
        self.core.make_room_for_images();
        Ok(Some(image))
    }

    fn not_pulled(&self, source: &Rootfs, error: &images::Error) -> OpError {
        let name = match source {
            Rootfs::Image(name) => name.clone(),
            Rootfs::Directory(dir) | Rootfs::OciLayout(dir) => dir.display().to_string(),
        };
        let message = format!("the image {name} cannot be had: {error}");
        match error {
            // That a registry does not answer says nothing of the snapshot: nothing starts cold for that.
            images::Error::Away(_) | images::Error::Disk(_) if self.request.snapshot.is_some() => {
                Failure::new(Reason::WakeTimeout, message).into()
            }
            _ => self.failure(message),
        }
    }

    /// The snapshot, whole and on this node.
    async fn image(&self, snapshot: &str) -> Result<Image, OpError> {
        match (self.verify(snapshot).await?, &self.core.store) {
            (Ok(image), _) => Ok(image),
            (Err(Unusable::Absent { .. }), Some(store)) => {
                let fetched = self.fetch(store, snapshot).await?;
                let image = self.verify(snapshot).await?.map_err(unusable)?;
                drop(fetched);
                uploads::make_room(self.core);
                Ok(image)
            }
            (Err(error), _) => Err(unusable(error)),
        }
    }

    async fn verify(&self, snapshot: &str) -> Result<Result<Image, Unusable>, OpError> {
        let (core, actor, snapshot) = (self.core.clone(), self.actor.clone(), snapshot.to_owned());
        let runtime = self.runtime.clone();
        let verified = files::blocking(move || {
            Ok(core.snapshots.verify(&actor, &snapshot, runtime.name(), runtime.version()))
        });
        verified.await.map_err(|e| OpError::internal(e.to_string()))
    }

    /// It is not evicted while what this returns is held.
    async fn fetch(&self, store: &store::Store, snapshot: &str) -> Result<Arc<()>, OpError> {
        let core = self.core;
        let (name, version) = (self.runtime.name().into(), self.runtime.version().into());
        let runtime = store::Runtime { name, version };
        self.fetching("snapshot");
        let fetched =
            core.fetches.fetch(store, &core.snapshots, self.actor, snapshot, runtime).await;
        self.fetched();
        core.metrics.fetched(End::of(&fetched));
        fetched.map_err(|error| not_fetched(snapshot, &error))
    }

    fn fetching(&self, what: &'static str) {
        *self.fetching.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
    }

    fn fetched(&self) {
        *self.fetching.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn too_late(&self) -> OpError {
        let limit = self.request.deadline;
        let fetching = *self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(what) = fetching {
            // It goes on, and the next wake finds it further.
            let message = format!("the {what} was not fetched within {limit:?}: it goes on");
            return Failure::new(Reason::WakeTimeout, message).into();
        }
        self.failure(format!("not done within {limit:?}"))
    }

    fn save(&self, record: &ActivationRecord) -> Result<(), OpError> {
        let (actor, fence) = (self.actor.clone(), self.fence);
        let record = Record { actor, fence, activation: Some(record.clone()) };
        let saved = self.core.records.save(&record);
        saved.map_err(|e| self.failure(format!("the actor's record was not written: {e}")))
    }

    fn failure(&self, message: impl Into<String>) -> OpError {
        let restores = self.request.snapshot.is_some();
        let reason = if restores { Reason::RestoreFailed } else { Reason::StartFailed };
        Failure::new(reason, message).into()
    }

    fn ended(&self, watch: &Watch) -> OpError {
        let why = watch.killed().unwrap_or_else(|| see_logs(self.actor));
        self.failure(format!("the process ended before it was ready: {why}"))
    }
}

fn unusable(error: Unusable) -> OpError {
    let message = error.to_string();
    match error {
        Unusable::Absent { .. } | Unusable::Corrupt { .. } => {
            Failure::new(Reason::SnapshotCorrupt, message).into()
        }
        Unusable::Unfit { .. } => OpError::Unfit(Failure::new(Reason::RestoreFailed, message)),
    }
}

fn not_fetched(snapshot: &str, error: &store::Error) -> OpError {
    let message = format!("snapshot {snapshot}: {}", chain(error));
    match error {
        store::Error::Absent | store::Error::Corrupt(_) | store::Error::Damaged(_) => {
            Failure::new(Reason::SnapshotCorrupt, message).into()
        }
        store::Error::Unfit(_) => OpError::Unfit(Failure::new(Reason::RestoreFailed, message)),
        // That the store does not answer says nothing of the snapshot: no wake may go on without it for that.
        store::Error::Store { .. } | store::Error::Keys(_) | store::Error::Local(_) => {
            Failure::new(Reason::WakeTimeout, message).into()
        }
    }
}

fn unknown(worker: &str) -> OpError {
    OpError::Invalid(format!("this node has no worker {worker:?}"))
}

fn cancelled() -> OpError {
    Failure::new(Reason::StartFailed, "cancelled by a later operation on this actor").into()
}

/// Where to find what an actor printed. It may be anything, so it is not for messages.
pub(super) fn see_logs(actor: &ActorKey) -> String {
    format!("see `reveille logs {} -n {}`", actor.name(), actor.namespace())
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
