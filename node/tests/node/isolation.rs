//! What an actor cannot do, tried from inside with the Python of the second demo.

use std::net::{TcpListener, UdpSocket};

use reveille_api::proto;
use rstest::rstest;
use serde_json::json;

use crate::support::{CRIU, GVISOR, Place, eventually, logs};

/// Tries each thing and prints what came of it, then serves, so that the start succeeds.
const SCRIPT: &str = r#"
import os, socket, sys, http.server
def tried(what, attempt):
    try:
        attempt()
        print(what, 'WORKED', flush=True)
    except OSError as error:
        print(what, type(error).__name__, error.errno, flush=True)
def tcp(host, port):
    socket.create_connection((host, port), timeout=1).close()
def datagram(host, port):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (host, port))
def libc(name, *arguments):
    import ctypes
    if ctypes.CDLL(None, use_errno=True)[name](*arguments) < 0:
        raise OSError(ctypes.get_errno(), 'refused')
def processes():
    for _ in range(64):
        if os.fork() == 0:
            import time
            time.sleep(600)
print('uid', os.getuid(), 'host', socket.gethostname(), flush=True)
hidden, *others = sys.argv[1:]
for other in others:
    host, port = other.rsplit(':', 1)
    host = host.strip('[]')
    tried('reach ' + other, lambda: tcp(host, int(port)))
    try:
        datagram(host, int(port))
    except OSError:
        pass
tried('host file', lambda: open(hidden))
import ctypes
if ctypes.CDLL(None).prctl(39, 0, 0, 0, 0) != 1:
    print('no new privileges not set', flush=True)
for line in open('/proc/self/status'):
    if line.startswith('Cap') and line.split()[1].strip('0'):
        print('capable', line, flush=True)
tried('root', lambda: open('/written', 'w').write('x'))
tried('mount', lambda: os.chroot('/tmp'))
tried('forks', processes)
tried('sysctl', lambda: open('/proc/sys/kernel/domainname', 'w').write('x'))
tried('user namespace', lambda: libc('unshare', 0x10000000))
tried('io_uring', lambda: libc('syscall', 425, 1, bytes(120)))
http.server.HTTPServer(('', 8080), http.server.SimpleHTTPRequestHandler).serve_forever()
"#;

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_reaches_nobody_has_no_privileges_and_no_more_processes_than_its_limit(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(mut place) = Place::of(runtime) else { return };
    if !place.python() {
        return;
    }
    let node = place.start(2).await;
    let server = ["/usr/bin/python3", "-m", "http.server", "8080"];
    let server = place.wake(1).with("command", json!(server)).with("readiness", json!({}));
    // Who would answer, if they could be reached: services of this machine, on all its addresses, and another actor.
    let service = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = service.local_addr().unwrap().port();
    let datagrams = UdpSocket::bind(("0.0.0.0", port)).unwrap();
    let other = proto::ActorKey { namespace: "other".into(), name: "counter".into() };
    let request = proto::ActivateRequest {
        actor: Some(other),
        epoch: 1,
        worker: "n-1".into(),
        template: server.template.to_string(),
        deadline_ms: 20_000,
        ..Default::default()
    };
    let other = node.client.clone().activate(request).await.unwrap().into_inner().endpoint;
    let [host, worker] = place.first_pair();
    let second = other.rsplit_once(':').unwrap().0;
    let metadata = ["169.254.169.254:80", "[fd00:ec2::254]:80", "169.254.1.1:80"].map(String::from);
    let addresses = ["10.0.2.2", &host, &worker, second, "127.0.0.1", "192.0.2.1"];
    let targets = addresses.map(|address| format!("{address}:{port}"));
    let targets: Vec<_> = targets.into_iter().chain(metadata).chain([other.clone()]).collect();
    for reachable in [&targets[1], &other] {
        std::net::TcpStream::connect(reachable).unwrap();
    }

    let hidden = place.path("node/records/other/counter.json");
    std::fs::metadata(&hidden).unwrap();
    let mut command = vec!["/usr/bin/python3", "-c", SCRIPT, hidden.to_str().unwrap()];
    command.extend(targets.iter().map(String::as_str));
    let wake = place
        .wake(1)
        .with("command", json!(command))
        .with("resources", json!({ "pids": 16 }))
        .with("readiness", json!({ "timeout": "30s" }));
    // Of this one, what the kernel does not limit is watched, and ended: see the tests of limits.
    let wake = if place.limits_processes() { wake } else { wake.with("resources", json!({})) };
    node.activate(&wake).await.unwrap();
    let text = eventually("all is tried", async || {
        let text = logs(&node).await;
        if text.contains("io_uring") { Ok(text) } else { Err(text) }
    })
    .await;
    assert!(text.contains("uid 0 host counter"), "{text}");
    for target in &targets {
        assert!(text.contains(&format!("reach {target}")), "{text}");
        assert!(!text.contains(&format!("reach {target} WORKED")), "{text}");
    }
    datagrams.set_nonblocking(true).unwrap();
    assert!(datagrams.recv(&mut [0; 8]).is_err(), "a datagram came through");
    for what in ["mount WORKED", "host file WORKED", "no new privileges not set", "capable"] {
        assert!(!text.contains(what), "{text}");
    }
    assert!(text.contains("forks WORKED") != place.limits_processes(), "{text}");
    // A kernel of its own, which gVisor's actors have, may let them.
    if runtime == CRIU {
        for refused in
            ["sysctl OSError 30", "user namespace PermissionError 1", "io_uring PermissionError 1"]
        {
            assert!(text.contains(refused), "{refused}: {text}");
        }
    }
    // Its root can be written to, and it never sees the machine's.
    assert!(text.contains("root WORKED"), "{text}");
    assert!(!place.machine.rootfs.join("written").exists());
    // Nor is what is mounted into it there.
    assert!(!place.machine.rootfs.join("run").exists());
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}
