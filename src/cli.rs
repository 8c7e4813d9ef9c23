//! The command line: kubectl's grammar for the client verbs, a role for each part.

mod actor;
pub(crate) mod apply;
mod certs;
pub(crate) mod cluster_dns;
mod completion;
mod describe;
mod events;
mod explain;
pub(crate) mod flags;
mod get;
mod log_level;
mod logs;
mod metrics_reference;
mod top;

use clap::{Parser, Subcommand};

use crate::{doctor, error::Result, roles, up};

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 the operation failed (also: no such object); 2 the command line, the configuration
or a manifest is wrong, and nothing was done.

Examples:
  reveille up --apply deploy/demo/demo.yaml      run everything on this machine
  curl http://counter.demo.actors.localhost:8080/
  reveille get actors -A
  reveille doctor                                what this machine lacks, and what to do about it";

/// Wakes a sleeping process when somebody asks for it
#[derive(Parser, Debug)]
#[command(name = "reveille", version, after_help = AFTER_HELP, max_term_width = 110)]
#[command(disable_help_subcommand = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Up(Box<up::Args>),
    Apply(apply::Args),
    Create(actor::CreateArgs),
    Get(get::Args),
    Describe(describe::Args),
    Explain(explain::Args),
    /// Wake an actor and wait until it serves
    #[command(after_help = "Example:\n  reveille wake actor counter -n demo")]
    Wake(actor::Args),
    /// Take an actor down to a snapshot, after its requests in flight; traffic wakes it again
    #[command(after_help = "Example:\n  reveille suspend actor demo/counter")]
    Suspend(actor::Args),
    /// Freeze an actor's processes; traffic thaws them
    #[command(after_help = "Example:\n  reveille freeze actor demo/counter")]
    Freeze(actor::Args),
    /// Take an actor down for good: traffic does not wake it, `reveille wake` does
    #[command(after_help = "Example:\n  reveille stop actor demo/counter")]
    Stop(actor::Args),
    Delete(actor::DeleteArgs),
    Logs(logs::Args),
    Events(events::Args),
    Top(top::Args),
    Doctor(doctor::Args),
    Certs(certs::Args),
    LogLevel(log_level::Args),
    Router(Box<roles::router::Args>),
    Dns(Box<roles::dns::Args>),
    Controlplane(Box<roles::controlplane::Args>),
    Node(Box<roles::node::Args>),
    Envoy(Box<roles::envoy::Args>),
    Completion(completion::Args),
    #[command(hide = true)]
    Flags(flags::Args),
    #[command(hide = true)]
    MetricsReference(metrics_reference::Args),
}

impl Command {
    /// Does it.
    pub(crate) fn run(self) -> Result {
        use actor::Verb;
        match self {
            Self::Up(args) => args.run(),
            Self::Apply(args) => client(args.run()),
            Self::Create(args) => client(args.run()),
            Self::Get(args) => client(args.run()),
            Self::Describe(args) => client(args.run()),
            Self::Explain(args) => client(args.run()),
            Self::Wake(args) => client(args.run(Verb::Wake)),
            Self::Suspend(args) => client(args.run(Verb::Suspend)),
            Self::Freeze(args) => client(args.run(Verb::Freeze)),
            Self::Stop(args) => client(args.run(Verb::Stop)),
            Self::Delete(args) => client(args.run()),
            Self::Logs(args) => client(args.run()),
            Self::Events(args) => client(args.run()),
            Self::Top(args) => client(args.run()),
            Self::Doctor(args) => client(args.run()),
            Self::Certs(args) => args.run(),
            Self::LogLevel(args) => client(args.run()),
            Self::Router(args) => args.run(),
            Self::Dns(args) => args.run(),
            Self::Controlplane(args) => roles::run(*args),
            Self::Node(args) => roles::run(*args),
            Self::Envoy(args) => args.run(),
            Self::Completion(args) => args.run(),
            Self::Flags(args) => args.run(),
            Self::MetricsReference(args) => args.run(),
        }
    }
}

/// Runs a client verb on this thread.
pub(crate) fn client(verb: impl Future<Output = Result>) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| crate::error::Error::because("cannot start", &error))?;
    runtime.block_on(verb)
}
