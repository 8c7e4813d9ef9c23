//! The simulated network under tonic. Everybody on it is known: certificates are tested elsewhere.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{Stream, stream};
use hyper_util::rt::TokioIo;
use reveille_api::net::{Address, Peer, simulated};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::{Channel, server::Connected};
use turmoil::net::{TcpListener, TcpStream};

/// A connection as a server sees it.
pub(crate) struct Io(TcpStream);

impl Connected for Io {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer::Local
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Connections to this port of the host that asks.
pub(crate) async fn listen(
    port: u16,
) -> io::Result<impl Stream<Item = io::Result<Io>> + Send + 'static> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    Ok(stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| Io(stream));
        Some((accepted, listener))
    }))
}

/// A channel to `host:port`, with the product's own limits.
pub(crate) fn channel(address: &str) -> Channel {
    let known: Address = address.parse().expect("an address");
    let endpoint = simulated(&known).expect("a URI");
    let address = address.to_owned();
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let address = address.clone();
        async move { TcpStream::connect(address).await.map(TokioIo::new) }
    }))
}
