//! The files of `deploy/observability` against the code: what they name is served, every alert fires by what it is for and has its
//! section of the runbook, and every link leads somewhere. With a running instance: `tests/e2e/observability.rs`.

// A test may fail by a panic; clippy sees that only inside `#[test]` functions.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod files;
mod query;

use std::{collections::BTreeSet, fmt::Write, fs, path::PathBuf, process::Command};

use files::{CAUSES, Rule, folder, reveille, tool};
use query::Reference;

/// A reason that is no fault of anybody's: nothing is to be done about it.
const NO_ALERT: &[&str] = &["waking"];

/// Alerts that are about no answer: their labels, and series in the shape in which they are served, and how they go.
const OTHERS: &[(&str, &str, &[&str])] = &[
    (
        "ReveilleWakesSlow",
        "",
        &[
            r#"reveille_router_wake_duration_seconds_bucket{phase="total",kind="restored",le="4.096"} 0x60"#,
            r#"reveille_router_wake_duration_seconds_bucket{phase="total",kind="restored",le="8.192"} 0+10x60"#,
            r#"reveille_router_wake_duration_seconds_bucket{phase="total",kind="restored",le="+Inf"} 0+10x60"#,
        ],
    ),
    ("ReveilleWakesWaiting", "", &["reveille_controlplane_wakes_waiting 3x60"]),
    (
        "ReveilleRestoreReplaced",
        "kind: previous_snapshot",
        &[r#"reveille_controlplane_restore_fallbacks_total{kind="previous_snapshot"} 0x30 1x30"#],
    ),
    ("ReveilleCheckpointsFailing", "", &["reveille_controlplane_checkpoint_failures_total 0+1x60"]),
    ("ReveilleActorsDying", "", &["reveille_controlplane_losses_total 0+1x60"]),
    (
        "ReveilleFewWorkers",
        "",
        &[
            r#"reveille_controlplane_workers{state="free"} 0x60"#,
            r#"reveille_controlplane_workers{state="serving"} 8x60"#,
            r#"reveille_controlplane_workers{state="away"} 8x60"#,
        ],
    ),
    (
        "ReveilleParkingFilling",
        "",
        &["reveille_router_requests_parked 90x60", "reveille_router_parking_places 100x60"],
    ),
    (
        "ReveilleEnvoyFilling",
        "",
        &["reveille_envoy_connections_active 90x60", "reveille_envoy_connections_limit 100x60"],
    ),
    ("ReveilleDiskFilling", "", &["reveille_node_disk_free_bytes 1000000x60"]),
    (
        "ReveilleRecordsSlow",
        "",
        &[
            r#"reveille_controlplane_store_seconds_bucket{operation="commit",le="0.8192"} 0x60"#,
            r#"reveille_controlplane_store_seconds_bucket{operation="commit",le="1.6384"} 0+10x60"#,
            r#"reveille_controlplane_store_seconds_bucket{operation="commit",le="+Inf"} 0+10x60"#,
        ],
    ),
    (
        "ReveilleObjectStoreFailing",
        "operation: put",
        &[r#"reveille_node_store_failures_total{operation="put"} 0+1x60"#],
    ),
    (
        "ReveilleUploadsStuck",
        "",
        &["reveille_node_upload_bytes_left 5x60", "reveille_node_store_sent_bytes_total 7x60"],
    ),
    ("ReveillePartDown", "part: node", &[r#"reveille_part_up{part="node"} 0x60"#]),
    ("ReveilleSessionDown", "", &["reveille_router_control_plane_session_up 0x60"]),
    ("ReveilleNodeAway", "state: lost", &[r#"reveille_controlplane_nodes{state="lost"} 1x60"#]),
    ("ReveilleEnvoyNotReady", "", &["reveille_envoy_ready 0x60"]),
    ("ReveilleEnvoyEnds", "", &["reveille_envoy_exits_total 0+1x60"]),
    (
        "ReveilleConfigurationRefused",
        "resource: listener",
        &[r#"reveille_router_xds_nacks_total{resource="listener"} 0+1x60"#],
    ),
    ("ReveilleDnsNoFront", "", &[r#"reveille_dns_fronts{family="ipv4"} 0x60"#]),
    (
        "ReveilleDnsFailing",
        "",
        &[
            r#"reveille_dns_replies_total{transport="udp",code="servfail"} 0+60x60"#,
            "reveille_dns_unsent_total 0x60",
        ],
    ),
    (
        "ReveilleDnsLimited",
        "outcome: dropped",
        &[r#"reveille_dns_limited_total{outcome="dropped"} 0+6000x60"#],
    ),
    (
        "ReveilleRevokesUnanswered",
        "",
        &[r#"reveille_controlplane_drains_total{outcome="silent"} 0+1x60"#],
    ),
    (
        "ReveilleTelemetryLost",
        "signal: spans",
        &[
            r#"reveille_router_telemetry_dropped_total{signal="spans"} 0x60"#,
            r#"reveille_node_telemetry_dropped_total{signal="spans"} 0+60x60"#,
        ],
    ),
];

#[test]
fn the_reference_is_what_the_parts_serve() {
    let made = reveille(&["metrics-reference"]);
    let kept = fs::read_to_string(folder().join("METRICS.md")).unwrap_or_default();
    let how = "target/debug/reveille metrics-reference > deploy/observability/METRICS.md";
    assert!(made == kept, "METRICS.md is not what the parts serve: {how}");
}

#[test]
fn rules_and_dashboard_ask_for_nothing_that_is_not_served() {
    let reference = Reference::read();
    let rules = files::rules();
    let queries = rules.iter().map(|rule| (rule.alert.clone(), rule.expr.clone()));
    let panels = files::panels();
    let panels = panels
        .iter()
        .flat_map(|panel| panel.queries.iter().map(|query| (panel.title.clone(), query.clone())));
    for (whose, query) in queries.chain(panels) {
        if let Err(wrong) = reference.check(&query) {
            panic!("{whose}: {wrong}: {query}");
        }
    }
    for (_, _, series) in OTHERS {
        for series in *series {
            let (series, _) = series.split_once(' ').expect("values");
            reference.check(series).unwrap_or_else(|wrong| panic!("{wrong}: {series}"));
        }
    }
}

#[test]
fn every_reason_has_an_alert_and_the_panel_of_its_status() {
    let panels = files::panels();
    for reason in reveille_api::Reason::ALL {
        let name = reason.name();
        let with_alert = CAUSES.iter().any(|(_, reasons)| reasons.contains(&name));
        assert!(with_alert != NO_ALERT.contains(&name), "{name} has an alert, or needs none");
        let status = match reason.http_status() {
            status @ (503 | 504) => format!("{status} by reason"),
            500..600 => "500 and 502 by reason".into(),
            _ => "400s by reason".into(),
        };
        let panel = panels.iter().find(|panel| panel.title == status).expect("a panel");
        let named = panel.queries.iter().any(|query| query::has_value(query, name));
        assert!(named, "{name} is not in the panel {status:?}");
    }
}

#[test]
fn every_alert_fires_by_what_it_is_for_and_is_silent_without() {
    let Some(promtool) = tool("promtool", "rules") else { return };
    let rules = files::rules();
    let alerts: BTreeSet<_> = rules.iter().map(|rule| rule.alert.as_str()).collect();
    assert_eq!(alerts.len(), rules.len(), "an alert is there twice");
    let mut cases: Vec<(&str, String, Vec<String>)> = Vec::new();
    for (alert, reasons) in CAUSES {
        for reason in *reasons {
            let series = format!("reveille_router_answers_total{{reason=\"{reason}\"}} 0+120x60");
            cases.push((alert, format!("reason: {reason}"), vec![series]));
        }
    }
    for (alert, labels, series) in OTHERS {
        let series = series.iter().map(|series| (*series).to_owned()).collect();
        cases.push((alert, (*labels).to_owned(), series));
    }
    let tried: BTreeSet<_> = cases.iter().map(|(alert, ..)| *alert).collect();
    assert_eq!(tried, alerts, "an alert is not tried, or one that is tried is not there");

    let dir = tempfile::tempdir().expect("a directory");
    let mut test = format!(
        "rule_files: [{}]\nevaluation_interval: 1m\ntests:\n",
        folder().join("alerts.yaml").display()
    );
    let none = "      - {eval_time: 40m, alertname: ";
    for (alert, labels, series) in &cases {
        let rule = rules.iter().find(|rule| rule.alert == *alert).expect("it is there");
        test.push_str("  - interval: 1m\n    input_series:\n");
        for series in series {
            let (name, values) = series.split_once(' ').expect("values");
            let _ = writeln!(test, "      - {{series: '{name}', values: '{values}'}}");
        }
        test.push_str("    alert_rule_test:\n");
        let _ = writeln!(
            test,
            "{none}{alert}, exp_alerts: [{{exp_labels: {{severity: {}{}{labels}}}, exp_annotations: {{summary: {:?}, runbook_url: {:?}}}}}]}}",
            rule.severity,
            if labels.is_empty() { "" } else { ", " },
            rule.summary(labels),
            rule.runbook,
        );
    }
    // Nothing goes wrong: nobody is called.
    test.push_str("  - interval: 1m\n    input_series:\n");
    for series in [
        "reveille_router_answers_total{reason=\"no_capacity\"} 5x60",
        "reveille_router_answers_total{reason=\"actor_not_found\"} 0+30x60",
        "reveille_router_answers_total{reason=\"waking\"} 0+300x60",
        "reveille_part_up{part=\"node\"} 1x60",
        "reveille_controlplane_workers{state=\"free\"} 4x60",
        "reveille_controlplane_workers{state=\"serving\"} 4x60",
        "reveille_envoy_ready 1x60",
        "reveille_node_disk_free_bytes 100000000000x60",
    ] {
        let (name, values) = series.split_once(' ').expect("values");
        let _ = writeln!(test, "      - {{series: '{name}', values: '{values}'}}");
    }
    test.push_str("    alert_rule_test:\n");
    for alert in &alerts {
        let _ = writeln!(test, "{none}{alert}, exp_alerts: []}}");
    }
    let file = dir.path().join("test.yaml");
    fs::write(&file, test).expect("written");
    for arguments in [["check", "rules"], ["test", "rules"]] {
        let rules =
            if arguments[0] == "check" { folder().join("alerts.yaml") } else { file.clone() };
        let output = Command::new(&promtool).args(arguments).arg(rules).output().expect("it runs");
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {text}");
    }
}

#[test]
fn every_alert_has_its_section_of_the_runbook_with_three_commands_and_causes() {
    let runbook = fs::read_to_string(folder().join("RUNBOOK.md")).expect("the runbook");
    let rules = files::rules();
    for Rule { alert, runbook: link, .. } in &rules {
        let wanted = format!("deploy/observability/RUNBOOK.md#{}", alert.to_lowercase());
        assert_eq!(*link, wanted, "{alert}");
        let section =
            runbook.split("\n## ").find(|section| section.starts_with(&format!("{alert}\n")));
        let section = section.unwrap_or_else(|| panic!("{alert} has no section"));
        let commands: Vec<_> = section.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
        assert_eq!(commands.len(), 3, "{alert}: three commands");
        assert!(section.contains("| cause | how to see it | what to do |"), "{alert}: causes");
        assert!(section.lines().filter(|line| line.starts_with("| ")).count() > 2, "{alert}");
    }
    let sections = runbook.lines().filter_map(|line| line.strip_prefix("## "));
    for section in sections {
        assert!(rules.iter().any(|rule| rule.alert == section), "no alert is called {section}");
    }
}

#[test]
fn the_commands_of_the_runbook_are_there() {
    let runbook = fs::read_to_string(folder().join("RUNBOOK.md")).expect("the runbook");
    let lines = runbook.lines().filter_map(|line| line.strip_prefix("$ reveille "));
    let commands: BTreeSet<_> = lines.collect();
    assert!(commands.len() > 5, "{commands:?}");
    for command in commands {
        // A server that nobody is at: what is wrong with the words is told before.
        let words: Vec<_> = command.split(' ').collect();
        let output = Command::new(env!("CARGO_BIN_EXE_reveille"))
            .args(&words)
            .env("REVEILLE_DATA_DIR", "/nowhere")
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_ne!(output.status.code(), Some(2), "reveille {command}: {text}");
    }
}

#[test]
fn every_link_of_the_runbook_and_of_the_rules_leads_somewhere() {
    for file in ["RUNBOOK.md", "METRICS.md"] {
        let text = fs::read_to_string(folder().join(file)).expect("readable");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            resolves(&folder().join(file), link);
        }
    }
    for rule in files::rules() {
        resolves(&files::repository().join("Cargo.toml"), &rule.runbook);
    }
}

/// A file that is there, and in it a heading, as Markdown makes anchors of them.
fn resolves(from: &std::path::Path, link: &str) {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target: PathBuf =
        if path.is_empty() { from.into() } else { from.parent().expect("a folder").join(path) };
    let text = fs::read_to_string(&target).unwrap_or_else(|error| panic!("{link}: {error}"));
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>()
    });
    let headings: Vec<_> = headings.collect();
    assert!(anchor.is_empty() || headings.iter().any(|h| h == anchor), "{link}: no such heading");
}
