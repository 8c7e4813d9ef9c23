//! `deploy/kubernetes`, read: its objects, and the command line of every container as the binary takes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::apiserver::repository;

/// Applied by hand, when it is wanted.
pub(crate) const OPTIONAL: &str = "dns-install.yaml";
const KUSTOMIZATION: &str = "kustomization.yaml";

pub(crate) fn folder() -> PathBuf {
    repository().join("deploy/kubernetes")
}

/// The files of the whole, as the kustomization has them.
pub(crate) fn files() -> Vec<PathBuf> {
    let kustomization = &documents(&folder().join(KUSTOMIZATION))[0].1;
    let files = kustomization["resources"].as_array().expect("resources").iter();
    files.map(|name| folder().join(name.as_str().expect("a name"))).collect()
}

/// Each document of a file: as it is written, and read.
pub(crate) fn documents(file: &Path) -> Vec<(String, Value)> {
    let text = fs::read_to_string(file).expect("readable");
    let read = |text: &str| {
        let value = serde_saphyr::from_str(text);
        let value = value.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        (text.to_owned(), value)
    };
    text.split("\n---\n").map(read).collect()
}

/// Whatever starts pods: of which kind, and the template.
fn workloads() -> Vec<(String, Value)> {
    let all = files().into_iter().chain([folder().join(OPTIONAL)]);
    let documents = all.flat_map(|file| documents(&file)).map(|(_, value)| value);
    let with_pods = documents.filter(|value| value["spec"]["template"].is_object());
    with_pods.map(|value| (text(&value["kind"]), value)).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().map(|all| all.iter().map(text).collect()).unwrap_or_default()
}

#[test]
fn every_file_is_part_of_the_whole_or_said_not_to_be() {
    let listed: BTreeSet<_> = files().into_iter().collect();
    let others = [OPTIONAL, KUSTOMIZATION].map(|name| folder().join(name));
    let there = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let there: BTreeSet<_> = there.collect();
    assert_eq!(there, listed.into_iter().chain(others).collect());
}

#[test]
fn every_pod_asks_for_no_more_than_it_needs_and_has_time_to_stop() {
    let workloads = workloads();
    assert_eq!(workloads.len(), 6, "{workloads:?}");
    for (_, workload) in &workloads {
        let name = text(&workload["metadata"]["name"]);
        let pod = &workload["spec"]["template"]["spec"];
        assert_eq!(pod["serviceAccountName"], name.as_str());
        let container = &pod["containers"][0];
        let privileged = container["securityContext"]["privileged"] == true;
        assert_eq!(privileged, name == "node");
        if !privileged {
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(texts(&context["capabilities"]["drop"]), ["ALL"], "{name}");
        }
        // It speaks to the API server, or has no word for it.
        let speaks = name.starts_with("dns");
        assert_eq!(pod["automountServiceAccountToken"] != false, speaks, "{name}");
        let tag = text(&container["image"]);
        assert!(tag.rsplit_once(':').is_some_and(|(_, tag)| tag != "latest"), "{name}: {tag}");

        let args = texts(&container["args"]);
        let flag = |flag: &str| args.iter().find_map(|arg| arg.strip_prefix(flag));
        let time = |time| humantime::parse_duration(time).expect("a time");
        if let (Some(grace), Some(drain)) = (flag("--grace="), flag("--drain=")) {
            let stop = pod["terminationGracePeriodSeconds"].as_u64().expect("seconds");
            assert!(time(grace) + time(drain) < Duration::from_secs(stop), "{name}");
        }
        if let Some(status) = flag("--status=") {
            let port: u64 = status.rsplit(':').next().unwrap().parse().unwrap();
            let ports = container["ports"].as_array().unwrap();
            let named = ports.iter().find(|port| port["name"] == "status").expect("a port");
            assert_eq!(named["containerPort"], port, "{name}");
            for (probe, path) in [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")] {
                let get = &container[probe]["httpGet"];
                assert_eq!((&get["path"], &get["port"]), (&path.into(), &"status".into()));
            }
        }
    }
    // Envoy is told of every router.
    let of = |name: &str| {
        let found = workloads.iter().find(|(_, value)| value["metadata"]["name"] == name);
        &found.expect("it is there").1["spec"]
    };
    let args = texts(&of("envoy")["template"]["spec"]["containers"][0]["args"]);
    let routers: Vec<_> = args.iter().filter_map(|arg| arg.strip_prefix("--router=")).collect();
    let replicas = of("router")["replicas"].as_u64().unwrap();
    let wanted = (0..replicas).map(|n| format!("router-{n}.router.reveille-system.svc:8090"));
    assert_eq!(routers, wanted.collect::<Vec<_>>());
}

/// What the pods find where they look, for one of each.
struct Machine {
    dir: TempDir,
}

impl Machine {
    /// With certificates as README.md has them made, and programs that are called as the real ones.
    fn new() -> Self {
        let machine = Self { dir: tempfile::tempdir().unwrap() };
        let certs = machine.path("certs");
        let certs = certs.to_str().unwrap();
        machine.ok(&["certs", "init", "--dir", certs]);
        for part in [
            &["controlplane"][..],
            &["envoy"],
            &["router", "--name", "router-0"],
            &["node", "--name", "n1"],
        ] {
            machine.ok(&[&["certs", "issue"], part, &["--dir", certs]].concat());
        }
        for program in ["envoy", "runsc"] {
            let file = machine.path("bin").join(program);
            fs::create_dir_all(machine.path("bin")).unwrap();
            fs::write(&file, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ok(&self, args: &[&str]) {
        let output = Command::new(env!("CARGO_BIN_EXE_reveille"))
            .args(args)
            .env("PATH", self.path("bin"))
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "reveille {}: {stderr}", args.join(" "));
    }

    /// Where a volume is here: a Secret PART-tls has ca.pem and what begins with PART.
    fn volume(&self, pod: &Value, config_maps: &BTreeMap<String, Value>, name: &str) -> PathBuf {
        let volumes = pod["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let volume = volumes.iter().find(|volume| volume["name"] == name);
        let path = self.path(&format!("volume-{name}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        let Some(volume) = volume else { return path };
        if let Some(secret) = volume["secret"]["secretName"].as_str() {
            let part = secret.strip_suffix("-tls").expect("PART-tls");
            for entry in fs::read_dir(self.path("certs")).unwrap() {
                let file = entry.unwrap().path();
                let called = file.file_name().unwrap().to_str().unwrap().to_owned();
                if called == "ca.pem" || called.starts_with(part) {
                    fs::copy(&file, path.join(called)).unwrap();
                }
            }
        }
        if let Some(map) = volume["configMap"]["name"].as_str() {
            for (key, value) in config_maps[map]["data"].as_object().unwrap() {
                fs::write(path.join(key), text(value)).unwrap();
            }
        }
        path
    }
}

#[test]
fn every_command_line_is_one_that_the_binary_takes() {
    let machine = Machine::new();
    let documents = files().into_iter().flat_map(|file| documents(&file));
    let config_maps = documents.map(|(_, value)| value).filter(|v| v["kind"] == "ConfigMap");
    let config_maps = config_maps.map(|v| (text(&v["metadata"]["name"]), v)).collect();
    for (kind, workload) in workloads() {
        let name = text(&workload["metadata"]["name"]);
        let pod = &workload["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(texts(&container["command"]), ["reveille"]);
        let mut args = texts(&container["args"]);
        if name == "dns-install" {
            // Which the other test runs.
            assert_eq!(args, ["dns", "install", "--watch"]);
            continue;
        }
        assert_eq!(args[0], name);
        let pod_name =
            if kind == "StatefulSet" { format!("{name}-0") } else { format!("{name}-x") };
        let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
        let mut replaced = vec![
            ("$(POD_NAME)".to_owned(), pod_name),
            ("$(NODE_NAME)".to_owned(), "n1".to_owned()),
            ("$(HOST_IP)".to_owned(), "192.0.2.1".to_owned()),
        ];
        for mount in &mounts {
            let here = machine.volume(pod, &config_maps, &text(&mount["name"]));
            let at = format!("={}", text(&mount["mountPath"]));
            replaced.push((at, format!("={}", here.display())));
        }
        for arg in &mut args {
            for (from, to) in &replaced {
                *arg = arg.replace(from, to);
            }
            assert!(!arg.contains("$("), "{name}: {arg}");
        }
        args.push("--check-config".into());
        machine.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
