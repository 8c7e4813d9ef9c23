//! The process that Envoy is: started, watched, restarted, drained, ended; never left behind.
//!
//! ```text
//!            ┌──── exited: wait (backoff) ────┐
//!            ▼                                │
//!        Starting ── /ready says LIVE ──▶  Ready
//!            │                                │
//!            └────────── shutdown ────────────┴──▶ Draining ─▶ SIGTERM ─▶ SIGKILL ─▶ gone
//! ```
//!
//! *Draining*: Envoy says that it is not ready and asks clients to close their connections, but serves whoever
//! comes, for the grace in which load balancers notice and then until no request is left or the drain deadline has
//! passed; only then does it stop listening.
//!
//! What keeps Envoy from outliving its supervisor:
//!
//! | the supervisor | then |
//! | --- | --- |
//! | is asked to stop | drains Envoy, ends it, waits for it |
//! | fails or is dropped | its launcher thread ends, and the kernel kills Envoy (`PDEATHSIG`) |
//! | is killed | the same |
//! | is killed where `setpriv` is missing | the next start in the same directory finds Envoy by its command line and kills it |

mod admin;
mod backoff;
mod binary;
mod drain;
pub mod dump;
mod launcher;
mod leftover;
mod log;
mod setup;
mod status;

use std::{
    io,
    net::SocketAddr,
    num::NonZero,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use reveille_api::{
    Ladder,
    net::{Address, Listener},
};
use tokio::{process::Child, sync::watch, time};
use tokio_util::sync::CancellationToken;

use crate::{bootstrap::Protocol, tls};
use backoff::Backoff;

pub use binary::{BinaryError, Version, checks};
pub use setup::BuildError;
pub use status::series;

/// How often Envoy is asked whether it is ready, until it is.
const POLL: Duration = Duration::from_millis(50);
/// From SIGTERM to SIGKILL.
const TERM: Duration = Duration::from_secs(5);
/// An Envoy that was never ready and ends so often will not be.
const HOPELESS: u32 = 5;

/// How to run Envoy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Envoy's binary: an absolute path, for it runs in `dir`.
    pub binary: PathBuf,
    /// Directory of the bootstrap, of one supervisor only. Made with mode 0700 if it is not there.
    pub dir: PathBuf,
    /// Names this Envoy in the fleet.
    pub node_id: String,
    /// The ADS servers, the one to be used first.
    pub xds: Vec<Address>,
    /// The routers, likewise: the same servers, but in tests.
    pub routers: Vec<Address>,
    /// Requests that may wait for the routers at a time: above what each of them parks.
    pub max_requests: u32,
    /// The form of xDS.
    pub protocol: Protocol,
    /// Envoy's admin interface, on loopback; without one it is a Unix socket in the directory.
    pub admin: Option<SocketAddr>,
    /// Where metrics and probes are served, those for load balancers too.
    pub status: Option<Address>,
    /// Where the ADS server will tell Envoy to listen, if that is known: checked to be free before it starts.
    pub listen: Vec<SocketAddr>,
    /// Worker threads. Default: one for each CPU.
    pub concurrency: Option<NonZero<usize>>,
    /// How long a shutdown lets clients come while it says that it is not ready: the time in which a load
    /// balancer notices. Nothing where there is none.
    pub grace: Duration,
    /// How long requests in flight may go on after that.
    pub drain: Duration,
    /// Envoy's own log: trace, debug, info, warning, error, critical or off.
    pub log_level: String,
    /// Connections of clients at a time.
    pub max_connections: u32,
    /// Envoy's certificate, for a router that is reached by TCP.
    pub tls: Option<tls::Config>,
}

impl Config {
    /// The defaults.
    pub fn new(binary: impl Into<PathBuf>, dir: impl Into<PathBuf>, routers: Vec<Address>) -> Self {
        Self {
            binary: binary.into(),
            dir: dir.into(),
            node_id: "envoy".into(),
            xds: routers.clone(),
            routers,
            max_requests: Ladder::default().max_requests(),
            protocol: Protocol::default(),
            admin: None,
            status: None,
            listen: Vec::new(),
            concurrency: None,
            grace: Duration::ZERO,
            drain: Duration::from_secs(30),
            log_level: "warning".into(),
            max_connections: 50_000,
            tls: None,
        }
    }

    /// What can be known to be wrong before anything is opened.
    pub fn check(&self) -> Result<(), BuildError> {
        setup::check(self)
    }

    /// Checks everything that can be checked before Envoy runs, ends what an earlier supervisor left, and
    /// writes the bootstrap.
    pub async fn build(self) -> Result<App, BuildError> {
        setup::build(self).await
    }

    fn bootstrap(&self) -> PathBuf {
        self.dir.join("bootstrap.pb")
    }

    fn admin_address(&self) -> Address {
        match self.admin {
            Some(addr) => Address::Tcp(addr),
            None => Address::Unix(self.dir.join("admin.sock")),
        }
    }
}

/// Where Envoy is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does not run, or has no configuration yet.
    Starting,
    /// It serves.
    Ready,
    /// It finishes what it has.
    Draining,
}

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addrs {
    /// Envoy's admin interface.
    pub admin: Address,
    /// Metrics and probes.
    pub status: Option<Address>,
}

/// A supervisor that is ready to start Envoy.
#[derive(Debug)]
pub struct App {
    config: Config,
    /// Holds the directory.
    _lock: std::fs::File,
    launcher: launcher::Launcher,
    state: watch::Sender<State>,
    status: Option<Listener>,
    metrics: status::Metrics,
    hurry: CancellationToken,
}

/// Why the supervisor gave up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be started at all.
    #[error("cannot start Envoy ({binary})", binary = binary.display())]
    Launch {
        /// What was to be run.
        binary: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It starts and ends, and was never ready.
    #[error(
        "Envoy ended {times} times without ever being ready, the last time with {status}: {said}"
    )]
    Hopeless {
        /// How often.
        times: u32,
        /// How it ended last.
        status: ExitStatus,
        /// What it logged last.
        said: String,
    },
    /// It cannot be waited for.
    #[error("cannot wait for Envoy")]
    Wait(#[source] io::Error),
}

impl App {
    /// Where things are.
    pub fn addrs(&self) -> Addrs {
        let status = self.status.as_ref().and_then(|listener| listener.address().ok());
        Addrs { admin: self.config.admin_address(), status }
    }

    /// With a token that hurries a shutdown: no grace, and little time for what is in flight.
    #[must_use]
    pub fn hurried_by(mut self, hurry: CancellationToken) -> Self {
        self.hurry = hurry;
        self
    }

    /// Where Envoy is in its life, as it changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Keeps Envoy running until the token is cancelled; then drains and ends it.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let admin = admin::Admin::new(self.config.admin_address());
        let (state, metrics) = (self.state.subscribe(), self.metrics.clone());
        let status = status::serve(self.status.take(), state, metrics, admin);
        tokio::select! {
            ended = self.keep(shutdown) => ended,
            never = status => match never {},
        }
    }

    async fn keep(&self, shutdown: CancellationToken) -> Result<(), Error> {
        let admin = admin::Admin::new(self.config.admin_address());
        let mut backoff = Backoff::default();
        let mut was_ready = false;
        loop {
            let started = time::Instant::now();
            let mut running = self.launch().await?;
            let status = tokio::select! {
                status = running.child.wait() => status.map_err(Error::Wait)?,
                never = self.watch(&admin, &mut was_ready) => match never {},
                () = shutdown.cancelled() => {
                    self.state.send_replace(State::Draining);
                    return drain::end(&admin, running, &self.config, &self.hurry).await;
                }
            };
            self.state.send_replace(State::Starting);
            let said = running.said.last().await;
            let (wait, times) = backoff.next(started.elapsed());
            if !was_ready && times >= HOPELESS {
                return Err(Error::Hopeless { times, status, said });
            }
            tracing::error!(%status, said, restart_in = ?wait, "Envoy ended");
            self.metrics.exits.inc();
            tokio::select! {
                () = time::sleep(wait) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    async fn launch(&self) -> Result<Running, Error> {
        let binary = || self.config.binary.clone();
        let launched = self.launcher.launch(self.command()).await;
        let mut child = launched.map_err(|source| Error::Launch { binary: binary(), source })?;
        tracing::info!(pid = child.id(), "Envoy started");
        self.metrics.starts.inc();
        let said = log::follow(child.stderr.take());
        Ok(Running { child, said })
    }

    /// Notices that Envoy is ready; it stays so until it ends.
    async fn watch(&self, admin: &admin::Admin, was_ready: &mut bool) -> std::convert::Infallible {
        let mut poll = time::interval(POLL);
        poll.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            poll.tick().await;
            if admin.is_ready().await {
                tracing::info!("Envoy is ready");
                *was_ready = true;
                self.state.send_replace(State::Ready);
                return std::future::pending().await;
            }
        }
    }

    fn command(&self) -> tokio::process::Command {
        let config = &self.config;
        let threads = config.concurrency.or_else(|| std::thread::available_parallelism().ok());
        let threads = threads.map_or(1, NonZero::get).to_string();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let who = format!("service.instance.id={},host.name={host}", config.node_id);
        let mut command = self.launcher.command(&config.binary);
        command
            // Who sends its spans.
            .env("OTEL_RESOURCE_ATTRIBUTES", who)
            // The clusters find their secrets from here.
            .current_dir(&config.dir)
            .arg("-c")
            .arg(config.bootstrap())
            .args(["--concurrency", &threads])
            .args(["--log-level", &config.log_level])
            .args(["--log-format", log::FORMAT])
            // Says for every request that the router is away; the access log does already.
            .args(["--component-log-level", "ext_proc:error"])
            .args(["--file-flush-interval-msec", "1000"])
            // Hot restart would need shared memory that a killed Envoy leaves behind.
            .arg("--disable-hot-restart");
        command
    }
}

/// Envoy, running.
struct Running {
    child: Child,
    said: log::Said,
}

/// What `deploy/setup.sh` must be told to get it.
fn how_to_install(binary: &Path) -> String {
    format!("{} is missing or cannot be run: deploy/setup.sh envoy installs it", binary.display())
}
