//! `--print-config`: every setting of a part, and where its value comes from.

use std::{collections::BTreeMap, ffi::OsStr};

use clap::{ArgMatches, ValueEnum, parser::ValueSource};
use serde::Serialize;

use super::{is_setting, variable};
use crate::{
    error::Result,
    output::{self, Table},
};

/// How to print it.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Table,
    Json,
}

/// Of which line of the file a flag's value is, by section and flag.
pub(super) type Lines = BTreeMap<(String, String), String>;

#[derive(Debug, PartialEq, Serialize)]
struct Setting {
    flag: String,
    /// None: the flag was not given and has no default that is known beforehand.
    value: Vec<String>,
    /// `flag`, a variable, a line of the config file, or `default`.
    origin: String,
}

/// Prints the settings of the part that this command line is for.
pub(super) fn print(
    command: &clap::Command,
    section: &str,
    matches: &ArgMatches,
    lines: &Lines,
    style: Style,
) -> Result {
    let settings = settings(command, section, matches, lines);
    output::print(&match style {
        Style::Json => output::json(&serde_json::json!({ "items": settings }))?,
        Style::Table => {
            let mut table = Table::new(&["FLAG", "VALUE", "FROM"]);
            for Setting { flag, value, origin } in settings {
                table.row([flag, value.join(", "), origin]);
            }
            table.to_string()
        }
    })
}

fn settings(
    command: &clap::Command,
    section: &str,
    matches: &ArgMatches,
    lines: &Lines,
) -> Vec<Setting> {
    let part = command.find_subcommand(section).into_iter();
    let args = part.flat_map(|part| part.get_arguments()).filter(|arg| is_setting(arg));
    args.filter_map(|arg| {
        let (id, flag) = (arg.get_id().as_str(), arg.get_long()?);
        let raw = matches.get_raw(id).into_iter().flatten();
        let of_file = || lines.get(&(section.to_owned(), flag.to_owned())).cloned();
        let origin = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "flag".to_owned(),
            Some(ValueSource::EnvVariable) => {
                let own = arg.get_env().map(|name| name.to_string_lossy().into_owned());
                own.unwrap_or_else(|| variable(section, flag))
            }
            _ => of_file().unwrap_or_else(|| "default".to_owned()),
        };
        Some(Setting { flag: format!("--{flag}"), value: raw.map(shown).collect(), origin })
    })
    .collect()
}

/// Without what is secret in it: files with secrets are named, addresses may have them inside.
fn shown(value: &OsStr) -> String {
    let value = value.to_string_lossy();
    let Some((scheme, rest)) = value.split_once("://") else { return value.into_owned() };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://…{}", &rest[at..]),
        None => value.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_one_is_at_an_address_is_not_shown() {
        let of = |text: &str| shown(OsStr::new(text));
        assert_eq!(of("s3://key:hush@bucket/path"), "s3://…@bucket/path");
        assert_eq!(of("s3://bucket/a@b"), "s3://bucket/a@b");
        assert_eq!(of("127.0.0.1:8080"), "127.0.0.1:8080");
    }
}
