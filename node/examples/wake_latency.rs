//! How much slower a wake is than what `runsc restore` takes by itself, on the same snapshot, turn by turn.
//!
//!     cargo run -p reveille-node --example wake_latency -- .deps/bin/runsc .deps/rootfs/counter [ROUNDS] [MB]
//!
//! As root. Prints one line for each round and the medians.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use reveille_api::proto::{self, node_agent_client::NodeAgentClient};
use reveille_node::Config;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

const NS: &str = "rvlatency";
const LINK: &str = "rvlatency0";
/// The address the node gives to every sandbox.
const INSIDE: &str = "10.0.2.15";

/// Between two measurements.
const QUIET: Duration = Duration::from_millis(2500);

#[tokio::main]
async fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let path = |n: usize| PathBuf::from(&arguments[n]).canonicalize().unwrap();
    let (runsc, rootfs) = (path(0), path(1));
    let number = |n: usize, default| arguments.get(n).map_or(default, |a| a.parse().unwrap());
    let (rounds, megabytes) = (number(2, 15_u64), number(3, 0_u64));
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        node: "bench".into(),
        workers: 2,
        worker_cidr: "10.212.0.0/24".parse().unwrap(),
        runsc: runsc.clone(),
        rootfs_allow: vec![rootfs.clone()],
        ..Config::new(dir.path())
    };
    let app = config.build().await.unwrap();
    let mut client = NodeAgentClient::new(app.addrs().channel());
    let (shutdown, destroy) = (CancellationToken::new(), Arc::new(AtomicBool::new(true)));
    let mut tasks = JoinSet::new();
    tasks.spawn(app.run(shutdown.clone(), destroy));

    let actor = || Some(proto::ActorKey { namespace: "bench".into(), name: "counter".into() });
    let template = serde_json::json!({
        "runtime": "gvisor", "rootfs": { "directory": rootfs }, "command": ["/counter"],
        "readiness": { "httpGet": { "path": "/healthz" } },
    });
    let wake = |epoch: u64, snapshot: String| proto::ActivateRequest {
        actor: actor(),
        epoch,
        worker: format!("bench-{}", epoch % 2),
        template: template.to_string(),
        snapshot,
        deadline_ms: 20_000,
        ..Default::default()
    };
    let cold = client.activate(wake(1, String::new())).await.unwrap().into_inner();
    if megabytes > 0 {
        ask(cold.endpoint.parse().unwrap(), &format!("/fill?mb={megabytes}")).await.unwrap();
    }
    let bundle = std::fs::read_dir(dir.path().join("node/bundles")).unwrap().next().unwrap();
    let spec = std::fs::read_to_string(bundle.unwrap().path().join("config.json")).unwrap();
    let suspend = |epoch, snapshot: String| proto::SuspendRequest {
        actor: actor(),
        epoch,
        snapshot,
        deadline_ms: 20_000,
        ..Default::default()
    };
    client.suspend(suspend(1, "s1".into())).await.unwrap();

    let (mut bares, mut ours, mut suspends) = (Vec::new(), Vec::new(), Vec::new());
    for round in 2..2 + rounds {
        let image = dir.path().join(format!("node/snapshots/bench/counter/s{}", round - 1));
        // The kernel takes its time with what the turn before left: namespaces and dead sandboxes.
        tokio::time::sleep(QUIET).await;
        let bare = bare(&runsc, dir.path(), &spec, &image, round).await;
        tokio::time::sleep(QUIET).await;
        let begin = Instant::now();
        let reply = client.activate(wake(round, format!("s{}", round - 1))).await.unwrap();
        let activated = begin.elapsed();
        let reply = reply.into_inner();
        ask(reply.endpoint.parse().unwrap(), "/").await.unwrap();
        let answered = begin.elapsed();
        let begin = Instant::now();
        client.suspend(suspend(round, format!("s{round}"))).await.unwrap();
        let suspended = begin.elapsed();
        println!(
            "bare {bare:>10.2?}  activate {activated:>10.2?} (fetch {} restore {} ready {} us)  first answer {answered:>10.2?}  suspend {suspended:>10.2?}",
            reply.fetch_us, reply.restore_us, reply.ready_us,
        );
        bares.push(bare);
        ours.push(answered);
        suspends.push(suspended);
    }
    let (bare, ours, suspend) = (median(bares), median(ours), median(suspends));
    println!("medians: bare {bare:.2?}, wake to first answer {ours:.2?}, suspend {suspend:.2?}");
    println!("above bare: {:.2} ms", (ours.as_secs_f64() - bare.as_secs_f64()) * 1e3);
    shutdown.cancel();
    tasks.join_next().await.unwrap().unwrap().unwrap();
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

async fn ask(address: SocketAddr, path: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if answer.starts_with(b"HTTP/1.1 200") {
        Ok(())
    } else {
        Err(std::io::ErrorKind::InvalidData.into())
    }
}

/// `runsc restore` in a namespace just made, by hand, to the first answer.
async fn bare(runsc: &Path, dir: &Path, spec: &str, image: &Path, round: u64) -> Duration {
    let ip = |arguments: &str| {
        let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    };
    ip(&format!("netns add {NS}"));
    ip(&format!("link add {LINK} type veth peer name eth0 netns {NS}"));
    ip(&format!("addr add 10.0.2.2/24 dev {LINK}"));
    ip(&format!("link set {LINK} up"));
    ip(&format!("-n {NS} addr add {INSIDE}/24 dev eth0"));
    ip(&format!("-n {NS} link set eth0 up"));
    ip(&format!("-n {NS} route add default via 10.0.2.2"));
    let bundle = dir.join("bare");
    std::fs::create_dir_all(&bundle).unwrap();
    let mut spec: serde_json::Value = serde_json::from_str(spec).unwrap();
    spec["linux"]["namespaces"][4]["path"] = format!("/var/run/netns/{NS}").into();
    std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
    let id = format!("bare{round:04}");
    let command = move |runsc: &Path, arguments: &[&str]| {
        let mut command = Command::new(runsc);
        command
            .arg(format!("--root={}", bundle.join("root").display()))
            .args(["--platform=systrap", "--network=sandbox", "--overlay2=root:memory"])
            .args(["--ignore-cgroups=true", "--net-disconnect-ok=true"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let address: SocketAddr = format!("{INSIDE}:8080").parse().unwrap();
    let (image, bundle) = (format!("--image-path={}", image.display()), dir.join("bare"));
    let bundle = format!("--bundle={}", bundle.display());
    let restore = command(runsc, &["restore", "--detach", &bundle, &image, &id]);
    let launcher = std::thread::spawn(move || {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), "/proc/sys/net", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let mut restore = restore;
        let begin = Instant::now();
        (begin, restore.spawn().unwrap())
    });
    let (begin, mut child) = launcher.join().unwrap();
    let answered = loop {
        let attempt = tokio::time::timeout(Duration::from_millis(50), ask(address, "/healthz"));
        if let Ok(Ok(())) = attempt.await {
            break begin.elapsed();
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
        assert!(begin.elapsed() < Duration::from_secs(20), "the bare restore never answered");
    };
    assert!(child.wait().unwrap().success());
    let deleted = command(runsc, &["delete", "--force", &id]).status().unwrap();
    assert!(deleted.success());
    ip(&format!("link del {LINK}"));
    ip(&format!("netns del {NS}"));
    answered
}
