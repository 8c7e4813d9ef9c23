//! Where the roles' log goes: stderr, as text or as JSON.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::error::{Error, Result};

/// How a role logs.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Logging")]
pub(crate) struct Args {
    /// What to log: a level, or directives such as info,reveille_router=debug
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
    /// How each line is written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: Format,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

impl Format {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl Args {
    /// Sends the log of this process to stderr.
    pub(crate) fn start(&self) -> Result {
        let filter = EnvFilter::try_new(&self.log).map_err(|error| {
            Error::usage(format!("--log {:?}: {error}: write a level such as info", self.log))
        })?;
        // A reader of stderr that has gone must not end a role.
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .log_internal_errors(false);
        match self.log_format {
            Format::Text => builder.init(),
            Format::Json => builder.json().flatten_event(true).init(),
        }
        Ok(())
    }
}
