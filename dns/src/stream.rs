//! Questions and replies over TCP, and over TLS (RFC 7858): each with its length before it.
//!
//! Bounded are the connections in all and of one address, the length of a question, and the time of a handshake, of a
//! question, of the silence before it and of a reply. What is above is hung up on.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use reveille_api::task;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    message::{self, Over},
    metrics::{Refusal, Transport},
    shared::Shared,
};

/// A client that asks nothing, or does not read, for so long is hung up on.
const IDLE: Duration = Duration::from_secs(5);
/// Connections in all.
const MOST: usize = 1_024;
/// Connections of one address.
const MOST_OF_ONE: usize = 128;
/// Longest question, with all the padding that TLS clients add.
const LONGEST: usize = 4_096;
/// After an error of `accept`: there are no more descriptors, mostly.
const PAUSE: Duration = Duration::from_millis(50);

/// Who is connected.
#[derive(Debug, Default)]
pub(crate) struct Connections(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place.
struct Place {
    shared: Arc<Shared>,
    from: IpAddr,
}

impl Connections {
    fn enter(shared: &Arc<Shared>, from: IpAddr) -> Result<Place, Refusal> {
        let from = from.to_canonical();
        let mut all = shared.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.values().sum::<usize>() >= MOST {
            return Err(Refusal::all);
        }
        let of_one = all.entry(from).or_default();
        if *of_one >= MOST_OF_ONE {
            return Err(Refusal::address);
        }
        *of_one += 1;
        shared.metrics.connections.inc();
        Ok(Place { shared: Arc::clone(shared), from })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.shared.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_one) = all.get_mut(&self.from) {
            *of_one -= 1;
            if *of_one == 0 {
                all.remove(&self.from);
            }
        }
        self.shared.metrics.connections.dec();
    }
}

/// Serves for ever; connections end with it.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                shared.metrics.socket_errors.inc();
                sleep(PAUSE).await;
                continue;
            }
        };
        match Connections::enter(&shared, from.ip()) {
            Ok(place) => {
                let connection = connection(stream, from, tls.clone(), place);
                task::spawn(&mut connections, "dns connection", connection);
            }
            Err(refusal) => {
                shared.metrics.refused(refusal).inc();
            }
        }
    }
}

async fn connection(stream: TcpStream, from: SocketAddr, tls: Option<TlsAcceptor>, place: Place) {
    let _ = stream.set_nodelay(true);
    let shared = &place.shared;
    let talked = async {
        match tls {
            None => talk(stream, from, Transport::tcp, shared).await,
            Some(tls) => match timeout(IDLE, tls.accept(stream)).await {
                Ok(stream) => talk(stream?, from, Transport::tls, shared).await,
                Err(late) => Err(late.into()),
            },
        }
    };
    if let Err(error) = talked.await {
        tracing::debug!(%error, "a connection broke");
    }
}

/// Until the client hangs up, or does nothing for too long.
async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    from: SocketAddr,
    transport: Transport,
    shared: &Shared,
) -> io::Result<()> {
    let (mut message, mut out) = (Vec::new(), Vec::new());
    loop {
        if !timeout(IDLE, read(&mut stream, &mut message)).await?? {
            return Ok(());
        }
        shared.metrics.queries(transport).inc();
        let turn = shared.turn.fetch_add(1, Ordering::Relaxed);
        let (records, now) = (shared.records.load_full(), Instant::now());
        let absent = |query: &_| shared.is_absent(query, now);
        let replied =
            message::reply(&records, &message, from, Over::Stream, turn, absent, &mut out);
        if shared.told(transport, from, replied, out.len(), now) {
            timeout(IDLE, write(&mut stream, &out)).await??;
        }
    }
}

/// False when the client has hung up between two questions.
async fn read(stream: &mut (impl AsyncRead + Unpin), message: &mut Vec<u8>) -> io::Result<bool> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    message.resize(length, 0);
    stream.read_exact(message).await.map(|_| true)
}

/// In one piece: a segment each for length and message confuses some clients, and costs another round.
async fn write(stream: &mut (impl AsyncWrite + Unpin), out: &[u8]) -> io::Result<()> {
    let length = u16::try_from(out.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut framed = Vec::with_capacity(out.len() + 2);
    framed.extend(length.to_be_bytes());
    framed.extend(out);
    stream.write_all(&framed).await?;
    stream.flush().await
}
