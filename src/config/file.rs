//! The config file: each value becomes the default of its flag, after the flag's own check.

use std::path::Path;

use clap::{Arg, ArgAction, error::ErrorKind};
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{SECTIONS, SHARED, is_setting, print::Lines, read};
use crate::error::{Error, Result, of_command_line};

/// The grammar with the values of the file at `path` as defaults, and the line of each.
pub(super) fn with_defaults(command: clap::Command, path: &Path) -> Result<(clap::Command, Lines)> {
    let text = read(path)?;
    let file = File { path, text: &text };
    let table = DeTable::parse(&text)
        .map_err(|error| file.wrong(error.span().map_or(0, |span| span.start), error.message()))?;
    let mut shared = Vec::new();
    let mut sections = Vec::new();
    for (key, value) in table.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            (section, DeValue::Table(table)) if SECTIONS.contains(&section) => {
                sections.push((section.to_owned(), table));
            }
            (flag, _) if SHARED.contains(&flag) => shared.push((key, value)),
            (other, _) => {
                let known = SECTIONS.iter().map(|s| format!("[{s}]"));
                let known: Vec<_> = known.chain(SHARED.iter().map(|s| (*s).to_owned())).collect();
                let message = format!("unknown key {other:?}: write one of {}", known.join(", "));
                return Err(file.wrong(key.span().start, &message));
            }
        }
    }
    let (mut command, mut lines) = (command, Lines::default());
    let mut note = |section: &str, key: &Spanned<DeString<'_>>| {
        let line = format!("{}:{}", path.display(), file.line(key.span().start));
        lines.insert((section.to_owned(), key.get_ref().to_string()), line);
    };
    for section in SECTIONS {
        for (key, value) in &shared {
            if flag(&command, section, key.get_ref()).is_some() {
                command = file.with_default(command, section, key, value)?;
                note(section, key);
            }
        }
    }
    for (section, table) in sections {
        for (key, value) in table {
            command = file.with_default(command, &section, key, value)?;
            note(&section, key);
        }
    }
    Ok((command, lines))
}

fn flag<'a>(command: &'a clap::Command, section: &str, flag: &str) -> Option<&'a Arg> {
    let part = command.find_subcommand(section)?;
    part.get_arguments().find(|arg| arg.get_long() == Some(flag) && is_setting(arg))
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn wrong(&self, at: usize, message: &str) -> Error {
        Error::usage(format!("{}:{}: {message}", self.path.display(), self.line(at)))
    }

    fn with_default(
        &self,
        command: clap::Command,
        section: &str,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<clap::Command> {
        let name = key.get_ref().to_string();
        let Some(arg) = flag(&command, section, &name) else {
            let part = command.find_subcommand(section).into_iter();
            let args = part.flat_map(|part| part.get_arguments()).filter(|arg| is_setting(arg));
            let known: Vec<_> = args.filter_map(Arg::get_long).collect();
            let message =
                format!("unknown key {name:?} in [{section}]: write one of {}", known.join(", "));
            return Err(self.wrong(key.span().start, &message));
        };
        let (id, action) = (arg.get_id().clone(), arg.get_action().clone());
        let at = value.span().start;
        let values = scalars(value.get_ref()).ok_or_else(|| {
            self.wrong(at, &format!("{name:?} takes a text, a number or a list of them"))
        })?;
        match action {
            ArgAction::SetTrue => match values.as_slice() {
                [yes] if yes == "true" => {}
                [no] if no == "false" => return Ok(command),
                _ => return Err(self.wrong(at, &format!("{name:?} is true or false"))),
            },
            ArgAction::Append => {}
            _ if values.len() == 1 => {}
            _ => return Err(self.wrong(at, &format!("{name:?} takes one value"))),
        }
        if !matches!(action, ArgAction::SetTrue) {
            self.check(&command, section, &name, &values, at)?;
        }
        Ok(command.mut_subcommand(section, |part| {
            part.mut_arg(id, |arg| arg.required(false).default_values(values))
        }))
    }

    /// A value must be one that the flag takes.
    fn check(
        &self,
        command: &clap::Command,
        section: &str,
        name: &str,
        values: &[String],
        at: usize,
    ) -> Result {
        let flags = values.iter().map(|value| format!("--{name}={value}"));
        let argv = ["reveille".to_owned(), section.to_owned()].into_iter().chain(flags);
        match command.clone().try_get_matches_from(argv) {
            Err(error)
                if matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) =>
            {
                match of_command_line(&error) {
                    Some(Error::Usage(message)) => Err(self.wrong(at, &message)),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// A value, or the values of a list, as they would stand on a command line.
fn scalars(value: &DeValue<'_>) -> Option<Vec<String>> {
    let one = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(value) => Some(value.to_string()),
        _ => None,
    };
    match value {
        DeValue::Array(list) => list.iter().map(|value| one(value.get_ref())).collect(),
        value => one(value).map(|value| vec![value]),
    }
}
