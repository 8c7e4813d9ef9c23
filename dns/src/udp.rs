//! Questions and replies as datagrams.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task,
    time::{Instant, sleep},
};

use crate::{
    limit::Verdict,
    message::{self, Over},
    metrics::{Limited, Transport},
    shared::Shared,
    socket::Datagrams,
};

/// Longest question: what the longest name needs, with every option that is in use.
const LONGEST: usize = 1_232;
/// Datagrams before others get their turn.
const BATCH: usize = 64;
/// After an error of a socket that may be over soon.
const PAUSE: Duration = Duration::from_millis(10);

/// Answers for ever: no datagram, and no error about one, is a reason to stop.
pub(crate) async fn serve(mut socket: Datagrams, shared: Arc<Shared>) -> Infallible {
    // One more byte tells what was cut off.
    let mut message = [0; LONGEST + 1];
    let mut out = Vec::with_capacity(LONGEST);
    let mut turn = 0;
    loop {
        if let Err(error) = socket.readable().await {
            trouble(&shared, &error).await;
            continue;
        }
        let now = Instant::now();
        for _ in 0..BATCH {
            match socket.receive(&mut message) {
                Ok((length, from, asked)) => {
                    turn += 1;
                    if answer(&shared, &message[..length], from, now, turn, &mut out) {
                        // A full send queue drops a reply as the network would.
                        if let Err(error) = socket.reply(&out, from, asked) {
                            tracing::debug!(%error, "reply not sent");
                            shared.metrics.unsent.inc();
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    trouble(&shared, &error).await;
                    break;
                }
            }
        }
        task::yield_now().await;
    }
}

/// Whether there is something to send.
fn answer(
    shared: &Shared,
    message: &[u8],
    from: SocketAddr,
    now: Instant,
    turn: usize,
    out: &mut Vec<u8>,
) -> bool {
    shared.metrics.queries.get(Transport::Udp).inc();
    if !can_be_answered(from) || message.len() > LONGEST {
        shared.metrics.ignored.inc();
        return false;
    }
    let over = match &shared.limit {
        None => Over::Udp,
        Some(limit) => match limit.check(from.ip(), now) {
            Verdict::Answer => Over::Udp,
            Verdict::Truncate => {
                shared.metrics.limited.get(Limited::Truncated).inc();
                Over::UdpLimited
            }
            Verdict::Drop => {
                shared.metrics.limited.get(Limited::Dropped).inc();
                return false;
            }
        },
    };
    let replied = message::reply(
        &shared.records.load(),
        message,
        from,
        over,
        turn,
        |q| shared.is_absent(q, now),
        out,
    );
    shared.told(Transport::Udp, from, replied, out.len(), now)
}

/// A source that nobody has is a forgery.
fn can_be_answered(from: SocketAddr) -> bool {
    let ip = from.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    from.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

async fn trouble(shared: &Shared, error: &io::Error) {
    tracing::debug!(%error, "a DNS socket is in trouble");
    shared.metrics.socket_errors.inc();
    sleep(PAUSE).await;
}
