//! Bare `runsc restore` of the snapshot that Reveille took, to its first answer.
//!
//! The same binary, flags, bundle and image as the node's, in a fresh network namespace, with nothing else around
//! it: no Envoy, no router, no control plane, no record, no check of the snapshot.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, stream::FuturesUnordered};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::harness::{cluster::Cluster, repository};

const NETNS: &str = "rvbench";
const LINK: &str = "rvbench0";
const ID: &str = "bare-restore";
/// The address the snapshot remembers, and its neighbour's.
const INSIDE: &str = "10.0.2.15/24";
const OUTSIDE: &str = "10.0.2.2/24";
const INSIDE_MAC: &str = "02:52:56:00:00:02";
const OUTSIDE_MAC: &str = "02:52:56:00:00:01";
const PORT: u16 = 8080;
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Bare {
    dir: TempDir,
    snapshots: PathBuf,
    shell: Child,
    /// Until it is dropped.
    commands: Option<ChildStdin>,
}

impl Bare {
    /// The actor, of namespace `demo`, must be the one that runs: its bundle is copied.
    pub(crate) async fn new(cluster: &Cluster, actor: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let node = cluster.data_dir().join("node");
        let bundle = only_entry(&node.join("bundles"))?;
        let mut config: serde_json::Value =
            serde_json::from_slice(&fs::read(bundle.join("config.json"))?)?;
        let namespaces = config["linux"]["namespaces"].as_array_mut().context("namespaces")?;
        for namespace in namespaces.iter_mut().filter(|n| n["type"] == "network") {
            namespace["path"] = format!("/run/netns/{NETNS}").into();
        }
        // What the node takes away with the activation.
        let identity = dir.path().join("identity");
        fs::create_dir(&identity)?;
        for entry in fs::read_dir(bundle.join("identity"))?.flatten() {
            fs::copy(entry.path(), identity.join(entry.file_name()))?;
        }
        let mounts = config["mounts"].as_array_mut().context("mounts")?;
        for mount in mounts.iter_mut().filter(|m| m["destination"] == "/run/reveille") {
            mount["source"] = identity.display().to_string().into();
        }
        let root = dir.path().join("root");
        fs::create_dir(&root)?;
        config["root"]["path"] = root.display().to_string().into();
        let mut layers: Vec<_> = fs::read_dir(bundle.join("layers"))?.flatten().collect();
        layers.sort_by_key(|layer| layer.file_name().to_string_lossy().parse::<u32>().ok());
        let layers = layers
            .iter()
            .map(|layer| anyhow::Ok(fs::read_link(layer.path())?.display().to_string()));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        fs::create_dir(dir.path().join("bundle"))?;
        fs::write(dir.path().join("bundle/config.json"), config.to_string())?;
        // A shell of its own mount namespace, in which this runsc release accepts its network namespace.
        let mut shell = Command::new("unshare")
            .args(["-m", "--propagation", "slave", "sh"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("unshare")?;
        let mut commands = shell.stdin.take().context("a pipe")?;
        writeln!(commands, "mount -t tmpfs -o ro tmpfs /proc/sys/net")?;
        let (layers, root) = (layers.join(":"), root.display());
        writeln!(commands, "mount -t overlay overlay -o lowerdir={layers},index=off {root}")?;
        let commands = Some(commands);
        Ok(Self { dir, snapshots: node.join("snapshots/demo").join(actor), shell, commands })
    }

    /// From the start of `runsc restore` to the end of the first answer.
    pub(crate) async fn restore(&mut self) -> Result<Duration> {
        remove_network();
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
        ip(&["neigh", "replace", inside, "lladdr", INSIDE_MAC, "nud", "permanent", "dev", LINK])?;
        let image = only_entry(&self.snapshots)?;
        let runsc = self.runsc();
        let bundle = self.dir.path().join("bundle");
        let begun = Instant::now();
        self.run(&format!(
            "{runsc} restore --detach --bundle={} --image-path={} {ID} </dev/null 2>{}",
            bundle.display(),
            image.display(),
            self.dir.path().join("stderr").display()
        ))?;
        let answered = timeout(LIMIT, first_answer()).await;
        let took = begun.elapsed();
        let stderr = self.dir.path().join("stderr");
        if answered.is_err() {
            bail!("no answer: {}", fs::read_to_string(stderr).unwrap_or_default());
        }
        self.delete().await?;
        Ok(took)
    }

    fn runsc(&self) -> String {
        let runsc = repository().join(".deps/bin/runsc");
        format!("{} {FLAGS} --root={}", runsc.display(), self.dir.path().display())
    }

    fn run(&mut self, command: &str) -> Result<()> {
        let commands = self.commands.as_mut().context("it is being dropped")?;
        writeln!(commands, "{command}").context("the shell has ended")
    }

    async fn delete(&mut self) -> Result<()> {
        let done = self.dir.path().join("deleted");
        self.run(&format!("{} delete --force {ID}; touch {}", self.runsc(), done.display()))?;
        let end = Instant::now() + LIMIT;
        while !done.exists() {
            ensure!(Instant::now() < end, "the bare sandbox was not deleted");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        fs::remove_file(done)?;
        remove_network();
        Ok(())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // There may be none: one that did not answer is still there.
        let _ = self.run(&format!("{} delete --force {ID} 2>/dev/null", self.runsc()));
        // The shell ends with its input.
        self.commands = None;
        let _ = self.shell.wait();
        remove_network();
    }
}

/// As the node has them.
const FLAGS: &str = "--platform=systrap --network=sandbox --overlay2=root:memory --ignore-cgroups=true \
                     --net-disconnect-ok=true";

/// The snapshot or bundle there is; the newest, if the one before it is kept.
fn only_entry(dir: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?.flatten();
    let hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
    let visible = entries.filter(|entry| !hidden(&entry.file_name()));
    let newest = visible.max_by_key(|entry| entry.metadata().and_then(|m| m.modified()).ok());
    Ok(newest.with_context(|| format!("{} is empty", dir.display()))?.path())
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("ip")?;
    ensure!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn remove_network() {
    // There may be none.
    let _ = ip(&["link", "del", LINK]);
    let _ = ip(&["netns", "del", NETNS]);
}

/// Tries every millisecond, whatever became of the tries before: a packet sent too early is lost without a word.
async fn first_answer() {
    let address = SocketAddr::from(([10, 0, 2, 15], PORT));
    let mut tries = FuturesUnordered::new();
    let mut next = tokio::time::interval(Duration::from_millis(1));
    loop {
        tokio::select! {
            _ = next.tick() => tries.push(ask(address)),
            Some(answered) = tries.next() => if answered.unwrap_or(false) { return },
        }
    }
}

async fn ask(address: SocketAddr) -> Result<bool> {
    let mut stream = timeout(Duration::from_millis(50), TcpStream::connect(address)).await??;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    timeout(Duration::from_millis(200), stream.read_to_end(&mut answer)).await??;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}
