//! What there is to read, as a page: made from the registries themselves, so that nothing is on it that is not served, and the
//! other way round.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use prometheus_client::registry::Registry;

use super::exposition;

/// One part and what it registers.
#[derive(Debug)]
pub struct Part {
    /// Its title.
    pub title: &'static str,
    /// Where it is read.
    pub page: &'static str,
    /// As it is at the start.
    pub registry: Registry,
}

/// One family of series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// As queries name it: a counter with its `_total`.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// In words.
    pub help: String,
    /// Every label, and every value of it.
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

/// What a registry has, in its order.
pub fn families(registry: &Registry) -> Vec<Family> {
    let (_, text) = exposition(registry, None);
    let mut families: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            let (name, help) = described.split_once(' ').unwrap_or((described, ""));
            families.push(Family {
                name: name.to_owned(),
                help: help.to_owned(),
                ..Family::default()
            });
            continue;
        }
        let Some(family) = families.last_mut() else { continue };
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            family.kind = typed.rsplit(' ').next().unwrap_or_default().to_owned();
        } else if let Some((_, rest)) = line.split_once('{') {
            let pairs = rest.rsplit_once('}').map_or("", |(pairs, _)| pairs);
            for (key, value) in pairs.split(',').filter_map(|pair| pair.split_once('=')) {
                if key != "le" {
                    let values = family.labels.entry(key.to_owned()).or_default();
                    values.insert(value.trim_matches('"').to_owned());
                }
            }
        }
    }
    families
}

/// The page, in Markdown.
pub fn reference(parts: &[Part]) -> String {
    let mut page = String::new();
    for part in parts {
        let families = families(&part.registry);
        // Writing to a String cannot fail.
        let _ = write!(page, "\n## {}\n\n{}\n\n", part.title, part.page);
        page.push_str("| series | type | labels | |\n| --- | --- | --- | --- |\n");
        for Family { name, kind, help, labels } in &families {
            let labels: Vec<_> = labels.keys().map(|key| format!("`{key}`")).collect();
            let help = help.trim_end_matches('.');
            let _ = writeln!(page, "| `{name}` | {kind} | {} | {help} |", labels.join(", "));
        }
        let labelled: Vec<_> = families.iter().filter(|family| !family.labels.is_empty()).collect();
        if labelled.is_empty() {
            continue;
        }
        page.push_str("\n| values of | |\n| --- | --- |\n");
        // Several families have the same values for a label: said once.
        let mut said: BTreeMap<(&String, &BTreeSet<String>), Vec<&str>> = BTreeMap::new();
        for family in labelled {
            for label in &family.labels {
                said.entry(label).or_default().push(&family.name);
            }
        }
        let alone = |key: &str| said.keys().filter(|(other, _)| *other == key).count() == 1;
        for ((key, values), names) in &said {
            let of = match alone(key) {
                true => String::new(),
                false => format!(" of `{}`", names.join("`, `")),
            };
            let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
            let _ = writeln!(page, "| `{key}`{of} | {} |", values.join(" "));
        }
    }
    page
}
