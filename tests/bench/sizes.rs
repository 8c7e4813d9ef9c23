//! Suspend and wake of an actor with 10, 100 and 500 MB of touched memory: how much of it is the bare tool.
//!
//! The node is given a program that notes when it was called and when it was done around `runsc` or `criu`. What of a
//! suspend or wake it was not at work is Reveille's part, or the actor's: of the same snapshot, in the same moment.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};
use reveille_api::proto::{ActorKey, control_client::ControlClient};
use tonic::transport::Channel;

use crate::{
    control,
    figure::{How, Line, Reach, millis},
    harness::{
        cluster::{Cluster, Options},
        manifest::Manifests,
        repository,
    },
    wake,
};

const NAME: &str = "sizes";
const ROUNDS: usize = 5;
const MEGABYTES: [u32; 3] = [10, 100, 500];
/// And the tool that does its work.
const RUNTIMES: [(&str, &str); 2] = [("gvisor", "runsc"), ("criu", "criu")];
/// What is not the tool, at the median.
const ABOVE_TOOL_MS: f64 = 10.0;

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
    for (runtime, tool) in RUNTIMES {
        let dir = tempfile::tempdir()?;
        let clock = Clock::around(tool, dir.path())?;
        let manifests = MEGABYTES.iter().fold(Manifests::of(runtime), |manifests, megabytes| {
            let (name, program) =
                (name(*megabytes), HOLDER.replace("MEGABYTES", &megabytes.to_string()));
            manifests.python("demo", &name, &program, "").actor("demo", &name, &name)
        });
        let extra = vec![format!("--{tool}"), clock.program.display().to_string()];
        let cluster = Cluster::start(Options { extra, ..Options::new(manifests) }).await;
        for megabytes in MEGABYTES {
            match measure(&cluster, &clock, runtime, tool, megabytes).await {
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

async fn measure(
    cluster: &Cluster,
    clock: &Clock,
    runtime: &str,
    tool: &str,
    megabytes: u32,
) -> Result<Vec<Line>> {
    let name = name(megabytes);
    let host = format!("{name}.demo.actors.localhost");
    let mut control: ControlClient<Channel> = control(cluster);
    let (mut dumping, mut suspends) = (Vec::new(), Vec::new());
    let (mut restoring, mut wakes) = (Vec::new(), Vec::new());
    let mut sizes = Vec::new();
    wake::request(cluster.http, &host).await?;
    for round in 1..=ROUNDS {
        let begun = SystemTime::now();
        let key = ActorKey { namespace: "demo".into(), name: name.clone() };
        let asleep = control.suspend_actor(key).await?.into_inner();
        suspends.push(since(begun)?);
        dumping.push(clock.at_work(begun)?);
        let of = format!("demo/{name}/{}", asleep.snapshot);
        sizes.push(on_disk(&cluster.data_dir().join("node/snapshots").join(of))? / 1e6);
        let begun = SystemTime::now();
        let woken = wake::request(cluster.http, &host).await?;
        wakes.push(woken.total);
        restoring.push(clock.at_work(begun)?);
        eprintln!(
            "{NAME} {runtime} {megabytes} MB {round}/{ROUNDS}: suspend {:.0} ms, {tool} {:.0}; wake {:.0} ms, {tool} {:.0}",
            suspends[round - 1],
            dumping[round - 1],
            wakes[round - 1],
            restoring[round - 1],
        );
    }
    let beside = |what: &str, bare: &[f64], ours: &[f64], reach| {
        let what = format!("{runtime}, {megabytes} MB: {what}, of which {tool}");
        Line::beside(NAME, what, "ms", (bare, ours), How::Difference)
            .reach(reach, Reach::AtMost(ABOVE_TOOL_MS))
    };
    Ok(vec![
        beside("suspend", &dumping, &suspends, "suspend_above_tool_ms"),
        beside("wake to first byte", &restoring, &wakes, "wake_above_tool_ms"),
        Line::alone(NAME, format!("{runtime}, {megabytes} MB: snapshot on disk"), "MB", sizes),
    ])
}

fn since(begun: SystemTime) -> Result<f64> {
    Ok(millis(begun.elapsed()?))
}

/// A program around a tool, and what it noted.
struct Clock {
    program: PathBuf,
    notes: PathBuf,
}

impl Clock {
    fn around(tool: &str, dir: &Path) -> Result<Self> {
        let (program, notes) = (dir.join(tool), dir.join("notes"));
        let tool = repository().join(".deps/bin").join(tool);
        // No program is started but the tool.
        let text = format!(
            "#!/bin/bash\nbegun=$EPOCHREALTIME\n{} \"$@\"\nstatus=$?\n\
             echo \"$begun $EPOCHREALTIME\" >> {}\nexit $status\n",
            tool.display(),
            notes.display(),
        );
        fs::write(&program, text)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        fs::write(&notes, "")?;
        Ok(Self { program, notes })
    }

    /// Milliseconds since then at which one or more of them were at work.
    fn at_work(&self, since: SystemTime) -> Result<f64> {
        let since = since.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        let text = fs::read_to_string(&self.notes)?;
        let mut spans = Vec::new();
        for line in text.lines() {
            let (begun, done) = line.split_once(' ').context("two times")?;
            let (begun, done) = (begun.parse::<f64>()?, done.parse::<f64>()?);
            if done > since {
                spans.push((begun.max(since), done));
            }
        }
        ensure!(!spans.is_empty(), "the tool was not called");
        spans.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let (mut total, mut until) = (0.0, since);
        for (begun, done) in spans {
            total += (done - begun.max(until)).max(0.0);
            until = until.max(done);
        }
        Ok(total * 1e3)
    }
}

/// Bytes that the files there take.
fn on_disk(dir: &Path) -> Result<f64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0.0;
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { on_disk(&entry.path())? } else { meta.blocks() as f64 * 512.0 };
    }
    Ok(bytes)
}
