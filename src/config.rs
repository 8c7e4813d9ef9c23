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
mod print;

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
    "otlp-endpoint",
    "otlp-ca",
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
const ACTIONS: &[&str] =
    &["config", "check-config", "print-config", "help", "version", "explain-timeouts", "output"];

/// What `--check-config` says when it finds nothing.
pub(crate) const RIGHT: &str = "the configuration is right\n";

/// Arguments that take part: not `--config` itself, and none of the inner ones.
fn is_setting(arg: &Arg) -> bool {
    !arg.is_hide_set() && arg.get_long().is_some_and(|name| !ACTIONS.contains(&name))
}

/// Reads the command line. `--help` and `--version` are answered and nothing is left to do: exit code 0.
pub(crate) fn parse(argv: Vec<OsString>) -> Result<Command> {
    let mut command = grammar();
    let mut lines = print::Lines::default();
    if let Some(path) = file_of(&argv) {
        (command, lines) = file::with_defaults(command, &path)?;
    }
    let matches = command.try_get_matches_from_mut(argv);
    if let Ok(matches) = &matches
        && let Some((section, part)) = matches.subcommand()
        && SECTIONS.contains(&section)
        && let Some(style) = part.get_one("print_config")
    {
        print::print(&command, section, part, &lines, *style)?;
        std::process::exit(0)
    }
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

/// Every command, with the variables of its flags.
pub(crate) fn grammar() -> clap::Command {
    with_variables(Cli::command())
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
    /// Say whether the configuration is right, and start nothing: exit code 0, or a line that says what is wrong
    #[arg(long)]
    pub(crate) check_config: bool,
    /// Print each setting and where its value comes from, and start nothing; =json for programs
    #[arg(long, value_name = "STYLE", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "table")]
    pub(crate) print_config: Option<print::Style>,
}

/// Reads a file or says why not.
fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::usage(format!("cannot read --config {}: {error}", path.display())))
}

#[cfg(test)]
mod tests;
