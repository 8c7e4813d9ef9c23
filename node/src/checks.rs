//! What `reveille doctor` looks at on a node. Nothing here changes the machine: what is made is removed again.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use reveille_api::{
    check::{Check, Outcome},
    manifest::egress::IpBlock,
};
use rustix::thread::CapabilitySet;

use crate::{
    actor::chain,
    config::{Config, Layout},
    runtime::{
        Runtime,
        cgroup::Cgroups,
        criu::{Criu, Programs},
        gvisor::{Flags, Gvisor},
        pageout::there_is_swap,
    },
    slots,
};

/// Limit of each trial.
const LIMIT: Duration = Duration::from_secs(20);
/// Less than this is little for snapshots.
const ROOMY: u64 = 1 << 30;
const NEEDED: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
];

/// Looks at everything this node needs.
pub async fn checks(config: &Config) -> Vec<Check> {
    let privileged = privileges();
    let may = matches!(privileged.outcome, Outcome::Ok { .. });
    let mut gvisor = vec![check_runsc(&config.runsc).await];
    let mut criu = vec![containers(&config.programs()).await];
    if may {
        gvisor.push(sandbox(config).await);
        criu.push(container(config).await);
    } else {
        for (name, checks) in [("sandbox", &mut gvisor), ("container", &mut criu)] {
            checks.push(Check::warn(name, "not tried without root", "run doctor with sudo"));
        }
    }
    let mut checks = vec![privileged];
    checks.extend(one_of(gvisor, criu));
    checks.push(nft(&config.nft).await);
    if may {
        checks.push(network(config).await);
    } else {
        checks.push(Check::warn(
            "worker network",
            "not tried without root",
            "run doctor with sudo",
        ));
    }
    checks.push(egress());
    checks.push(limits());
    checks.push(freezer());
    checks.push(grace_periods(Path::new(EXPEDITED)));
    checks.push(disk(&config.data_dir));
    checks
}

/// A path as it is, a bare name from `PATH` or the usual places of system programs.
pub(crate) fn find_program(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return std::path::absolute(name).ok().filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let dirs = std::env::split_paths(&path).chain(usual);
    dirs.map(|dir| dir.join(name)).find(|path| path.is_file())
}

fn privileges() -> Check {
    if !rustix::process::geteuid().is_root() {
        return Check::fail("root", "not root", "run it with sudo: only root can make namespaces");
    }
    let effective = rustix::thread::capabilities(None).map(|sets| sets.effective);
    let has = |wanted| effective.is_ok_and(|effective| effective.contains(wanted));
    let missing: Vec<_> =
        NEEDED.iter().filter(|(set, _)| !has(*set)).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Check::ok("root", "root with the capabilities needed");
    }
    let found = format!("root without {}", missing.join(", "));
    Check::fail("root", found, "start it in a container or unit that has these capabilities")
}

/// Whether runsc runs and can do what is needed.
pub async fn check_runsc(binary: &Path) -> Check {
    const FIX: &str = "run deploy/setup.sh runsc, or give --runsc";
    let Some(path) = find_program(binary) else {
        return Check::fail("runsc", format!("{} was not found", binary.display()), FIX);
    };
    match Flags::detect(&path).await {
        Err(error) => Check::fail("runsc", error.to_string(), FIX),
        Ok(flags) => match flags.check() {
            Ok(()) => Check::ok("runsc", format!("{} {}", path.display(), flags.version)),
            Err(error) => Check::fail("runsc", error.to_string(), FIX),
        },
    }
}

/// Really starts a sandbox, in a directory of its own, with the machine's root directory read-only.
async fn sandbox(config: &Config) -> Check {
    const NAME: &str = "sandbox";
    let trial = async {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (root, bundles) = (dir.path().join("root"), dir.path().join("bundles"));
        let gvisor = Gvisor::detect(&config.runsc, &root, &bundles, Vec::new()).await;
        let gvisor = gvisor.map_err(|error| error.to_string())?;
        gvisor.try_out().await.map_err(|error| error.to_string())
    };
    match tokio::time::timeout(LIMIT, trial).await {
        Ok(Ok(())) => Check::ok(NAME, "a gVisor sandbox starts (systrap)"),
        Ok(Err(why)) => Check::fail(
            NAME,
            why,
            "see the message; in a container, runsc needs ptrace, mount and user namespaces allowed",
        ),
        Err(_) => {
            Check::fail(NAME, format!("nothing happened for {LIMIT:?}"), "try another kernel")
        }
    }
}

async fn containers(programs: &Programs) -> Check {
    const NAME: &str = "criu, runc";
    const FIX: &str = "run deploy/setup.sh criu runc, or give --criu and --runc";
    for program in [&programs.criu, &programs.runc] {
        if find_program(program).is_none() {
            return Check::fail(NAME, format!("{} was not found", program.display()), FIX);
        }
    }
    match programs.versions().await {
        Ok(version) => Check::ok(NAME, version),
        Err(error) => Check::fail(NAME, chain(&error), FIX),
    }
}

/// Really saves a container and restores it, with the machine's root directory under it.
async fn container(config: &Config) -> Check {
    const NAME: &str = "container";
    const FIX: &str = "see the message; CRIU needs cgroup v2 (Linux 5.14), overlayfs and CONFIG_CHECKPOINT_RESTORE";
    let trial = async {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let layout = Layout::new(dir.path(), dir.path());
        let criu = Criu::detect(&config.programs(), layout.containers(Vec::new())).await;
        let criu = criu.map_err(|error| chain(&error))?;
        let tried = tokio::time::timeout(LIMIT, criu.try_out()).await;
        criu.sweep(&[]).await.map_err(|error| chain(&error))?;
        criu.destroy().map_err(|error| chain(&error))?;
        tried.map_err(|_| format!("nothing happened for {LIMIT:?}"))?.map_err(|error| chain(&error))
    };
    match trial.await {
        Ok(()) => Check::ok(NAME, "a container is saved and restored (cgroup v2, CRIU)"),
        Err(why) => Check::fail(NAME, why, FIX),
    }
}

/// One runtime is enough: what the other lacks is no failure then.
fn one_of(gvisor: Vec<Check>, criu: Vec<Check>) -> Vec<Check> {
    let works = |checks: &[Check]| {
        !checks.iter().any(|check| matches!(check.outcome, Outcome::Fail { .. }))
    };
    let (gvisor_works, criu_works) = (works(&gvisor), works(&criu));
    let lenient = |check: Check, other_works: bool| match check.outcome {
        Outcome::Fail { found, fix } if other_works => Check::warn(check.name, found, fix),
        outcome => Check { outcome, ..check },
    };
    let gvisor = gvisor.into_iter().map(|check| lenient(check, criu_works));
    // Most templates are of gVisor: without both, that is what to see to.
    let criu = criu.into_iter().map(|check| lenient(check, gvisor_works));
    gvisor.chain(criu).collect()
}

async fn nft(nft: &Path) -> Check {
    let Some(path) = find_program(nft) else {
        return Check::fail("nft", "not found", "apt-get install nftables");
    };
    let mut command = tokio::process::Command::new(&path);
    match command.arg("--version").stdin(Stdio::null()).output().await {
        Ok(output) if output.status.success() => {
            Check::ok("nft", String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => Check::fail("nft", output.status.to_string(), "apt-get install nftables"),
        Err(error) => Check::fail("nft", error.to_string(), "apt-get install nftables"),
    }
}

/// Whether there are addresses for all workers. Makes nothing.
pub async fn check_network(config: &Config) -> Result<(), slots::Error> {
    let layout = config.layout();
    slots::choose(&layout, config.worker_cidr, config.workers).await
}

/// Makes one worker's network under another name and removes it.
async fn network(config: &Config) -> Check {
    const NAME: &str = "worker network";
    let trial = async {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let layout = Layout::new(dir.path(), dir.path());
        layout.create().map_err(|error| error.to_string())?;
        let nft = find_program(&config.nft).ok_or("nft was not found")?;
        let (cidr, egress) = (config.worker_cidr, false);
        let network = slots::Network { cidr, workers: 1, nft: &nft, egress };
        let opened = slots::Slots::open(&layout, network, &[], &[]).await;
        let outcome = match opened {
            Ok(slots) => slots.destroy(&layout).await.map_err(|error| error.to_string()),
            Err(error) => Err(chain(&error)),
        };
        slots::remove_all(&layout).await.map_err(|error| error.to_string())?;
        outcome
    };
    match tokio::time::timeout(LIMIT, trial).await {
        Ok(Ok(())) => Check::ok(
            NAME,
            format!("namespace, veth and rules can be made ({})", config.worker_cidr),
        ),
        Ok(Err(why)) => Check::fail(
            NAME,
            why,
            "the kernel needs veth, nf_tables with NAT, and network namespaces",
        ),
        Err(_) => {
            Check::fail(NAME, format!("nothing happened for {LIMIT:?}"), "look for a hanging nft")
        }
    }
}

/// Whether a machine's settings fit what its actors may be let out to.
pub fn check_egress(allow: &[IpBlock]) -> Result<(), String> {
    for block in allow {
        block.check().map_err(|why| format!("--allow-egress: {why}"))?;
    }
    if allow.is_empty() || forwards() {
        return Ok(());
    }
    Err(format!("--allow-egress needs a machine that forwards, and {FORWARDS} is not 1: {FORWARD}"))
}

const FORWARDS: &str = "net.ipv4.ip_forward";
const FORWARD: &str =
    "sysctl -w net.ipv4.ip_forward=1, once its firewall is right: it then forwards for everybody";

fn forwards() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1")
}

/// Whether actors could be let out.
fn egress() -> Check {
    const NAME: &str = "egress";
    if forwards() {
        return Check::ok(NAME, format!("{FORWARDS} is 1: --allow-egress can be used"));
    }
    let found = format!("{FORWARDS} is not 1: no actor can be let out (--allow-egress)");
    Check::warn(NAME, found, format!("if one is to be: {FORWARD}"))
}

/// Who holds actors to `resources`.
fn limits() -> Check {
    const NAME: &str = "limits";
    const MOUNT: &str = "mount cgroup v2: without it gvisor refuses templates with resources.cpu or resources.memory";
    const BOOT: &str =
        "boot with cgroup v2 alone (systemd.unified_cgroup_hierarchy=1) and the kernel holds them";
    match Cgroups::detect() {
        Err(error) => Check::warn(NAME, error.to_string(), MOUNT),
        Ok(cgroups) => {
            let missing = cgroups.missing().collect::<Vec<_>>().join(", ");
            if missing.is_empty() {
                return Check::ok(NAME, "cpu, memory and pids are held by the kernel (cgroup v2)");
            }
            let found = format!(
                "cgroup v2 has no controller for {missing}: the node agent holds actors to it by looking, ten times a second"
            );
            Check::warn(NAME, found, BOOT)
        }
    }
}

/// How actors are frozen, and where their memory goes then.
fn freezer() -> Check {
    const NAME: &str = "freezer";
    if let Err(error) = Cgroups::detect() {
        let found = format!("{error}: actors of gVisor are frozen by its own pause, others not");
        return Check::warn(NAME, found, "mount cgroup v2");
    }
    if there_is_swap() {
        return Check::ok(NAME, "cgroup v2; memory of frozen actors goes to swap");
    }
    let fix = "add swap (a file, a partition or zram), and what is frozen takes none of it";
    Check::warn(NAME, "cgroup v2; without swap frozen actors keep their memory", fix)
}

const EXPEDITED: &str = "/sys/kernel/rcu_expedited";

/// How long the kernel makes programs wait that change what every processor may just look at: mounts, namespaces, memory
/// barriers. The figures are medians of 12 wakes on 2 cores.
fn grace_periods(setting: &Path) -> Check {
    const NAME: &str = "grace periods";
    match std::fs::read_to_string(setting) {
        Ok(text) if text.trim() == "0" => Check::warn(
            NAME,
            "the kernel takes its time for them: 40 of 160 ms of a wake with gVisor, 13 of 55 with CRIU",
            format!("if processors may be interrupted for that: echo 1 > {}", setting.display()),
        ),
        Ok(_) => Check::ok(NAME, "expedited: wakes are as short as they can be"),
        Err(_) => Check::ok(NAME, "this kernel leaves no choice"),
    }
}

fn disk(dir: &Path) -> Check {
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let free = rustix::fs::statvfs(existing).map(|fs| fs.f_bavail * fs.f_frsize);
    let shown = |bytes: u64| {
        format!("{:.1} GiB free in {}", bytes as f64 / (1 << 30) as f64, existing.display())
    };
    match free {
        Ok(bytes) if bytes >= ROOMY => Check::ok("disk", shown(bytes)),
        Ok(bytes) => {
            Check::warn("disk", shown(bytes), "snapshots need room: free some, or give --data-dir")
        }
        Err(error) => {
            Check::fail("disk", format!("{}: {error}", existing.display()), "give --data-dir")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_takes_its_time_is_told_of_and_one_that_hurries_or_has_no_choice_is_well() {
        let dir = tempfile::tempdir().unwrap();
        let setting = dir.path().join("rcu_expedited");
        let is_well = || matches!(grace_periods(&setting).outcome, Outcome::Ok { .. });
        assert!(is_well());
        std::fs::write(&setting, "0\n").unwrap();
        assert!(!is_well());
        std::fs::write(&setting, "1\n").unwrap();
        assert!(is_well());
    }
}
