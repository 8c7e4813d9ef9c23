//! What an actor cannot do, tried from inside with the Python of the second demo.

use serde_json::json;

use rstest::rstest;

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
tried('gateway', lambda: tcp('10.0.2.2', 8080))
for address in sys.argv[1:]:
    tried(address, lambda: tcp(address, 22))
tried('internet', lambda: tcp('192.0.2.1', 443))
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
    // Something to reach on this machine, if it could.
    let [host, worker] = place.first_pair();
    let node = place.start(1).await;
    let wake = place
        .wake(1)
        .with("command", json!(["/usr/bin/python3", "-c", SCRIPT, host, worker]))
        .with("resources", json!({ "pids": 16 }))
        .with("readiness", json!({ "timeout": "15s" }));
    node.activate(&wake).await.unwrap();
    let text = eventually("all is tried", async || {
        let text = logs(&node).await;
        if text.contains("io_uring") { Ok(text) } else { Err(text) }
    })
    .await;
    assert!(text.contains("uid 0 host counter"), "{text}");
    for (what, outcome) in [
        ("gateway", "WORKED"),
        (&*host, "WORKED"),
        (&*worker, "WORKED"),
        ("internet", "WORKED"),
        ("mount", "WORKED"),
        ("forks", "WORKED"),
    ] {
        if what == "forks" && !place.limits_processes() {
            continue;
        }
        assert!(!text.contains(&format!("{what} {outcome}")), "{text}");
    }
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
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}
