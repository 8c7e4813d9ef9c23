//! What runc is told of a container.

use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::seccomp;
use crate::runtime::{
    Sandbox,
    oci::{Mount, Rlimit, Spec},
};

/// Open files of one process, where the agent itself may have as many.
const MAX_FILES: u64 = 65_536;
/// Those of `/proc` that tell of the machine, and to which its root directory's owner needs no capability.
const MASKED: &[&str] = &[
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/latency_stats",
    "/proc/sysrq-trigger",
];
/// What an actor writes there is in its snapshots. `/proc` is read-only: sysctls ask for no capability, only for root.
const MOUNTS: &[Mount<'static>] = &[
    Mount {
        destination: "/proc",
        r#type: "proc",
        source: "proc",
        options: &["nosuid", "noexec", "nodev", "ro"],
    },
    Mount {
        destination: "/dev",
        r#type: "tmpfs",
        source: "tmpfs",
        options: &["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    Mount {
        destination: "/dev/pts",
        r#type: "devpts",
        source: "devpts",
        options: &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
    },
    Mount {
        destination: "/dev/shm",
        r#type: "tmpfs",
        source: "shm",
        options: &["nosuid", "noexec", "nodev", "mode=1777"],
    },
    Mount {
        destination: "/sys",
        r#type: "sysfs",
        source: "sysfs",
        options: &["nosuid", "noexec", "nodev", "ro"],
    },
    Mount {
        destination: "/tmp",
        r#type: "tmpfs",
        source: "tmpfs",
        options: &["nosuid", "nodev", "mode=1777"],
    },
];

/// The configuration for a container in this control group, whose root is mounted at `root`.
pub(super) fn spec<'a>(sandbox: &'a Sandbox, root: &'a Path, identity: &'a str) -> Spec<'a> {
    let mut spec = Spec::new(sandbox, root, identity, MOUNTS);
    // A limit cannot be raised without CAP_SYS_RESOURCE.
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(MAX_FILES).min(MAX_FILES);
    spec.process.rlimits.push(Rlimit::new("RLIMIT_NOFILE", files));
    spec.linux.cgroups_path = Some(format!("/{}", sandbox.id));
    spec.linux.masked_paths = MASKED;
    spec.linux.seccomp = Some(seccomp::profile());
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::oci::tests::sandbox;

    #[test]
    fn a_container_is_filtered_and_cannot_write_to_proc() {
        let sandbox = sandbox();
        let json = serde_json::to_value(spec(&sandbox, Path::new("/r"), "/i")).unwrap();
        let seccomp = &json["linux"]["seccomp"];
        assert_eq!(seccomp["defaultAction"], "SCMP_ACT_ERRNO");
        let rules = seccomp["syscalls"].as_array().unwrap();
        let mentions = |name: &str| {
            rules.iter().any(|rule| rule["names"].as_array().unwrap().iter().any(|n| n == name))
        };
        assert!(mentions("read") && mentions("clone"));
        for refused in ["mount", "unshare", "setns", "ptrace", "bpf", "keyctl", "io_uring_setup"] {
            assert!(!mentions(refused), "{refused}");
        }
        assert_eq!(json["linux"]["cgroupsPath"], "/x");
        let proc = &json["mounts"][0];
        assert!(proc["options"].as_array().unwrap().iter().any(|option| option == "ro"));
    }
}
