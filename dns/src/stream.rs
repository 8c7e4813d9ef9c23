//! Questions and replies over TCP, and over TLS (RFC 7858): each with its length before it.
//!
//! Bounded are the connections in all and of one network, the length of a question, and the time of a handshake, of a
//! question, of the silence before it and of a reply. What is above is hung up on; where there are too many connections, the
//! one that has asked nothing for longest makes room for the new one.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
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
use tokio_util::sync::CancellationToken;

use crate::{
    limit,
    message::{self, Over},
    metrics::{Refusal, Transport},
    shared::Shared,
};

/// A client that asks nothing, or does not read, for so long is hung up on.
const IDLE: Duration = Duration::from_secs(5);
/// Connections in all.
const MOST: usize = 1_024;
/// Connections of one network, as [`limit`] has them: there are several, so others are always let in.
const MOST_OF_ONE: usize = 256;
/// Longest question, with all the padding that TLS clients add.
const LONGEST: usize = 4_096;
/// After an error of `accept`: there are no more descriptors, mostly.
const PAUSE: Duration = Duration::from_millis(50);

/// Who is connected.
#[derive(Debug, Default)]
pub(crate) struct Connections(Mutex<Vec<Arc<Seat>>>);

#[derive(Debug)]
struct Seat {
    network: u64,
    /// How many questions all of them had asked when it last did, or came: where it is least, one is idle for longest.
    turn: AtomicUsize,
    /// Somebody else gets the place.
    leave: CancellationToken,
}

/// One connection's place.
struct Place {
    shared: Arc<Shared>,
    seat: Arc<Seat>,
}

impl Connections {
    fn all(&self) -> MutexGuard<'_, Vec<Arc<Seat>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is always a place: another one's, if need be.
    fn enter(shared: &Arc<Shared>, from: IpAddr) -> Place {
        let network = limit::prefix(from);
        let mut all = shared.connections.all();
        let is_of_network = |seat: &&Arc<Seat>| seat.network == network;
        let full = if all.iter().filter(is_of_network).count() >= MOST_OF_ONE {
            Some(Refusal::Network)
        } else {
            (all.len() >= MOST).then_some(Refusal::All)
        };
        if let Some(limit) = full {
            let there = all.iter().filter(|seat| limit == Refusal::All || is_of_network(seat));
            if let Some(idle) = there.min_by_key(|seat| seat.turn.load(Ordering::Relaxed)) {
                let idle = Arc::clone(idle);
                all.retain(|seat| !Arc::ptr_eq(seat, &idle));
                idle.leave.cancel();
                shared.metrics.refused.get(limit).inc();
            }
        }
        let turn = AtomicUsize::new(shared.turn.load(Ordering::Relaxed));
        let seat = Arc::new(Seat { network, turn, leave: CancellationToken::new() });
        all.push(Arc::clone(&seat));
        shared.metrics.connections.inc();
        Place { shared: Arc::clone(shared), seat }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.connections.all().retain(|seat| !Arc::ptr_eq(seat, &self.seat));
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
        let place = Connections::enter(&shared, from.ip());
        let connection = connection(stream, from, tls.clone(), place);
        task::spawn(&mut connections, "dns connection", connection);
    }
}

async fn connection(stream: TcpStream, from: SocketAddr, tls: Option<TlsAcceptor>, place: Place) {
    let _ = stream.set_nodelay(true);
    let talked = async {
        match tls {
            None => talk(stream, from, Transport::Tcp, &place).await,
            Some(tls) => match timeout(IDLE, tls.accept(stream)).await {
                Ok(stream) => talk(stream?, from, Transport::Tls, &place).await,
                Err(late) => Err(late.into()),
            },
        }
    };
    if let Some(Err(error)) = place.seat.leave.run_until_cancelled(talked).await {
        tracing::debug!(%error, "a connection broke");
    }
}

/// Until the client hangs up, or does nothing for too long; and says that this was all.
async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    from: SocketAddr,
    transport: Transport,
    place: &Place,
) -> io::Result<()> {
    let answered = answer(&mut stream, from, transport, place).await;
    let said = timeout(IDLE, stream.shutdown()).await;
    answered.and(said?)
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    from: SocketAddr,
    transport: Transport,
    Place { shared, seat }: &Place,
) -> io::Result<()> {
    let (mut message, mut out) = (Vec::new(), Vec::new());
    loop {
        if !timeout(IDLE, read(&mut stream, &mut message)).await?? {
            return Ok(());
        }
        shared.metrics.queries.get(transport).inc();
        let turn = shared.turn.fetch_add(1, Ordering::Relaxed);
        seat.turn.store(turn + 1, Ordering::Relaxed);
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

#[cfg(test)]
mod tests;
