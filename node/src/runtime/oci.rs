//! The OCI configuration of a sandbox: only what is used, typed.

use std::path::Path;

use serde::Serialize;

use super::{Error, Sandbox, User, identity};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec<'a> {
    oci_version: &'static str,
    pub(super) process: Process<'a>,
    root: Root<'a>,
    hostname: &'a str,
    mounts: Vec<Mount<'a>>,
    pub(super) linux: Linux<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Process<'a> {
    user: &'a User,
    args: &'a [String],
    env: Vec<String>,
    cwd: &'a str,
    capabilities: Capabilities,
    pub(super) rlimits: Vec<Rlimit>,
    no_new_privileges: bool,
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
pub(super) struct Rlimit {
    r#type: &'static str,
    hard: u64,
    soft: u64,
}

impl Rlimit {
    pub(super) fn new(r#type: &'static str, value: u64) -> Self {
        Self { r#type, hard: value, soft: value }
    }
}

#[derive(Serialize)]
struct Root<'a> {
    path: &'a Path,
    readonly: bool,
}

#[derive(Clone, Copy, Serialize)]
pub(super) struct Mount<'a> {
    pub(super) destination: &'static str,
    pub(super) r#type: &'static str,
    pub(super) source: &'a str,
    pub(super) options: &'static [&'static str],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Linux<'a> {
    namespaces: Vec<Namespace<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cgroups_path: Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) masked_paths: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seccomp: Option<Seccomp>,
}

#[derive(Serialize)]
struct Namespace<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a Path>,
}

/// What to answer to which system calls.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Seccomp {
    pub(super) default_action: &'static str,
    pub(super) architectures: &'static [&'static str],
    pub(super) syscalls: Vec<Syscalls>,
}

/// Calls that are treated alike.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Syscalls {
    pub(super) names: Vec<&'static str>,
    pub(super) action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) args: Vec<Argument>,
}

/// What an argument must be.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Argument {
    pub(super) index: u32,
    pub(super) value: u64,
    pub(super) value_two: u64,
    pub(super) op: &'static str,
}

impl<'a> Spec<'a> {
    /// A process without privileges, in namespaces of its own, that may write to its root directory and reads in
    /// `identity` who it is.
    pub(super) fn new(
        sandbox: &'a Sandbox,
        root: &'a Path,
        identity: &'a str,
        mounts: &[Mount<'static>],
    ) -> Self {
        let identity = Mount {
            destination: identity::INSIDE,
            r#type: "bind",
            source: identity,
            options: &["bind", "ro", "nosuid", "nodev", "noexec"],
        };
        let mut env: Vec<_> =
            sandbox.env.iter().map(|v| format!("{}={}", v.name, v.value)).collect();
        if !sandbox.env.iter().any(|v| v.name == "PATH") {
            env.push(PATH.into());
        }
        let own = |r#type| Namespace { r#type, path: None };
        let network = Namespace { r#type: "network", path: Some(&sandbox.netns) };
        Self {
            oci_version: "1.0.2",
            process: Process {
                user: &sandbox.user,
                args: &sandbox.command,
                env,
                cwd: &sandbox.directory,
                capabilities: Capabilities::default(),
                rlimits: vec![Rlimit::new("RLIMIT_CORE", 0)],
                no_new_privileges: true,
            },
            root: Root { path: root, readonly: false },
            hostname: sandbox.identity.actor.name(),
            mounts: mounts.iter().copied().chain([identity]).collect(),
            linux: Linux {
                namespaces: vec![own("pid"), own("mount"), own("ipc"), own("uts"), network],
                cgroups_path: None,
                masked_paths: &[],
                seccomp: None,
            },
        }
    }

    /// Into a bundle.
    pub(super) fn write(&self, bundle: &Path) -> Result<(), Error> {
        let config = bundle.join("config.json");
        let written = serde_json::to_vec(self).map_err(std::io::Error::from);
        written
            .and_then(|bytes| std::fs::write(&config, bytes))
            .map_err(Error::file("write", &config))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::runtime::Identity;
    use reveille_api::manifest::template::{EnvVar, Resources};
    use reveille_api::{ActorKey, Epoch};

    pub(in crate::runtime) fn sandbox() -> Sandbox {
        Sandbox {
            id: "x".into(),
            identity: Identity {
                actor: ActorKey::new("demo", "counter").unwrap(),
                epoch: Epoch(1),
            },
            image_of: None,
            command: vec!["/counter".into()],
            env: vec![EnvVar { name: "LOG".into(), value: "info".into() }],
            directory: "/srv".into(),
            user: User { uid: 7, gid: 8, groups: vec![9] },
            layers: vec!["/rootfs".into()],
            limits: Resources { pids: Some(7), ..Resources::default() },
            netns: "/proc/1/fd/3".into(),
            output: Arc::new(std::fs::File::open("/dev/null").unwrap()),
        }
    }

    #[test]
    fn a_sandbox_has_no_capabilities_and_its_own_namespaces() {
        let sandbox = sandbox();
        let json = serde_json::to_value(Spec::new(&sandbox, Path::new("/r"), "/i", &[])).unwrap();
        assert_eq!(json["process"]["capabilities"]["bounding"], serde_json::json!([]));
        assert_eq!(json["process"]["noNewPrivileges"], true);
        assert_eq!(json["process"]["env"][0], "LOG=info");
        assert_eq!(json["linux"]["namespaces"][4]["path"], "/proc/1/fd/3");
        assert_eq!(json["linux"]["namespaces"].as_array().unwrap().len(), 5);
        assert_eq!(json["hostname"], "counter");
        let user = serde_json::json!({ "uid": 7, "gid": 8, "additionalGids": [9] });
        assert_eq!(json["process"]["user"], user);
        assert_eq!(json["process"]["cwd"], "/srv");
        assert_eq!(json["root"]["path"], "/r");
        assert_eq!(json["mounts"][0]["source"], "/i");
    }
}
