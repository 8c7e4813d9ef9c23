//! [`App`]: a node agent, built and run.

use std::{
    collections::HashMap,
    convert::Infallible,
    fs::File,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use reveille_api::{
    metrics as pages,
    net::{Address, Authorize, Expected, Listener, Role},
    proto::{node_agent_server::NodeAgentServer, node_report::Report},
    task,
};
use rustix::fs::{FlockOperation, flock};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::ServingStatus;

use crate::{
    actor::chain,
    actors::Actors,
    adopt::{Candidate, fence_without},
    checks,
    config::{BuildError, Config, Layout},
    core::Core,
    fetches::Fetches,
    files,
    golden::{self, Goldens},
    images::{Images, Pulls},
    logs::{Logs, ROTATE_EVERY},
    metrics::{Metrics, Page},
    record::{Record, Records},
    runtime::{Kind, Runtime, Runtimes, criu::Criu, gvisor::Gvisor},
    server::Service,
    session::{self, Introduction},
    slots::{Network, Slots},
    snapshots::Snapshots,
    stay::Newest,
    store::Store,
    turns::Turns,
    uploads::{self, Uploads},
};

/// Reports that wait for a session.
const REPORTS: usize = 256;
/// How long connections may stay after the stop, and how long operations may take to finish.
const DRAIN: Duration = Duration::from_secs(5);
const LAST: Duration = Duration::from_secs(30);

/// A node agent that is ready to run.
///
/// Dropping it, like killing it, leaves the sandboxes running: the next agent adopts them.
pub struct App {
    actors: Arc<Actors>,
    listener: Listener,
    status: Option<Listener>,
    address: Address,
    introduction: Introduction,
    control_plane: session::ControlPlane,
    reports: mpsc::Receiver<Report>,
    /// Held as long as the agent lives: one agent for a data directory.
    _lock: File,
}

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its server broke.
    #[error("the node agent's server ended")]
    Server(#[from] tonic::transport::Error),
    /// A task of it panicked.
    #[error("a task of the node agent ended: {0}")]
    Task(String),
    /// Not everything could be removed.
    #[error("not everything of this node could be removed")]
    Destroy(#[source] io::Error),
}

impl Config {
    /// Opens the state, makes the workers' network, adopts or destroys what an earlier agent left, and listens.
    pub async fn build(self) -> Result<App, BuildError> {
        self.check()?;
        if !rustix::process::geteuid().is_root() {
            return Err(BuildError::NotRoot);
        }
        let layout = self.layout();
        layout.create()?;
        let lock = lock(&layout)?;
        let control_plane = session::ControlPlane {
            channel: self
                .transport
                .channel(&self.control_plane, Expected::any(Role::ControlPlane))?,
            address: self.control_plane.clone(),
        };
        let listener = self.transport.listen(&self.listen).await?;
        let address = listener.address().map_err(BuildError::State)?;
        let status = match &self.status {
            Some(address) => Some(pages::listen(address).await?),
            None => None,
        };
        let counted = Metrics::default();
        let nft = checks::find_program(&self.nft).ok_or_else(|| {
            let nft = self.nft.display();
            BuildError::Invalid(format!("{nft} was not found: install the package nftables"))
        })?;
        let rootfs_allow = canonical(&self.rootfs_allow)?;
        let store = self.store.as_deref().map(|url| Store::open(url, self.store_keys.clone()));
        let store = store.transpose().map_err(|error| BuildError::Invalid(chain(&error)))?;
        let store = store.map(|store| store.counted_by(&counted.store));
        let snapshots = Snapshots::open(&layout.snapshots, store.is_some());
        let snapshots = snapshots.map_err(BuildError::State)?;
        let images = Images::open(&layout.images, self.image_cache).map_err(BuildError::State)?;
        let pulls = Pulls::new(self.registries());
        let goldens = Goldens::open(&layout.goldens).map_err(BuildError::State)?;
        let runtimes = self.runtimes(&layout).await?;
        let home = home(&layout).map_err(BuildError::State)?;
        let records = Records::new(&layout.records);
        let known = records.load().map_err(BuildError::State)?;
        let candidates = Candidate::among(&known, &runtimes);
        for runtime in runtimes.iter() {
            let mine = candidates.iter().filter(|candidate| candidate.kind() == runtime.kind());
            let keep: Vec<_> = mine.map(|candidate| candidate.sandbox().to_owned()).collect();
            let name = runtime.name();
            let swept = runtime.sweep(&keep).await;
            swept.map_err(|source| BuildError::Runtime { name, source })?;
        }
        snapshots.remove_unfinished().map_err(BuildError::State)?;
        goldens.remove_unfinished().map_err(BuildError::State)?;
        // Of the dead ones too: there may be clients to be told.
        let held: Vec<_> =
            known.iter().filter_map(|r| r.activation.as_ref()).map(|a| a.held()).collect();
        let living: Vec<_> = candidates.iter().map(Candidate::held).collect();
        let network = Network {
            cidr: self.worker_cidr,
            workers: self.workers,
            nft: &nft,
            egress: !self.egress_allow.is_empty(),
        };
        let slots = Slots::open(&layout, network, &held, &living).await?;
        let (reported, reports) = mpsc::channel(REPORTS);
        let core = Arc::new(Core {
            node: self.node.clone(),
            instance: uuid::Uuid::now_v7().to_string(),
            runtimes,
            newest: Newest::default(),
            slots,
            snapshots: Arc::new(snapshots),
            images: Arc::new(images),
            pulls,
            goldens,
            store,
            snapshot_cache: self.snapshot_cache,
            uploads: Uploads::default(),
            fetches: Fetches::default(),
            records,
            logs: Logs::new(&layout.logs),
            rootfs_allow,
            egress_allow: self.egress_allow,
            reports: reported,
            cleanups: TaskTracker::new(),
            sandboxes: AtomicU64::new(0),
            turns: Turns::default(),
            saves: Turns::default(),
            metrics: counted,
            layout,
        });
        let actors = Arc::new(Actors::new(core));
        adopt(&actors, known, candidates).await;
        let introduction = Introduction {
            address: self.advertise.unwrap_or_else(|| address.clone()),
            workers: self.workers,
            labels: self.labels,
            home,
        };
        Ok(App {
            actors,
            listener,
            status,
            address,
            introduction,
            control_plane,
            reports,
            _lock: lock,
        })
    }

    /// Those that work here.
    async fn runtimes(&self, layout: &Layout) -> Result<Runtimes, BuildError> {
        let pins = files::names(&layout.netns).map_err(BuildError::State)?;
        let pins: Vec<_> = pins.into_iter().map(|name| layout.netns.join(name)).collect();
        let criu = Criu::detect(&self.programs(), layout.containers(pins.clone())).await;
        let mounts = pins.into_iter().chain([layout.memory.clone()]).collect();
        let gvisor = Gvisor::detect(&self.runsc, &layout.runsc, &layout.bundles, mounts).await;
        let found: [(Kind, Result<Arc<dyn Runtime>, _>); 2] = [
            (Kind::Gvisor, gvisor.map(|gvisor| Arc::new(gvisor) as _)),
            (Kind::Criu, criu.map(|criu| Arc::new(criu) as _)),
        ];
        let none = found.iter().all(|(_, found)| found.is_err());
        let mut runtimes = Vec::new();
        for (kind, found) in found {
            let name = kind.name();
            match found {
                Ok(runtime) => runtimes.push(runtime),
                Err(source) if none || self.required.contains(&kind) => {
                    return Err(BuildError::Runtime { name, source });
                }
                Err(error) => {
                    let error = chain(&error);
                    tracing::info!(runtime = name, error, "this node does without a runtime");
                }
            }
        }
        Ok(Runtimes::new(runtimes))
    }

    /// What can be known to be wrong before anything is opened.
    pub fn check(&self) -> Result<(), BuildError> {
        self.transport.reachable(&self.control_plane)?;
        self.transport.listenable(&self.listen)?;
        self.status.as_ref().map_or(Ok(()), pages::listenable)?;
        reveille_api::key::check_label("node name", &self.node)
            .map_err(|error| BuildError::Invalid(error.to_string()))?;
        if !(1..=4096).contains(&self.workers) {
            return Err(BuildError::Invalid(format!("{} workers: give 1 to 4096", self.workers)));
        }
        checks::check_egress(&self.egress_allow).map_err(BuildError::Invalid)?;
        Ok(())
    }
}

impl App {
    /// Where the agent serves the control plane.
    pub fn addrs(&self) -> &Address {
        &self.address
    }

    /// Actors that run, as `namespace/name`; after a start those that were adopted.
    pub fn running(&self) -> Vec<String> {
        self.actors.active().iter().map(ToString::to_string).collect()
    }

    /// Serves until `shutdown`, then lets calls under way finish. What runs is left running for the next agent, or, if
    /// `destroy` is set by then, removed with every trace but snapshots, logs and records.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        destroy: Arc<AtomicBool>,
    ) -> Result<(), Error> {
        let Self { actors, listener, status, introduction, control_plane, reports, _lock, .. } =
            self;
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<NodeAgentServer<Service>>().await;
        let service = Service { actors: actors.clone(), stop: shutdown.clone() };
        let server = tonic::transport::Server::builder()
            .layer(Authorize::new(&[Role::ControlPlane]))
            .add_service(NodeAgentServer::new(service))
            .add_service(health_service)
            .serve_with_incoming_shutdown(listener.incoming(), shutdown.clone().cancelled_owned());
        let mut tasks = JoinSet::new();
        let page = Page::new(actors.clone(), introduction.workers, shutdown.clone());
        let reporting = session::keep(actors.clone(), control_plane, introduction, reports);
        task::spawn(&mut tasks, "session", reporting);
        task::spawn(&mut tasks, "log-rotation", rotate(actors.clone()));
        task::spawn(&mut tasks, "golden", golden::collect(actors.core().clone()));
        task::spawn(&mut tasks, "status", serve_page(status, page));
        if let Some(store) = actors.core().store.clone() {
            let core = actors.core().clone();
            task::spawn(&mut tasks, "uploads", uploads::run(core, store.clone()));
            task::spawn(&mut tasks, "sweep", uploads::sweep(store));
        }
        let mut server = std::pin::pin!(server);
        let mut ended = None;
        tokio::select! {
            () = shutdown.cancelled() => {}
            served = &mut server => {
                // It ends by it too, perhaps in the same moment, and then there is still everything to do.
                if !shutdown.is_cancelled() {
                    served?;
                    return Err(Error::Task("the server ended by itself".into()));
                }
                ended = Some(served);
            }
            Some(ended) = tasks.join_next() => return Err(match ended {
                Ok(never) => match never {},
                Err(error) => Error::Task(error.to_string()),
            }),
        }
        health.set_service_status("", ServingStatus::NotServing).await;
        health.set_not_serving::<NodeAgentServer<Service>>().await;
        let settled = async { settle(&actors, destroy.load(Ordering::Acquire)).await };
        // A client that keeps its connection open must not keep the agent.
        let served = async {
            match ended {
                Some(served) => Ok(served),
                None => tokio::time::timeout(DRAIN, server).await,
            }
        };
        let (served, settled) = tokio::join!(served, tokio::time::timeout(LAST, settled));
        tasks.shutdown().await;
        match settled {
            Ok(settled) => settled?,
            Err(_) => {
                tracing::error!(limit = ?LAST, "not everything was finished; the next start will do it")
            }
        }
        if let Ok(served) = served {
            served?;
        }
        Ok(())
    }
}

async fn settle(actors: &Actors, destroy: bool) -> Result<(), Error> {
    if destroy {
        actors.destroy_all().await;
    }
    actors.stop().await;
    let core = actors.core();
    core.cleanups.close();
    core.cleanups.wait().await;
    if !destroy {
        core.slots.settle().await;
        return Ok(());
    }
    core.slots.destroy(&core.layout).await.map_err(Error::Destroy)?;
    for runtime in core.runtimes.iter() {
        runtime.destroy().map_err(|error| Error::Destroy(io::Error::other(chain(&error))))?;
    }
    files::remove(&core.layout.netns).map_err(Error::Destroy)
}

/// Also while the rest comes to its end: it says that.
async fn serve_page(listener: Option<Listener>, page: Page) -> Infallible {
    if let Some(listener) = listener {
        let routes = pages::routes(Arc::new(page));
        pages::serve(listener, routes, CancellationToken::new()).await;
    }
    std::future::pending().await
}

/// Cuts large logs, for ever.
async fn rotate(actors: Arc<Actors>) -> Infallible {
    let mut ticks = tokio::time::interval(ROTATE_EVERY);
    loop {
        ticks.tick().await;
        let (core, active) = (actors.core().clone(), actors.active());
        let rotated =
            files::blocking(move || active.iter().try_for_each(|actor| core.logs.rotate(actor)));
        if let Err(error) = rotated.await {
            tracing::warn!(%error, "a log was not cut");
        }
    }
}

async fn adopt(actors: &Actors, known: Vec<Record>, candidates: Vec<Candidate>) {
    let core = actors.core();
    let adopted = candidates
        .into_iter()
        .map(|candidate| async move { (candidate.actor().clone(), candidate.adopt(core).await) });
    let adopted = futures::future::join_all(adopted).await.into_iter();
    let mut adopted: HashMap<_, _> =
        adopted.filter_map(|(actor, activation)| Some((actor, activation?))).collect();
    core.slots.ready_the_rest();
    for record in known {
        let activation = adopted.remove(&record.actor);
        let fence = if activation.is_some() { record.fence } else { fence_without(&record) };
        if activation.is_none() && record.activation.is_some() {
            let ended = Record { actor: record.actor.clone(), fence, activation: None };
            if let Err(error) = core.records.save(&ended) {
                // A full disk must not keep the others down. The next start finds it dead again.
                tracing::warn!(actor = %record.actor, %error, "the record of an actor that is gone was not written");
            }
        }
        actors.restore(record.actor, fence, activation);
    }
}

fn lock(layout: &Layout) -> Result<File, BuildError> {
    let path = layout.root.join("lock");
    let file = File::create(&path).map_err(|source| BuildError::Directory { path, source })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => {
            let root = layout.root.display();
            Err(BuildError::Invalid(format!(
                "{root} is in use by another node agent: stop that one"
            )))
        }
    }
}

/// Names this data directory, from its first agent on.
fn home(layout: &Layout) -> io::Result<String> {
    let path = layout.root.join("home.json");
    if let Some(home) = files::read_json(&path)? {
        return Ok(home);
    }
    let home = uuid::Uuid::now_v7().to_string();
    files::write_json(&path, &home, files::Durability::Power)?;
    Ok(home)
}

/// One that is gone is left out: an agent that starts again has other actors to look after than those of it.
fn canonical(dirs: &[PathBuf]) -> Result<Vec<PathBuf>, BuildError> {
    let mut real = Vec::new();
    for dir in dirs {
        match dir.canonicalize() {
            Ok(dir) => real.push(dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(dir = %dir.display(), "nothing can run from an allowed directory that is not there");
            }
            Err(error) => {
                let dir = dir.display();
                let message = format!("the allowed rootfs directory {dir}: {error}");
                return Err(BuildError::Invalid(message));
            }
        }
    }
    Ok(real)
}
