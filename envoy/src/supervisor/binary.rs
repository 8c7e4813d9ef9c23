//! Envoy's binary: is it there, does it run, is it one that understands what we say.

use std::{fmt, io, path::Path, process::Stdio, time::Duration};

use reveille_api::check::Check;
use tokio::process::Command;

use super::{how_to_install, launcher};

/// Resources use what is new in this one.
const OLDEST: Version = Version { major: 1, minor: 40, patch: 0 };
/// Long enough for a slow disk.
const DEADLINE: Duration = Duration::from_secs(20);

/// Envoy's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A binary that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// It is not there, or the kernel does not run it.
    #[error("Envoy does not run: {fix}")]
    Run {
        /// What to do.
        fix: String,
        /// Why not.
        source: io::Error,
    },
    /// It is something else.
    #[error("Envoy does not tell its version: {fix}")]
    Unknown {
        /// What to do.
        fix: String,
    },
    /// It would not understand its configuration.
    #[error("Envoy {found} is older than {OLDEST}: {fix}")]
    Old {
        /// What it is.
        found: Version,
        /// What to do.
        fix: String,
    },
}

/// Asks the binary for its version.
pub(super) async fn version(binary: &Path) -> Result<Version, BinaryError> {
    let fix = || how_to_install(binary);
    let mut command = Command::new(binary);
    command.arg("--version").env_clear().stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output())
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| BinaryError::Run { fix: fix(), source })?;
    let found = parse(&String::from_utf8_lossy(&output.stdout));
    judge(found.ok_or_else(|| BinaryError::Unknown { fix: fix() })?, binary)
}

fn judge(found: Version, binary: &Path) -> Result<Version, BinaryError> {
    if found < OLDEST {
        return Err(BinaryError::Old { found, fix: how_to_install(binary) });
    }
    Ok(found)
}

/// From `envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`.
fn parse(output: &str) -> Option<Version> {
    output.split('/').find_map(|part| {
        let mut numbers = part.split(['.', '-']).map(|number| number.parse().ok());
        let (major, minor, patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(Version { major, minor, patch })
    })
}

/// What `reveille doctor` says of Envoy. Blocks; may be called from anywhere.
pub fn checks(binary: &Path) -> Vec<Check> {
    let envoy = match version_from_anywhere(binary) {
        Ok(Ok(version)) => Check::ok("envoy", version.to_string()),
        Ok(Err(BinaryError::Old { found, fix })) => Check::fail("envoy", found.to_string(), fix),
        Ok(Err(BinaryError::Run { source, fix })) => Check::fail("envoy", source.to_string(), fix),
        Ok(Err(BinaryError::Unknown { fix })) => Check::fail("envoy", "no version", fix),
        Err(error) => Check::fail("envoy", error.to_string(), "raise the limits of this user"),
    };
    let setpriv = match launcher::setpriv() {
        Some(path) => Check::ok("setpriv", path.display().to_string()),
        None => Check::warn(
            "setpriv",
            "missing: Envoy outlives a supervisor that is killed, until the next start",
            "install util-linux",
        ),
    };
    vec![envoy, setpriv]
}

/// On a thread of its own, since the caller's may belong to a runtime already.
fn version_from_anywhere(binary: &Path) -> io::Result<Result<Version, BinaryError>> {
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(version(binary)))
    };
    std::thread::scope(|scope| match scope.spawn(ask).join() {
        Ok(answer) => answer,
        Err(_) => Err(io::Error::other("the check panicked")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_and_an_old_one_is_refused_with_what_to_do() {
        let output = "\n/x/envoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL\n";
        assert_eq!(parse(output), Some(OLDEST));
        assert_eq!(parse("envoy version: abc/1.41.0-dev/Clean"), parse("x/1.41.0/"));
        assert_eq!(parse("GNU bash 5.2"), None);
        let old = Version { minor: 39, ..OLDEST };
        let error = judge(old, Path::new("/x/envoy")).unwrap_err().to_string();
        assert!(error.contains("1.39.0") && error.contains("deploy/setup.sh envoy"), "{error}");
    }

    #[tokio::test]
    async fn doctor_says_in_one_line_what_is_missing() {
        let checks = checks(Path::new("/nonexistent/envoy"));
        let reveille_api::check::Outcome::Fail { found, fix } = &checks[0].outcome else {
            panic!("{checks:?}")
        };
        assert!(found.contains("No such file"), "{found}");
        assert!(fix.contains("deploy/setup.sh envoy") && !fix.contains('\n'), "{fix}");
    }
}
