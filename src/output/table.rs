//! Columns without borders, as kubectl has them.

use std::fmt;

/// Spaces between columns.
const GAP: usize = 3;
/// What an empty cell shows.
const NOTHING: &str = "-";

/// Heads and rows; every column as wide as its widest cell.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|head| (*head).to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(cell).collect());
    }
}

fn cell(text: String) -> String {
    if text.is_empty() { NOTHING.into() } else { text.replace(['\n', '\t'], " ") }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths);
            let line: String =
                cells.map(|(cell, width)| format!("{cell:<width$}{:GAP$}", "")).collect();
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
