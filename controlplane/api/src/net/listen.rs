//! Listening sockets, and handshakes beside one another.

use std::{
    fs::DirBuilder,
    io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;

use super::{Address, Identity, Io, Peer, Tls, tls::ALPN};
use crate::task;

/// Who has not finished its handshake by then is not waited for.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at a time. More wait in the kernel's queue.
const HANDSHAKES: usize = 512;
/// Of the path of a Unix socket, in bytes.
pub const LONGEST_SOCKET: usize = 107;
/// After an accept failed, as it does again and again when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(20);

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The system says no.
    #[error("cannot listen on {address}")]
    Failed {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// It would be open to the network.
    #[error(
        "{0} is not a loopback address: give --tls-cert, --tls-key and --tls-ca, or use a Unix socket (unix:/path)"
    )]
    NotLoopback(Address),
    /// It would be open to everybody on this machine.
    #[error(
        "{0} is open to everybody here: give --tls-cert, --tls-key and --tls-ca, or use a Unix socket (unix:/path)"
    )]
    Open(Address),
    /// A name may be many addresses.
    #[error("{0} is a name: listen on IP:PORT or unix:/path")]
    Name(Address),
    /// The kernel's limit.
    #[error(
        "cannot listen on {address}: its {length} bytes are more than the {LONGEST_SOCKET} of a socket: choose a shorter folder"
    )]
    Long {
        /// Where.
        address: Address,
        /// Of its path.
        length: usize,
    },
}

impl Address {
    /// What can be known of [`Address::listen`] before.
    pub fn listenable(&self) -> Result<(), ListenError> {
        match self {
            Self::Tcp(address) if !address.ip().is_loopback() => {
                Err(ListenError::NotLoopback(self.clone()))
            }
            Self::Name { .. } => Err(ListenError::Name(self.clone())),
            Self::Unix(path) if path.as_os_str().len() > LONGEST_SOCKET => {
                Err(ListenError::Long { address: self.clone(), length: path.as_os_str().len() })
            }
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
        }
    }

    /// Listens without TLS, on a Unix socket or on loopback; whoever connects by TCP is [`Peer::Anybody`]. Parts use
    /// [`Transport::listen`](super::Transport::listen). A Unix socket left behind by a killed process is replaced,
    /// one in use is not.
    pub async fn listen(&self) -> Result<Listener, ListenError> {
        self.listenable()?;
        match self {
            Self::Tcp(address) => tcp(*address, None).await,
            Self::Name { .. } => Err(ListenError::Name(self.clone())),
            Self::Unix(path) => {
                let failed = |source| ListenError::Failed { address: self.clone(), source };
                listen_unix(path).await.map_err(failed)
            }
        }
    }
}

/// With TLS, or without.
pub(super) async fn tcp(
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
) -> Result<Listener, ListenError> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Listener::Tcp(listener, tls)),
        Err(source) => Err(ListenError::Failed { address: Address::Tcp(address), source }),
    }
}

async fn listen_unix(path: &Path) -> io::Result<Listener> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    Ok(Listener::Unix(listener, SocketFile(path.into())))
}

/// A listening socket of either kind; `tonic` serves its [`Listener::incoming`].
#[derive(Debug)]
pub enum Listener {
    /// TCP, with TLS if there is a certificate: then nothing else is taken.
    Tcp(TcpListener, Option<Arc<Tls>>),
    /// A Unix socket and its file, removed when this is dropped.
    Unix(UnixListener, SocketFile),
}

/// Removes a socket's file when dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// The address really bound: with port 0 the kernel has chosen one.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener, _) => listener.local_addr().map(Address::Tcp),
            Self::Unix(_, file) => Ok(Address::Unix(file.0.clone())),
        }
    }

    /// Connections, for ever.
    pub fn incoming(self) -> impl futures::Stream<Item = io::Result<Io>> {
        let incoming = Incoming { listener: self, handshakes: JoinSet::new() };
        futures::stream::unfold(incoming, |mut incoming| async {
            let io = incoming.next().await;
            Some((io, incoming))
        })
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener, tls) => {
                let (stream, from) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok(match tls {
                    None => Accepted::Whole(Io::Tcp(stream)),
                    Some(tls) => Accepted::Tls(stream, from, Arc::clone(tls)),
                })
            }
            Self::Unix(unix, _) => {
                unix.accept().await.map(|(stream, _)| Accepted::Whole(Io::Unix(stream)))
            }
        }
    }
}

enum Accepted {
    Whole(Io),
    Tls(TcpStream, SocketAddr, Arc<Tls>),
}

struct Incoming {
    listener: Listener,
    handshakes: JoinSet<Option<Io>>,
}

impl Incoming {
    async fn next(&mut self) -> io::Result<Io> {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(io)) = done {
                        return Ok(io);
                    }
                }
                accepted = self.listener.accept(), if self.handshakes.len() < HANDSHAKES => {
                    match accepted {
                        Ok(Accepted::Whole(Io::Unix(stream))) => {
                            let io = Io::Unix(stream);
                            if io.connect_info() == Peer::Local {
                                return Ok(io);
                            }
                            tracing::warn!("a connection by another user was refused");
                        }
                        Ok(Accepted::Whole(io)) => return Ok(io),
                        Ok(Accepted::Tls(stream, from, tls)) => {
                            let handshake = handshake(stream, from, tls);
                            task::spawn(&mut self.handshakes, "handshake", handshake);
                        }
                        Err(error) => {
                            sleep(PAUSE).await;
                            return Err(error);
                        }
                    }
                }
            }
        }
    }
}

/// Nothing when it is refused.
async fn handshake(stream: TcpStream, from: SocketAddr, tls: Arc<Tls>) -> Option<Io> {
    match timeout(HANDSHAKE, identify(stream, &tls)).await {
        Ok(Ok(io)) => Some(io),
        // Somebody looked whether the port is open.
        Ok(Err(Refused::Io(error))) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        Ok(Err(why)) => {
            tracing::warn!(%from, %why, "a connection was refused");
            None
        }
        Err(_) => {
            tracing::debug!(%from, "a handshake took too long");
            None
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("its certificate has no identity: {0}")]
    Identity(#[from] super::InvalidIdentity),
    #[error("its certificate is of {0}, which is of another trust domain")]
    Foreign(Identity),
    #[error("it does not speak HTTP/2")]
    Protocol,
}

async fn identify(stream: TcpStream, tls: &Tls) -> Result<Io, Refused> {
    let material = tls.now();
    let stream = TlsAcceptor::from(Arc::clone(&material.server)).accept(stream).await?;
    let connection = stream.get_ref().1;
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(Refused::Protocol);
    }
    // The handshake does not end without one.
    let Some([certificate, ..]) = connection.peer_certificates() else {
        return Err(Refused::Identity(super::InvalidIdentity::Certificate));
    };
    let identity = Identity::of_certificate(certificate)?;
    if identity.trust_domain() != material.identity.trust_domain() {
        return Err(Refused::Foreign(identity));
    }
    Ok(Io::Tls(Box::new(stream), Arc::new(identity)))
}
