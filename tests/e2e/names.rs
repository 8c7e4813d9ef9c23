//! DNS of a whole instance.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use hyper::Request;
use tokio::{net::UdpSocket, time::Instant};

use crate::{
    COUNTER,
    harness::{
        client::Client,
        cluster::{Cluster, Options, free_address},
        eventually, machine_can_run_it,
        manifest::Manifests,
        processes::Running,
    },
};

/// What each wait here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two calls of a DNS server about one actor (`dns/src/names.rs`).
const EVERY: Duration = Duration::from_secs(5);

async fn ask(dns: SocketAddr, name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.send_to(&query.to_vec().expect("encodes"), dns).await.expect("sent");
    let mut buffer = [0u8; 1500];
    let (n, _) = tokio::time::timeout(Duration::from_secs(5), socket.recv_from(&mut buffer))
        .await
        .expect("an answer")
        .expect("received");
    Message::from_vec(&buffer[..n]).expect("decodes")
}

#[tokio::test(flavor = "multi_thread")]
async fn actor_names_resolve_to_the_front() {
    if !machine_can_run_it("dns") {
        return;
    }
    let cluster =
        Cluster::start(Options::new(Manifests::new().counter("demo", "counter", ""))).await;
    let answer = ask(cluster.dns, "counter.demo.actors.localhost.", RecordType::A).await;
    assert_eq!(answer.response_code, ResponseCode::NoError);
    let data: Vec<_> = answer.answers.iter().map(|r| r.data.clone()).collect();
    assert_eq!(data, [RData::A(Ipv4Addr::LOCALHOST.into())]);
    let answer = ask(cluster.dns, "counter.demo.actors.localhost.", RecordType::AAAA).await;
    assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
    let answer = ask(cluster.dns, "example.com.", RecordType::A).await;
    assert_eq!(answer.response_code, ResponseCode::Refused);
    cluster.stop().await;
}

/// A DNS server of its own beside an instance, which asks that one's control plane. It ends with this.
struct Beside {
    dns: SocketAddr,
    status: Client,
    _running: Running,
}

impl Beside {
    async fn start(cluster: &Cluster, flags: &[&str]) -> Self {
        let (dns, status) = (free_address(), free_address());
        let control = cluster.data_dir().join("run/control.sock");
        let mut command = cluster.reveille();
        command
            .args(["dns", "--listen", &dns.to_string(), "--status", &status.to_string()])
            .args(["--domain", "actors.localhost", "--log", "warn"])
            .args(["--control-plane", &format!("unix:{}", control.display())])
            .args(flags)
            .stdin(Stdio::null());
        let _running = Running(command.spawn().expect("reveille starts"));
        let beside = Self { dns, status: Client::new(status), _running };
        eventually("the DNS server is ready", PATIENCE, || async {
            match beside.page("/readyz").await {
                Ok((200, _)) => Ok(()),
                other => Err(other),
            }
        })
        .await;
        beside
    }

    async fn page(&self, path: &str) -> Result<(u16, String), String> {
        let request = Request::get(self.status.uri(path));
        let answer = self.status.try_send(request, "").await?;
        Ok((answer.status.as_u16(), answer.text()))
    }

    /// Calls that the control plane has answered.
    async fn looks(&self) -> u64 {
        let (_, page) = self.page("/metrics").await.expect("a page");
        let series = "reveille_dns_looks_total{outcome=\"answered\"} ";
        let value = page.lines().find_map(|line| line.strip_prefix(series)).expect("a series");
        value.parse().expect("a number")
    }

    async fn code(&self, name: &str) -> ResponseCode {
        ask(self.dns, name, RecordType::A).await.response_code
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_wakes_the_actor_it_names_and_not_again_at_once() {
    if !machine_can_run_it("wake hint") {
        return;
    }
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let before = cluster.client.get(COUNTER, "/").await.count();
    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    let asleep = cluster.reaches("demo", "counter", "Suspended").await;
    let dns = Beside::start(&cluster, &["--wake-hint"]).await;
    // The name of a namespace, and the instance's own server, which was told of no hints.
    ask(dns.dns, "demo.actors.localhost.", RecordType::A).await;
    ask(cluster.dns, "counter.demo.actors.localhost.", RecordType::A).await;
    assert_eq!(cluster.actor("demo", "counter").await["epoch"], asleep["epoch"]);

    // One question, and nobody sends a request.
    let first = Instant::now();
    assert_eq!(dns.code("counter.demo.actors.localhost.").await, ResponseCode::NoError);
    let awake = cluster.reaches("demo", "counter", "Running").await;
    let after = cluster.client.get(COUNTER, "/").await.count();
    assert_eq!((after.count, &after.nonce), (before.count + 1, &before.nonce));
    assert_eq!(cluster.actor("demo", "counter").await["epoch"], awake["epoch"]);

    // However often it is asked for, the control plane hears of it every few seconds.
    cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    cluster.reaches("demo", "counter", "Suspended").await;
    eventually("it is woken again", PATIENCE, || async {
        for _ in 0..20 {
            dns.code("counter.demo.actors.localhost.").await;
        }
        let actor = cluster.actor("demo", "counter").await;
        if actor["epoch"] != awake["epoch"] { Ok(()) } else { Err(actor.to_string()) }
    })
    .await;
    assert!(first.elapsed() >= EVERY, "woken again after {:?}", first.elapsed());
    let (looks, elapsed) = (dns.looks().await, first.elapsed());
    let most = 1 + elapsed.as_secs() / EVERY.as_secs();
    assert!((2..=most).contains(&looks), "{looks} calls in {elapsed:?}");
    drop(dns);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_no_actor_is_none_until_that_is_made() {
    if !machine_can_run_it("only existing") {
        return;
    }
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    let cluster = Cluster::start(Options::new(manifests)).await;
    let dns = Beside::start(&cluster, &["--only-existing"]).await;
    let becomes = async |name: &str, wanted: ResponseCode| {
        eventually(&format!("{name} is {wanted}"), PATIENCE, || async {
            match dns.code(name).await {
                code if code == wanted => Ok(()),
                other => Err(other),
            }
        })
        .await;
    };
    let (there, new) = ("counter.demo.actors.localhost.", "new.demo.actors.localhost.");
    becomes(new, ResponseCode::NXDomain).await;
    for _ in 0..20 {
        assert_eq!(dns.code(there).await, ResponseCode::NoError);
    }
    assert_eq!(dns.code("demo.actors.localhost.").await, ResponseCode::NoError);
    eventually("both were asked about", PATIENCE, || async {
        match dns.looks().await {
            2.. => Ok(()),
            looks => Err(looks),
        }
    })
    .await;

    // Made: the next call says so. One may have been under way already, and calls come every few seconds.
    let looks = dns.looks().await;
    cluster.ok(&["create", "actor", "new", "--template", "counter", "-n", "demo"]).await;
    becomes(new, ResponseCode::NoError).await;
    let more = dns.looks().await - looks;
    assert!((1..=2).contains(&more), "{more} calls until it was known");
    let answer = ask(dns.dns, new, RecordType::A).await;
    assert_eq!(answer.answers.len(), 1);
    // Nobody was woken by it.
    assert_eq!(cluster.actor("demo", "new").await["state"], "Suspended");

    cluster.ok(&["delete", "actor", "new", "-n", "demo"]).await;
    becomes(new, ResponseCode::NXDomain).await;
    drop(dns);
    cluster.stop().await;
}
