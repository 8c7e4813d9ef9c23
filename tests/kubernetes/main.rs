//! The built binary beside a real Kubernetes API server: `reveille dns install`, `uninstall` and `--front-service`, each with the
//! rights that `deploy/kubernetes` gives and no others; what it writes is read by CoreDNS's own reader. And the whole of that folder.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod apiserver;
mod manifests;

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use apiserver::{ApiServer, is_here, tool};
use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(30);
const COREFILE: &str = "\
.:53 {
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
    }
    forward . /etc/resolv.conf
    cache 30
    reload
}
# no line end after this";
const NODE_LOCAL: &str = "\
cluster.local:53 {
    bind 169.254.20.10 10.0.0.10
    forward . 10.0.0.10 {
            force_tcp
    }
    reload
    }
.:53 {
    bind 169.254.20.10 10.0.0.10
    forward . /etc/resolv.conf
    }
";

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn dns(kubeconfig: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
    command.arg("dns").args(args).env("KUBECONFIG", kubeconfig).stdin(Stdio::null());
    command
}

#[track_caller]
fn said(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What CoreDNS reads: for each block, its zones and its directives.
fn as_coredns_reads_it(corefile: &str) -> Vec<Value> {
    let mut reader = Command::new(tool("corefile"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    reader.stdin.take().unwrap().write_all(corefile.as_bytes()).unwrap();
    let output = reader.wait_with_output().unwrap();
    assert!(output.status.success(), "CoreDNS would not take it: {corefile}");
    serde_json::from_slice::<Value>(&output.stdout).unwrap().as_array().unwrap().clone()
}

async fn eventually(what: &str, probe: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !probe() {
        assert!(Instant::now() < end, "it did not happen: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn make_service(cluster: &ApiServer, name: &str, ip: &str) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "clusterIP": ip, "ports": [{ "name": "dns", "port": 53, "protocol": "UDP" }] },
    });
    let path = "/api/v1/namespaces/reveille-system/services";
    let (code, answer) = cluster.call("POST", path, Some(&service.to_string()));
    assert_eq!(code, 201, "{answer}");
}

fn delete_service(cluster: &ApiServer, name: &str) {
    let path = format!("/api/v1/namespaces/reveille-system/services/{name}");
    assert_eq!(cluster.call("DELETE", &path, None).0, 200);
}

#[tokio::test]
async fn a_clusters_dns_asks_ours_with_these_rights_and_only_as_long_as_it_is_wanted() {
    if !is_here() {
        return;
    }
    let cluster = ApiServer::start().await;
    for file in ["namespace.yaml", "dns.yaml", manifests::OPTIONAL] {
        cluster.apply(&manifests::folder().join(file));
    }
    the_cluster_is_changed_and_changed_back(&cluster).await;
    the_fronts_follow_their_service(&cluster).await;
    every_object_is_taken(&cluster);
}

/// Last: a Service that is made takes an address which the others name.
fn every_object_is_taken(cluster: &ApiServer) {
    for name in ["dns", "envoy"] {
        delete_service(cluster, name);
    }
    for file in manifests::files() {
        cluster.apply(&file);
        for (document, object) in manifests::documents(&file) {
            if object["spec"]["template"].is_object() {
                let wrong = document.replace("terminationGracePeriodSeconds", "gracePeriod");
                assert_ne!(wrong, document);
                let (code, answer) = cluster.apply_one(&wrong, &object);
                assert!(code >= 400 && answer.to_string().contains("gracePeriod"), "{answer}");
            }
        }
    }
}

async fn the_cluster_is_changed_and_changed_back(cluster: &ApiServer) {
    let config = cluster.kubeconfig("dns-install");
    let run = |args: &[&str]| dns(&config, args).output().unwrap();
    let output = run(&["install"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && stderr.contains("neither CoreDNS nor kube-dns"),
        "{stderr}"
    );

    delete_service(cluster, "dns");
    make_service(cluster, "dns", "10.0.0.20");
    let stub_domains = "{\"acme.local\": [\"1.2.3.4\"]}";
    cluster.put_config_map("coredns", &json!({ "Corefile": COREFILE, "other": "stays" }));
    cluster.put_config_map("node-local-dns", &json!({ "Corefile": NODE_LOCAL }));
    cluster.put_config_map("kube-dns", &json!({ "stubDomains": stub_domains }));

    // Told, not done.
    let before = cluster.config_map("coredns");
    let told = said(&run(&["install", "--dry-run"]));
    assert!(told.contains("configmap/coredns would be changed\n"), "{told}");
    assert!(told.contains("\n+    forward . 10.0.0.20\n"), "{told}");
    assert!(!told.contains("\n-."), "{told}");
    assert_eq!(cluster.config_map("coredns"), before);

    let told = said(&run(&["install"]));
    assert!(
        told.contains("configmap/coredns changed\n")
            && told.contains("configmap/kube-dns changed\n"),
        "{told}"
    );
    let installed = cluster.config_map("coredns");
    assert_eq!(installed["data"]["other"], "stays");
    let corefile = cluster.corefile("coredns");
    assert!(corefile.ends_with(COREFILE), "{corefile}");
    let blocks = as_coredns_reads_it(&corefile);
    assert_eq!(blocks[0]["keys"], json!(["actors.internal:53"]), "{blocks:?}");
    assert!(blocks[0]["body"].to_string().contains(r#"["forward",".","10.0.0.20"]"#), "{blocks:?}");
    assert_eq!(blocks[1], as_coredns_reads_it(COREFILE)[0]);
    let node_local = as_coredns_reads_it(&cluster.corefile("node-local-dns"));
    assert!(
        node_local[0]["body"].to_string().contains(r#"["bind","169.254.20.10","10.0.0.10"]"#),
        "{node_local:?}"
    );
    let stubs: Value = serde_json::from_str(
        cluster.config_map("kube-dns")["data"]["stubDomains"].as_str().unwrap(),
    )
    .unwrap();
    assert_eq!(stubs, json!({ "acme.local": ["1.2.3.4"], "actors.internal": ["10.0.0.20"] }));

    // Once more: not one write.
    let told = said(&run(&["install"]));
    assert!(told.contains("configmap/coredns unchanged\n") && !told.contains(" changed"), "{told}");
    assert_eq!(cluster.config_map("coredns"), installed);

    // Repaired, and moved with the Service.
    let mut watching =
        Running(dns(&config, &["install", "--watch"]).stdout(Stdio::null()).spawn().unwrap());
    cluster.put_config_map("coredns", &json!({ "Corefile": COREFILE }));
    eventually("repaired", || cluster.corefile("coredns") == corefile).await;
    delete_service(cluster, "dns");
    make_service(cluster, "dns", "10.0.0.21");
    eventually("moved", || cluster.corefile("coredns").contains("forward . 10.0.0.21\n")).await;
    let pid = nix::unistd::Pid::from_raw(watching.0.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(watching.0.wait().unwrap().success());

    let told = said(&run(&["uninstall"]));
    assert!(told.contains("configmap/coredns changed\n"), "{told}");
    assert_eq!(cluster.corefile("coredns"), COREFILE);
    assert_eq!(cluster.corefile("node-local-dns"), NODE_LOCAL);
    let kube_dns = cluster.config_map("kube-dns");
    assert_eq!(kube_dns["data"]["stubDomains"], "{\"acme.local\":[\"1.2.3.4\"]}\n");
    assert!(kube_dns["metadata"]["annotations"].is_null(), "{kube_dns}");
    assert!(said(&run(&["uninstall"])).contains("configmap/coredns unchanged\n"));

    // What would not work is left alone.
    let taken = format!("actors.internal {{\n    whoami\n}}\n{COREFILE}");
    cluster.put_config_map("coredns", &json!({ "Corefile": taken }));
    let output = run(&["install", "--target", "coredns"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && stderr.lines().count() == 1, "{stderr}");
    assert!(stderr.contains("line 1: actors.internal is served there already"), "{stderr}");
    assert_eq!(cluster.corefile("coredns"), taken);
    // And keeps nothing else from it.
    let output = run(&["install"]);
    let (told, wrong) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    assert!(wrong.as_ref().unwrap().contains("is served there already"), "{wrong:?}");
    assert!(
        !output.status.success() && told.as_ref().unwrap().contains("configmap/kube-dns changed\n"),
        "{told:?}"
    );
    assert!(said(&run(&["uninstall"])).contains("configmap/kube-dns changed\n"));

    // Its rights are no more than these.
    let maps = "/api/v1/namespaces/kube-system/configmaps";
    for (method, path) in [
        ("GET", format!("{maps}/extension-apiserver-authentication")),
        ("GET", maps.to_owned()),
        ("DELETE", format!("{maps}/coredns")),
        ("GET", "/api/v1/namespaces/kube-system/secrets".to_owned()),
        ("GET", "/api/v1/namespaces/reveille-system/services/envoy".to_owned()),
    ] {
        assert_eq!(cluster.call_as("dns-install", method, &path, None).0, 403, "{method} {path}");
    }
    assert_eq!(cluster.call_as("dns", "GET", &format!("{maps}/coredns"), None).0, 403);
    // One who may not is told so in one line.
    let output = dns(&cluster.kubeconfig("dns"), &["install"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && stderr.lines().count() == 1 && stderr.contains("orbidden"),
        "{stderr}"
    );
}

async fn the_fronts_follow_their_service(cluster: &ApiServer) {
    let listen = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let args = ["--listen", &listen.to_string(), "--front-service", "reveille-system/envoy"];
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut server = dns(&cluster.kubeconfig("dns"), &args);
    let _server = Running(server.stderr(log.reopen().unwrap()).spawn().unwrap());
    let logged = |what: &str| std::fs::read_to_string(log.path()).unwrap().contains(what);
    eventually("told that there is none", || logged("reveille-system/envoy: there is none")).await;
    let path = "/api/v1/namespaces/reveille-system/services/envoy";
    make_service(cluster, "envoy", "10.0.0.30");
    eventually("its cluster IP", || ask(listen) == ["10.0.0.30"]).await;

    // What is to be its load balancer has no address yet.
    let outside = json!({ "spec": { "type": "LoadBalancer" } });
    assert_eq!(cluster.call("PATCH", path, Some(&outside.to_string())).0, 200);
    eventually("told that it is not there yet", || logged("has no address yet")).await;
    assert_eq!(ask(listen), ["10.0.0.30"]);

    // Whatever changes below, and nobody looks at times: each change comes by the watch.
    let enough = Arc::new(AtomicBool::new(false));
    let last = Arc::clone(&enough);
    let asking = std::thread::spawn(move || {
        let mut asked = 0;
        while !last.load(Ordering::Relaxed) {
            assert!(!ask(listen).is_empty(), "an empty answer in between");
            asked += 1;
        }
        asked
    });
    let ingress = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.7" }] } } });
    let changed = Instant::now();
    assert_eq!(cluster.call("PATCH", &format!("{path}/status"), Some(&ingress.to_string())).0, 200);
    eventually("its load balancer", || ask(listen) == ["192.0.2.7"]).await;
    eprintln!("a changed Service was answered after {:?}", changed.elapsed());
    // Gone, and still answered.
    delete_service(cluster, "envoy");
    make_service(cluster, "envoy", "10.0.0.31");
    eventually("the next one", || ask(listen) == ["10.0.0.31"]).await;
    enough.store(true, Ordering::Relaxed);
    let asked: u32 = asking.join().expect("no empty answer");
    assert!(asked > 2, "{asked} questions");
}

/// The addresses of an actor; nothing while the server does not answer.
fn ask(server: SocketAddr) -> Vec<String> {
    let mut message = Message::query();
    let name = Name::from_ascii("counter.demo.actors.internal.").unwrap();
    message.add_query(Query::query(name, RecordType::A));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.connect(server).unwrap();
    socket.send(&message.to_vec().unwrap()).unwrap();
    let mut buffer = [0; 1_500];
    let Ok(n) = socket.recv(&mut buffer) else { return Vec::new() };
    let reply = Message::from_vec(&buffer[..n]).unwrap();
    reply.answers.iter().map(|answer| answer.data.to_string()).collect()
}
