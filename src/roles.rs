//! The roles as processes: flags to a role crate's `Config`, then log, privileges, signals.
//!
//! SIGTERM and SIGINT both ask a role to stop; what it finishes first is its own business. A second one hurries
//! the router and Envoy. SIGUSR1 is for `up` alone: a router says that it is not ready and serves on. Under `up` the kernel also sends SIGTERM when the supervisor dies, so that no role outlives
//! it: that one is in a hurry from the first.

pub(crate) mod controlplane;
pub(crate) mod dns;
pub(crate) mod envoy;
pub(crate) mod explain;
pub(crate) mod node;
pub(crate) mod router;

use std::{
    convert::Infallible,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reveille_api::{Ladder, net::Address};
use rustix::process::Signal;
use tokio::signal::unix::{Signal as Signaled, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    error::{Error, Result},
    logging, output, privileges,
    telemetry::{self, Telemetry},
};

/// Flags every role has.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Common {
    #[command(flatten)]
    config: config::Args,
    #[command(flatten)]
    logging: logging::Args,
    #[command(flatten)]
    telemetry: telemetry::Args,
    /// Process that must live as long as this one
    #[arg(long, hide = true, value_name = "PID")]
    supervisor: Option<i32>,
}

/// The ladder of timeouts and limits, the same for every part that needs it.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Timeouts and limits")]
pub(crate) struct LadderArgs {
    /// Longest wake a template may ask for
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    wake: Duration,
    /// Longest time a request waits for its actor; greater than --wake
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    park: Duration,
    /// Requests that may wait on one router
    #[arg(long, value_name = "COUNT", default_value_t = Ladder::default().max_parked())]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    max_parked: u32,
    /// Requests that Envoy lets through at a time; greater than --max-parked
    #[arg(long, value_name = "COUNT", default_value_t = Ladder::default().max_requests())]
    pub(crate) max_requests: u32,
}

impl LadderArgs {
    pub(crate) fn checked(&self) -> Result<Ladder> {
        Ladder::new(self.wake, self.park, self.max_parked, self.max_requests).map_err(|error| {
            Error::usage(format!("--wake, --park, --max-parked, --max-requests: {error}"))
        })
    }

    /// The flags that make another process's the same.
    pub(crate) fn flags(&self) -> [(&'static str, String); 4] {
        let time = |time| humantime::format_duration(time).to_string().replace(' ', "");
        [
            ("--wake", time(self.wake)),
            ("--park", time(self.park)),
            ("--max-parked", self.max_parked.to_string()),
            ("--max-requests", self.max_requests.to_string()),
        ]
    }
}

/// Files of addresses that are sockets.
fn paths(addresses: &[&Address]) -> Vec<PathBuf> {
    let path = |address: &&Address| match address {
        Address::Unix(path) => Some(path.clone()),
        Address::Tcp(_) | Address::Name { .. } => None,
    };
    addresses.iter().filter_map(path).collect()
}

/// One part, as a process.
pub(crate) trait Role: Send + Sized + 'static {
    /// Its subcommand.
    const PART: &'static str;

    fn common(&self) -> &Common;

    /// Paths the role opens, when it runs without privileges; nothing when it keeps them.
    fn unprivileged(&self) -> Option<Vec<PathBuf>>;

    /// Its own name among those of its kind.
    fn name(&self) -> Option<&str> {
        None
    }

    /// Where its metrics are served, if they are.
    fn page(&self) -> Option<Address>;

    /// Threads that it runs on; one for each core where it does not say.
    fn threads(&self) -> Option<NonZero<usize>> {
        None
    }

    /// Everything that can be known to be wrong when nothing is started.
    fn check(self) -> Result {
        Ok(())
    }

    /// Builds the role and runs it until it is told to stop.
    fn serve(self, stop: Stop) -> impl Future<Output = Result> + Send;
}

/// How a role is told to stop.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    /// A stop will come: say that you are not ready. Set with `token` at the latest.
    pub(crate) leaving: CancellationToken,
    /// Stop, in the role's own order.
    pub(crate) token: CancellationToken,
    /// Set before `token` is cancelled when it was SIGINT: leave nothing behind.
    pub(crate) for_good: Arc<AtomicBool>,
    /// The second signal, or nobody is left to send one: what takes time is left out.
    pub(crate) hurry: CancellationToken,
}

impl Default for Stop {
    fn default() -> Self {
        let token = CancellationToken::new();
        let leaving = token.child_token();
        Self { leaving, token, for_good: Arc::default(), hurry: CancellationToken::new() }
    }
}

/// Runs a role until a signal.
pub(crate) fn run<R: Role>(role: R) -> Result {
    let common = role.common();
    if common.config.check_config {
        common.logging.check()?;
        common.telemetry.check()?;
        role.check()?;
        return output::print(config::RIGHT);
    }
    let supervisor = common.supervisor;
    if let Some(supervisor) = supervisor {
        die_with(supervisor)?;
    }
    let level = common.logging.start(R::PART)?;
    if let Some(mut paths) = role.unprivileged() {
        paths.extend(role.common().telemetry.paths());
        privileges::give_up(&paths.iter().map(PathBuf::as_path).collect::<Vec<&Path>>())?;
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = role.threads() {
        runtime.worker_threads(threads.get());
    }
    let runtime =
        runtime.enable_all().build().map_err(|error| Error::because("cannot start", &error))?;
    runtime.block_on(async {
        // Before anything is made that a signal would leave behind.
        let signals = Signals::catch()?;
        let telemetry =
            Telemetry::start(&role.common().telemetry, R::PART, role.name(), role.page())?;
        let stop = Stop::default();
        let mut served = Box::pin(role.serve(stop.clone()));
        let ended = tokio::select! {
            ended = &mut served => ended,
            never = signals.pass_on(&stop, supervisor) => match never {},
            never = level.serve(supervisor) => match never {},
        };
        telemetry.finish().await;
        ended
    })
}

/// Ends this process when `supervisor` does.
fn die_with(supervisor: i32) -> Result {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| Error::because("cannot ask to die with the supervisor", &error))?;
    match is_parent(supervisor) {
        true => Ok(()),
        // It died before the line above.
        false => Err(Error::failed("the supervisor has gone")),
    }
}

fn is_parent(supervisor: i32) -> bool {
    rustix::process::getppid().is_some_and(|pid| pid.as_raw_pid() == supervisor)
}

/// SIGTERM, SIGINT and SIGUSR1.
struct Signals {
    terminate: Signaled,
    interrupt: Signaled,
    leave: Signaled,
}

impl Signals {
    fn catch() -> Result<Self> {
        let catch =
            |kind| signal(kind).map_err(|error| Error::because("cannot catch signals", &error));
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        let leave = catch(SignalKind::user_defined1())?;
        Ok(Self { terminate: catch(terminate)?, interrupt: catch(interrupt)?, leave })
    }

    /// Passes on the first and the second. Later ones change nothing.
    async fn pass_on(mut self, stop: &Stop, supervisor: Option<i32>) -> Infallible {
        let for_good = loop {
            tokio::select! {
                _ = self.terminate.recv() => break false,
                _ = self.interrupt.recv() => break true,
                _ = self.leave.recv() => stop.leaving.cancel(),
            }
        };
        tracing::info!(for_good, "told to stop");
        stop.for_good.store(for_good, Ordering::Release);
        if supervisor.is_some_and(|supervisor| !is_parent(supervisor)) {
            stop.hurry.cancel();
        }
        stop.token.cancel();
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        tracing::info!("told again: in a hurry");
        stop.hurry.cancel();
        std::future::pending().await
    }
}

/// What a role crate's error means: it said everything itself.
fn role_error(what: &str) -> impl Fn(&dyn std::error::Error) -> Error + '_ {
    move |error| Error::because(what, error)
}
