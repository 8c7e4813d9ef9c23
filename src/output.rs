//! What the client verbs print: tables for people, JSON, YAML and names for programs.

pub(crate) mod age;
pub(crate) mod table;
pub(crate) mod view;

use std::io::Write;

use clap::ValueEnum;
use serde::Serialize;

use crate::error::{Error, Result};

pub(crate) use table::Table;

/// How to print.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A table with more columns
    Wide,
    Json,
    Yaml,
    /// Only names, as the other verbs take them
    Name,
}

/// How to print for programs what people read as a page.
#[derive(ValueEnum, Clone, Copy, Debug)]
pub(crate) enum Data {
    Json,
    Yaml,
}

/// The flag every verb that prints objects has.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Args {
    /// How to print; a table when not given
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
}

/// One object as it is printed.
pub(crate) trait View: Serialize {
    /// What such an object is called: "actor".
    const KIND: &'static str;
    /// Column heads. Those from [`View::PLAIN`] on are shown with `-o wide` only.
    const COLUMNS: &'static [&'static str];
    /// How many columns a plain table has.
    const PLAIN: usize;
    /// True when the first column is the namespace: shown only when there can be several.
    const NAMESPACED: bool = false;

    /// As the verbs take it: `name`, or `namespace/name`.
    fn name(&self) -> String;
    /// One cell for each of [`View::COLUMNS`].
    fn cells(&self) -> Vec<String>;
}

/// A list as programs read it.
#[derive(Serialize)]
struct List<'a, T> {
    items: &'a [T],
}

/// Prints many, of one namespace or of `all`. When a table would be empty, `otherwise` goes to stderr.
pub(crate) fn list<T: View>(
    items: &[T],
    format: Option<Format>,
    all: bool,
    otherwise: &str,
) -> Result {
    let text = match format {
        Some(Format::Json) => json(&List { items })?,
        Some(Format::Yaml) => yaml(&List { items })?,
        Some(Format::Name) => items.iter().map(|item| item.name() + "\n").collect(),
        None | Some(Format::Wide) if items.is_empty() => {
            let _ = writeln!(std::io::stderr(), "{otherwise}");
            return Ok(());
        }
        None => table(items, T::PLAIN, all),
        Some(Format::Wide) => table(items, T::COLUMNS.len(), all),
    };
    print(&text)
}

/// Prints one.
pub(crate) fn one<T: View>(item: &T, format: Option<Format>) -> Result {
    let text = match format {
        Some(Format::Json) => json(item)?,
        Some(Format::Yaml) => yaml(item)?,
        Some(Format::Name) => item.name() + "\n",
        None => table(std::slice::from_ref(item), T::PLAIN, false),
        Some(Format::Wide) => table(std::slice::from_ref(item), T::COLUMNS.len(), false),
    };
    print(&text)
}

/// Prints `value` for programs, or the page that `text` makes of it.
pub(crate) fn page<T: Serialize>(
    value: &T,
    format: Option<Data>,
    text: impl FnOnce(&T) -> String,
) -> Result {
    print(&match format {
        Some(Data::Json) => json(value)?,
        Some(Data::Yaml) => yaml(value)?,
        None => text(value),
    })
}

fn table<T: View>(items: &[T], columns: usize, namespace: bool) -> String {
    let skip = usize::from(T::NAMESPACED && !namespace);
    let mut table = Table::new(&T::COLUMNS[skip..columns]);
    for item in items {
        table.row(item.cells().into_iter().take(columns).skip(skip));
    }
    table.to_string()
}

/// JSON for programs, one object over several lines.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(Error::failed)?;
    Ok(text + "\n")
}

pub(crate) fn yaml<T: Serialize>(value: &T) -> Result<String> {
    serde_saphyr::to_string(value).map_err(Error::failed)
}

/// Writes to stdout at once.
pub(crate) fn print(text: &str) -> Result {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests;
