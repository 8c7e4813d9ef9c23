//! `reveille up`: everything on this machine, one child process per role under one supervisor.
//!
//! ```text
//!  pre-flight ──▶ lock ──▶ controlplane ──▶ apply ──▶ node ──▶ router ──▶ envoy ──▶ dns ──▶ "ready"
//!                                                                                             │ Ctrl-C
//!                                                               router: not ready ◀───────┘
//!  run files ◀── controlplane ◀── node (for good) ◀── dns, router ◀── suspend all ◀── envoy: requests, then the door
//! ```
//!
//! * Nothing is started before everything that can be known beforehand is known to be right ([`preflight`]).
//! * A part that dies is started again, with backoff; the others go on ([`keeper`]).
//! * When the supervisor is killed, the kernel sends every part SIGTERM; the node agent then leaves its sandboxes
//!   for the next `up` to adopt ([`leftovers`]).
//!
//! The supervisor is one thread: the kernel counts the *thread* that started a child as its parent.

mod access_log;
mod certificate;
mod folders;
mod keeper;
mod leftovers;
mod lock;
mod plan;
mod preflight;
mod ready;
mod relay;
mod signals;
mod start;
mod stop;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use reveille_api::{Zone, manifest::egress::IpBlock};
use reveille_node::Cidr;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    cli,
    client::DEFAULT_DATA_DIR,
    config,
    error::{Error, Result},
    logging, output,
    roles::{
        LadderArgs,
        node::{ImageArgs, SnapshotArgs},
    },
    telemetry, tools,
};
use keeper::Parts;
pub(crate) use lock::holder;
pub(crate) use preflight::addresses;

const EXAMPLES: &str = "\
Examples:
  reveille up --apply deploy/demo/demo.yaml
  reveille up --data-dir /tmp/reveille --http 127.0.0.1:9080 --workers 2

The folders that templates in an --apply file run from are allowed on the node, now and at later starts: who may run
`up` may choose them. For templates applied otherwise a folder must lie in an --allow-rootfs one.

Ctrl-C suspends every actor to a snapshot and leaves nothing behind but the data directory; a second one does not
wait for requests in flight. The next `up` with the same data directory goes on from there.";

/// Run everything on this machine
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where all state is kept
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Domain of the actors
    #[arg(long, value_name = "DOMAIN", default_value = "actors.localhost")]
    domain: Zone,
    /// Where Envoy serves HTTP
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Where Envoy serves HTTPS
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8443")]
    https: SocketAddr,
    /// Certificate for HTTPS, PEM, read again when it changes [default: a self-signed one in the data directory]
    #[arg(long, value_name = "FILE")]
    https_cert: Option<PathBuf>,
    /// Private key of --https-cert, PEM
    #[arg(long, value_name = "FILE")]
    https_key: Option<PathBuf>,
    /// Status page and metrics of the router
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8081")]
    status: SocketAddr,
    /// Control plane, for clients with the token in run/token
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8082")]
    grpc: SocketAddr,
    /// DNS server, UDP and TCP
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8053")]
    dns: SocketAddr,
    /// Envoy's own admin page; loopback only
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
    /// Actors that can run at a time
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    workers: u32,
    /// Addresses of the workers' networks, a /30 for each
    #[arg(long, value_name = "CIDR", default_value_t = Cidr::default())]
    worker_cidr: Cidr,
    /// Envoy [default: .deps/bin/envoy here or above, else in PATH]
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    #[command(flatten)]
    runtimes: tools::Runtimes,
    /// Folder that templates may run from; may be given more than once [default: DATA_DIR/rootfs]
    #[arg(long, value_name = "DIR")]
    allow_rootfs: Vec<PathBuf>,
    /// Network that templates may let their actors reach, like 10.1.2.0/24, or 0.0.0.0/0, which names no private one; may be given
    /// more than once [default: actors reach nobody]
    #[arg(long, value_name = "CIDR")]
    allow_egress: Vec<IpBlock>,
    #[command(flatten)]
    images: ImageArgs,
    #[command(flatten)]
    snapshots: SnapshotArgs,
    /// File to apply once the control plane is up; may be given more than once
    #[arg(long, value_name = "FILE")]
    apply: Vec<String>,
    /// Wakes that a namespace may begin in a minute, as many of them at once; 0 is no limit
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    wake_budget: u32,
    /// How long Ctrl-C waits for requests in flight, and then for actors to be suspended
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    drain: Duration,
    /// File for Envoy's access log; - is the log of `up` [default: DATA_DIR/access.log]
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    #[command(flatten)]
    ladder: LadderArgs,
    #[command(flatten)]
    config: config::Args,
    #[command(flatten)]
    logging: logging::Args,
    #[command(flatten)]
    telemetry: telemetry::Args,
    #[command(flatten)]
    traces: telemetry::TraceArgs,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        if self.config.check_config {
            self.logging.check()?;
            cli::client(preflight::settings(&self))?;
            return output::print(config::RIGHT);
        }
        let level = self.logging.start("up")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::because("cannot start", &error))?;
        runtime.block_on(async {
            tokio::select! {
                ended = self.supervise() => ended,
                never = level.serve(None) => match never {},
            }
        })
    }

    async fn supervise(self) -> Result {
        let interrupts = Interrupts::catch()?;
        let plan = match interrupts.first.run_until_cancelled(preflight::check(self)).await {
            Some(plan) => plan?,
            None => return Ok(()),
        };
        let mut parts = Parts::default();
        let started = start::start(&plan, &mut parts);
        let outcome = match interrupts.first.run_until_cancelled(started).await {
            Some(Ok(urls)) => {
                // Nobody to read it is no reason to stop.
                let _ = output::print(&ready::announcement(&plan, &urls));
                tokio::select! {
                    () = interrupts.first.cancelled() => Ok(()),
                    never = access_log::keep_small(&plan) => match never {},
                }
            }
            Some(Err(error)) => Err(error),
            None => Ok(()),
        };
        stop::stop(&plan, parts, &interrupts.second).await;
        outcome
    }
}

/// The first and the second Ctrl-C, SIGTERM or SIGHUP.
struct Interrupts {
    first: CancellationToken,
    second: CancellationToken,
    _task: tokio::task::JoinSet<()>,
}

impl Interrupts {
    fn catch() -> Result<Self> {
        let cannot = |error| Error::because("cannot catch signals", &error);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
        // Under nohup it is ignored, and stays so.
        let mut hangup = match signals::ignored(Signal::HUP) {
            true => None,
            false => Some(signal(SignalKind::hangup()).map_err(cannot)?),
        };
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let mut task = tokio::task::JoinSet::new();
        let tokens = [first.clone(), second.clone()];
        reveille_api::task::spawn(&mut task, "signals", async move {
            for token in tokens {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    Some(_) = async { Some(hangup.as_mut()?.recv().await) } => {}
                }
                token.cancel();
            }
        });
        Ok(Self { first, second, _task: task })
    }
}
