//! [`Ledger`]: which addresses and ports the workers have had. Survives the agent.
//!
//! An endpoint is never used again within the quarantine of ten minutes. That follows from counting alone: a
//! worker's ports are handed out in turn, one to an activation, and 40,000 activations one after another take
//! longer (the quickest sandbox needs tens of milliseconds). A restart must not turn the counter back, so it is
//! written ahead in steps, with a sync; the steps keep the disk off nearly every wake.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::cidr::Subnet;
use crate::files::{self, Durability};

/// First and last port of an endpoint.
pub(crate) const PORTS: std::ops::RangeInclusive<u16> = 20_000..=59_999;
/// Ports written ahead.
const STEP: u16 = 64;

/// The file, and what has been handed out.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    workers: Mutex<BTreeMap<u32, Worker>>,
}

#[derive(Clone, Copy, Debug)]
struct Worker {
    subnet: Subnet,
    next: u16,
    /// Ports before this one may have been used.
    written: u16,
}

#[derive(Serialize, Deserialize)]
struct Line {
    subnet: Subnet,
    written: u16,
}

impl Ledger {
    /// Reads the file; a restart goes on after everything that may have been handed out.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let lines: BTreeMap<u32, Line> = files::read_json(path)?.unwrap_or_default();
        let worker = |line: Line| {
            let written = if PORTS.contains(&line.written) { line.written } else { *PORTS.start() };
            Worker { subnet: line.subnet, next: written, written }
        };
        let workers = lines.into_iter().map(|(index, line)| (index, worker(line))).collect();
        Ok(Self { path: path.into(), workers: Mutex::new(workers) })
    }

    /// The network this worker had before.
    pub(crate) fn subnet(&self, index: u32) -> Option<Subnet> {
        self.lock().get(&index).map(|worker| worker.subnet)
    }

    /// Settles the network of a worker. A port is bound to its address: the counter starts anew with another one.
    pub(crate) fn assign(&self, index: u32, subnet: Subnet) {
        let start = *PORTS.start();
        let mut workers = self.lock();
        let worker = workers.entry(index).or_insert(Worker { subnet, next: start, written: start });
        if worker.subnet != subnet {
            *worker = Worker { subnet, next: start, written: start };
        }
    }

    /// The next port of a worker. Known to the disk before it is known to anybody else. Blocks.
    pub(crate) fn take(&self, index: u32) -> io::Result<u16> {
        let mut workers = self.lock();
        let worker = workers.get(&index).ok_or(io::ErrorKind::NotFound)?;
        let port = worker.next;
        let written = if port == worker.written { after(port, STEP) } else { worker.written };
        let ahead = written != worker.written;
        let taken = Worker { next: after(port, 1), written, ..*worker };
        if ahead {
            let line = |worker: &Worker| Line { subnet: worker.subnet, written: worker.written };
            let mut lines: BTreeMap<_, _> = workers.iter().map(|(i, w)| (*i, line(w))).collect();
            lines.insert(index, line(&taken));
            files::write_json(&self.path, &lines, Durability::Power)?;
        }
        workers.insert(index, taken);
        Ok(port)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Worker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The port `step` places on, from the last on to the first.
fn after(port: u16, step: u16) -> u16 {
    let (first, count) = (u32::from(*PORTS.start()), PORTS.len() as u32);
    let place = (u32::from(port) - first + u32::from(step)) % count;
    (first + place) as u16
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::slots::Cidr;

    fn ledger(path: &Path) -> Ledger {
        let ledger = Ledger::open(path).unwrap();
        for (index, subnet) in Cidr::default().subnets().take(2).enumerate() {
            ledger.assign(index as u32, subnet);
        }
        ledger
    }

    #[test]
    fn every_port_comes_once_before_the_first_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(&dir.path().join("slots.json"));
        let ports: HashSet<_> = PORTS.map(|_| ledger.take(1).unwrap()).collect();
        assert_eq!(ports.len(), PORTS.len());
        assert_eq!(ledger.take(1).unwrap(), *PORTS.start());
        assert_eq!(ledger.take(0).unwrap(), *PORTS.start());
    }

    #[test]
    fn a_port_the_disk_does_not_know_is_not_handed_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slots.json");
        let ledger = ledger(&path);
        let in_the_way = dir.path().join("slots.json.tmp");
        for step in 0..2 {
            std::fs::create_dir(&in_the_way).unwrap();
            for _ in 0..3 {
                ledger.take(0).unwrap_err();
            }
            std::fs::remove_dir(&in_the_way).unwrap();
            for place in 0..STEP {
                assert_eq!(ledger.take(0).unwrap(), PORTS.start() + step * STEP + place);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn restarts_never_turn_the_counter_back(lives in prop::collection::vec(0_usize..200, 1..6)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("slots.json");
            let mut seen = HashSet::new();
            for takes in lives {
                let ledger = ledger(&path);
                for _ in 0..takes {
                    prop_assert!(seen.insert(ledger.take(0).unwrap()));
                }
            }
        }
    }
}
