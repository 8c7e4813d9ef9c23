//! What a part would run with, whether that is right, and what it logs: without starting anything, and while it runs.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{error, reveille, run, stdout, tools, write};

fn tempdir() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_right_configuration_is_said_to_be_and_nothing_is_started() {
    let dir = tempdir();
    let [envoy, runsc] = tools(&dir);
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let cases: [&[&str]; 6] = [
        &["up", "--data-dir", data, "--envoy", &envoy, "--runsc", &runsc],
        &["router", "--otlp-endpoint", "http://otel.example:4317"],
        &["controlplane", "--data-dir", data],
        &["node", "--data-dir", data, "--runsc", &runsc],
        &["envoy", "--data-dir", data, "--envoy", &envoy],
        &["dns"],
    ];
    for case in cases {
        let output = run(&[case, &["--check-config"]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{case:?}: {stderr}");
        assert_eq!(stdout(&output), "the configuration is right\n", "{case:?}");
        assert!(!dir.path().join("data").exists(), "{case:?}");
    }
}

#[test]
fn what_is_wrong_with_a_configuration_is_one_line() {
    let dir = tempdir();
    let file = write(&dir, "reveille.toml", "domain = \"a.example\"\n\n[router]\nhtpp = \"x\"\n");
    let [envoy, runsc] = tools(&dir);
    let long = format!("unix:/tmp/{}/sock", "x".repeat(120));
    let cases: [(&[&str], &str); 18] = [
        (&["router", "--config", &file], "reveille.toml:4: unknown key \"htpp\""),
        (&["router", "--wake", "40s"], "--park"),
        (&["router", "--https", "127.0.0.1:1", "--https-cert", "/no", "--https-key", "/no"], "/no"),
        (&["router", "--listen", "0.0.0.0:8090"], "0.0.0.0:8090 is open to everybody"),
        (&["router", "--control-plane", "control.example:8082"], "give --tls-cert"),
        (&["router", "--metrics-of", "router=127.0.0.1:8081"], "PART=ADDRESS"),
        (&["router", "--metrics-of", "node=unix:/a,dns=unix:/b,node=unix:/c"], "each part once"),
        (&["controlplane", "--listen", "0.0.0.0:8082"], "0.0.0.0:8082 is open to everybody"),
        (&["controlplane", "--tcp", "0.0.0.0:8082"], "not a loopback address"),
        (&["controlplane", "--status", &long], "choose a shorter folder"),
        (&["node", "--runsc", &runsc, "--listen", "0.0.0.0:8083"], "0.0.0.0:8083 is open"),
        (&["envoy", "--envoy", &envoy, "--admin", "0.0.0.0:9901"], "loopback only"),
        (&["envoy", "--envoy", &envoy, "--router", "unix:/a,r.example:1"], "--tls-cert"),
        (&["dns", "--status", "dns.example:8085"], "is a name"),
        (&["controlplane", "--tls-cert", "/no"], "--tls-key"),
        (&["envoy", "--envoy", "/no"], "/no"),
        (&["dns", "--log", "debgu"], "\"debgu\" is no level"),
        (&["up", "--http", "127.0.0.1:8081"], "--status"),
    ];
    for (case, expected) in cases {
        let output = run(&[case, &["--check-config"]].concat());
        let code = output.status.code().unwrap();
        let told = error(&output, code);
        assert!(code > 0 && told.contains(expected), "{case:?}: {told}");
    }
}

#[test]
fn each_setting_is_printed_with_where_it_comes_from() {
    let dir = tempdir();
    let file = write(&dir, "reveille.toml", "log = \"warn\"\n[node]\nworkers = 3\nname = \"n1\"\n");
    let args = ["node", "--config", &file, "--name", "n2", "--store", "s3://me:hush@bucket/a"];
    let output = reveille(&args)
        .arg("--print-config=json")
        .env("REVEILLE_NODE_WORKER_CIDR", "10.9.0.0/24")
        .output();
    let printed: Value = serde_json::from_str(&stdout(&output.unwrap())).unwrap();
    let of = |flag: &str| {
        let items = printed["items"].as_array().unwrap();
        let setting = items.iter().find(|item| item["flag"] == flag).unwrap();
        (
            setting["value"][0].as_str().map(str::to_owned),
            setting["origin"].as_str().unwrap().to_owned(),
        )
    };
    let is = |value: &str, origin: &str| (Some(value.to_owned()), origin.to_owned());
    assert_eq!(of("--name"), is("n2", "flag"));
    assert_eq!(of("--worker-cidr"), is("10.9.0.0/24", "REVEILLE_NODE_WORKER_CIDR"));
    assert_eq!(of("--workers"), is("3", &format!("{file}:3")));
    assert_eq!(of("--log"), is("warn", &format!("{file}:1")));
    assert_eq!(of("--log-format"), is("text", "default"));
    assert_eq!(of("--store"), is("s3://…@bucket/a", "flag"));
    assert_eq!(of("--advertise"), (None, "default".to_owned()));
    let table = stdout(&run(&["dns", "--print-config"]));
    assert!(table.starts_with("FLAG") && table.contains("--ttl"), "{table}");
}

/// Ends it, however the test goes.
struct Part(Child);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_log_level_of_a_part_that_runs_alone_can_be_changed() {
    let mut command =
        reveille(&["dns", "--listen", "127.0.0.1:0", "--log", "warn", "--log-format", "json"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut part = Part(child);
    let pid = part.0.id().to_string();
    let set = |filter: &[&str]| run(&[&["log-level", "--pid", &pid, "dns"], filter].concat());
    let end = deadline();
    while !set(&[]).status.success() {
        assert!(std::time::SystemTime::now() < end, "{:?}", set(&[]));
    }
    assert!(stdout(&set(&[])).contains("warn"));
    assert!(error(&set(&["loud"]), 2).contains("is no level"));
    assert!(stdout(&set(&["debug"])).contains("debug"));
    let mut line = String::new();
    BufReader::new(part.0.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["part"], &line["filter"]), (&"dns".into(), &"debug".into()), "{line}");
    assert!(stdout(&set(&["default"])).contains("warn"));
    drop(part);
    assert!(error(&set(&[]), 1).contains("no dns part runs here"));
}

fn deadline() -> std::time::SystemTime {
    std::time::SystemTime::now() + std::time::Duration::from_secs(30)
}
