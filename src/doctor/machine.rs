//! The checks themselves, those of the parts included. None of them needs root, and none leaves anything changed.

use std::{
    net::ToSocketAddrs,
    path::{Path, PathBuf},
};

use reveille_api::check::Check;
use reveille_envoy::supervisor;
use rustix::fs::{Access, access};

use super::Args;
use crate::{
    cli::Command,
    config, ports, tools,
    up::{addresses, holder},
};

/// Everything `up` needs.
pub(super) async fn checks(args: &Args) -> Vec<Check> {
    let mut checks = vec![kernel(), architecture()];
    checks.extend(reveille_node::checks(&node(args)).await);
    checks.extend(match tools::find("envoy", args.envoy.as_deref()) {
        Ok(envoy) => supervisor::checks(&envoy),
        Err(why) => vec![Check::fail(
            "envoy",
            if args.envoy.is_some() { &why } else { "not found" },
            "run deploy/setup.sh envoy, or give --envoy PATH",
        )],
    });
    checks.extend(match holder(&args.data_dir) {
        Some(pid) => vec![Check::ok("ports", format!("'reveille up' is running (pid {pid})"))],
        None => port_checks(),
    });
    checks.push(data_dir(&args.data_dir));
    checks.push(localhost_names());
    checks
}

/// As `up` would run it. Programs that are not there are told by the node's own checks.
fn node(args: &Args) -> reveille_node::Config {
    args.runtimes.complete(reveille_node::Config::new(&args.data_dir))
}

/// What runsc's platform and cgroup.freeze need.
fn kernel() -> Check {
    const OLDEST: (u32, u32) = (5, 10);
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    match version >= OLDEST {
        true => Check::ok("kernel", release),
        false => Check::fail("kernel", release, "use Linux 5.10 or newer"),
    }
}

fn architecture() -> Check {
    match std::env::consts::ARCH {
        known @ ("x86_64" | "aarch64") => Check::ok("architecture", known),
        other => Check::fail("architecture", other, "use an x86_64 or aarch64 machine"),
    }
}

/// The ports `up` uses unless told otherwise, by flags' defaults the environment and the config file.
fn port_checks() -> Vec<Check> {
    let up = match config::parse(vec!["reveille".into(), "up".into()]) {
        Ok(Command::Up(up)) => up,
        Ok(_) => return Vec::new(),
        Err(error) => return vec![Check::fail("configuration", error.to_string(), "correct it")],
    };
    let check = |(flag, address, protocols): (&str, std::net::SocketAddr, &[ports::Protocol])| {
        let name = format!("port {} ({})", address.port(), flag.trim_start_matches('-'));
        let taken = protocols.iter().find_map(|protocol| ports::hold(address, *protocol).err());
        match taken {
            None => Check::ok(name, "free"),
            Some(why) => {
                Check::fail(name, why, format!("stop it or run 'reveille up {flag} IP:PORT'"))
            }
        }
    };
    addresses(&up).into_iter().map(check).collect()
}

/// The directory, or the nearest one above it that exists.
fn existing(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/")).into()
}

fn data_dir(path: &Path) -> Check {
    let folder = existing(path);
    let shown = path.display().to_string();
    if !folder.is_dir() {
        let found = format!("{} is not a directory", folder.display());
        return Check::fail("data directory", found, "choose another --data-dir");
    }
    match access(&folder, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Check::ok("data directory", shown),
        Err(_) => Check::fail(
            "data directory",
            format!("{} is not writable", folder.display()),
            "run with sudo, or choose another --data-dir",
        ),
    }
}

/// Whether programs that use the system's resolver reach actors by name. curl and browsers do without.
fn localhost_names() -> Check {
    const NAME: &str = "counter.demo.actors.localhost";
    let resolved = (NAME, 80).to_socket_addrs().ok().and_then(|mut found| found.next());
    match resolved {
        Some(address) if address.ip().is_loopback() => {
            Check::ok("*.localhost", format!("{NAME} is {}", address.ip()))
        }
        _ => Check::warn(
            "*.localhost",
            "the system's resolver does not know it",
            "curl and browsers do; for other programs apt-get install libnss-myhostname",
        ),
    }
}
