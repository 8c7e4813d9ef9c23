//! `reveille flags`: the page `deploy/FLAGS.md`, made from what the command line itself knows.

use clap::{Arg, ArgAction, Command};

use crate::{
    config::{self, SECTIONS},
    error::Result,
    output,
};

/// Print every flag of every command, as deploy/FLAGS.md has them
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self) -> Result {
        output::print(&page())
    }
}

const HEAD: &str = "\
# Flags

Made by `reveille flags > deploy/FLAGS.md`; a test compares it with the code.

A value comes from the flag, else from the variable, else from the config file (`--config`, TOML), else it is the default. In the file
a flag of a part is a key of the same name, without the hyphens in front, in the part's section (`[router]`); those that every part
has may stand at the top. An unknown key is an error with its line. `--print-config` shows what a part would run with and where each
value comes from, `--check-config` says whether that is right; neither starts anything.
";

/// The whole page.
pub(crate) fn page() -> String {
    let mut page = HEAD.to_owned();
    let all = config::grammar();
    let (parts, verbs): (Vec<_>, Vec<_>) = all
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .partition(|command| SECTIONS.contains(&command.get_name()));
    for command in parts.into_iter().chain(verbs) {
        section(&mut page, "reveille", command);
    }
    page
}

fn section(page: &mut String, parent: &str, command: &Command) {
    let name = format!("{parent} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let args =
        || command.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_id() != "help");
    if args().next().is_some() || !command.has_subcommands() {
        *page += &format!("\n## {name}\n\n{about}.\n");
    }
    if args().next().is_some() {
        *page += "\n| | variable | default | |\n| --- | --- | --- | --- |\n";
    }
    for arg in args() {
        *page += &row(arg);
    }
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        section(page, &name, inner);
    }
}

fn row(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let value = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let name = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) => String::new(),
    };
    let shown = match (name.is_empty(), takes) {
        (true, _) => value,
        (false, true) if arg.is_require_equals_set() => format!("{name}[={value}]"),
        (false, true) => format!("{name} {value}"),
        (false, false) => name,
    };
    let variable = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy()));
    let default = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let default = default.collect::<Vec<_>>().join(",");
    let default = match default.as_str() {
        _ if !takes || arg.is_hide_default_value_set() => String::new(),
        "" => String::new(),
        default => format!("`{default}`"),
    };
    let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let choices: Vec<_> = match takes {
        true => arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect(),
        false => Vec::new(),
    };
    if !choices.is_empty() {
        help += &format!(": {}", choices.join(", "));
    }
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let (variable, help) = (variable.unwrap_or_default(), cell(&help));
    format!("| `{}` | {variable} | {default} | {help} |\n", cell(&shown))
}
