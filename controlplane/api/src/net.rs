//! How the parts reach each other: a Unix socket on one machine, TCP otherwise.

use std::{
    fmt, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint};

/// Limit of one connection attempt between the parts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 pings find a peer that vanished without a FIN; on a Unix socket they cost nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where a part listens: `unix:/path` or `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket, created with mode 0600.
    Unix(PathBuf),
    /// TCP.
    Tcp(SocketAddr),
}

/// Not an address.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no address: write unix:/path/to/socket or IP:PORT")]
pub struct InvalidAddress(String);

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(s: &str) -> Result<Self, InvalidAddress> {
        if let Some(path) = s.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let tcp = s.strip_prefix("http://").unwrap_or(s);
        tcp.parse().map(Self::Tcp).map_err(|_| InvalidAddress(s.into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(addr) => write!(f, "{addr}"),
        }
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Address {
    /// A channel that connects when first used and reconnects by itself.
    pub fn channel(&self) -> Channel {
        let endpoint = |uri: String| {
            Endpoint::from_shared(uri).map(|endpoint| {
                endpoint
                    .connect_timeout(CONNECT_TIMEOUT)
                    .http2_keep_alive_interval(KEEP_ALIVE)
                    .keep_alive_while_idle(true)
                    .tcp_nodelay(true)
            })
        };
        match self {
            Self::Tcp(addr) => match endpoint(format!("http://{addr}")) {
                Ok(endpoint) => endpoint.connect_lazy(),
                Err(error) => unreachable!("a socket address makes a URI: {error}"),
            },
            Self::Unix(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                match endpoint("http://localhost".into()) {
                    Ok(endpoint) => endpoint.connect_with_connector_lazy(connector),
                    Err(error) => unreachable!("a constant is a URI: {error}"),
                }
            }
        }
    }

    /// Listens. A Unix socket left behind by a killed process is replaced, one in use is not.
    pub async fn listen(&self) -> Result<Listener, ListenError> {
        let failed = |source| ListenError { address: self.clone(), source };
        match self {
            Self::Tcp(addr) => TcpListener::bind(addr).await.map(Listener::Tcp).map_err(failed),
            Self::Unix(path) => listen_unix(path).await.map_err(failed),
        }
    }
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    address: Address,
    source: io::Error,
}

async fn listen_unix(path: &Path) -> io::Result<Listener> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    Ok(Listener::Unix(listener, SocketFile(path.into())))
}

/// A listening socket of either kind; `tonic` serves its [`Listener::incoming`].
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
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
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Self::Unix(_, file) => Ok(Address::Unix(file.0.clone())),
        }
    }

    /// Connections, for ever.
    pub fn incoming(self) -> impl futures::Stream<Item = io::Result<Io>> {
        futures::stream::unfold(self, |listener| async move {
            let io = match &listener {
                Self::Tcp(tcp) => tcp.accept().await.map(|(stream, _)| {
                    let _ = stream.set_nodelay(true);
                    Io::Tcp(stream)
                }),
                Self::Unix(unix, _) => unix.accept().await.map(|(stream, _)| Io::Unix(stream)),
            };
            Some((io, listener))
        })
    }
}

/// A connection of either kind.
#[derive(Debug)]
pub enum Io {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

mod io_impl {
    use std::{
        io,
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tonic::transport::server::Connected;

    use super::Io;

    macro_rules! each {
        ($self:ident, $stream:ident => $call:expr) => {
            match $self.get_mut() {
                Io::Tcp($stream) => $call,
                Io::Unix($stream) => $call,
            }
        };
    }

    impl AsyncRead for Io {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            each!(self, stream => Pin::new(stream).poll_read(cx, buf))
        }
    }

    impl AsyncWrite for Io {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            each!(self, stream => Pin::new(stream).poll_write(cx, buf))
        }

        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            each!(self, stream => Pin::new(stream).poll_flush(cx))
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            each!(self, stream => Pin::new(stream).poll_shutdown(cx))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
        }

        fn is_write_vectored(&self) -> bool {
            match self {
                Self::Tcp(stream) => stream.is_write_vectored(),
                Self::Unix(stream) => stream.is_write_vectored(),
            }
        }
    }

    impl Connected for Io {
        type ConnectInfo = ();

        fn connect_info(&self) {}
    }
}
