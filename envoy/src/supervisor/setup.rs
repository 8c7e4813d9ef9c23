//! From a [`Config`] to an [`App`]: everything that can fail before Envoy runs.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    net::{SocketAddr, TcpListener},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use reveille_api::{
    metrics,
    net::{Address, ListenError},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    App, BinaryError, Config, State,
    binary::{self},
    launcher::Launcher,
    leftover,
    status::Metrics,
};
use crate::{bootstrap, tls};

/// Why Envoy was not started.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The binary is missing, broken or too old.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// A file operation failed.
    #[error("cannot {operation} {path}", path = path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// Two supervisors would fight over one directory.
    #[error("another supervisor runs Envoy in {dir}: stop it, or choose another directory", dir = .0.display())]
    Locked(PathBuf),
    /// Somebody else listens where Envoy is to listen.
    #[error("cannot listen on {addr}: stop what uses it, or choose another address")]
    Address {
        /// Where.
        addr: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The address of the pages is taken or not ours.
    #[error(transparent)]
    Status(#[from] ListenError),
    /// Envoy would trust whoever answers there.
    #[error("the router at {0} is reached by TCP: give --tls-cert, --tls-key and --tls-ca")]
    NoTls(Address),
    /// One cluster speaks TLS or does not.
    #[error("some routers are reached by a socket and some by TCP: give all of them by TCP")]
    Mixed,
    /// Whoever reaches the admin interface can do everything.
    #[error("Envoy's admin interface may listen on loopback only, not on {0}")]
    PublicAdmin(SocketAddr),
    /// An Envoy of an earlier supervisor is there and stays.
    #[error("cannot end the Envoy that an earlier supervisor left behind")]
    Leftover(#[source] io::Error),
    /// No thread.
    #[error("cannot start the launcher thread")]
    Launcher(#[source] io::Error),
}

pub(super) fn check(config: &Config) -> Result<(), BuildError> {
    if let Some(admin) = config.admin.filter(|admin| !admin.ip().is_loopback()) {
        return Err(BuildError::PublicAdmin(admin));
    }
    let remote = config.routers.iter().find(|router| !router.is_unix());
    match remote {
        Some(remote) if config.tls.is_none() => return Err(BuildError::NoTls(remote.clone())),
        Some(_) if config.routers.iter().any(Address::is_unix) => return Err(BuildError::Mixed),
        _ => {}
    }
    Ok(config.status.as_ref().map_or(Ok(()), metrics::listenable)?)
}

pub(super) async fn build(mut config: Config) -> Result<App, BuildError> {
    check(&config)?;
    let version = binary::version(&config.binary).await?;
    let dir = &config.dir;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| file("make the directory", dir, source))?;
    // The path stands in Envoy's command line, by which it is found again.
    config.dir = fs::canonicalize(dir).map_err(|source| file("find", dir, source))?;
    let lock = lock(&config.dir)?;
    let bootstrap = config.bootstrap();
    let (binary, path) = (config.binary.clone(), bootstrap.clone());
    tokio::task::spawn_blocking(move || leftover::kill(&binary, &path))
        .await
        .unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
        .map_err(BuildError::Leftover)?;
    if let Address::Unix(socket) = config.admin_address() {
        remove_socket(&socket)?;
    }
    let status = match &config.status {
        Some(address) => Some(metrics::listen(address).await?),
        None => None,
    };
    for addr in config.admin.iter().chain(&config.listen) {
        // Without SO_REUSEPORT, with which two Envoys would share the port without a word.
        TcpListener::bind(addr).map_err(taken(*addr))?;
    }
    let encoded = bootstrap::encode(&bootstrap::Config {
        node_id: config.node_id.clone(),
        xds: config.xds.clone(),
        routers: config.routers.clone(),
        max_requests: config.max_requests,
        protocol: config.protocol,
        admin: Some(config.admin_address()),
        max_connections: config.max_connections,
    });
    write(&bootstrap, &encoded).map_err(|source| file("write", &bootstrap, source))?;
    if let Some(config_of_tls) = &config.tls {
        write_secrets(&config.dir.join(tls::FOLDER), config_of_tls)?;
    }
    raise_file_limit();
    let launcher = Launcher::start().map_err(BuildError::Launcher)?;
    tracing::debug!(%version, bootstrap = %bootstrap.display(), "ready to start Envoy");
    let (state, hurry) = (watch::Sender::new(State::Starting), CancellationToken::new());
    let metrics = Metrics::new(&config);
    Ok(App { config, _lock: lock, launcher, state, status, metrics, hurry })
}

fn taken(addr: SocketAddr) -> impl Fn(io::Error) -> BuildError {
    move |source| BuildError::Address { addr, source }
}

fn file(operation: &'static str, path: &Path, source: io::Error) -> BuildError {
    BuildError::File { operation, path: path.into(), source }
}

/// Held as long as the file is open, whoever dies how.
fn lock(dir: &Path) -> Result<File, BuildError> {
    let path = dir.join("lock");
    let failed = |source| file("lock", &path, source);
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(BuildError::Locked(dir.into())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// They name the files of the certificate; what is in those stays there.
fn write_secrets(folder: &Path, config: &tls::Config) -> Result<(), BuildError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| file("make the directory", folder, source))?;
    for (name, secret) in tls::secrets(config) {
        let path = folder.join(name);
        write(&path, &secret).map_err(|source| file("write", &path, source))?;
    }
    Ok(())
}

fn remove_socket(path: &Path) -> Result<(), BuildError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(file("remove", path, source))
        }
        _ => Ok(()),
    }
}

/// Whole or not at all, and readable by its owner only.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    fs::rename(new, path)
}

/// Envoy needs a descriptor for each connection on either side, and starts with what we have.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = limit.current, "cannot raise the limit of open files");
    }
}
