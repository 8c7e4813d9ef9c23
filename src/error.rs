//! How the program ends: one line on stderr and an exit code.

use std::{fmt, io, process::ExitCode};

use clap::error::ErrorKind;
use reveille_api::manifest::ManifestError;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Error {
    /// The command line, the configuration or a file is wrong: nothing was tried. Exit code 2.
    Usage(String),
    /// It was tried and failed. Exit code 1.
    Failed(String),
    /// It failed, and whoever ran it was told already. Exit code 1.
    Told,
    /// Whoever read the output has gone. No word about it.
    BrokenPipe,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Failed(message) => f.write_str(message),
            Self::Told | Self::BrokenPipe => Ok(()),
        }
    }
}

/// What every command returns.
pub(crate) type Result<T = (), E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(message.to_string())
    }

    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::Failed(message.to_string())
    }

    /// `what`, and why: the error with all of its sources.
    pub(crate) fn because(what: impl fmt::Display, error: &dyn std::error::Error) -> Self {
        Self::Failed(format!("{what}: {}", chain(error)))
    }

    /// A manifest that cannot be taken, by file and line.
    pub(crate) fn manifest(file: &str, error: &ManifestError) -> Self {
        Self::Usage(format!("{file}:{}: {}", error.line, error.message))
    }

    /// Tells it, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::Usage(message) => say(message, 2),
            Self::Failed(message) => say(message, 1),
            Self::Told => ExitCode::from(1),
            Self::BrokenPipe => ExitCode::SUCCESS,
        }
    }
}

fn say(message: &str, code: u8) -> ExitCode {
    use io::Write as _;

    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = writeln!(io::stderr(), "error: {line}");
    ExitCode::from(code)
}

/// An error and its sources in one line, none of them twice.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// For writes to stdout.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Failed(format!("cannot write the output: {error}")),
        }
    }
}

/// What is wrong with a command line, in one line. Being asked for help or the version is no error: nothing.
pub(crate) fn of_command_line(error: &clap::Error) -> Option<Error> {
    let help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if help || !error.use_stderr() {
        return None;
    }
    let text = error.render().to_string();
    // A usage block and advice follow; the first lines say what is wrong.
    let wrong = text.split("\n\nUsage:").next().unwrap_or(&text);
    let wrong = wrong.split("\n\nFor more information").next().unwrap_or(wrong);
    let wrong = wrong.trim().trim_start_matches("error: ");
    let wrong = wrong.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(Error::Usage(format!("{wrong} (see --help)")))
}
