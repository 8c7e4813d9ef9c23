//! What a `runsc` binary can do, read from its help texts.

use std::{path::Path, process::Stdio};

use crate::runtime::Error;

/// The first release that saves only the epoll interests there are (gVisor 5d857245b).
const MENDED: u32 = 20_260_330;
/// The last release that was looked at for how it writes memory.
const IN_ORDER: u32 = 20_240_729;

/// Flags this binary knows among those Reveille uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) version: String,
    /// Global: open connections do not keep a checkpoint from being taken.
    pub(crate) net_disconnect_ok: bool,
    /// Those to give to `checkpoint`.
    pub(crate) checkpoint: Vec<&'static str>,
    /// Its images need [`mend`](super::mend).
    pub(crate) saves_dead_interests: bool,
    /// The file with an image's memory is written from its front to its end.
    pub(crate) writes_pages_in_order: bool,
    leave_running: bool,
    restore: bool,
}

impl Flags {
    /// Asks the binary.
    pub(crate) async fn detect(binary: &Path) -> Result<Self, Error> {
        let (version, global, checkpoint, restore) = tokio::try_join!(
            output(binary, &["--version"]),
            output(binary, &["flags"]),
            output(binary, &["help", "checkpoint"]),
            output(binary, &["help", "restore"]),
        )?;
        Ok(Self::parse(&version, &global, &checkpoint, &restore))
    }

    /// Reads the four texts.
    pub(crate) fn parse(version: &str, global: &str, checkpoint: &str, restore: &str) -> Self {
        let first = version.lines().next().unwrap_or_default();
        let version: String = first.rsplit(' ').next().unwrap_or_default().into();
        let has = |text: &str, flag: &str| names(text).any(|name| name == flag);
        // `-direct` is left out: an image just written is hashed and mostly restored from the page cache.
        let wanted = [
            ("leave-running", "--leave-running"),
            ("compression", "--compression=none"),
            ("exclude-committed-zero-pages", "--exclude-committed-zero-pages"),
        ];
        let given = wanted.iter().filter(|(name, _)| has(checkpoint, name));
        let date = release(&version);
        Self {
            saves_dead_interests: date.is_none_or(|date| date < MENDED),
            writes_pages_in_order: date.is_some_and(|date| date <= IN_ORDER),
            version,
            net_disconnect_ok: has(global, "net-disconnect-ok"),
            checkpoint: given.map(|(_, argument)| *argument).collect(),
            leave_running: has(checkpoint, "leave-running"),
            restore: has(restore, "image-path") && has(restore, "detach"),
        }
    }

    /// Refuses a binary without the flags there is no way around.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let missing = if !self.leave_running {
            "checkpoint --leave-running"
        } else if !self.restore {
            "restore --image-path --detach"
        } else {
            return Ok(());
        };
        let version = &self.version;
        Err(Error::Unsupported(format!(
            "runsc {version} has no `{missing}`: install release 20240729 or a newer one"
        )))
    }
}

/// The date in the name of a release: of `release-20260406.0` and of Debian's `0.0~20240729.0`.
fn release(version: &str) -> Option<u32> {
    let digits = version.split(|c: char| !c.is_ascii_digit()).find(|digits| digits.len() == 8)?;
    digits.parse().ok()
}

/// Names of the flags in a help text of Go's `flag` package.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let flag = line.trim_start().strip_prefix('-')?;
        flag.trim_start_matches('-').split([' ', '\t']).next()
    })
}

async fn output(binary: &Path, arguments: &[&str]) -> Result<String, Error> {
    let mut command = tokio::process::Command::new(binary);
    command.args(arguments).stdin(Stdio::null()).env_clear();
    let failed = |source| Error::Spawn { program: binary.into(), source };
    let output = command.output().await.map_err(failed)?;
    // Help texts go to either stream, by release.
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKPOINT: &str = "checkpoint [flags] <container id> - save current state of container.
  -compression value
    \tcompress checkpoint image on disk. Values: none|flate-best-speed. (default flate-best-speed)
  -direct
    \tuse O_DIRECT for writing checkpoint pages file
  -exclude-committed-zero-pages
    \texclude committed zero-filled pages from checkpoint
  -image-path string
    \tdirectory path to saved container image
  -leave-running
    \trestart the container after checkpointing
";
    const RESTORE: &str = "restore [flags] <container id> - restore saved state of container.
  -detach
    \tdetach from the container's process
  -image-path string
    \tdirectory path to saved container image
";
    const GLOBAL: &str = "  -net-disconnect-ok
    \tIndicates whether the link endpoint capability CapabilityDisconnectOk should be set.
  -net-raw runsc exec
    \tenable raw sockets. When false, raw sockets are disabled by removing CAP_NET_RAW
";
    const VERSION: &str = "runsc version 0.0~20240729.0\nspec: 1.2.0\n";

    #[test]
    fn the_flags_of_release_20240729_are_found() {
        let flags = Flags::parse(VERSION, GLOBAL, CHECKPOINT, RESTORE);
        assert_eq!(flags.version, "0.0~20240729.0");
        assert!(flags.saves_dead_interests);
        assert!(flags.net_disconnect_ok);
        let all = ["--leave-running", "--compression=none", "--exclude-committed-zero-pages"];
        assert_eq!(flags.checkpoint, all);
        flags.check().unwrap();
    }

    #[test]
    fn a_flag_that_is_not_there_is_not_given_and_a_vital_one_is_missed() {
        let older = CHECKPOINT.replace("  -exclude-committed-zero-pages\n", "");
        let flags = Flags::parse(VERSION, "", &older, RESTORE);
        assert_eq!(flags.checkpoint, ["--leave-running", "--compression=none"]);
        assert!(!flags.net_disconnect_ok);
        let ancient = CHECKPOINT.replace("-leave-running", "-other");
        let error = Flags::parse(VERSION, "", &ancient, RESTORE).check().unwrap_err().to_string();
        assert!(error.contains("checkpoint --leave-running"), "{error}");
    }

    #[test]
    fn only_releases_that_were_looked_at_are_taken_to_write_memory_in_order() {
        let in_order =
            |version| Flags::parse(version, "", CHECKPOINT, RESTORE).writes_pages_in_order;
        assert!(in_order(VERSION));
        assert!(!in_order("runsc version release-20260330.0") && !in_order("runsc version HEAD"));
    }

    #[test]
    fn only_releases_before_the_cure_need_their_images_mended() {
        let mends = |version| Flags::parse(version, "", CHECKPOINT, RESTORE).saves_dead_interests;
        assert!(mends("runsc version release-20260323.0") && mends("runsc version HEAD"));
        assert!(!mends("runsc version release-20260330.0\nspec: 1.2.0\n"));
    }
}
