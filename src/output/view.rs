//! The objects as programs and people see them. Field names are those of the design, §7.

mod actor;
mod explanation;
mod machine;
mod overview;
mod template;

use std::collections::BTreeMap;

pub(crate) use actor::{ActorView, EventView, SnapshotView};
pub(crate) use explanation::ExplanationView;
pub(crate) use machine::{NodeView, RouterView, WorkerView};
pub(crate) use overview::{Active, OverviewView, Wake};
pub(crate) use template::{PoolView, TemplateView};

/// An empty field of a message is one that is not there.
fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn text(value: Option<&String>) -> String {
    value.cloned().unwrap_or_default()
}

/// Labels as kubectl shows them.
fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.into()
}
