//! Whom an actor reaches when its template asks for it, tried from inside, on a machine of its own: a network namespace with one
//! link to another one, where everybody else is.
//!
//! ```text
//!   workers ── machine: 203.0.113.2, forwards ── outside: 203.0.113.1, 198.51.100.10, 10.1.2.3, 10.1.3.3, 169.254.169.254
//!                                                 TCP and UDP 7001, 7002 on all of them; nobody at 198.51.100.99
//! ```
//!
//! Outside knows no way to a worker: what comes back was masqueraded.

use std::{
    fs::{self, File},
    net::{TcpListener, UdpSocket},
    os::fd::AsRawFd,
    process::Command,
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};
use reveille_api::proto;
use reveille_node::Config;
use rstest::rstest;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
};
use tonic::Code;

use crate::support::{CRIU, GVISOR, Node, Place, Wake, eventually, get, in_worker};

const PORTS: [u16; 2] = [7001, 7002];
const OUTSIDE: [&str; 4] = ["198.51.100.10", "10.1.2.3", "10.1.3.3", "169.254.169.254"];
const PUBLIC: &str = "198.51.100.10:7001";

/// Does what the path says, to whom it says, and answers what came of it.
const SCRIPT: &str = r#"
import http.server, os, socket, threading
nonce, kept = os.urandom(8).hex(), {}
def address(text):
    host, port = text.rsplit(':', 1)
    return host, int(port)
def connect(to):
    with socket.create_connection(address(to), timeout=1) as s:
        try:
            return s.recv(5).decode()
        except TimeoutError:
            return 'silence'
def datagram(to):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(1)
    s.sendto(b'hello', address(to))
    return s.recv(5).decode()
def hold(to):
    s = socket.create_connection(address(to), timeout=1)
    s.recv(5)
    s.settimeout(None)
    kept.update(socket=s, state='open', echoes=0)
    say(None)
    s.recv(64)
    def read():
        try:
            while s.recv(64):
                kept['echoes'] += 1
        except OSError:
            pass
        kept['state'] = 'ended'
    threading.Thread(target=read, daemon=True).start()
    return 'open'
def say(_):
    # What it hears is acknowledged at once: nothing is under way when it has heard.
    kept['socket'].send(b'more')
    kept['socket'].setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    return kept['state']
def dial(to):
    kept['dialled'] = s = socket.socket()
    s.setblocking(False)
    return str(s.connect_ex(address(to)))
class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        _, verb, *rest = self.path.split('/')
        verbs = dict(connect=connect, datagram=datagram, hold=hold, say=say, dial=dial)
        verbs.update(state=lambda _: kept['state'], echoes=lambda _: str(kept['echoes']), who=lambda _: nonce)
        try:
            answer = verbs[verb](*rest)
        except OSError as error:
            answer = 'no: ' + type(error).__name__
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer.encode())
http.server.HTTPServer(('', 8080), Server).serve_forever()
"#;

/// How a connection that somebody spoke on has ended outside.
type Ends = mpsc::UnboundedReceiver<&'static str>;

struct Outside {
    ends: Ends,
    _serving: JoinSet<()>,
    _namespace: File,
}

/// Does a test on a machine of its own.
fn apart<F: Future<Output = ()>>(
    test: impl FnOnce(Place, Outside) -> F + Send,
    runtime: &'static str,
) {
    let Some(mut place) = Place::of(runtime) else { return };
    if !place.python() {
        return;
    }
    std::thread::scope(|scope| {
        let machine = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let outside = Outside::connect();
                test(place, outside).await;
            });
        });
        if let Err(panic) = machine.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn run(command: &str) {
    let words: Vec<_> = command.split(' ').collect();
    assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success(), "{command}");
}

impl Outside {
    fn connect() -> Self {
        let mut serving = JoinSet::new();
        let (ended, ends) = mpsc::unbounded_channel();
        let there = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            run("ip link set lo up");
            for address in OUTSIDE {
                run(&format!("ip addr add {address}/32 dev lo"));
            }
            run("ip route add blackhole 198.51.100.99/32");
            (File::open("/proc/thread-self/ns/net").unwrap(), sockets(&OUTSIDE))
        });
        let (namespace, sockets_there) = there.join().unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        run("ip link set lo up");
        run("ip link add wan type veth peer name lan");
        run(&format!("ip link set lan netns {path}"));
        run(&format!("nsenter --net={path} ip addr add 203.0.113.1/24 dev lan"));
        run(&format!("nsenter --net={path} ip link set lan up"));
        run("ip addr add 203.0.113.2/24 dev wan");
        run("ip link set wan up");
        run("ip route add default via 203.0.113.1");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        for (tcp, udp) in [sockets_there, sockets(&["203.0.113.2"])] {
            tcp.into_iter().for_each(|tcp| serve(&mut serving, tcp, ended.clone()));
            udp.into_iter().for_each(|udp| echo(&mut serving, udp));
        }
        Self { ends, _serving: serving, _namespace: namespace }
    }

    /// The next connection that ends.
    async fn end(&mut self) -> &'static str {
        let end = tokio::time::timeout(Duration::from_secs(10), self.ends.recv()).await;
        end.expect("it is ended and not left waiting").unwrap()
    }
}

/// TCP on every address, UDP on these: it answers from the address it was asked at.
fn sockets(addresses: &[&str]) -> (Vec<TcpListener>, Vec<UdpSocket>) {
    let tcp = PORTS.map(|port| TcpListener::bind(("0.0.0.0", port)).unwrap());
    let udp = |port| addresses.iter().map(move |ip| UdpSocket::bind((*ip, port)).unwrap());
    (tcp.into(), PORTS.into_iter().flat_map(udp).collect())
}

/// Says hello, and what it hears.
fn serve(serving: &mut JoinSet<()>, tcp: TcpListener, ended: mpsc::UnboundedSender<&'static str>) {
    tcp.set_nonblocking(true).unwrap();
    let tcp = tokio::net::TcpListener::from_std(tcp).unwrap();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let ended = ended.clone();
            connections.spawn(async move {
                let _ = stream.write_all(b"hello").await;
                let (mut heard, mut buffer) = (false, [0; 64]);
                let end = loop {
                    match stream.read(&mut buffer).await {
                        Ok(0) => break "closed",
                        Ok(length) => {
                            heard = true;
                            let _ = stream.write_all(&buffer[..length]).await;
                        }
                        Err(_) => break "reset",
                    }
                };
                if heard {
                    let _ = ended.send(end);
                }
            });
        }
    });
}

fn echo(serving: &mut JoinSet<()>, udp: UdpSocket) {
    udp.set_nonblocking(true).unwrap();
    let udp = tokio::net::UdpSocket::from_std(udp).unwrap();
    serving.spawn(async move {
        let mut buffer = [0; 64];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            let _ = udp.send_to(&buffer[..length], from).await;
        }
    });
}

fn config(place: &Place, workers: u32, allow: &[&str]) -> Config {
    let egress_allow = allow.iter().map(|network| network.parse().unwrap()).collect();
    Config { egress_allow, ..place.config(workers) }
}

fn wake(place: &Place, epoch: u64, egress: serde_json::Value) -> Wake {
    place
        .wake(epoch)
        .with("command", json!(["/usr/bin/python3", "-c", SCRIPT]))
        .with("readiness", json!({ "timeout": "15s" }))
        .with("egress", egress)
}

async fn does(endpoint: &str, verb: &str, to: &str) -> String {
    get(endpoint, &format!("/{verb}/{to}")).await.unwrap()
}

#[track_caller]
fn lets_nobody_out(place: &Place) {
    let chain = in_worker(place, "nft", &["list", "chain", "ip", "reveille", "egress"]);
    assert!(chain.contains("chain egress") && !chain.contains("accept"), "{chain}");
}

#[rstest]
fn an_actor_reaches_whom_its_template_names_and_the_next_one_does_not(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    apart(reaches, runtime);
}

async fn reaches(place: Place, _outside: Outside) {
    let allow = ["0.0.0.0/0", "10.1.0.0/16", "10.96.0.0/11"];
    let node = Node::start(config(&place, 2, &allow)).await;
    // Another actor, and the addresses of this machine.
    let server = ["/usr/bin/python3", "-m", "http.server", "8080"];
    let server = wake(&place, 1, json!([])).with("command", json!(server));
    let request = proto::ActivateRequest {
        actor: Some(proto::ActorKey { namespace: "other".into(), name: "server".into() }),
        epoch: 1,
        worker: "n-1".into(),
        template: server.template.to_string(),
        deadline_ms: 20_000,
        ..Default::default()
    };
    let other = node.client.clone().activate(request).await.unwrap().into_inner().endpoint;
    std::net::TcpStream::connect(&other).unwrap();
    let [host, worker] = place.first_pair();
    let machine = ["203.0.113.2", &host, &worker, "10.0.2.2"].map(|ip| format!("{ip}:7001"));
    std::net::TcpStream::connect(&machine[0]).unwrap();

    // Some ports of everybody, and one private network.
    let egress =
        json!([{ "cidr": "0.0.0.0/0", "ports": [7001, "7001/udp"] }, { "cidr": "10.1.2.0/24" }]);
    let endpoint = node.activate(&wake(&place, 1, egress)).await.unwrap().endpoint;
    for (verb, to) in [
        ("connect", PUBLIC),
        ("datagram", PUBLIC),
        ("connect", "10.1.2.3:7001"),
        ("connect", "10.1.2.3:7002"),
        ("datagram", "10.1.2.3:7002"),
    ] {
        assert_eq!(does(&endpoint, verb, to).await, "hello", "{verb} {to}");
    }
    assert_eq!(
        does(&endpoint, "connect", "198.51.100.10:7002").await,
        "no: ConnectionRefusedError"
    );
    for (verb, to) in [
        ("datagram", "198.51.100.10:7002"),
        ("connect", "10.1.3.3:7001"),
        ("datagram", "10.1.3.3:7001"),
        ("connect", "169.254.169.254:7001"),
        ("datagram", "169.254.169.254:7001"),
        ("connect", &machine[0]),
        ("datagram", &machine[0]),
    ] {
        let said = does(&endpoint, verb, to).await;
        assert!(said.starts_with("no: "), "{verb} {to}: {said}");
    }
    node.destroy_activation(1).await.unwrap();

    // Everybody, and the workers' own range: neither names this machine or an actor.
    let egress = json!([{ "cidr": "0.0.0.0/0" }, { "cidr": "10.96.0.0/11" }]);
    let endpoint = node.activate(&wake(&place, 2, egress)).await.unwrap().endpoint;
    assert_eq!(does(&endpoint, "connect", "198.51.100.10:7002").await, "hello");
    // An address that the machine has got only since.
    run("ip addr add 192.0.2.77/32 dev lo");
    let since = "192.0.2.77:7001".to_owned();
    for to in machine.iter().chain([&other, &since]) {
        let said = does(&endpoint, "connect", to).await;
        assert!(said.starts_with("no: "), "{to}: {said}");
    }
    assert!(does(&endpoint, "datagram", &since).await.starts_with("no: "));
    assert!(does(&endpoint, "connect", "10.1.2.3:7001").await.starts_with("no: "));
    node.destroy_activation(2).await.unwrap();

    // The same worker, of a template that asks for nothing.
    let endpoint = node.activate(&wake(&place, 3, json!([]))).await.unwrap().endpoint;
    for to in [PUBLIC, "10.1.2.3:7001", &machine[0], &other] {
        assert_eq!(does(&endpoint, "connect", to).await, "no: ConnectionRefusedError", "{to}");
    }
    lets_nobody_out(&place);

    // What the operator does not allow.
    for cidr in ["10.2.0.0/16", "169.254.169.254/32", "10.0.0.0/8"] {
        let refused = node.activate(&wake(&place, 4, json!([{ "cidr": cidr }]))).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let said = refused.message();
        assert!(said.contains(cidr) && said.contains("--allow-egress"), "{said}");
    }
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
fn connections_of_an_actor_end_when_it_sleeps_and_it_makes_new_ones_afterwards(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    apart(sleeps, runtime);
}

async fn sleeps(place: Place, mut outside: Outside) {
    let node = Node::start(config(&place, 1, &["0.0.0.0/0"])).await;
    let wake = |epoch| wake(&place, epoch, json!([{ "cidr": "198.51.100.0/24" }]));
    let endpoint = node.activate(&wake(1)).await.unwrap().endpoint;
    let nonce = does(&endpoint, "who", "").await;

    assert_eq!(does(&endpoint, "hold", PUBLIC).await, "open");
    // One that nobody answers is neither.
    assert_eq!(does(&endpoint, "dial", "198.51.100.99:7001").await, "115");
    node.freeze(1, 0).await.unwrap();
    assert_eq!(outside.end().await, "reset");
    lets_nobody_out(&place);
    assert!(node.resume_term(1, 0).await.unwrap());
    let ended = async |endpoint: &str| {
        eventually("the actor has seen it end", async || {
            match does(endpoint, "state", "").await.as_str() {
                "ended" => Ok(()),
                other => Err(other.to_owned()),
            }
        })
        .await;
    };
    ended(&endpoint).await;

    assert_eq!(does(&endpoint, "hold", PUBLIC).await, "open");
    assert_eq!(does(&endpoint, "dial", "198.51.100.99:7001").await, "115");
    node.suspend(1, "s1").await.unwrap();
    assert_eq!(outside.end().await, "reset");
    let endpoint = node.activate(&wake(2).from("s1")).await.unwrap().endpoint;
    assert_eq!(does(&endpoint, "who", "").await, nonce, "it was restored");
    ended(&endpoint).await;
    assert_eq!(does(&endpoint, "hold", PUBLIC).await, "open");
    assert_eq!(does(&endpoint, "say", "").await, "open");

    // A sandbox that is killed tells nobody.
    node.destroy_activation(2).await.unwrap();
    outside.end().await;
    eventually("its worker is as it was", async || {
        let chain = in_worker(&place, "nft", &["list", "chain", "ip", "reveille", "egress"]);
        if chain.contains("accept") { Err(chain) } else { Ok(()) }
    })
    .await;
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[rstest]
fn an_actor_keeps_its_connections_when_its_agent_is_killed_unless_the_next_one_forbids_them(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    apart(adopted, runtime);
}

async fn adopted(place: Place, mut outside: Outside) {
    let allowing = || config(&place, 1, &["0.0.0.0/0"]);
    let node = Node::start(allowing()).await;
    let fresh = place.traces();
    let wake = |epoch| wake(&place, epoch, json!([{ "cidr": "198.51.100.0/24" }]));
    let endpoint = node.activate(&wake(1)).await.unwrap().endpoint;
    assert_eq!(does(&endpoint, "hold", PUBLIC).await, "open");
    let mut echoes = 0;
    let mut lives = async || {
        assert_eq!(does(&endpoint, "say", "").await, "open");
        echoes += 1;
        eventually("it is answered", async || {
            let heard = does(&endpoint, "echoes", "").await;
            if heard == echoes.to_string() { Ok(()) } else { Err(heard) }
        })
        .await;
        assert_eq!(does(&endpoint, "connect", PUBLIC).await, "hello");
    };
    node.crash().await;
    lives().await;
    let node = Node::start(allowing()).await;
    assert_eq!(node.running, ["demo/counter"]);
    lives().await;
    // What a snapshot or a freeze takes away the adopted one gets back.
    node.freeze(1, 0).await.unwrap();
    assert_eq!(outside.end().await, "reset");
    assert!(node.resume_term(1, 0).await.unwrap());
    assert_eq!(does(&endpoint, "connect", PUBLIC).await, "hello");

    node.crash().await;
    let node = Node::start(config(&place, 1, &[])).await;
    assert_eq!(node.running, ["demo/counter"]);
    assert_eq!(does(&endpoint, "connect", PUBLIC).await, "no: ConnectionRefusedError");
    lets_nobody_out(&place);
    assert!(!place.traces().iter().any(|trace| trace.starts_with("table")));
    node.destroy_activation(1).await.unwrap();

    // One that dies together with its agent leaves a worker that lets nobody out.
    node.stop().await;
    let node = Node::start(allowing()).await;
    node.activate(&wake(2)).await.unwrap();
    node.crash().await;
    let record = fs::read_to_string(place.path("node/records/demo/counter.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    run(&format!("kill -9 {}", record["activation"]["process"]["pid"]));
    let node = Node::start(allowing()).await;
    place.eventually_traces(&fresh).await;
    lets_nobody_out(&place);
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[test]
fn a_machine_that_does_not_forward_lets_nobody_out_and_says_so() {
    std::thread::spawn(|| {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            return;
        }
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let block = |text: &str| [text.parse().unwrap()];
        reveille_node::check_egress(&[]).unwrap();
        let why = reveille_node::check_egress(&block("0.0.0.0/0")).unwrap_err();
        assert!(why.contains("sysctl -w net.ipv4.ip_forward=1"), "{why}");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        reveille_node::check_egress(&block("0.0.0.0/0")).unwrap();
        let why = reveille_node::check_egress(&block("127.0.0.1/32")).unwrap_err();
        assert!(why.contains("--allow-egress: nobody"), "{why}");
    })
    .join()
    .unwrap();
}
