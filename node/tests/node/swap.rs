//! Swap for as long as a test needs it.

use std::{fs, path::PathBuf, process::Command};

/// A file that the kernel swaps to. The whole machine has it until it is dropped.
pub(crate) struct Swap(PathBuf);

impl Swap {
    /// Of so many bytes.
    pub(crate) fn on(bytes: usize) -> Self {
        // On the disk: a file in memory cannot be swapped to.
        let name = format!("swap-{}-{:x}", std::process::id(), rand::random::<u64>());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        // Written, because it may have no holes.
        fs::write(&path, vec![0; bytes]).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, mode).unwrap();
        let swap = Self(path);
        swap.run("mkswap");
        swap.run("swapon");
        swap
    }

    fn run(&self, program: &str) {
        let output = Command::new(program).arg(&self.0).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // What is in it comes back first. It may not have come to be used.
        let _ = Command::new("swapoff").arg(&self.0).output();
        let _ = fs::remove_file(&self.0);
    }
}
