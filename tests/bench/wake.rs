//! One wake after the other: a request to the sleeping actor until its first byte, beside bare `runsc restore`.
//!
//! `Server-Timing` tells the phases of each wake; what is left of the client's time is the way between the parts that have no
//! phase (client to Envoy, Envoy to router, there and back), and whatever nobody knows of.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::{
    HOST,
    bare::Bare,
    figure::{How, Line, Reach, millis},
    harness::cluster::Cluster,
    http, one_counter,
};

const NAME: &str = "wake";
const ROUNDS: usize = 11;
/// Of the client's time.
const UNATTRIBUTED_PERCENT: f64 = 2.0;

pub(crate) async fn run() -> Result<Vec<Line>> {
    let cluster = one_counter("").await?;
    let outcome = measure(&cluster).await;
    cluster.stop().await;
    outcome
}

/// As one client saw it, in milliseconds.
pub(crate) struct Wake {
    pub(crate) total: f64,
    /// By name, as `Server-Timing` has them.
    phases: Vec<(String, f64)>,
}

impl Wake {
    fn phase(&self, name: &str) -> f64 {
        self.phases.iter().filter(|(of, _)| of == name).map(|(_, ms)| ms).sum()
    }

    /// The longest phase.
    pub(crate) fn most(&self) -> String {
        let longest = self.phases.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        longest.map_or_else(String::new, |(name, ms)| format!("{name} {ms:.0}"))
    }

    fn unattributed(&self) -> f64 {
        self.total - self.phases.iter().map(|(_, ms)| ms).sum::<f64>()
    }
}

async fn measure(cluster: &Cluster) -> Result<Vec<Line>> {
    cluster.client.get(HOST, "/").await.count();
    let mut bare = Bare::new(cluster, "gvisor", "counter").await?;
    let (mut alone, mut wakes) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
        alone.push(millis(bare.restore().await.context("a bare restore")?));
        let wake = request(cluster.http, HOST).await?;
        eprintln!(
            "{NAME} {round}/{ROUNDS}: bare {:.1} ms, Reveille {:.1} ms, of which {:.1} ms in no phase",
            alone[round - 1],
            wake.total,
            wake.unattributed()
        );
        wakes.push(wake);
    }
    let of = |value: fn(&Wake) -> f64| wakes.iter().map(value).collect::<Vec<_>>();
    let totals = of(|wake| wake.total);
    let phase = |what, name: &str| {
        Line::alone(NAME, what, "ms", wakes.iter().map(|wake| wake.phase(name)).collect())
    };
    Ok(vec![
        Line::beside(
            NAME,
            "request to first byte, beside bare runsc restore to first answer",
            "ms",
            (&alone, &totals),
            How::Difference,
        ),
        phase("… park: between the parts", "park"),
        phase("… place: worker, record", "place"),
        phase("… fetch: the snapshot", "fetch"),
        phase("… restore", "restore"),
        phase("… ready: until it listens", "ready"),
        phase("… connect: from Envoy to it", "connect"),
        phase("… first byte: of its answer", "first_byte"),
        Line::alone(
            NAME,
            "… in no phase, of the client's time",
            "%",
            of(|wake| 100.0 * wake.unattributed() / wake.total),
        )
        .reach("wake_unattributed_percent", Reach::AtMost(UNATTRIBUTED_PERCENT)),
    ])
}

/// A request that wakes.
pub(crate) async fn request(front: SocketAddr, host: &str) -> Result<Wake> {
    let (first_byte, answer) = ask(front, host).await?;
    let timing = http::head(&answer)?.and_then(|head| head.server_timing);
    let phases = timing.context("a woken answer has Server-Timing")?;
    let phases = phases.split(", ").filter_map(|phase| {
        let (name, ms) = phase.split_once(";dur=")?;
        // As Envoy saw it; no phase.
        (name != "total").then_some((name.to_owned(), ms.parse().ok()?))
    });
    Ok(Wake { total: millis(first_byte), phases: phases.collect() })
}

/// Until the first byte of its answer.
pub(crate) async fn answer(front: SocketAddr, host: &str) -> Result<Duration> {
    Ok(ask(front, host).await?.0)
}

/// Connecting is not in it, as with a browser's kept connection.
async fn ask(front: SocketAddr, host: &str) -> Result<(Duration, Vec<u8>)> {
    let mut stream = TcpStream::connect(front).await?;
    let begun = Instant::now();
    stream.write_all(&http::get(host, "/")).await?;
    let (mut answer, mut first_byte) = (Vec::with_capacity(1024), None);
    while !http::is_served(&answer)? {
        ensure!(stream.read_buf(&mut answer).await? > 0, "closed without an answer");
        first_byte.get_or_insert_with(|| begun.elapsed());
    }
    Ok((first_byte.context("an answer")?, answer))
}
