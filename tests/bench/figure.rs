//! What a figure says: values of several rounds, beside the bare part's, and whether the reach is met.

use std::{fmt, path::Path, time::Duration};

use anyhow::{Context, Result};
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;

/// The values of several rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) rounds: usize,
}

/// One line of the result. Of a pair, `compared` is made round by round before its median is taken, so that
/// what else the machine did meanwhile is in both sides of each value.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) figure: &'static str,
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bare: Option<Spread>,
    pub(crate) reveille: Spread,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) compared: Option<Compared>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reach: Option<Reached>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Compared {
    how: How,
    #[serde(flatten)]
    spread: Spread,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum How {
    /// Reveille's by the bare part's.
    Ratio,
    /// Reveille's less the bare part's.
    Difference,
}

/// What a line should be: its comparison's median, or else its own.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reach {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Debug, Serialize)]
pub(crate) struct Reached {
    /// For programs: it stays when `what` is worded anew.
    name: &'static str,
    #[serde(flatten)]
    reach: Reach,
    met: bool,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let rounds = values.len();
        Self { median: at(rounds / 2), low: at(0), high: at(rounds.saturating_sub(1)), rounds }
    }
}

impl Line {
    /// Values with nothing beside them.
    pub(crate) fn alone(
        figure: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        values: Vec<f64>,
    ) -> Self {
        let reveille = Spread::of(values);
        Self { figure, what: what.into(), unit, bare: None, reveille, compared: None, reach: None }
    }

    /// Values of the same rounds, side by side.
    pub(crate) fn beside(
        figure: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        (bare, reveille): (&[f64], &[f64]),
        how: How,
    ) -> Self {
        let compare = |(bare, ours): (&f64, &f64)| match how {
            How::Ratio => ours / bare,
            How::Difference => ours - bare,
        };
        let spread = Spread::of(bare.iter().zip(reveille).map(compare).collect());
        Self {
            bare: Some(Spread::of(bare.to_vec())),
            compared: Some(Compared { how, spread }),
            ..Self::alone(figure, what, unit, reveille.to_vec())
        }
    }

    pub(crate) fn reach(mut self, name: &'static str, reach: Reach) -> Self {
        let value = self.compared.as_ref().map_or(self.reveille, |compared| compared.spread).median;
        let met = match reach {
            Reach::AtLeast(least) => value >= least,
            Reach::AtMost(most) => value <= most,
        };
        self.reach = Some(Reached { name, reach, met });
        self
    }
}

/// In the table; a spread is shown where there were several rounds.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, low, high, rounds } = *self;
        let digits = match median.abs() {
            ..0.1 => 3,
            ..10.0 => 2,
            ..1_000.0 => 1,
            _ => 0,
        };
        write!(f, "{median:.digits$}")?;
        match rounds {
            1 => Ok(()),
            _ => write!(f, " [{low:.digits$}–{high:.digits$}]"),
        }
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.how {
            How::Ratio => write!(f, "× {}", self.spread),
            How::Difference => {
                write!(f, "{} {}", if self.spread.median < 0.0 { "" } else { "+" }, self.spread)
            }
        }
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reach {
            Reach::AtLeast(least) => write!(f, "≥ {least}")?,
            Reach::AtMost(most) => write!(f, "≤ {most}")?,
        }
        f.write_str(if self.met { ": met" } else { ": NOT met" })
    }
}

pub(crate) fn table(lines: &[Line]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "figure",
        "median [lowest–highest]",
        "unit",
        "bare",
        "Reveille",
        "compared",
        "reach",
    ]);
    for line in lines {
        let or_nothing = |text: Option<String>| text.unwrap_or_default();
        table.add_row([
            line.figure.to_owned(),
            line.what.clone(),
            line.unit.to_owned(),
            or_nothing(line.bare.map(|spread| spread.to_string())),
            line.reveille.to_string(),
            or_nothing(line.compared.as_ref().map(ToString::to_string)),
            or_nothing(line.reach.as_ref().map(ToString::to_string)),
        ]);
    }
    table
}

/// For programs: to a file, or to standard output.
pub(crate) fn write_json(lines: &[Line], failed: &[String], to: &Path) -> Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        cores: usize,
        kernel: String,
        lines: &'a [Line],
        /// Figures without a result, and why.
        failed: &'a [String],
    }
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let document = Document { cores, kernel: kernel.trim().to_owned(), lines, failed };
    let mut text = serde_json::to_string_pretty(&document)?;
    text.push('\n');
    if to == Path::new("-") {
        print!("{text}");
        return Ok(());
    }
    std::fs::write(to, text).with_context(|| format!("writing {}", to.display()))
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Of durations, the one that `share` of them do not exceed, in milliseconds.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> f64 {
    let index = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(index).copied().map_or(f64::NAN, millis)
}
