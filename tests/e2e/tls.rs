//! Parts on TCP: each knows the others by their certificates, and answers nobody else.

use std::{process::Command, time::Duration};

use nix::sys::signal::Signal;
use reveille_api::{
    net::{Address, Expected, Role},
    proto::{
        Hello, NodeReport, Register, RouterReport, node_report, nodes_client::NodesClient,
        router_report, routers_client::RoutersClient,
    },
};
use tonic::{Code, Request, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use crate::{
    COUNTER,
    harness::{
        eventually, machine_can_run_it,
        manifest::Manifests,
        parts::{IDENTITIES, Parts},
    },
};

async fn start() -> Parts {
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    Parts::start(manifests).await
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_on_tcp_wake_an_actor_and_take_up_new_certificates() {
    if !machine_can_run_it("parts on TCP") {
        return;
    }
    let mut parts = start().await;
    let first = parts.client.get(COUNTER, "/").await.count();
    parts.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    let answer = parts.client.get(COUNTER, "/").await;
    assert_eq!(answer.header("x-reveille-wake"), Some("restored"));
    assert_eq!((answer.count().count, &answer.count().nonce), (2, &first.nonce));

    let serial = envoys_certificate(&parts);
    parts.issue(&["--force"]).await;
    eventually("Envoy has its new certificate", Duration::from_secs(20), || async {
        let now = envoys_certificate(&parts);
        if now != serial { Ok(()) } else { Err(now) }
    })
    .await;
    // Everybody who talks to the router or is talked to by it must do so anew.
    parts.end("router", Signal::SIGTERM).await;
    parts.run("router");
    parts.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    let again = eventually("it answers again", Duration::from_secs(30), || async {
        let answer = parts.client.get(COUNTER, "/").await;
        if answer.status == 200 { Ok(answer.count()) } else { Err(answer) }
    })
    .await;
    assert_eq!((again.count, &again.nonce), (3, &first.nonce));
    parts.stop().await;
}

/// Serial numbers, as Envoy's admin page tells them.
fn envoys_certificate(parts: &Parts) -> Vec<String> {
    let page = curl(&["-s", &format!("http://{}/certs", parts.admin)]);
    let lines = page.text.lines().filter(|line| line.contains("serial_number"));
    lines.map(|line| line.trim().to_owned()).collect()
}

struct Curl {
    code: i32,
    text: String,
}

fn curl(args: &[&str]) -> Curl {
    let output = Command::new("curl").args(["--max-time", "20"]).args(args).output();
    let output = output.expect("curl runs");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    Curl { code: output.status.code().unwrap_or(-1), text }
}

const HEALTH: &str = "grpc.health.v1.Health/Check";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// The code of a call with an empty message; nothing while it goes on.
async fn call(channel: &Channel, path: &str) -> Option<Code> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.expect("a connection");
    let path = format!("/{path}").parse().expect("a path");
    let codec = ProstCodec::<(), ()>::default();
    let called = client.unary(Request::new(()), path, codec);
    let outcome = tokio::time::timeout(Duration::from_secs(2), called).await.ok()?;
    Some(outcome.map_or_else(|status| status.code(), |_| Code::Ok))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_server_refuses_who_has_no_certificate_or_the_wrong_role() {
    if !machine_can_run_it("refusals") {
        return;
    }
    let parts = start().await;
    // And who has anything to ask of them.
    let servers: [(_, _, &[&str]); 3] = [
        ("controlplane", parts.control, &["client", "router", "node"]),
        ("node", parts.node, &["controlplane"]),
        ("router", parts.router, &["envoy"]),
    ];
    // Whom each call is for; nobody, where the server or everyone does not know it.
    let calls: [(&str, &[&str]); 7] = [
        ("reveille.v1.Control/ListActors", &["client"]),
        ("reveille.v1.Routers/Wake", &["router"]),
        ("reveille.v1.Nodes/Session", &["node"]),
        ("reveille.v1.Names/Look", &["dns"]),
        ("reveille.v1.NodeAgent/GetInventory", &["controlplane"]),
        ("envoy.service.ext_proc.v3.ExternalProcessor/Process", &["envoy"]),
        ("no.such.Service/Method", &[]),
    ];
    for (server, at, callers) in servers {
        let calls = [[(HEALTH, callers), (REFLECTION, callers)].as_slice(), &calls].concat();
        let role = server.parse().expect("a role");
        for (caller, _) in IDENTITIES {
            let transport = parts.transport(caller);
            let channel = transport.channel(&Address::Tcp(at), Expected::any(role));
            let channel = channel.expect("a channel");
            for (path, roles) in &calls {
                let refused = call(&channel, path).await == Some(Code::PermissionDenied);
                assert_eq!(refused, !roles.contains(&caller), "{caller} calls {path} of {server}");
            }
        }
        for (path, _) in &calls {
            // Another implementation of TLS; who the server is does not matter here.
            let nobody = curl(&["-sSki", "--http2", "-d", "", &format!("https://{at}/{path}")]);
            assert_ne!(nobody.code, 0, "{server} {path} without a certificate: {}", nobody.text);
            assert!(!nobody.text.contains("HTTP/2"), "{server} {path}: {}", nobody.text);
        }
        // Plain text, to a port that speaks TLS.
        let plain = curl(&["-sS", "--http2-prior-knowledge", &format!("http://{at}/{HEALTH}")]);
        assert_ne!(plain.code, 0, "{server}: {}", plain.text);
    }

    let control = Address::Tcp(parts.control);
    let whom = || Expected::any(Role::ControlPlane);
    let node = parts.transport("node").channel(&control, whom()).expect("a channel");
    let register =
        Register { node: "n2".into(), address: "127.0.0.1:1".into(), ..Default::default() };
    let report = NodeReport { report: Some(node_report::Report::Register(register)) };
    let first = NodesClient::new(node).session(futures::stream::iter([report])).await;
    let status = match first {
        Ok(reply) => reply.into_inner().message().await.expect_err("refused"),
        Err(status) => status,
    };
    assert_eq!(status.code(), Code::PermissionDenied, "node n1 registers as n2: {status}");

    let router = parts.transport("router").channel(&control, whom()).expect("a channel");
    let hello = Hello { router: "r2".into(), instance: "i".into() };
    let report = RouterReport { report: Some(router_report::Report::Hello(hello)) };
    let session = RoutersClient::new(router).session(futures::stream::iter([report])).await;
    let mut commands = session.expect("a session").into_inner();
    let status = loop {
        match commands.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("router r1 says Hello as r2, and is not refused"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let routers = parts.ok(&["get", "nodes", "-o", "json"]).await;
    assert!(!routers.contains("\"n2\""), "{routers}");
    parts.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_takes_nobody_but_a_router_for_the_router() {
    if !machine_can_run_it("Envoy and an impostor") {
        return;
    }
    let mut parts = start().await;
    parts.end("envoy", Signal::SIGTERM).await;
    let router = std::mem::replace(&mut parts.router, parts.control);
    parts.run("envoy");
    let stats = format!("http://{}/stats?filter=^cluster.xds.ssl", parts.admin);
    eventually("Envoy sees that it is no router", Duration::from_secs(20), || async {
        let stats = curl(&["-s", &stats]).text;
        let failed =
            stats.lines().find_map(|line| line.strip_prefix("cluster.xds.ssl.fail_verify_san: "));
        if failed.is_some_and(|times| times != "0") { Ok(()) } else { Err(stats) }
    })
    .await;
    let handshakes = curl(&["-s", &stats]).text;
    assert!(handshakes.contains("cluster.xds.ssl.handshake: 0"), "{handshakes}");
    parts.router = router;
    parts.stop().await;
}
