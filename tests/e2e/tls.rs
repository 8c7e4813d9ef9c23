//! Parts on TCP: each knows the others by their certificates, and answers nobody else.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use nix::sys::signal::Signal;
use reveille_api::{
    net::{Address, Expected, Role},
    proto::{
        Hello, NodeReport, Register, RouterReport, node_report, nodes_client::NodesClient,
        router_report, routers_client::RoutersClient,
    },
};
use tonic::Code;

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

/// An empty message as another implementation of TLS sends it; its answer is read by `status`.
fn call(at: SocketAddr, path: &str, identity: &[&str], dir: &Path) -> Curl {
    let empty = dir.join("empty");
    std::fs::write(&empty, [0; 5]).expect("written");
    let (url, body) = (format!("https://{at}/{path}"), format!("@{}", empty.display()));
    // Not who the server is, only who is served is looked at here.
    let fixed = ["-sSki", "--http2", "-H", "content-type: application/grpc", "-H", "te: trailers"];
    let more = ["--max-time", "3", "--data-binary", &body, &url];
    curl(&[&fixed, identity, &more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_server_refuses_who_has_no_certificate_or_the_wrong_role() {
    if !machine_can_run_it("refusals") {
        return;
    }
    let parts = start().await;
    let servers = [("controlplane", parts.control), ("node", parts.node), ("router", parts.router)];
    // Whom each call is for; nobody, where the server or everyone does not know it.
    let calls: [(&str, &[&str]); 8] = [
        (HEALTH, &["controlplane", "node", "router", "envoy", "dns", "client"]),
        (REFLECTION, &["controlplane", "node", "router", "envoy", "dns", "client"]),
        ("reveille.v1.Control/ListActors", &["client"]),
        ("reveille.v1.Routers/Wake", &["router"]),
        ("reveille.v1.Nodes/Session", &["node"]),
        ("reveille.v1.NodeAgent/GetInventory", &["controlplane"]),
        ("envoy.service.ext_proc.v3.ExternalProcessor/Process", &["envoy"]),
        ("no.such.Service/Method", &[]),
    ];
    for (server, at) in servers {
        for (path, roles) in calls {
            let nobody = call(at, path, &[], parts.dir.path());
            assert_ne!(nobody.code, 0, "{server} {path} without a certificate: {}", nobody.text);
            assert!(!nobody.text.contains("grpc-status"), "{server} {path}: {}", nobody.text);
            for (role, _) in IDENTITIES {
                let files = parts.files(role);
                let [cert, key] =
                    [&files.cert, &files.key].map(|path| path.to_str().expect("UTF-8"));
                let answer = call(at, path, &["--cert", cert, "--key", key], parts.dir.path());
                let refused = answer.text.contains("grpc-status: 7");
                assert!(answer.text.contains("HTTP/2 200"), "{server} {path}: {}", answer.text);
                let case = format!("{role} calls {path} of {server}: {}", answer.text);
                assert_eq!(refused, !roles.contains(&role), "{case}");
            }
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
