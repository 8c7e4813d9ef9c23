//! The files, read.

// Each of the two that read them uses a part of it.
#![allow(dead_code)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

/// The alerts about answers, and the reasons that each is for.
pub(crate) const CAUSES: &[(&str, &[&str])] = &[
    ("ReveilleInternalError", &["internal"]),
    ("ReveilleControlPlaneUnavailable", &["control_plane_unavailable"]),
    ("ReveilleNoCapacity", &["no_capacity"]),
    ("ReveilleParkingFull", &["parking_full", "actor_parking_full"]),
    ("ReveilleSnapshotUnusable", &["restore_failed", "snapshot_corrupt", "actor_lost"]),
    ("ReveilleStartFailed", &["start_failed"]),
    ("ReveilleWakeTimeout", &["wake_timeout"]),
    ("ReveilleActorUnreachable", &["upstream_connect_failed", "upstream_reset"]),
    ("ReveilleActorSlow", &["upstream_timeout"]),
    ("ReveilleQuotaExceeded", &["quota_exceeded"]),
    ("ReveilleStoppedActorAsked", &["actor_stopped"]),
    ("ReveilleUnknownNames", &["invalid_host", "actor_not_found"]),
    ("ReveilleRequestsRefused", &["unauthenticated", "access_denied", "invalid_request"]),
];

pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn folder() -> PathBuf {
    repository().join("deploy/observability")
}

/// What a command says on its standard output.
pub(crate) fn reveille(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_reveille")).args(args).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Where `prometheus` or `promtool` is. In CI it must be there; elsewhere the test is skipped, loudly.
pub(crate) fn tool(name: &str, test: &str) -> Option<PathBuf> {
    let path = repository().join(".deps/bin").join(name);
    if Path::exists(&path) {
        return Some(path);
    }
    let how = "deploy/setup.sh prometheus";
    assert!(std::env::var_os("CI").is_none(), "{test} needs {name}: {how}");
    eprintln!("SKIPPED {test}: it needs {name}: {how}");
    None
}

/// An alert.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) alert: String,
    pub(crate) expr: String,
    pub(crate) severity: String,
    pub(crate) runbook: String,
    summary: String,
}

impl Rule {
    /// With one label, written `key: value`, as Prometheus fills it in; those that are not there become nothing.
    pub(crate) fn summary(&self, label: &str) -> String {
        let mut text = self.summary.clone();
        if let Some((key, value)) = label.split_once(": ") {
            text = text.replace(&format!("{{{{ $labels.{key} }}}}"), value);
        }
        while let Some((before, rest)) = text.split_once("{{ $labels.") {
            let after = rest.split_once("}}").expect("closed").1;
            text = format!("{before}{after}");
        }
        text
    }
}

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Written>,
}

#[derive(Deserialize)]
struct Written {
    alert: String,
    expr: String,
    labels: Labels,
    annotations: Annotations,
}

#[derive(Deserialize)]
struct Labels {
    severity: String,
}

#[derive(Deserialize)]
struct Annotations {
    summary: String,
    runbook_url: String,
}

pub(crate) fn rules() -> Vec<Rule> {
    let text = fs::read_to_string(folder().join("alerts.yaml")).expect("the rules");
    let groups: Groups = serde_saphyr::from_str(&text).expect("YAML");
    let written = groups.groups.into_iter().flat_map(|group| group.rules);
    let rule = |rule: Written| Rule {
        alert: rule.alert,
        expr: rule.expr,
        severity: rule.labels.severity,
        runbook: rule.annotations.runbook_url,
        summary: rule.annotations.summary,
    };
    written.map(rule).collect()
}

/// A panel of the dashboard.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) queries: Vec<String>,
}

pub(crate) fn panels() -> Vec<Panel> {
    let text = fs::read_to_string(folder().join("dashboard.json")).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let panels = panels.filter(|panel| panel["type"] != "row").map(|panel| Panel {
        title: text(&panel["title"]),
        queries: panel["targets"]
            .as_array()
            .expect("targets")
            .iter()
            .map(|t| text(&t["expr"]))
            .collect(),
    });
    panels.collect()
}
