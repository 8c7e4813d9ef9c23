//! What end-to-end tests, the demo and the benchmarks share: a whole `reveille up` on ports and addresses of
//! its own, a client, and a way to see what was left behind.

// Each of the three uses a part of it.
#![allow(dead_code, unreachable_pub)]

pub mod browser;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod fleet;
pub mod leaks;
pub mod manifest;
pub mod parts;
pub mod processes;
pub mod tls;
pub mod wire;

use std::{fmt::Debug, future::Future, path::PathBuf, time::Duration};

use tokio::time::Instant;

/// The repository's root.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// True when the machine can run sandboxes. In CI a missing part fails the test; elsewhere it is skipped, loudly.
pub fn machine_can_run_it(test: &str) -> bool {
    let deps = repository().join(".deps");
    let missing = if !nix::unistd::geteuid().is_root() {
        "root".to_owned()
    } else if let Some(file) = ["bin/envoy", "bin/runsc", "bin/criu", "rootfs/counter/counter"]
        .iter()
        .find(|file| !deps.join(file).exists())
    {
        format!(".deps/{file}: run deploy/setup.sh")
    } else {
        return true;
    };
    assert!(std::env::var_os("CI").is_none(), "{test} needs {missing}");
    eprintln!("SKIPPED {test}: it needs {missing}");
    false
}

/// Tries `probe` until it succeeds; the panic after `limit` says what it saw last.
pub async fn eventually<T, E: Debug, F: Future<Output = Result<T, E>>>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + limit;
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(last) if Instant::now() > end => {
                panic!("{what} did not happen within {limit:?}; last seen: {last:?}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
