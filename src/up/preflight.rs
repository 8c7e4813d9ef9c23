//! Everything that can be known to be wrong before anything is started, each with what to do.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use reveille_api::{
    check::{Check, Outcome},
    manifest::{Manifest, egress},
    net::LONGEST_SOCKET,
};
use reveille_envoy::{certificate::Files, supervisor};
use tokio::time::{Instant, sleep};

use super::{Args, certificate, folders, leftovers, lock::Lock, plan::Plan};
use crate::{
    cli::apply,
    error::{Error, Result, chain},
    ports::{self, Held, Protocol},
    roles::router::STDOUT,
    tools,
};

/// How long sockets of an earlier run may take to be given back.
const LINGER: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Checks, takes the lock and decides.
pub(super) async fn check(args: Args) -> Result<Plan> {
    let Said { https, manifests } = said(&args).await?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::failed(
            "'reveille up' needs root, for network namespaces and gVisor: run it with sudo",
        ));
    }
    let (envoy, data_dir) = found(&args, &manifests)?;
    if let Some(log) = args.access_log.as_deref().filter(|log| *log != Path::new(STDOUT)) {
        can_be_written(log)?;
    }
    let lock = Lock::take(&data_dir)?;
    // As it stands in the command lines of the parts.
    let data_dir = data_dir.canonicalize().map_err(|e| Error::because("--data-dir", &e))?;
    let linger = match lock.killed {
        Some(killed) => {
            tracing::info!("an earlier run was killed; waits until its parts have ended");
            leftovers::wait(killed, &data_dir).await;
            LINGER
        }
        None => Duration::ZERO,
    };
    let free = free(&args, linger).await;
    let sound = match free {
        Ok(()) => sound(&args, &data_dir, &envoy).await,
        taken => taken,
    };
    if let Err(error) = sound {
        if lock.killed.is_none() {
            lock.release();
        }
        return Err(error);
    }
    let applied_folders = folders::remember(&data_dir, &manifests)?;
    let https = match https {
        Some(given) => given,
        None => {
            let files = certificate::files(&data_dir, &args.domain);
            certificate::make(&files, &args.domain, &manifests)?;
            files
        }
    };
    let plan = Plan { args, data_dir, envoy, https, manifests, applied_folders, lock };
    let rootfs = plan.default_rootfs();
    std::fs::create_dir_all(&rootfs).map_err(|error| Error::because(rootfs.display(), &error))?;
    Ok(plan)
}

/// Checks what can be checked without any trace of it.
pub(super) async fn settings(args: &Args) -> Result {
    let Said { manifests, .. } = said(args).await?;
    found(args, &manifests).map(drop)
}

/// What flags and files say.
struct Said {
    https: Option<Files>,
    manifests: Vec<Manifest>,
}

async fn said(args: &Args) -> Result<Said> {
    distinct(args)?;
    args.ladder.checked()?;
    args.telemetry.check()?;
    Ok(Said { https: https(args).await?, manifests: apply::read_all(&args.apply)? })
}

/// What they name: Envoy and the data directory.
fn found(args: &Args, manifests: &[Manifest]) -> Result<(PathBuf, PathBuf)> {
    let envoy = tools::find("envoy", args.envoy.as_deref()).map_err(Error::failed)?;
    args.runtimes.check().map_err(Error::failed)?;
    tools::find(tools::NFT, None).map_err(Error::failed)?;
    reveille_node::check_egress(&args.allow_egress).map_err(Error::failed)?;
    all_there(args, manifests)?;
    let data_dir = std::path::absolute(&args.data_dir)
        .map_err(|error| Error::because("--data-dir", &error))?;
    short_enough(&data_dir)?;
    Ok((envoy, data_dir))
}

/// The certificate that was given; it must be one.
async fn https(args: &Args) -> Result<Option<Files>> {
    let path = |path| std::path::absolute(path).map_err(Error::usage);
    let files = match (&args.https_cert, &args.https_key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => {
            Files { certificate: path(certificate)?, key: path(key)? }
        }
        _ => return Err(Error::usage("--https-cert and --https-key: give both or none")),
    };
    let wrong = |error: &dyn std::error::Error| Error::because("--https-cert, --https-key", error);
    files.read().await.map_err(|error| wrong(&error))?;
    Ok(Some(files))
}

/// The sockets in it have room for their names.
fn short_enough(data_dir: &Path) -> Result {
    const LONGEST: &str = "run/control.sock";
    let most = LONGEST_SOCKET - LONGEST.len() - 1;
    let length = data_dir.as_os_str().len();
    if length > most {
        let shown = data_dir.display();
        return Err(Error::usage(format!(
            "--data-dir {shown} has {length} bytes, and sockets in it allow for {most}: choose a shorter one"
        )));
    }
    Ok(())
}

/// Envoy refuses to listen when it cannot open its access log.
fn can_be_written(log: &Path) -> Result {
    let opened = OpenOptions::new().append(true).create(true).open(log);
    opened.map(drop).map_err(|error| {
        let log = log.display();
        Error::usage(format!("--access-log {log}: {error}: name a file that can be written"))
    })
}

/// The programs are what they should be, and the workers can have their addresses.
async fn sound(args: &Args, data_dir: &Path, envoy: &Path) -> Result {
    let runs = |path: &Path, checks: Vec<Check>| {
        for Check { name, outcome } in checks {
            if let Outcome::Fail { found, .. } = outcome {
                let path = path.display();
                return Err(Error::failed(format!(
                    "{path} cannot be used as {name} ({found}): run deploy/setup.sh {name}, or give another --{name}"
                )));
            }
        }
        Ok(())
    };
    runs(envoy, supervisor::checks(envoy))?;
    let (workers, worker_cidr) = (args.workers, args.worker_cidr);
    let default = reveille_node::Config::new(data_dir);
    let node = reveille_node::Config { workers, worker_cidr, ..default };
    let node = args.runtimes.complete(node);
    // The node does without one that is not there.
    if node.runsc.is_absolute() {
        runs(&node.runsc, vec![reveille_node::check_runsc(&node.runsc).await])?;
    }
    reveille_node::check_network(&node).await.map_err(|error| Error::failed(chain(&error)))
}

/// Every folder that something is to run from is there, and nothing is to reach what it may not.
fn all_there(args: &Args, manifests: &[Manifest]) -> Result {
    for folder in &args.allow_rootfs {
        if !folder.is_dir() {
            let folder = folder.display();
            return Err(Error::usage(format!("--allow-rootfs {folder}: there is no such folder")));
        }
    }
    for manifest in manifests {
        if let Some(folder) = manifest.rootfs_folder().filter(|folder| !folder.is_dir()) {
            let name = &manifest.metadata.name;
            return Err(Error::failed(format!(
                "template {name} runs from {}, and there is no such folder: make it first (the demo's: \
                 deploy/setup.sh)",
                folder.display()
            )));
        }
        if let Some(network) = egress::refused(manifest.egress(), &args.allow_egress) {
            let name = &manifest.metadata.name;
            return Err(Error::failed(format!(
                "template {name} is to reach {network}, which is not allowed: add --allow-egress {network}, or take it out of spec.egress"
            )));
        }
    }
    Ok(())
}

/// The flags that name a port of this machine.
pub(crate) fn addresses(args: &Args) -> [(&'static str, SocketAddr, &'static [Protocol]); 6] {
    const TCP: &[Protocol] = &[Protocol::Tcp];
    const BOTH: &[Protocol] = &[Protocol::Udp, Protocol::Tcp];
    [
        ("--http", args.http, TCP),
        ("--https", args.https, TCP),
        ("--status", args.status, TCP),
        ("--grpc", args.grpc, TCP),
        ("--dns", args.dns, BOTH),
        ("--admin", args.admin, TCP),
    ]
}

fn distinct(args: &Args) -> Result {
    let mut seen = BTreeMap::new();
    for (flag, address, _) in addresses(args) {
        if address.port() == 0 {
            return Err(Error::usage(format!("{flag} {address}: 0 is no port: choose one")));
        }
        if let Some(other) = seen.insert(address, flag) {
            return Err(Error::usage(format!(
                "{other} and {flag} are both {address}: choose another for one of them"
            )));
        }
    }
    for (flag, address) in [("--grpc", args.grpc), ("--admin", args.admin)] {
        if !address.ip().is_loopback() {
            return Err(Error::usage(format!(
                "{flag} {address}: only loopback, as long as there is no TLS: write 127.0.0.1:{}",
                address.port()
            )));
        }
    }
    Ok(())
}

/// Every port can be listened on; those of an earlier run within `linger`.
async fn free(args: &Args, linger: Duration) -> Result {
    let end = Instant::now() + linger;
    loop {
        match hold_all(args) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= end => return Err(error),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

fn hold_all(args: &Args) -> Result<Vec<Held>> {
    let mut held = Vec::new();
    for (flag, address, protocols) in addresses(args) {
        for protocol in protocols {
            held.push(ports::hold(address, *protocol).map_err(|why| {
                Error::failed(format!("{address} {why}: stop it or choose another {flag}"))
            })?);
        }
    }
    Ok(held)
}
