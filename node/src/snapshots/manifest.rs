//! [`Manifest`]: what a snapshot is, and proof that it is whole.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use reveille_api::{ActorKey, Epoch};
use serde::{Deserialize, Serialize};

use crate::images::Pin;

/// Format of the manifest.
pub(crate) const VERSION: u32 = 2;
/// Its name beside the files it lists.
pub(crate) const FILE: &str = "manifest.json";

/// What a snapshot is. Written last: a directory without it is no snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) actor: ActorKey,
    /// Of the activation it was taken from.
    pub(crate) epoch: Epoch,
    /// Hash of the template the activation ran by.
    pub(crate) template: String,
    pub(crate) created_unix_ms: u64,
    pub(crate) runtime: String,
    pub(crate) runtime_version: String,
    pub(crate) machine: Machine,
    /// What its files belong to, if the actor ran from an image: it is restored on no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<Pin>,
    pub(crate) files: Vec<FileEntry>,
}

/// One file of the image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileEntry {
    pub(crate) name: String,
    pub(crate) size: u64,
    /// Of the digests of its [chunks](super::chunks), in their order.
    pub(crate) blake3: String,
}

/// What the process has seen of the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Machine {
    pub(crate) arch: String,
    pub(crate) kernel: String,
    /// Sorted.
    pub(crate) cpu_features: Vec<String>,
}

impl Machine {
    /// This one.
    pub(crate) fn detect() -> io::Result<Self> {
        let cpu = fs::read_to_string("/proc/cpuinfo")?;
        let line =
            cpu.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
        let features = line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value);
        let mut cpu_features: Vec<_> = features.split_whitespace().map(str::to_owned).collect();
        cpu_features.sort_unstable();
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        Ok(Self { arch: std::env::consts::ARCH.into(), kernel, cpu_features })
    }

    /// Features a snapshot of `self` may rely on and `here` lacks; the architecture counts as one.
    pub(crate) fn missing_on<'a>(&'a self, here: &Self) -> Vec<&'a str> {
        let mut missing = Vec::new();
        if self.arch != here.arch {
            missing.push(self.arch.as_str());
        }
        let lacks = |feature: &&String| here.cpu_features.binary_search(feature).is_err();
        missing.extend(self.cpu_features.iter().filter(lacks).map(String::as_str));
        missing
    }
}

/// Which state of a file was hashed. Any write, and any other file put in its place, changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|metadata| Self::from(&metadata))
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Which file it is, whatever is in it.
    pub(super) fn file(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }
}

impl From<&fs::Metadata> for Stamp {
    fn from(m: &fs::Metadata) -> Self {
        Self {
            dev: m.dev(),
            ino: m.ino(),
            size: m.size(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_of_a_machine_with_more_features_does_not_fit() {
        let machine = |arch: &str, features: &[&str]| Machine {
            arch: arch.into(),
            kernel: "6".into(),
            cpu_features: features.iter().map(|f| (*f).to_owned()).collect(),
        };
        let small = machine("x86_64", &["avx", "sse"]);
        let large = machine("x86_64", &["avx", "avx512f", "sse"]);
        assert!(small.missing_on(&large).is_empty());
        assert_eq!(large.missing_on(&small), ["avx512f"]);
        assert_eq!(machine("aarch64", &[]).missing_on(&small), ["aarch64"]);
        assert!(!Machine::detect().unwrap().cpu_features.is_empty());
    }
}
