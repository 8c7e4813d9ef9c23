//! Parts of an `up` that was killed. The kernel has told them to stop; this lets them, for a moment, and kills what has
//! not ended by then: each of them can be killed at any time, and what it had begun is taken up by the next one. Sandboxes
//! are not among them: the node agent adopts those.

use std::{fs, path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// How long they may take: requests in flight may end well, but nobody else is served before they have gone.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a killed one may take to go.
const KILLED: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until nothing of the `up` with process id `killed` runs.
pub(super) async fn wait(killed: i32, data_dir: &Path) {
    let mut end = Instant::now() + PATIENCE;
    let mut ended_by_force = false;
    loop {
        let left = processes(killed, data_dir);
        if left.is_empty() {
            return;
        }
        if Instant::now() >= end {
            if ended_by_force {
                tracing::warn!(?left, "parts of an earlier run do not end");
                return;
            }
            tracing::info!(?left, "parts of an earlier run are killed");
            left.iter().for_each(|pid| kill(*pid, Signal::KILL));
            (ended_by_force, end) = (true, Instant::now() + KILLED);
        }
        sleep(PAUSE).await;
    }
}

/// Roles started by that supervisor, and an Envoy whose role is gone.
fn processes(supervisor: i32, data_dir: &Path) -> Vec<i32> {
    let bootstrap = data_dir.join("run/envoy").display().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let supervised = words
            .windows(2)
            .any(|pair| pair[0] == b"--supervisor" && pair[1] == supervisor.to_string().as_bytes());
        let is_envoy = words.first().is_some_and(|program| program.ends_with(b"envoy"))
            && words.iter().any(|word| word.starts_with(bootstrap.as_bytes()));
        if is_envoy && !supervised {
            kill(*pid, Signal::TERM);
        }
        supervised || is_envoy
    })
    .collect()
}

fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}
