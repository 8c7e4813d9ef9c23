use std::{path::Path, time::Duration};

use super::{
    quantity::{Bytes, Cpu},
    template::{OnRestoreFailure, Protocol, Rootfs},
    *,
};

/// The template of the design, §7.
const FULL: &str = r#"apiVersion: reveille.dev/v1alpha1
kind: ActorTemplate
metadata: { name: counter, namespace: demo }
spec:
  runtime: gvisor                      # gvisor | criu
  rootfs: { directory: ./rootfs }
  command: ["/counter"]
  env: [{ name: LOG, value: info }]
  port: 8080
  protocol: http1                      # http1 | h2c
  readiness: { httpGet: { path: /healthz }, timeout: 10s }
  resources: { cpu: "1", memory: 256Mi, pids: 128 }
  workerSelector: { matchLabels: { tier: standard } }
  idle: { freezeAfter: 30s, pauseAfter: 5m, suspendAfter: 1h, keepWarm: false }
  wake: { timeout: 20s, park: 30s, maxParked: 1000, concurrency: 0 }
  drain: { timeout: 30s }
  onRestoreFailure: Refuse
  golden: true
"#;

fn template(text: &str) -> ActorTemplateSpec {
    match parse_all(text, Path::new("/srv/demo")).unwrap().remove(0).spec {
        Spec::ActorTemplate(spec) => *spec,
        other => panic!("{other:?}"),
    }
}

fn error(text: &str) -> String {
    parse_all(text, Path::new("/srv")).unwrap_err().to_string()
}

#[test]
fn the_full_template_of_the_design_is_read() {
    let spec = template(FULL);
    assert_eq!(spec.rootfs, Rootfs::Directory("/srv/demo/rootfs".into()));
    assert_eq!(spec.resources.cpu, Some(Cpu(1000)));
    assert_eq!(spec.resources.memory, Some(Bytes(256 << 20)));
    assert_eq!(spec.idle.suspend_after, Some(Duration::from_secs(3600)));
    assert_eq!(spec.protocol, Protocol::Http1);
    assert_eq!(spec.on_restore_failure, OnRestoreFailure::Refuse);
    assert!(spec.golden);
}

#[test]
fn a_manifest_survives_the_way_to_the_control_plane() {
    let manifest = parse_all(FULL, Path::new("/srv")).unwrap().remove(0);
    assert_eq!(parse_one(&manifest.to_json().to_string()).unwrap(), manifest);
}

#[test]
fn defaults_are_those_of_the_design() {
    let short = "apiVersion: reveille.dev/v1alpha1\nkind: ActorTemplate\nmetadata: {name: a}\n\
                 spec: {runtime: gvisor, rootfs: {directory: /x}, command: [/a]}\n";
    let spec = template(short);
    assert_eq!(spec.port, 8080);
    assert_eq!(spec.wake.timeout, Duration::from_secs(20));
    assert_eq!(spec.wake.park, Duration::from_secs(30));
    assert_eq!(spec.wake.max_parked, 1000);
    assert_eq!(spec.drain.timeout, Duration::from_secs(30));
    assert_eq!(spec.readiness.timeout, Duration::from_secs(10));
}

#[test]
fn an_unknown_field_is_named_with_its_line() {
    let e = error(&FULL.replace("  golden: true", "  goldn: true"));
    assert!(e.starts_with("line 18: ") && e.contains("goldn"), "{e}");
    let two = format!("{FULL}---\n{}", FULL.replace("keepWarm", "keepwarm"));
    let e = error(&two);
    assert!(e.starts_with("line 33: ") && e.contains("keepwarm"), "{e}");
}

#[test]
fn every_bad_value_gets_one_line_that_names_the_field_and_what_is_allowed() {
    let cases = [
        ("port: 8080", "port: 0", "line 9: spec.port: ", "1 to 65535"),
        ("port: 8080", "port: 80800", "line 9: spec.port: ", "1 to 65535"),
        ("port: 8080", "port: http", "line 9: spec.port: ", "1 to 65535"),
        ("port: 8080", "port: 1\n  port: 2", "line 10: spec.port: ", "once"),
        ("protocol: http1", "protocol: h3", "line 10: spec.protocol: ", "http1, h2c"),
        ("[\"/counter\"]", "[]", "line 7: spec.command: ", "name the program"),
        ("[\"/counter\"]", "[counter]", "line 7: spec.command: ", "absolute"),
        ("[\"/counter\"]", "/counter", "line 7: spec.command: ", "write [a, b]"),
        ("value: info", "valeu: info", "line 8: spec.env[0].valeu: ", "name, value"),
        ("path: /healthz", "path: healthz", "line 11: spec.readiness.httpGet.path: ", "no path"),
        ("suspendAfter: 1h", "suspendAfter: -1h", "line 14: spec.idle.suspendAfter: ", "write 30s"),
        ("suspendAfter: 1h", "suspendAfter: 10", "line 14: spec.idle.suspendAfter: ", "write 30s"),
        ("keepWarm: false", "keepWarm: maybe", "line 14: spec.idle.keepWarm: ", "true nor false"),
        ("timeout: 20s", "timeout: 40s", "line 15: spec.wake: ", "raise"),
        ("timeout: 20s", "timeout: soon", "line 15: spec.wake.timeout: ", "write 30s"),
        ("maxParked: 1000", "maxParked: 0", "line 15: spec.wake.maxParked: ", "every request"),
        ("maxParked: 1000", "maxParked: -1", "line 15: spec.wake.maxParked: ", "from 0 to"),
        ("memory: 256Mi", "memory: lots", "line 12: spec.resources.memory: ", "write 256Mi"),
        ("  drain:", "  egress: 0.0.0.0/0\n  drain:", "line 16: spec.egress: ", "no list"),
        (
            "  drain:",
            "  egress: [{ cidr: 10.1.2.3 }]\n  drain:",
            "line 16: spec.egress[0].cidr: ",
            "10.1.2.3/32",
        ),
        (
            "  drain:",
            "  egress: [{ cidr: 10.1.2.3/8 }]\n  drain:",
            "line 16: spec.egress[0].cidr: ",
            "write 10.0.0.0/8",
        ),
        (
            "  drain:",
            "  egress: [{ cidr: 127.0.0.1/32 }]\n  drain:",
            "line 16: spec.egress: ",
            "127.0.0.0/8 is never",
        ),
        (
            "  drain:",
            "  egress: [{ cidr: 1.1.1.1/32, port: 53 }]\n  drain:",
            "line 16: spec.egress[0].port: ",
            "cidr, ports",
        ),
        (
            "  drain:",
            "  egress: [{ cidr: 1.1.1.1/32, ports: [443, dns] }]\n  drain:",
            "line 16: spec.egress[0].ports[1]: ",
            "53/udp",
        ),
        ("runtime: gvisor", "runtime: docker", "line 5: spec.runtime: ", "gvisor, criu"),
        ("name: LOG", "name: 1LOG", "line 8: spec.env: ", "no"),
        ("info }]", "info }, { name: LOG, value: b }]", "line 8: spec.env: ", "LOG is there twice"),
        ("name: counter", "name: Counter", "line 3: metadata.name ", "a-z"),
        ("kind: ActorTemplate", "kind: Deployment", "line 2: kind ", "ActorTemplate"),
        ("v1alpha1", "v9", "line 1: apiVersion ", "v1alpha1"),
        ("Failure: Refuse", "Failure: Never", "line 17: spec.onRestoreFailure: ", "ColdStart"),
        ("{ directory: ./rootfs }", "{ directory: ./a, image: b }", "line 6: spec.rootfs", "one"),
        ("{ directory: ./rootfs }", "{ image: nginx }", "line 6: spec.rootfs.image: ", "docker.io"),
        ("{ directory: ./rootfs }", "./rootfs", "line 6: spec.rootfs: ", "directory, image"),
        (
            "{ tier: standard }",
            "[tier]",
            "line 13: spec.workerSelector.matchLabels: ",
            "key: value",
        ),
        ("  runtime: gvisor  ", "  #", "line 18: spec: ", "`runtime`"),
        ("spec:\n", "spec: {\n", "line 6: ", "}"),
    ];
    for (from, to, at, allowed) in cases {
        let changed = FULL.replace(from, to);
        assert_ne!(changed, FULL, "{from}");
        let e = error(&changed);
        assert!(e.starts_with(at) && e.contains(allowed) && !e.contains('\n'), "{to}: {e}");
    }
}

#[test]
fn egress_is_a_list_of_networks_with_ports() {
    let text = FULL.replace(
        "  drain:",
        "  egress:\n    - cidr: 0.0.0.0/0\n    - { cidr: 10.1.2.0/24, ports: [5432, 8000-8100, 53/udp] }\n  drain:",
    );
    let egress = template(&text).egress;
    let shown: Vec<_> = egress[1].ports.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["5432", "8000-8100", "53/udp"]);
    assert_eq!((egress[0].cidr.bits(), egress[0].ports.len()), (0, 0));
    let manifest = parse_all(&text, Path::new("/srv")).unwrap().remove(0);
    assert_eq!(parse_one(&manifest.to_json().to_string()).unwrap(), manifest);
    assert!(template(FULL).egress.is_empty());
}

#[test]
fn only_an_image_brings_its_own_command() {
    let without = FULL.replace("  command: [\"/counter\"]\n", "");
    assert!(error(&without).contains("spec.command: is empty"), "{}", error(&without));
    for rootfs in ["{ ociLayout: ./image }", "{ image: ghcr.io/a/b:c }"] {
        assert_eq!(template(&without.replace("{ directory: ./rootfs }", rootfs)).command.len(), 0);
        let named = FULL.replace("{ directory: ./rootfs }", rootfs).replace("/counter", "counter");
        assert_eq!(template(&named).command, ["counter"]);
    }
}

#[test]
fn pools_and_actors_are_read_and_an_empty_text_is_refused() {
    let text = "# a comment\n---\napiVersion: reveille.dev/v1alpha1\nkind: WorkerPool\n\
                metadata: {name: default}\nspec: {labels: {tier: standard}, workersPerNode: 8}\n\
                ---\napiVersion: reveille.dev/v1alpha1\nkind: Actor\n\
                metadata: {name: c, namespace: demo}\nspec: {template: counter}\n";
    let all = parse_all(text, Path::new("/")).unwrap();
    assert_eq!(all.iter().map(|m| m.spec.kind()).collect::<Vec<_>>(), ["WorkerPool", "Actor"]);
    assert_eq!(all[1].namespace(), Some("demo"));
    assert!(error("# nothing\n").contains("no object"));
    let none = error(&text.replace("workersPerNode: 8", "workersPerNode: 0"));
    assert!(none.contains("spec.workersPerNode: ") && none.contains("1 or more"), "{none}");
}

#[test]
fn quantities_are_written_as_they_were_read() {
    for text in ["256Mi", "1Gi", "1500", "3Ki"] {
        let bytes: Bytes = serde_json::from_value(text.into()).unwrap();
        assert_eq!(serde_json::to_value(bytes).unwrap(), text);
    }
    for (text, milli) in [("1", 1000), ("0.5", 500), ("250m", 250)] {
        assert_eq!(serde_json::from_value::<Cpu>(text.into()).unwrap(), Cpu(milli));
    }
    assert!(serde_json::from_value::<Cpu>("0".into()).is_err());
    assert!(serde_json::from_value::<Bytes>("99999999999Ti".into()).is_err());
}
