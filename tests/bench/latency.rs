//! What a warm request takes at 1,000 requests/s, beside plain Envoy and beside an ext_proc that only echoes.
//!
//! When each request is sent is fixed beforehand, and what it took is counted from then on: while one is late, those
//! behind it wait on paper too (an open loop; no coordinated omission). Each connection is a thread that sleeps to the
//! next of its times, so that the clock is finer than a runtime's timers.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::time::TimeSpec,
    time::{ClockId, ClockNanosleepFlags, clock_nanosleep},
};

use crate::{
    HOST,
    figure::{How, Line, Reach, quantile},
    harness::cluster::Cluster,
    http, one_counter,
    plain::Plain,
    warm::endpoint,
};

const NAME: &str = "latency";
/// The p99 of a round is its 20 slowest: one hiccup of the machine is most of them, and many rounds put it aside.
const ROUNDS: usize = 15;
const CONNECTIONS: u32 = 32;
const RATE: u32 = 1_000;
/// Requests of one side in one round.
const REQUESTS: u32 = 2_000;
/// A stuck request fails the benchmark.
const LIMIT: Duration = Duration::from_secs(20);
const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

pub(crate) async fn run() -> Result<Vec<Line>> {
    let cluster = one_counter("[envoy]\nconcurrency = 1\n").await?;
    let outcome = measure(&cluster).await;
    cluster.stop().await;
    outcome
}

/// Quantiles of each round, in milliseconds.
#[derive(Default)]
struct Side {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

async fn measure(cluster: &Cluster) -> Result<Vec<Line>> {
    cluster.client.get(HOST, "/").await.count();
    let endpoint = endpoint(cluster).await?;
    let plain = Plain::start(endpoint).await?;
    let echo = Plain::with_echo(endpoint).await?;
    let (mut alone, mut echoed, mut ours) = <(Side, Side, Side)>::default();
    for round in 1..=ROUNDS {
        for (side, front) in
            [(&mut alone, plain.address), (&mut echoed, echo.address), (&mut ours, cluster.http)]
        {
            let took = tokio::task::spawn_blocking(move || open_loop(front)).await??;
            side.p50.push(quantile(&took, 0.50));
            side.p99.push(quantile(&took, 0.99));
        }
        let last =
            |side: &Side| format!("{:.2}/{:.2} ms", side.p50[round - 1], side.p99[round - 1]);
        eprintln!(
            "{NAME} {round}/{ROUNDS}: p50/p99 plain {}, echo {}, Reveille {}",
            last(&alone),
            last(&echoed),
            last(&ours)
        );
    }
    let beside = |what, bare: &[f64], ours: &[f64]| {
        Line::beside(NAME, what, "ms", (bare, ours), How::Difference)
    };
    Ok(vec![
        beside("p50 at 1,000 requests/s, beside plain Envoy", &alone.p50, &ours.p50)
            .reach("added_latency_p50_ms", Reach::AtMost(0.3)),
        beside("p99 at 1,000 requests/s, beside plain Envoy", &alone.p99, &ours.p99)
            .reach("added_latency_p99_ms", Reach::AtMost(1.0)),
        // What any ext_proc adds, and so what bounds the two above.
        beside(
            "… p50 of an ext_proc that only echoes, beside plain Envoy",
            &alone.p50,
            &echoed.p50,
        ),
        beside(
            "… p99 of an ext_proc that only echoes, beside plain Envoy",
            &alone.p99,
            &echoed.p99,
        ),
        beside("… p50, beside an ext_proc that only echoes", &echoed.p50, &ours.p50),
        beside("… p99, beside an ext_proc that only echoes", &echoed.p99, &ours.p99),
    ])
}

/// What each request took from the time it was due, sorted.
fn open_loop(front: SocketAddr) -> Result<Vec<Duration>> {
    let every = Duration::from_secs(1) / RATE;
    let connect = |_| TcpStream::connect(front).context("connecting");
    let streams: Vec<_> = (0..CONNECTIONS).map(connect).collect::<Result<_>>()?;
    // Time for every thread to be there.
    let begin = now()? + Duration::from_millis(50);
    let took: Result<Vec<_>> = std::thread::scope(|scope| {
        let turns = streams.into_iter().zip(0..).map(|(stream, number)| {
            let due =
                (number..REQUESTS).step_by(CONNECTIONS as usize).map(move |n| begin + every * n);
            scope.spawn(move || connection(stream, due))
        });
        let threads: Vec<_> = turns.collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let mut took = took?.concat();
    took.sort_unstable();
    Ok(took)
}

fn connection(mut stream: TcpStream, due: impl Iterator<Item = Duration>) -> Result<Vec<Duration>> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let request = http::get(HOST, "/");
    let (mut answer, mut took) = (Vec::new(), Vec::new());
    for due in due {
        clock_nanosleep(CLOCK, ClockNanosleepFlags::TIMER_ABSTIME, &TimeSpec::from_duration(due))?;
        stream.write_all(&request)?;
        answer.clear();
        while !http::is_served(&answer)? {
            let mut piece = [0; 2048];
            let read = stream.read(&mut piece)?;
            ensure!(read > 0, "closed without an answer");
            answer.extend_from_slice(&piece[..read]);
        }
        took.push(now()?.saturating_sub(due));
    }
    Ok(took)
}

fn now() -> Result<Duration> {
    Ok(CLOCK.now()?.into())
}
