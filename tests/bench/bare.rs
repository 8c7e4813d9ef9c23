//! Bare `runsc` and `criu`: the snapshot that Reveille took is restored, to its first answer, and saved again.
//!
//! The same binaries, flags, root directory and image as the node's, in a fresh network namespace, with nothing else around
//! them: no Envoy, no router, no control plane, no record; nothing is checked, hashed or synced.

mod criu;
mod gvisor;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, stream::FuturesUnordered};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdin, ChildStdout},
    time::{Instant, timeout},
};

use crate::harness::cluster::Cluster;

const NETNS: &str = "rvbench";
const LINK: &str = "rvbench0";
/// The address the snapshot remembers, and its neighbour's.
const INSIDE: &str = "10.0.2.15/24";
const OUTSIDE: &str = "10.0.2.2/24";
const INSIDE_MAC: &str = "02:52:56:00:00:02";
const OUTSIDE_MAC: &str = "02:52:56:00:00:01";
const PORT: u16 = 8080;
const LIMIT: Duration = Duration::from_secs(20);
/// Before what was restored is saved: the last connections end.
const REST: Duration = Duration::from_millis(200);
/// Of tries to connect, and how long each of them may take.
const AT_A_TIME: usize = 4;
const SILENT: Duration = Duration::from_millis(8);

/// Everything a bare tool needs for one actor.
pub(crate) struct Bare {
    dir: TempDir,
    snapshots: PathBuf,
    shell: Shell,
    tool: Tool,
}

enum Tool {
    Gvisor,
    Criu(criu::Criu),
}

/// What a bare tool took.
pub(crate) struct Cycle {
    pub(crate) restore: Duration,
    pub(crate) checkpoint: Duration,
    /// Of the disk.
    pub(crate) bytes: f64,
}

impl Bare {
    /// The actor, of namespace `demo`, must be the one that runs: its bundle is copied.
    pub(crate) async fn new(cluster: &Cluster, runtime: &str, actor: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let node = cluster.data_dir().join("node");
        let snapshots = node.join("snapshots/demo").join(actor);
        let mut shell = Shell::start(dir.path())?;
        let tool = match runtime {
            "criu" => {
                let bundle = only_entry(&node.join("criu"))?;
                Tool::Criu(criu::Criu::prepare(&bundle, dir.path(), &mut shell).await?)
            }
            _ => {
                let bundle = only_entry(&node.join("bundles"))?;
                gvisor::prepare(&bundle, dir.path(), &mut shell).await?;
                Tool::Gvisor
            }
        };
        Ok(Self { dir, snapshots, shell, tool })
    }

    /// From the start of the restore to the end of the first answer.
    pub(crate) async fn restore(&mut self) -> Result<Duration> {
        let took = self.begin().await?;
        self.delete().await?;
        Ok(took)
    }

    /// The same, and then what was restored is saved.
    pub(crate) async fn cycle(&mut self) -> Result<Cycle> {
        let restore = self.begin().await?;
        // Of all those who asked each has had its answer: the actor rests.
        let rested = async { while ask(inside()).await.is_err() {} };
        timeout(LIMIT, rested).await.context("no second answer")?;
        tokio::time::sleep(REST).await;
        let image = self.dir.path().join("image");
        fs::create_dir(&image)?;
        let begun = Instant::now();
        match &self.tool {
            Tool::Gvisor => gvisor::checkpoint(&mut self.shell, &image).await?,
            Tool::Criu(criu) => criu.dump(&mut self.shell, &image).await?,
        }
        let checkpoint = begun.elapsed();
        let bytes = on_disk(&image)?;
        fs::remove_dir_all(&image)?;
        self.delete().await?;
        Ok(Cycle { restore, checkpoint, bytes })
    }

    async fn begin(&mut self) -> Result<Duration> {
        connect()?;
        let image = only_entry(&self.snapshots)?;
        let shell = &mut self.shell;
        if let Tool::Criu(criu) = &self.tool {
            criu.make_room(shell, &image).await?;
        }
        let begun = Instant::now();
        let restored = async {
            match &self.tool {
                Tool::Gvisor => gvisor::restore(shell, &image).await,
                Tool::Criu(criu) => criu.restore(shell, &image).await,
            }
        };
        let answered = async {
            timeout(LIMIT, first_answer()).await.context("no first answer")?;
            Ok(begun.elapsed())
        };
        tokio::try_join!(answered, restored).map(|(took, ())| took)
    }

    async fn delete(&mut self) -> Result<()> {
        match &self.tool {
            Tool::Gvisor => gvisor::delete(&mut self.shell).await?,
            Tool::Criu(criu) => criu.delete(&mut self.shell).await?,
        }
        disconnect();
        Ok(())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // One that did not answer is still there.
        match &self.tool {
            Tool::Gvisor => gvisor::drop(self.dir.path()),
            Tool::Criu(criu) => criu.kill(),
        }
        disconnect();
    }
}

/// A shell in a mount namespace of its own. It ends with its input.
struct Shell {
    _child: Child,
    commands: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
    errors: PathBuf,
    dir: PathBuf,
}

impl Shell {
    fn start(dir: &Path) -> Result<Self> {
        let mut child = tokio::process::Command::new("unshare")
            .args(["-m", "--propagation", "slave", "sh"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("unshare")?;
        let commands = child.stdin.take().context("a pipe")?;
        let said = BufReader::new(child.stdout.take().context("a pipe")?).lines();
        let errors = dir.join("stderr");
        Ok(Self { _child: child, commands, said, errors, dir: dir.into() })
    }

    /// Runs a command to its end, which must be a good one.
    async fn run(&mut self, command: &str) -> Result<()> {
        let line = format!("{command} 2>{}; echo $?\n", self.errors.display());
        self.commands.write_all(line.as_bytes()).await.context("the shell has ended")?;
        let said = timeout(LIMIT, self.said.next_line()).await;
        let said = said.with_context(|| format!("{command}: no end"))??;
        if said.as_deref() != Some("0") {
            let errors = fs::read_to_string(&self.errors).unwrap_or_default();
            bail!("{command}: {said:?} {errors}");
        }
        Ok(())
    }
}

/// The layers of a bundle's root directory, as overlay has them.
fn layers(bundle: &Path) -> Result<String> {
    let mut layers: Vec<_> = fs::read_dir(bundle.join("layers"))?.flatten().collect();
    layers.sort_by_key(|layer| layer.file_name().to_string_lossy().parse::<u32>().ok());
    let layers = layers.iter().map(|l| anyhow::Ok(fs::read_link(l.path())?.display().to_string()));
    Ok(layers.collect::<Result<Vec<_>>>()?.join(":"))
}

/// What the node takes away with the activation.
fn copy_identity(bundle: &Path, dir: &Path) -> Result<PathBuf> {
    let identity = dir.join("identity");
    fs::create_dir(&identity)?;
    for entry in fs::read_dir(bundle.join("identity"))?.flatten() {
        fs::copy(entry.path(), identity.join(entry.file_name()))?;
    }
    Ok(identity)
}

/// The snapshot or bundle there is; the newest, if the one before it is kept.
fn only_entry(dir: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?.flatten();
    let hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
    let visible = entries.filter(|entry| !hidden(&entry.file_name()));
    let visible = visible.filter(|entry| entry.path().is_dir());
    let newest = visible.max_by_key(|entry| entry.metadata().and_then(|m| m.modified()).ok());
    Ok(newest.with_context(|| format!("{} is empty", dir.display()))?.path())
}

/// Bytes that the files there take.
pub(crate) fn on_disk(dir: &Path) -> Result<f64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0.0;
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { on_disk(&entry.path())? } else { meta.blocks() as f64 * 512.0 };
    }
    Ok(bytes)
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("ip")?;
    ensure!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A fresh network, as the snapshot remembers it.
fn connect() -> Result<()> {
    disconnect();
    ip(&["netns", "add", NETNS])?;
    ip(&[
        &["link", "add", LINK, "address", OUTSIDE_MAC, "type", "veth", "peer"][..],
        &["name", "eth0", "netns", NETNS, "address", INSIDE_MAC],
    ]
    .concat())?;
    ip(&["-n", NETNS, "addr", "add", INSIDE, "dev", "eth0"])?;
    ip(&["-n", NETNS, "link", "set", "eth0", "up"])?;
    ip(&["-n", NETNS, "link", "set", "lo", "up"])?;
    ip(&["addr", "add", OUTSIDE, "dev", LINK])?;
    ip(&["link", "set", LINK, "up"])?;
    // Nobody has to ask for the hardware address while the sandbox comes up.
    let inside = INSIDE.trim_end_matches("/24");
    ip(&["neigh", "replace", inside, "lladdr", INSIDE_MAC, "nud", "permanent", "dev", LINK])
}

fn disconnect() {
    // There may be none.
    let _ = ip(&["link", "del", LINK]);
    let _ = ip(&["netns", "del", NETNS]);
}

fn inside() -> SocketAddr {
    SocketAddr::from(([10, 0, 2, 15], PORT))
}

/// Tries every millisecond, whatever became of the tries before: a packet sent too early is lost without a word. But a few at a
/// time: a connection that no queue has room for is half made, and bare `runsc` fails to save it.
async fn first_answer() {
    let mut tries = FuturesUnordered::new();
    let mut next = tokio::time::interval(Duration::from_millis(1));
    loop {
        tokio::select! {
            _ = next.tick(), if tries.len() < AT_A_TIME => {
                tries.push(timeout(Duration::from_millis(250), ask(inside())));
            }
            Some(answered) = tries.next() => if let Ok(Ok(())) = answered { return },
        }
    }
}

/// An answer that is good.
async fn ask(address: SocketAddr) -> Result<()> {
    let mut stream = timeout(SILENT, TcpStream::connect(address)).await??;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.") && answer[8..].starts_with(b" 200"), "no answer");
    Ok(())
}
