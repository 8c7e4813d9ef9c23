//! What runs, and what was left behind.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// One process.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub state: char,
    pub command: Vec<String>,
}

/// One of ours. It ends with this.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every process of the machine.
pub fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
    entries.filter_map(|e| read(e.file_name().to_str()?.parse().ok()?)).collect()
}

fn read(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = command.split(|b| *b == 0).filter(|arg| !arg.is_empty());
    let command = command.map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
    Some(Process { pid, parent, state, command })
}

/// Everything that descends from `root`.
pub fn descendants(root: i32) -> Vec<Process> {
    let all = all();
    let mut family = BTreeSet::from([root]);
    loop {
        let more: Vec<_> =
            all.iter().filter(|p| family.contains(&p.parent)).map(|p| p.pid).collect();
        let before = family.len();
        family.extend(more);
        if family.len() == before {
            break;
        }
    }
    all.into_iter().filter(|p| p.pid != root && family.contains(&p.pid)).collect()
}

pub fn signal(pid: i32, signal: Signal) {
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(pid), signal);
}

pub fn alive(pid: i32) -> bool {
    read(pid).is_some_and(|p| p.state != 'Z')
}

/// Traces of an instance: processes, mounts and sockets that name its data directory, interfaces in its range of addresses.
pub fn traces(data_dir: &Path, address_prefix: &str) -> Vec<String> {
    let dir = data_dir.to_string_lossy().into_owned();
    let mut traces = Vec::new();
    for process in all() {
        if process.state != 'Z' && process.command.iter().any(|arg| arg.contains(&dir)) {
            traces.push(format!("process {} {}", process.pid, process.command.join(" ")));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    traces.extend(mounts.lines().filter(|l| l.contains(&dir)).map(|l| format!("mount {l}")));
    let addresses = Command::new("ip").args(["-o", "addr"]).output().expect("ip runs");
    let addresses = String::from_utf8_lossy(&addresses.stdout).into_owned();
    let ours = |line: &&str| line.contains(&format!(" {address_prefix}"));
    traces.extend(addresses.lines().filter(ours).map(|l| format!("address {l}")));
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    traces.extend(sockets.lines().filter(|l| l.contains(&dir)).map(|l| format!("socket {l}")));
    traces
}

/// Files of a directory that are sockets or pid files: nothing that a stopped instance needs.
pub fn run_files(run_dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(run_dir) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(run_files(&path));
        } else {
            files.push(path.display().to_string());
        }
    }
    files
}
