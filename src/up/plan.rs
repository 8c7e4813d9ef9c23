//! What `up` will do: everything decided, nothing done yet.

use std::{
    ffi::OsString,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use reveille_api::{manifest::Manifest, net::Address};

use reveille_envoy::certificate::Files;

use super::{Args, lock::Lock};
use crate::{client::control_socket, roles::router::STDOUT};

/// A part, by its subcommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    ControlPlane,
    Node,
    Router,
    Envoy,
    Dns,
}

impl Part {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "controlplane",
            Self::Node => "node",
            Self::Router => "router",
            Self::Envoy => "envoy",
            Self::Dns => "dns",
        }
    }
}

/// Parts whose pages the router's has too.
const WATCHED: &[Part] = &[Part::ControlPlane, Part::Node, Part::Envoy, Part::Dns];

pub(super) struct Plan {
    pub(super) args: Args,
    /// Absolute.
    pub(super) data_dir: PathBuf,
    pub(super) envoy: PathBuf,
    pub(super) https: Files,
    /// Of the `--apply` files.
    pub(super) manifests: Vec<Manifest>,
    /// That templates in them, and in those of earlier starts, run from.
    pub(super) applied_folders: Vec<PathBuf>,
    /// Held until the end.
    pub(super) lock: Lock,
}

impl Plan {
    pub(super) fn run_dir(&self) -> PathBuf {
        self.data_dir.join("run")
    }

    pub(super) fn control(&self) -> Address {
        control_socket(&self.data_dir)
    }

    fn socket(&self, name: &str) -> String {
        Address::Unix(self.run_dir().join(name)).to_string()
    }

    /// The pages of a part other than the router, which shows its series with its own.
    fn page(&self, part: Part) -> String {
        let name = if part == Part::ControlPlane { "control" } else { part.name() };
        self.socket(&format!("{name}.http"))
    }

    /// The program and arguments of a part.
    pub(super) fn command(&self, part: Part) -> (PathBuf, Vec<OsString>) {
        let mut line = Line::of(part);
        let args = &self.args;
        match part {
            Part::ControlPlane => line
                .with("--data-dir", &self.data_dir)
                .with("--listen", self.control().to_string())
                .with("--tcp", args.grpc.to_string())
                .with("--status", self.page(part))
                .with("--wake-budget", args.wake_budget.to_string())
                .with_ladder(args),
            Part::Node => {
                line.with("--data-dir", &self.data_dir)
                    .with("--listen", self.socket("node.sock"))
                    .with("--control-plane", self.control().to_string())
                    .with("--status", self.page(part))
                    .with("--workers", args.workers.to_string())
                    .with("--worker-cidr", args.worker_cidr.to_string());
                for (name, path) in args.runtimes.named() {
                    line.with(&format!("--{name}"), path);
                }
                for (flag, value) in args.images.flags().into_iter().chain(args.snapshots.flags()) {
                    line.with(flag, value);
                }
                for folder in self.allowed_folders() {
                    line.with("--allow-rootfs", folder);
                }
                for network in &args.allow_egress {
                    line.with("--allow-egress", network.to_string());
                }
                &mut line
            }
            Part::Router => {
                for other in WATCHED {
                    line.with("--metrics-of", format!("{}={}", other.name(), self.page(*other)));
                }
                line.with("--listen", self.socket("router.sock"))
                    .with("--control-plane", self.control().to_string())
                    .with("--domain", args.domain.to_string())
                    .with("--http", args.http.to_string())
                    .with("--https", args.https.to_string())
                    .with("--https-cert", &self.https.certificate)
                    .with("--https-key", &self.https.key)
                    .with("--status", args.status.to_string())
                    .with("--access-log", self.access_log())
                    // Nobody takes over. When `up` ends it serves until everything before it has.
                    .with("--grace", "0s")
                    .with_all(args.traces.flags())
                    .with_ladder(args)
            }
            Part::Envoy => line
                .with("--data-dir", &self.data_dir)
                .with("--router", self.socket("router.sock"))
                .with("--envoy", &self.envoy)
                .with("--admin", args.admin.to_string())
                .with("--status", self.page(part))
                .with("--max-requests", args.ladder.max_requests.to_string())
                // Nobody else is there whom a load balancer could choose.
                .with("--grace", "0s")
                .with("--drain", humantime::format_duration(args.drain).to_string()),
            Part::Dns => {
                line.with("--listen", args.dns.to_string())
                    .with("--status", self.page(part))
                    .with("--domain", args.domain.to_string())
                    // There is no other.
                    .with("--grace", "0s");
                for front in fronts(args.http) {
                    line.with("--front", front.to_string());
                }
                &mut line
            }
        };
        line.with_all(args.telemetry.flags());
        line.with("--log", &args.logging.log).with("--log-format", args.logging.log_format.name());
        if let Some(config) = &args.config.config {
            line.with("--config", config);
        }
        line.with("--supervisor", std::process::id().to_string());
        (program(), line.0)
    }

    /// Made by `up`, so that there is a place where anybody may put a folder later.
    pub(super) fn default_rootfs(&self) -> PathBuf {
        self.data_dir.join("rootfs")
    }

    pub(super) fn access_log(&self) -> PathBuf {
        let default = || self.data_dir.join("access.log");
        match &self.args.access_log {
            Some(path) if path != Path::new(STDOUT) => {
                std::path::absolute(path).unwrap_or_else(|_| path.clone())
            }
            given => given.clone().unwrap_or_else(default),
        }
    }

    /// Folders that templates may run from: those asked for, and those of the files that `up` itself applies or applied.
    fn allowed_folders(&self) -> Vec<PathBuf> {
        let mut folders = match self.args.allow_rootfs.as_slice() {
            [] => vec![self.default_rootfs()],
            given => given.to_vec(),
        };
        folders.extend(self.applied_folders.iter().cloned());
        folders.iter().filter_map(|folder| std::path::absolute(folder).ok()).collect()
    }
}

struct Line(Vec<OsString>);

impl Line {
    fn of(part: Part) -> Self {
        Self(vec![part.name().into()])
    }

    fn with(&mut self, flag: &str, value: impl AsRef<std::ffi::OsStr>) -> &mut Self {
        self.0.extend([flag.into(), value.as_ref().into()]);
        self
    }

    fn with_all<V: AsRef<std::ffi::OsStr>>(
        &mut self,
        flags: impl IntoIterator<Item = (&'static str, V)>,
    ) -> &mut Self {
        flags.into_iter().fold(self, |line, (flag, value)| line.with(flag, value))
    }

    fn with_ladder(&mut self, args: &Args) -> &mut Self {
        self.with_all(args.ladder.flags())
    }
}

/// This very program, also when its file was replaced in the meantime.
fn program() -> PathBuf {
    const RUNNING: &str = "/proc/self/exe";
    let same = |path: &Path| -> io::Result<bool> {
        let (a, b) = (fs::metadata(path)?, fs::metadata(RUNNING)?);
        Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
    };
    match std::env::current_exe() {
        Ok(path) if same(&path).unwrap_or(false) => path,
        _ => RUNNING.into(),
    }
}

/// Where clients on this machine find what listens at `http`.
fn fronts(http: SocketAddr) -> Vec<IpAddr> {
    match http.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![Ipv4Addr::LOCALHOST.into()],
        IpAddr::V6(ip) if ip.is_unspecified() => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        ip => vec![ip],
    }
}
