//! The supervisor: Envoy comes back when it dies, drains when it is asked to, and never stays behind.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use hyper::{Request, StatusCode};
use reveille_api::net::Address;
use reveille_envoy::supervisor::{BuildError, Config, State};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    actor::Actor,
    harness::{
        Options, PATIENCE, Script, Stack, envoy_binary, envoy_or_skip, envoy_pids, eventually,
        free_port,
    },
};

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

async fn gone(dir: &Path) {
    eventually("Envoy is gone", || async {
        let pids = envoy_pids(dir);
        if pids.is_empty() { Ok(()) } else { Err(format!("{pids:?}")) }
    })
    .await;
}

async fn stack_with_actor(binary: PathBuf, drain: Duration) -> (Stack, Actor) {
    let stack = Stack::start(binary, Options { drain, ..Options::default() }).await;
    let actor = Actor::start().await;
    let script = Script::GoOn { endpoint: actor.addr, h2c: false, extra: Vec::new() };
    stack.router.on("a.demo.test", script);
    (stack, actor)
}

/// A request whose answer takes two seconds, of which the first part has come.
async fn in_flight(stack: &Stack) -> (TcpStream, Vec<u8>) {
    let mut client = TcpStream::connect(stack.front).await.unwrap();
    client.write_all(b"GET /stream HTTP/1.1\r\nHost: a.demo.test\r\n\r\n").await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"tick\n\r\n") {
        timeout(PATIENCE, client.read_buf(&mut read)).await.unwrap().unwrap();
    }
    (client, read)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_is_killed_comes_back_with_its_configuration() {
    let (mut stack, _actor) = stack_with_actor(envoy_or_skip!(), Duration::from_secs(5)).await;
    for _ in 0..2 {
        let before = stack.envoy_pid();
        kill(before);
        let starting = stack.state.wait_for(|state| *state == State::Starting);
        timeout(PATIENCE, starting).await.unwrap().unwrap();
        stack.ready().await;
        assert_ne!(stack.envoy_pid(), before);
        assert_eq!(stack.get("a.demo.test", "/").await.status, StatusCode::OK);
    }
    let dir = stack.dir.path().to_owned();
    stack.ask_to_stop();
    stack.stopped().await;
    gone(&dir).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_listens_on_every_address_and_its_admin_interface_on_tcp_when_it_is_given_one() {
    let (second, admin) = (free_port(), free_port());
    let mut listen = vec![second];
    if let Ok(v6) = TcpListener::bind("[::1]:0") {
        listen.push(v6.local_addr().unwrap());
    }
    let options = Options { admin: Some(admin), listen: listen.clone(), ..Options::default() };
    let stack = Stack::start(envoy_or_skip!(), options).await;
    for addr in listen {
        let request = Request::get(format!("http://{addr}/")).header("host", "no.demo.test");
        assert_eq!(stack.send(request).await.status, StatusCode::NOT_FOUND, "{addr}");
    }
    let ready = stack.send(Request::get(format!("http://{admin}/ready"))).await;
    assert_eq!((ready.status, ready.body.trim()), (StatusCode::OK, "LIVE"));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_what_is_in_flight_and_serves_who_still_comes() {
    let (mut stack, _actor) = stack_with_actor(envoy_or_skip!(), Duration::from_secs(20)).await;
    let (mut client, mut read) = in_flight(&stack).await;
    stack.ask_to_stop();
    let draining = stack.state.wait_for(|state| *state == State::Draining);
    timeout(PATIENCE, draining).await.unwrap().unwrap();
    eventually("it says that it is not ready", || async {
        let ready = stack.admin_get("/ready").await;
        if ready.contains("LIVE") { Err(ready) } else { Ok(()) }
    })
    .await;
    let late = stack.get("a.demo.test", "/").await;
    assert_eq!(late.status, StatusCode::OK);
    assert_eq!(late.header("connection"), "close");
    timeout(PATIENCE, client.read_to_end(&mut read)).await.unwrap().unwrap();
    assert!(read.ends_with(b"0\r\n\r\n"), "the whole answer");
    stack.stopped().await;
    assert!(envoy_pids(stack.dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_longer_than_the_drain_deadline() {
    let (mut stack, _actor) = stack_with_actor(envoy_or_skip!(), Duration::from_millis(300)).await;
    let (mut client, mut read) = in_flight(&stack).await;
    let asked = tokio::time::Instant::now();
    stack.ask_to_stop();
    stack.stopped().await;
    assert!(asked.elapsed() < Duration::from_millis(1800), "{:?}", asked.elapsed());
    let _ = client.read_to_end(&mut read).await;
    assert!(!read.ends_with(b"0\r\n\r\n"), "it was cut");
    assert!(envoy_pids(stack.dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_dropped_takes_envoy_with_it() {
    let (stack, _actor) = stack_with_actor(envoy_or_skip!(), Duration::ZERO).await;
    let pid = stack.envoy_pid();
    drop(stack);
    eventually("Envoy is gone", || async {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") { Ok(()) } else { Err(state) }
    })
    .await;
}

/// Runs in a process of its own, started by the test below, and is killed there.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by a_supervisor_that_is_killed_takes_envoy_with_it"]
async fn supervisor_in_a_process_of_its_own() {
    let (Some(dir), Some(binary)) = (env::var_os("REVEILLE_TEST_DIR"), envoy_binary()) else {
        return;
    };
    let xds = Address::Unix(Path::new(&dir).join("nobody.sock"));
    let app = Config::new(binary, Path::new(&dir).join("envoy"), vec![xds]).build().await.unwrap();
    app.run(CancellationToken::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_killed_takes_envoy_with_it() {
    let _ = envoy_or_skip!();
    let dir = TempDir::new().unwrap();
    let mut supervisor = Command::new(env::current_exe().unwrap())
        .args(["supervised::supervisor_in_a_process_of_its_own", "--exact", "--ignored"])
        .env("REVEILLE_TEST_DIR", dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("Envoy runs", || async {
        if envoy_pids(dir.path()).is_empty() { Err("nothing".into()) } else { Ok(()) }
    })
    .await;
    // Longer than an idle thread of a runtime lives would be better; but the launcher's thread is none.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(envoy_pids(dir.path()).len(), 1);
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    gone(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_was_left_behind_is_ended_before_the_next_one_starts() {
    let binary = envoy_or_skip!();
    let dir = TempDir::new().unwrap();
    let config = || {
        let xds = Address::Unix(dir.path().join("nobody.sock"));
        Config::new(&binary, dir.path().join("envoy"), vec![xds])
    };
    drop(config().build().await.unwrap());
    let bootstrap = dir.path().join("envoy/bootstrap.pb").canonicalize().unwrap();
    let mut left = Command::new(&binary)
        .arg("-c")
        .arg(&bootstrap)
        .arg("--disable-hot-restart")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Another Envoy, which is not ours to end.
    let other = TempDir::new().unwrap();
    let copy = other.path().join("bootstrap.pb");
    let mut bytes = fs::read(&bootstrap).unwrap();
    let (from, to) = (dir.path().to_str().unwrap(), other.path().to_str().unwrap());
    assert_eq!(from.len(), to.len());
    while let Some(at) = bytes.windows(from.len()).position(|window| window == from.as_bytes()) {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    fs::create_dir(other.path().join("envoy")).unwrap();
    fs::write(&copy, bytes).unwrap();
    let mut stranger = Command::new(&binary)
        .arg("-c")
        .arg(&copy)
        .arg("--disable-hot-restart")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("both run", || async {
        let running = (envoy_pids(dir.path()).len(), envoy_pids(other.path()).len());
        if running == (1, 1) { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .await;
    let _app = config().build().await.unwrap();
    assert!(left.try_wait().unwrap().is_some(), "it is ended");
    assert!(stranger.try_wait().unwrap().is_none(), "it is left alone");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_before_anything_starts() {
    let binary = envoy_or_skip!();
    let dir = TempDir::new().unwrap();
    let config = || {
        let xds = Address::Unix(dir.path().join("nobody.sock"));
        Config::new(&binary, dir.path().join("envoy"), vec![xds])
    };
    let missing = Config { binary: "/nonexistent/envoy".into(), ..config() };
    let error = missing.build().await.unwrap_err();
    assert!(error.to_string().contains("deploy/setup.sh envoy"), "{error}");
    let not_envoy = Config { binary: "/bin/true".into(), ..config() };
    assert!(matches!(not_envoy.build().await, Err(BuildError::Binary(_))));

    let public = Config { admin: Some("0.0.0.0:9901".parse().unwrap()), ..config() };
    assert!(matches!(public.build().await, Err(BuildError::PublicAdmin(_))));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    for taken in
        [Config { listen: vec![addr], ..config() }, Config { admin: Some(addr), ..config() }]
    {
        let error = taken.build().await.unwrap_err().to_string();
        assert!(error.contains(&addr.to_string()) && !error.contains('\n'), "{error}");
    }

    let first = config().build().await.unwrap();
    assert!(matches!(config().build().await, Err(BuildError::Locked(_))));
    drop(first);
    assert!(config().build().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_never_becomes_ready_is_given_up_with_what_it_said() {
    let binary = envoy_or_skip!();
    let dir = TempDir::new().unwrap();
    let xds = Address::Unix(dir.path().join("nobody.sock"));
    let config = Config {
        log_level: "no-such-level".into(),
        ..Config::new(binary, dir.path().join("envoy"), vec![xds])
    };
    let run = config.build().await.unwrap().run(CancellationToken::new());
    let error = timeout(PATIENCE, run).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("no-such-level"), "{error}");
}
