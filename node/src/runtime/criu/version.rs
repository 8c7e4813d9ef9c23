//! Which `criu` and `runc` these are.

use std::{path::Path, process::Stdio};

use super::{CRIU, Programs, RUNC};
use crate::runtime::Error;

/// What is asked of criu came with this one: an external network namespace, frozen groups (v2), locks that are skipped.
const OLDEST: [u32; 2] = [4, 0];

/// Of both programs: an image is bound to them.
#[derive(Debug)]
pub(super) struct Versions {
    criu: String,
    runc: String,
}

impl Versions {
    pub(super) async fn ask(programs: &Programs) -> Result<Self, Error> {
        let (criu, runc) = tokio::try_join!(ask(CRIU, &programs.criu), ask(RUNC, &programs.runc))?;
        Ok(Self { criu, runc })
    }

    /// As a snapshot's manifest has them; refused when criu is too old.
    pub(super) fn checked(&self) -> Result<String, Error> {
        let Self { criu, runc } = self;
        let mut numbers = criu.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        let found = [(); 2].map(|()| numbers.next().unwrap_or(0));
        if found < OLDEST {
            let [major, minor] = OLDEST;
            let why = format!("criu {criu} is too old: install {major}.{minor} or a newer one");
            return Err(Error::Unsupported(why));
        }
        Ok(format!("{criu} (runc {runc})"))
    }
}

/// "Version: 4.2.1", "runc version 1.1.5".
async fn ask(name: &'static str, program: &Path) -> Result<String, Error> {
    let mut command = tokio::process::Command::new(program);
    command.arg("--version").stdin(Stdio::null()).env_clear();
    let failed = |source| Error::Spawn { program: program.into(), source };
    let output = command.output().await.map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().next().filter(|_| output.status.success());
    let version = first.and_then(|line| line.rsplit(' ').next()).filter(|v| !v.is_empty());
    version.map(str::to_owned).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        Error::failed(name, "--version", said.lines().next().unwrap_or("it says nothing"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_bound_to_both_programs_and_an_old_criu_is_refused() {
        let versions = |criu: &str| Versions { criu: criu.into(), runc: "1.1.5+ds1".into() };
        assert_eq!(versions("4.2.1").checked().unwrap(), "4.2.1 (runc 1.1.5+ds1)");
        let error = versions("3.17.1").checked().unwrap_err().to_string();
        assert!(error.contains("3.17.1"), "{error}");
    }
}
