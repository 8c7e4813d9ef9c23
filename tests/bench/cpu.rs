//! CPU time of each part: what is used up does not depend on who else wants the machine.

use nix::{time::clock_getcpuclockid, unistd::Pid};

use crate::harness::{cluster::Cluster, processes};

/// CPU time used so far, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) envoy: f64,
    pub(crate) router: f64,
    /// Sandboxes of every actor.
    pub(crate) sandboxes: f64,
    /// This process.
    pub(crate) bench: f64,
}

impl Used {
    pub(crate) fn by(cluster: &Cluster) -> Self {
        let role = |name| cluster.pid_of(name).map_or(0.0, of);
        let ours = cluster.data_dir().to_string_lossy().into_owned();
        let is_sandbox = |process: &&processes::Process| {
            let has = |text: &str| process.command.iter().any(|arg| arg.contains(text));
            has("runsc-sandbox") && has(&ours)
        };
        let all = processes::all();
        let sandboxes = all.iter().filter(is_sandbox).map(|sandbox| {
            // The sentry and the processes that run the actor's code.
            of(sandbox.pid)
                + processes::descendants(sandbox.pid).iter().map(|p| of(p.pid)).sum::<f64>()
        });
        Self {
            envoy: role("envoy"),
            router: role("router"),
            sandboxes: sandboxes.sum(),
            bench: of(std::process::id().cast_signed()),
        }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            envoy: self.envoy - before.envoy,
            router: self.router - before.router,
            sandboxes: self.sandboxes - before.sandboxes,
            bench: self.bench - before.bench,
        }
    }
}

/// Of one process, with its threads that have ended; nothing when it has ended itself.
pub(crate) fn of(pid: i32) -> f64 {
    let used = clock_getcpuclockid(Pid::from_raw(pid)).and_then(|clock| clock.now());
    used.map_or(0.0, |used| used.tv_sec() as f64 * 1e6 + used.tv_nsec() as f64 / 1e3)
}
