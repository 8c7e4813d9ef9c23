//! `reveille router --explain-timeouts`: the ladder with the values of this command line.

use reveille_api::{Ladder, ladder::Rung};
use serde::Serialize;

use crate::{
    error::{Error, Result},
    output::{self, Format, Table},
};

const TEMPLATES: &str = "\
A template may not ask for more: its spec.wake.timeout for the wake deadline, its spec.wake.park for the park budget;
'reveille apply' refuses it. The control plane and the router take --wake, --park, --max-parked and --max-requests,
Envoy's supervisor --max-requests: give all of them the same.
";

#[derive(Serialize)]
struct Rungs<'a> {
    items: &'a [Rung],
}

/// Prints every rung.
pub(super) fn explain(ladder: &Ladder, format: Option<Format>) -> Result {
    let rungs = ladder.rungs();
    match format {
        None | Some(Format::Wide) => output::print(&table(&rungs)),
        Some(Format::Json) => output::print(&output::json(&Rungs { items: &rungs })?),
        Some(Format::Yaml) => output::print(&output::yaml(&Rungs { items: &rungs })?),
        Some(Format::Name) => Err(Error::usage("--explain-timeouts: write -o json or -o yaml")),
    }
}

fn table(rungs: &[Rung]) -> String {
    let mut table = Table::new(&["VALUE OF", "IS", "FROM", "KEPT BY", "STANDS ABOVE", "BECAUSE"]);
    for rung in rungs {
        let own = |cell: String, first: bool| if first { cell } else { String::new() };
        let rows = rung.above.iter().map(Some).chain(rung.above.is_empty().then_some(None));
        for (n, above) in rows.enumerate() {
            let (lower, why) = match above {
                Some(above) => {
                    let relation = if above.or_equal { "or equals " } else { "" };
                    (format!("{relation}{} ({})", above.name, above.value), above.why)
                }
                None => (String::new(), ""),
            };
            table.row([
                own(rung.name.into(), n == 0),
                own(rung.value.to_string(), n == 0),
                own(rung.from.into(), n == 0),
                own(rung.kept_by.into(), n == 0),
                lower,
                why.into(),
            ]);
        }
    }
    format!("{table}\n{TEMPLATES}")
}
