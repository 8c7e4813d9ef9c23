//! Suspend and wake of an actor with 10, 100 and 500 MB of touched memory, beside bare `runsc` and `criu`.
//!
//! ```text
//!  round   suspend ─▶ snapshot ─┬─▶ bare restore, to its first answer ─▶ bare checkpoint of that
//!                               └──────────────────────────────────────────────────────────────▶ a request that wakes
//! ```
//!
//! The bare tool restores the snapshot that was just taken, so what it saves then is the same actor. What it writes is in the
//! page cache when it is done; a suspend is done when its snapshot is on the disk, hashed and committed.

use std::time::Duration;

use anyhow::Result;
use reveille_api::proto::{ActorKey, control_client::ControlClient};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{
    bare::{Bare, on_disk},
    control,
    figure::{How, Line, Reach, millis},
    harness::{
        cluster::{Cluster, Options},
        manifest::Manifests,
    },
    wake,
};

const NAME: &str = "sizes";
const ROUNDS: usize = 7;
const MEGABYTES: [u32; 3] = [10, 100, 500];
const RUNTIMES: [&str; 2] = ["gvisor", "criu"];
/// What is not the tool, at the median.
const ABOVE_TOOL_MS: f64 = 10.0;
/// What the round before has left is cleaned up meanwhile, and is in no figure.
const REST: Duration = Duration::from_millis(500);

/// Bytes that no compression makes smaller.
const HOLDER: &str = r#"
import os, http.server
kept = [os.urandom(1 << 20) for _ in range(MEGABYTES)]
class Holder(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(len(kept)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("", 8080), Holder).serve_forever()
"#;

pub(crate) async fn run() -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for runtime in RUNTIMES {
        let manifests = MEGABYTES.iter().fold(Manifests::of(runtime), |manifests, megabytes| {
            let (name, program) =
                (name(*megabytes), HOLDER.replace("MEGABYTES", &megabytes.to_string()));
            manifests.python("demo", &name, &program, "").actor("demo", &name, &name)
        });
        let cluster = Cluster::start(Options::new(manifests)).await;
        for megabytes in MEGABYTES {
            match measure(&cluster, runtime, megabytes).await {
                Ok(measured) => lines.extend(measured),
                Err(error) => {
                    cluster.stop().await;
                    return Err(error);
                }
            }
        }
        cluster.stop().await;
    }
    Ok(lines)
}

fn name(megabytes: u32) -> String {
    format!("holds-{megabytes}")
}

/// Milliseconds, or megabytes, of each round.
#[derive(Default)]
struct Sides {
    bare: Vec<f64>,
    ours: Vec<f64>,
}

async fn measure(cluster: &Cluster, runtime: &str, megabytes: u32) -> Result<Vec<Line>> {
    let name = name(megabytes);
    let host = format!("{name}.demo.actors.localhost");
    let mut control: ControlClient<Channel> = control(cluster);
    let key = ActorKey { namespace: "demo".into(), name: name.clone() };
    let (mut suspends, mut wakes, mut sizes) = <(Sides, Sides, Sides)>::default();
    wake::request(cluster.http, &host).await?;
    let mut bare = Bare::new(cluster, runtime, &name).await?;
    for round in 1..=ROUNDS {
        tokio::time::sleep(REST).await;
        let begun = Instant::now();
        let asleep = control.suspend_actor(key.clone()).await?.into_inner();
        suspends.ours.push(millis(begun.elapsed()));
        let of = format!("demo/{name}/{}", asleep.snapshot);
        sizes.ours.push(on_disk(&cluster.data_dir().join("node/snapshots").join(of))? / 1e6);
        let cycle = bare.cycle().await?;
        suspends.bare.push(millis(cycle.checkpoint));
        wakes.bare.push(millis(cycle.restore));
        sizes.bare.push(cycle.bytes / 1e6);
        tokio::time::sleep(REST).await;
        let woken = wake::request(cluster.http, &host).await?;
        wakes.ours.push(woken.total);
        let both = |sides: &Sides| {
            format!("{:.0} ms, bare {:.0}", sides.ours[round - 1], sides.bare[round - 1])
        };
        let (suspend, wake) = (both(&suspends), both(&wakes));
        eprintln!(
            "{NAME} {runtime} {megabytes} MB {round}/{ROUNDS}: suspend {suspend}; wake {wake}, most of it {}",
            woken.most()
        );
    }
    drop(bare);
    control.suspend_actor(key).await?;
    let beside = |what: &str, unit, sides: &Sides| {
        let what = format!("{runtime}, {megabytes} MB: {what}");
        Line::beside(NAME, what, unit, (&sides.bare, &sides.ours), How::Difference)
    };
    let most = Reach::AtMost(ABOVE_TOOL_MS);
    Ok(vec![
        beside("suspend, beside a bare checkpoint", "ms", &suspends)
            .reach("suspend_above_tool_ms", most),
        beside("wake to first byte, beside a bare restore to first answer", "ms", &wakes)
            .reach("wake_above_tool_ms", most),
        beside("snapshot on disk", "MB", &sizes),
    ])
}
