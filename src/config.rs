//! Where a role's configuration comes from: flag, else environment, else config file, else default.
//!
//! All four end in clap: the environment as each argument's variable, the file as its default. A role thus has
//! one struct of arguments, one place where values are checked, and one `--help`.
//!
//! ```toml
//! domain = "actors.example"     # for every part that has such a flag
//!
//! [dns]                         # `reveille dns --listen … --front …`
//! listen = ["0.0.0.0:53"]
//! front = ["192.0.2.1", "2001:db8::1"]
//! ```
//!
//! Variables are `REVEILLE_<ROLE>_<FLAG>`, and `REVEILLE_<FLAG>` for those of `up` and for [`SHARED`] ones.

mod file;

use std::{
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
};

use clap::{Arg, CommandFactory, FromArgMatches};

use crate::{
    cli::{Cli, Command},
    error::{self, Error, Result},
};

/// The subcommands that read the config file: the file's sections.
pub(crate) const SECTIONS: &[&str] = &["up", "router", "dns", "controlplane", "node", "envoy"];
/// Flags that mean the same to every part: one variable, and allowed at the top of the file.
const SHARED: &[&str] = &[
    "data-dir",
    "domain",
    "log",
    "log-format",
    "wake",
    "park",
    "max-parked",
    "max-requests",
    "envoy",
    "runsc",
    "criu",
    "runc",
    "tls-cert",
    "tls-key",
    "tls-ca",
];
/// Variable that names the file.
const FILE_VARIABLE: &str = "REVEILLE_CONFIG";

/// What is done, not how a part is set up.
const ACTIONS: &[&str] = &["config", "help", "version", "explain-timeouts", "output"];

/// Arguments that take part: not `--config` itself, and none of the inner ones.
fn is_setting(arg: &Arg) -> bool {
    !arg.is_hide_set() && arg.get_long().is_some_and(|name| !ACTIONS.contains(&name))
}

/// Reads the command line. `--help` and `--version` are answered and nothing is left to do: exit code 0.
pub(crate) fn parse(argv: Vec<OsString>) -> Result<Command> {
    let mut command = with_variables(Cli::command());
    if let Some(path) = file_of(&argv) {
        command = file::with_defaults(command, &path)?;
    }
    let matches = command.try_get_matches_from(argv);
    match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => Ok(cli.command),
        Err(wrong) => match error::of_command_line(&wrong) {
            Some(error) => Err(error),
            None => {
                let text = wrong.render();
                let _ = write!(std::io::stdout(), "{text}");
                std::process::exit(0)
            }
        },
    }
}

fn with_variables(command: clap::Command) -> clap::Command {
    SECTIONS.iter().fold(command, |command, section| {
        command.mut_subcommand(section, |part| {
            part.mut_args(|arg| match arg.get_long() {
                Some(flag) if is_setting(&arg) => {
                    let variable = variable(section, flag);
                    arg.env(variable).hide_env_values(true)
                }
                _ => arg,
            })
        })
    })
}

fn variable(section: &str, flag: &str) -> String {
    let name = match section == "up" || SHARED.contains(&flag) {
        true => flag.to_owned(),
        false => format!("{section}-{flag}"),
    };
    format!("REVEILLE_{}", name.to_uppercase().replace('-', "_"))
}

/// The config file, when this command line is that of a part.
fn file_of(argv: &[OsString]) -> Option<PathBuf> {
    let section = argv.get(1)?.to_str()?;
    if !SECTIONS.contains(&section) {
        return None;
    }
    let mut rest = argv[2..].iter();
    while let Some(arg) = rest.next() {
        if arg == "--config" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(path) = arg.to_str().and_then(|arg| arg.strip_prefix("--config=")) {
            return Some(path.into());
        }
    }
    std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The flag every part has.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Args {
    /// Config file (TOML): its keys are the names of these flags, under the part's name
    #[arg(long, value_name = "FILE", env = FILE_VARIABLE, hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
}

/// Reads a file or says why not.
fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::usage(format!("cannot read --config {}: {error}", path.display())))
}

#[cfg(test)]
mod tests;
