//! What runsc is told of a sandbox.

use std::path::Path;

use crate::runtime::{
    Sandbox,
    oci::{Mount, Rlimit, Spec},
};

/// Open files of the actor, in total.
const MAX_FILES: u64 = 65_536;
const MOUNTS: &[Mount<'static>] = &[
    Mount { destination: "/proc", r#type: "proc", source: "proc", options: &[] },
    Mount { destination: "/dev", r#type: "tmpfs", source: "tmpfs", options: &[] },
    Mount {
        destination: "/sys",
        r#type: "sysfs",
        source: "sysfs",
        options: &["nosuid", "noexec", "nodev", "ro"],
    },
    Mount { destination: "/tmp", r#type: "tmpfs", source: "tmpfs", options: &["nosuid"] },
];

/// The configuration for a sandbox whose root directory is this one. Writes to it go to an overlay in the sandbox's memory.
pub(super) fn spec<'a>(sandbox: &'a Sandbox, root: &'a Path, identity: &'a str) -> Spec<'a> {
    let mut spec = Spec::new(sandbox, root, identity, MOUNTS);
    let rlimits = &mut spec.process.rlimits;
    rlimits.push(Rlimit::new("RLIMIT_NOFILE", MAX_FILES));
    rlimits.extend(sandbox.limits.pids.map(|pids| Rlimit::new("RLIMIT_NPROC", pids)));
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::oci::tests::sandbox;

    #[test]
    fn a_sandbox_has_no_more_processes_than_its_limit() {
        let json = serde_json::to_value(spec(&sandbox(), Path::new("/r"), "/i")).unwrap();
        let limits = json["process"]["rlimits"].as_array().unwrap();
        let processes = limits.iter().find(|limit| limit["type"] == "RLIMIT_NPROC").unwrap();
        assert_eq!(processes["hard"], 7);
    }
}
