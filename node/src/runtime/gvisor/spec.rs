//! The OCI configuration of a sandbox: only what is used, typed.

use serde::Serialize;

use crate::runtime::Sandbox;

/// Open files of the actor, in total.
const MAX_FILES: u64 = 65_536;
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec<'a> {
    oci_version: &'static str,
    process: Process<'a>,
    root: Root<'a>,
    hostname: &'a str,
    mounts: Vec<Mount>,
    linux: Linux<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Process<'a> {
    user: User,
    args: &'a [String],
    env: Vec<String>,
    cwd: &'static str,
    capabilities: Capabilities,
    rlimits: Vec<Rlimit>,
    no_new_privileges: bool,
}

#[derive(Serialize)]
struct User {
    uid: u32,
    gid: u32,
}

/// All empty: the process has no privilege inside its sandbox either.
#[derive(Default, Serialize)]
struct Capabilities {
    bounding: [&'static str; 0],
    effective: [&'static str; 0],
    inheritable: [&'static str; 0],
    permitted: [&'static str; 0],
    ambient: [&'static str; 0],
}

#[derive(Serialize)]
struct Rlimit {
    r#type: &'static str,
    hard: u64,
    soft: u64,
}

#[derive(Serialize)]
struct Root<'a> {
    path: &'a std::path::Path,
    readonly: bool,
}

#[derive(Serialize)]
struct Mount {
    destination: &'static str,
    r#type: &'static str,
    source: &'static str,
    options: &'static [&'static str],
}

#[derive(Serialize)]
struct Linux<'a> {
    namespaces: Vec<Namespace<'a>>,
}

#[derive(Serialize)]
struct Namespace<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a std::path::Path>,
}

/// The configuration for a sandbox. Writes to its root go to an overlay in the sandbox's memory.
pub(super) fn spec(sandbox: &Sandbox) -> Spec<'_> {
    let mut env: Vec<_> = sandbox.env.iter().map(|v| format!("{}={}", v.name, v.value)).collect();
    if !sandbox.env.iter().any(|v| v.name == "PATH") {
        env.push(PATH.into());
    }
    let rlimit = |r#type, value| Rlimit { r#type, hard: value, soft: value };
    let mut rlimits = vec![rlimit("RLIMIT_NOFILE", MAX_FILES), rlimit("RLIMIT_CORE", 0)];
    rlimits.extend(sandbox.pids.map(|pids| rlimit("RLIMIT_NPROC", pids)));
    let own = |r#type| Namespace { r#type, path: None };
    let network = Namespace { r#type: "network", path: Some(&sandbox.netns) };
    Spec {
        oci_version: "1.0.2",
        process: Process {
            user: User { uid: 0, gid: 0 },
            args: &sandbox.command,
            env,
            cwd: "/",
            capabilities: Capabilities::default(),
            rlimits,
            no_new_privileges: true,
        },
        root: Root { path: &sandbox.rootfs, readonly: false },
        hostname: &sandbox.hostname,
        mounts: vec![
            Mount { destination: "/proc", r#type: "proc", source: "proc", options: &[] },
            Mount { destination: "/dev", r#type: "tmpfs", source: "tmpfs", options: &[] },
            Mount {
                destination: "/sys",
                r#type: "sysfs",
                source: "sysfs",
                options: &["nosuid", "noexec", "nodev", "ro"],
            },
            Mount { destination: "/tmp", r#type: "tmpfs", source: "tmpfs", options: &["nosuid"] },
        ],
        linux: Linux {
            namespaces: vec![own("pid"), own("mount"), own("ipc"), own("uts"), network],
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use reveille_api::manifest::template::EnvVar;

    #[test]
    fn a_sandbox_has_no_capabilities_and_its_own_namespaces() {
        let sandbox = Sandbox {
            id: "x".into(),
            bundle: "/b".into(),
            hostname: "counter".into(),
            command: vec!["/counter".into()],
            env: vec![EnvVar { name: "LOG".into(), value: "info".into() }],
            rootfs: "/rootfs".into(),
            pids: Some(7),
            netns: "/proc/1/fd/3".into(),
            output: Arc::new(std::fs::File::open("/dev/null").unwrap()),
        };
        let json = serde_json::to_value(spec(&sandbox)).unwrap();
        assert_eq!(json["process"]["capabilities"]["bounding"], serde_json::json!([]));
        assert_eq!(json["process"]["noNewPrivileges"], true);
        assert_eq!(json["process"]["env"][0], "LOG=info");
        assert_eq!(json["process"]["rlimits"][2]["type"], "RLIMIT_NPROC");
        assert_eq!(json["linux"]["namespaces"][4]["path"], "/proc/1/fd/3");
        assert_eq!(json["linux"]["namespaces"].as_array().unwrap().len(), 5);
        assert_eq!(json["hostname"], "counter");
    }
}
