//! Where the log goes: stderr, one line an event, as text or as JSON. [How much](level) of it can be changed at run time.

mod json;
pub(crate) mod level;

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::{self, format::JsonFields},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::error::{Error, Result};
use level::Level;

/// Libraries that tell every frame at DEBUG. Who wants to see that names them.
const QUIET: &str = "h2=info,hyper_util=info,opentelemetry_sdk=info";

/// How a role logs.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Logging")]
pub(crate) struct Args {
    /// What to log: a level, or directives such as info,reveille_router=debug; 'reveille log-level' changes it later
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
    /// True when it can be followed.
    pub(crate) fn check(&self) -> Result {
        filter(&self.log).map(drop).map_err(|why| Error::usage(format!("--log {why}")))
    }

    /// Sends the log of this process to stderr.
    pub(crate) fn start(&self, part: &'static str) -> Result<Level> {
        self.check()?;
        let filter = filter(&self.log).map_err(Error::usage)?;
        let (filter, handle) = reload::Layer::new(filter);
        // A reader of stderr that has gone must not end a role.
        let lines = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
        let lines = match self.log_format {
            Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
            Format::Json => {
                let lines = lines.with_ansi(false).fmt_fields(JsonFields::new());
                lines.event_format(json::Lines { part }).boxed()
            }
        };
        tracing_subscriber::registry().with(filter).with(lines).init();
        Ok(Level::new(part, handle, &self.log))
    }
}

/// A level, or directives. A word that is no level would mean a module of that name, and nothing else.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let wrong = |why: &str| {
        format!(
            "{text:?}: {why}: write a level (error, warn, info, debug, trace, off), or info,MODULE=debug"
        )
    };
    for directive in text.split(',') {
        let is_level = !directive.is_empty() && directive.parse::<LevelFilter>().is_ok();
        if !directive.contains('=') && !is_level {
            return Err(wrong(&format!("{directive:?} is no level")));
        }
    }
    EnvFilter::try_new(format!("{QUIET},{text}")).map_err(|error| wrong(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for right in ["info", "off", "warn,reveille_router=debug", "h2=trace,error"] {
            assert!(filter(right).is_ok(), "{right}");
        }
        for wrong in ["debgu", "", "info,reveille_router", "reveille_node=loud"] {
            let why = filter(wrong).unwrap_err();
            assert!(why.contains("write a level") && !why.contains('\n'), "{why}");
        }
    }
}
