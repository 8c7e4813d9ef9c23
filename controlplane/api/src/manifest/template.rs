//! `ActorTemplate`: how to run actors of one kind.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Selector, check_labels,
    egress::{self, Egress},
    image,
    quantity::{Bytes, Cpu},
};
use crate::{Ladder, proto};

/// The `spec` of an `ActorTemplate`. Fields and defaults are those of the design, §7.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActorTemplateSpec {
    /// What runs the process and takes its snapshots.
    pub runtime: Runtime,
    /// Its file system.
    pub rootfs: Rootfs,
    /// Program and arguments; the program's path is absolute inside a directory. Of an image, its own where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Its environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// The port it listens on.
    #[serde(default = "default_port")]
    pub port: u16,
    /// What it speaks there.
    #[serde(default)]
    pub protocol: Protocol,
    /// When it counts as ready.
    #[serde(default)]
    pub readiness: Readiness,
    /// What it may use.
    #[serde(default)]
    pub resources: Resources,
    /// Whom it may open connections to, as far as its node allows: nobody when empty. None of them outlives a suspend or a
    /// freeze, and none keeps the actor awake.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<Egress>,
    /// Pools it may run in; any when empty.
    #[serde(default)]
    pub worker_selector: Selector,
    /// When it goes to sleep.
    #[serde(default)]
    pub idle: Idle,
    /// How long a wake may take, and who may wait for it.
    #[serde(default)]
    pub wake: Wake,
    /// How long a suspend waits for requests in flight.
    #[serde(default)]
    pub drain: Drain,
    /// What to do when the current snapshot cannot be restored.
    #[serde(default)]
    pub on_restore_failure: OnRestoreFailure,
    /// Boot once on each node, snapshot, and start actors as clones.
    #[serde(default)]
    pub golden: bool,
}

/// What runs the process and takes its snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// A gVisor sandbox.
    Gvisor,
    /// A container checkpointed by CRIU.
    Criu,
}

impl Runtime {
    /// The name nodes report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gvisor => "gvisor",
            Self::Criu => "criu",
        }
    }
}

/// The file system of an actor: exactly one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Rootfs {
    /// A directory on the node. It is never written to.
    Directory(PathBuf),
    /// An OCI image, `registry/name@sha256:…` or `registry/name:tag`.
    Image(String),
    /// An OCI layout directory on the node, with one image.
    OciLayout(PathBuf),
}

impl Rootfs {
    /// The folder on the node, where it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) | Self::OciLayout(path) => Some(path),
            Self::Image(_) => None,
        }
    }

    /// Makes a relative path absolute, as seen from `folder`, and folds `.` and `..`.
    pub(crate) fn resolve(&mut self, folder: &Path) {
        if let Self::Directory(path) | Self::OciLayout(path) = self {
            let mut folded = PathBuf::new();
            for part in folder.join(&*path).components() {
                match part {
                    Component::CurDir => {}
                    Component::ParentDir => {
                        folded.pop();
                    }
                    part => folded.push(part),
                }
            }
            *path = folded;
        }
    }
}

/// One environment variable. Its value is never logged.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvVar {
    /// A C identifier, as POSIX has it.
    pub name: String,
    /// The value.
    pub value: String,
}

impl std::fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

/// What the actor speaks on its port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1, WebSocket included.
    #[default]
    Http1,
    /// HTTP/2 without TLS, as gRPC servers have it.
    H2c,
}

impl From<Protocol> for proto::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http1 => Self::Http1,
            Protocol::H2c => Self::H2c,
        }
    }
}

/// When the actor counts as ready: its port listens, and this answers 2xx or 3xx if it is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Readiness {
    /// An HTTP check on the actor's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGet>,
    /// How long it may take after a start or a restore.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { http_get: None, timeout: Duration::from_secs(10) }
    }
}

/// An HTTP check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpGet {
    /// Begins with `/`.
    pub path: String,
}

/// What the actor may use; unlimited where unset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// CPU time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
}

/// When the actor goes to sleep, by the time since its last request; each rung is optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Idle {
    /// Freeze its processes.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub freeze_after: Option<Duration>,
    /// Take a snapshot on the node and free the worker.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub pause_after: Option<Duration>,
    /// Take a snapshot to the snapshot store and free the worker.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub suspend_after: Option<Duration>,
    /// Never put it to sleep.
    pub keep_warm: bool,
}

/// How long a wake may take, and who may wait for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Wake {
    /// Deadline of the wake itself.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long a request may wait.
    #[serde(with = "humantime_serde")]
    pub park: Duration,
    /// Requests that may wait for one actor on one router.
    pub max_parked: u32,
    /// Of the requests that waited, how many may be at the actor at a time after a wake; 0 = no limit.
    pub concurrency: u32,
    /// A browser that opens a page of the actor while it sleeps gets a small page at once, which loads itself again until
    /// the actor answers. Everybody else waits as ever.
    pub page: bool,
}

impl Default for Wake {
    fn default() -> Self {
        let ladder = Ladder::default();
        Self {
            timeout: ladder.wake(),
            park: ladder.park(),
            max_parked: 1000,
            concurrency: 0,
            page: false,
        }
    }
}

/// How long a suspend waits for requests in flight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// After this long the suspend goes on and cuts them off.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30) }
    }
}

/// What to do when the current snapshot cannot be restored. Never silent: event, metric and header tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnRestoreFailure {
    /// Answer with the failure, keep the snapshot, try again at the next request.
    #[default]
    Refuse,
    /// Restore the snapshot before it, if there is one; else as `Refuse`.
    PreviousSnapshot,
    /// Start anew.
    ColdStart,
}

const fn default_port() -> u16 {
    8080
}

impl ActorTemplateSpec {
    /// Every rule that the types do not hold already; the message names the field.
    pub(super) fn check(&self) -> Result<(), String> {
        match (self.command.first(), &self.rootfs) {
            (None, Rootfs::Directory(_)) => {
                return Err("spec.command: is empty; name the program".into());
            }
            (Some(program), Rootfs::Directory(_)) if !program.starts_with('/') => {
                return Err(format!("spec.command: {program:?} is not an absolute path"));
            }
            _ => {}
        }
        if self.command.iter().any(|arg| arg.contains('\0')) {
            return Err("spec.command: an argument has a NUL byte".into());
        }
        if self.port == 0 {
            return Err("spec.port: 0 is no port: write 1 to 65535".into());
        }
        if let Some(get) = self.readiness.http_get.as_ref().filter(|get| !is_path(&get.path)) {
            return Err(format!("spec.readiness.httpGet.path: {:?} is no path", get.path));
        }
        match &self.rootfs {
            Rootfs::Directory(path) | Rootfs::OciLayout(path) if !path.is_absolute() => {
                return Err(format!("spec.rootfs: {} is not absolute", path.display()));
            }
            Rootfs::Image(name) => {
                image::check(name).map_err(|why| format!("spec.rootfs.image: {why}"))?;
            }
            _ => {}
        }
        if let Some(var) = self.env.iter().find(|var| !is_env_name(&var.name)) {
            return Err(format!("spec.env: {:?} is not a variable's name", var.name));
        }
        let mut names = BTreeSet::new();
        if let Some(var) = self.env.iter().find(|var| !names.insert(&var.name)) {
            return Err(format!("spec.env: {} is there twice: give it once", var.name));
        }
        if let Some(var) = self.env.iter().find(|var| var.value.contains('\0')) {
            return Err(format!("spec.env: the value of {} has a NUL byte", var.name));
        }
        egress::check(&self.egress).map_err(|why| format!("spec.egress: {why}"))?;
        if self.wake.max_parked == 0 {
            return Err(
                "spec.wake.maxParked: 0 would refuse every request to a sleeping actor".into()
            );
        }
        let waits = [
            ("spec.wake.timeout", Some(self.wake.timeout)),
            ("spec.readiness.timeout", Some(self.readiness.timeout)),
            ("spec.idle.freezeAfter", self.idle.freeze_after),
            ("spec.idle.pauseAfter", self.idle.pause_after),
            ("spec.idle.suspendAfter", self.idle.suspend_after),
        ];
        if let Some((field, _)) = waits.iter().find(|(_, wait)| *wait == Some(Duration::ZERO)) {
            return Err(format!("{field}: must be longer than nothing"));
        }
        let default = Ladder::default();
        Ladder::new(
            self.wake.timeout,
            self.wake.park,
            default.max_parked(),
            default.max_requests(),
        )
        .map_err(|e| format!("spec.wake: {e}"))?;
        check_labels("spec.workerSelector.matchLabels", &self.worker_selector.match_labels)
    }
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic())
}

fn is_env_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
