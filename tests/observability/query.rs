//! What a query asks for: series, labels, values.

use std::collections::{BTreeMap, BTreeSet};

use crate::files::reveille;

type Labels = BTreeMap<String, BTreeSet<String>>;

/// Every family, with its labels and their values, of the page that the parts make.
#[derive(Debug)]
pub(crate) struct Reference(BTreeMap<String, Labels>);

impl Reference {
    pub(crate) fn read() -> Self {
        let page = reveille(&["metrics-reference"]);
        let mut families = BTreeMap::new();
        for part in page.split("\n## ").skip(1) {
            let rows: Vec<Vec<&str>> = part
                .lines()
                .filter(|line| line.starts_with("| `"))
                .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
                .collect();
            let of_series = rows.iter().filter(|row| row.len() == 4);
            let names: Vec<_> = of_series
                .map(|row| (ticked(row[0])[0].clone(), row[1].to_owned(), ticked(row[2])))
                .collect();
            for (name, kind, keys) in names {
                let mut labels = Labels::new();
                for key in keys {
                    let values = rows.iter().filter(|row| row.len() == 2).find(|row| {
                        let of = ticked(row[0]);
                        of[0] == key && (of.len() == 1 || of.contains(&name))
                    });
                    let values = values.unwrap_or_else(|| panic!("{name}: no values of {key}"));
                    labels.insert(key, ticked(values[1]).into_iter().collect());
                }
                if kind == "histogram" {
                    for suffix in ["_bucket", "_sum", "_count"] {
                        families.insert(format!("{name}{suffix}"), labels.clone());
                    }
                } else {
                    families.insert(name, labels);
                }
            }
        }
        // Made by the page itself, not by a part's registry.
        let parts = ["controlplane", "node", "envoy", "dns"].map(str::to_owned).into();
        families.insert("reveille_part_up".into(), Labels::from([("part".into(), parts)]));
        assert!(families.len() > 50, "{families:?}");
        Self(families)
    }

    /// What it asks for that there is not.
    pub(crate) fn check(&self, query: &str) -> Result<(), String> {
        let mut known: BTreeSet<&str> = ["le", "instance", "job"].into();
        for (series, matchers) in selectors(query) {
            let labels = self.0.get(&series).ok_or(format!("nobody serves {series}"))?;
            known.extend(labels.keys().map(String::as_str));
            for (key, values) in matchers.iter().filter(|(key, _)| key != "le") {
                let there = labels.get(key).ok_or(format!("{series} has no label {key}"))?;
                if let Some(wrong) = values.iter().find(|value| !there.contains(*value)) {
                    return Err(format!("{key} of {series} is never {wrong}"));
                }
            }
        }
        for group in query.split("by (").skip(1).filter_map(|rest| rest.split(')').next()) {
            if let Some(wrong) = group.split(',').map(str::trim).find(|key| !known.contains(key)) {
                return Err(format!("nothing here has the label {wrong}"));
            }
        }
        Ok(())
    }
}

/// Whether a matcher of the query has this value, alone or among others.
pub(crate) fn has_value(query: &str, value: &str) -> bool {
    selectors(query)
        .iter()
        .flat_map(|(_, matchers)| matchers)
        .any(|(_, values)| values.iter().any(|other| other == value))
}

type Matchers = Vec<(String, Vec<String>)>;

/// The series of ours that a query names, each with what it says of labels.
fn selectors(query: &str) -> Vec<(String, Matchers)> {
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = rest.find("reveille_") {
        let name = &rest[at..];
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
        let (name, after) = name.split_at(end);
        let braces = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let matchers = braces.map_or("", |(inner, _)| inner);
        found.push((name.to_owned(), matchers.split(',').filter_map(matcher).collect()));
        rest = after;
    }
    found
}

fn matcher(text: &str) -> Option<(String, Vec<String>)> {
    let (key, value) = text.trim().split_once(['=', '!'])?;
    let value = value.trim_start_matches(['=', '~']).trim_matches('"');
    Some((key.trim().to_owned(), value.split('|').map(str::to_owned).collect()))
}

/// What stands between backticks.
fn ticked(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
