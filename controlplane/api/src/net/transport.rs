//! A part's own side: what it proves itself by, and whom it expects to find.

use std::{fmt, io, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

use super::{Address, Identity, ListenError, Listener, Role, Tls, TlsError, TlsFiles, listen};

/// Limit of one connection attempt between the parts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 pings find a peer that vanished without a FIN; on a Unix socket they cost nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Whom a client must find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Of this kind.
    pub role: Role,
    /// This one of them; any, if there is no name.
    pub name: Option<String>,
}

impl Expected {
    /// Any of a role.
    pub const fn any(role: Role) -> Self {
        Self { role, name: None }
    }

    /// One of a role.
    pub fn named(role: Role, name: impl Into<String>) -> Self {
        Self { role, name: Some(name.into()) }
    }

    pub(super) fn is(&self, who: &Identity) -> bool {
        self.role == who.role() && self.name.as_deref().is_none_or(|name| who.name() == Some(name))
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} {name:?}", self.role),
            None => write!(f, "a {}", self.role),
        }
    }
}

/// A TCP address, and no certificate.
#[derive(Debug, thiserror::Error)]
#[error("{0} is reached by TCP: give --tls-cert, --tls-key and --tls-ca")]
pub struct NoTls(Address);

/// How a part proves who it is: by nothing on a Unix socket, by its certificate over TCP.
#[derive(Clone, Debug, Default)]
pub struct Transport(Option<Arc<Tls>>);

impl Transport {
    /// Unix sockets only.
    pub const fn unix() -> Self {
        Self(None)
    }

    /// Unix sockets, and TCP with this certificate.
    pub fn tls(files: TlsFiles) -> Result<Self, TlsError> {
        Tls::load(files).map(|tls| Self(Some(Arc::new(tls))))
    }

    /// Whose certificate it is, if there is one.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.0.as_ref().map(|tls| tls.identity())
    }

    /// What can be known of [`Transport::listen`] before.
    pub fn listenable(&self, address: &Address) -> Result<(), ListenError> {
        match (address, &self.0) {
            (Address::Tcp(_), Some(_)) => Ok(()),
            (Address::Tcp(_), None) => Err(ListenError::Open(address.clone())),
            (Address::Unix(_) | Address::Name { .. }, _) => address.listenable(),
        }
    }

    /// Listens. TCP is TLS, or refused.
    pub async fn listen(&self, address: &Address) -> Result<Listener, ListenError> {
        self.listenable(address)?;
        match (address, &self.0) {
            (Address::Tcp(address), Some(tls)) => {
                listen::tcp(*address, Some(Arc::clone(tls))).await
            }
            _ => address.listen().await,
        }
    }

    /// What can be known of [`Transport::channel`] before.
    pub fn reachable(&self, address: &Address) -> Result<(), NoTls> {
        match address.is_unix() || self.0.is_some() {
            true => Ok(()),
            false => Err(NoTls(address.clone())),
        }
    }

    /// A channel that connects when first used and reconnects by itself. TCP is TLS, or refused.
    pub fn channel(&self, address: &Address, peer: Expected) -> Result<Channel, NoTls> {
        match (address, &self.0) {
            (Address::Unix(_), _) => Ok(address.channel()),
            (_, Some(tls)) => Ok(connect_lazily(address.clone(), Some((Arc::clone(tls), peer)))),
            (_, None) => Err(NoTls(address.clone())),
        }
    }

    /// One connection, thrown away: its error is plainer than what a channel makes of it. TLS if there is a certificate.
    pub async fn reach(&self, address: &Address, peer: Expected) -> io::Result<()> {
        match address {
            Address::Unix(path) => UnixStream::connect(path).await.map(drop),
            _ => match &self.0 {
                None => connect(address).await.map(drop),
                Some(tls) => {
                    use tokio::io::AsyncReadExt;
                    let mut stream = handshake(address, tls, peer).await?;
                    // A server that refuses our certificate says so after the handshake; one that takes it begins HTTP/2.
                    stream.read_u8().await.map(drop)
                }
            },
        }
    }
}

pub(super) fn connect_lazily(address: Address, tls: Option<(Arc<Tls>, Expected)>) -> Channel {
    let endpoint = sure(endpoint(&address));
    match (address, tls) {
        (Address::Unix(path), _) => {
            let connect = move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            };
            endpoint.connect_with_connector_lazy(tower::service_fn(connect))
        }
        (address, None) => {
            let connect = move |_: Uri| {
                let address = address.clone();
                async move { connect(&address).await.map(TokioIo::new) }
            };
            endpoint.connect_with_connector_lazy(tower::service_fn(connect))
        }
        (address, Some((tls, peer))) => {
            let connect = move |_: Uri| {
                let (address, tls, peer) = (address.clone(), Arc::clone(&tls), peer.clone());
                async move { handshake(&address, &tls, peer).await.map(TokioIo::new) }
            };
            endpoint.connect_with_connector_lazy(tower::service_fn(connect))
        }
    }
}

/// To a server that is none of the parts.
pub(super) fn connect_outside(
    address: Address,
    tls: Option<Arc<ClientConfig>>,
    patience: Duration,
) -> Channel {
    let plain = sure(endpoint(&address)).timeout(patience);
    let Some(config) = tls else {
        let connect = move |_: Uri| {
            let address = address.clone();
            async move { connect(&address).await.map(TokioIo::new) }
        };
        return plain.connect_with_connector_lazy(tower::service_fn(connect));
    };
    // What it reads of the scheme is true; the connector is our own.
    let https = sure(
        Uri::builder().scheme("https").authority(address.to_string()).path_and_query("/").build(),
    );
    let connect = move |_: Uri| {
        let (address, config) = (address.clone(), Arc::clone(&config));
        async move { shake(&address, config).await.map(TokioIo::new) }
    };
    plain.origin(https).connect_with_connector_lazy(tower::service_fn(connect))
}

fn sure<T, E: fmt::Display>(made: Result<T, E>) -> T {
    match made {
        Ok(made) => made,
        Err(error) => unreachable!("an address makes a URI: {error}"),
    }
}

/// The limits of every channel, for one over a network that is simulated.
#[cfg(feature = "simulation")]
pub fn simulated(address: &Address) -> Result<Endpoint, tonic::transport::Error> {
    endpoint(address)
}

/// Its URI is for the requests' sake; the connector knows the address.
fn endpoint(address: &Address) -> Result<Endpoint, tonic::transport::Error> {
    let uri = match address {
        Address::Unix(_) => "http://localhost".to_owned(),
        tcp => format!("http://{tcp}"),
    };
    let endpoint = Endpoint::from_shared(uri)?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_while_idle(true))
}

pub(super) async fn connect(address: &Address) -> io::Result<TcpStream> {
    let stream = match address {
        Address::Tcp(address) => TcpStream::connect(address).await?,
        Address::Name { host, port } => TcpStream::connect((host.as_str(), *port)).await?,
        Address::Unix(_) => return Err(io::ErrorKind::Unsupported.into()),
    };
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn handshake(
    address: &Address,
    tls: &Tls,
    peer: Expected,
) -> io::Result<TlsStream<TcpStream>> {
    let config = tls.now().client(peer).map_err(io::Error::other)?;
    shake(address, Arc::new(config)).await
}

async fn shake(address: &Address, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let name = match address {
        Address::Tcp(address) => ServerName::from(address.ip()),
        other => {
            let name = other.to_string();
            let host = name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host).to_owned();
            ServerName::try_from(host).map_err(io::Error::other)?
        }
    };
    let stream = connect(address).await?;
    TlsConnector::from(config).connect(name, stream).await
}
