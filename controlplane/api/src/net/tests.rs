//! Real connections on loopback, with certificates made for the occasion.

mod authority;

use std::{io, net::Ipv4Addr, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tonic::{Code, Request, Response, Status, transport::Server};

use super::*;
use crate::{
    proto::{
        ActivateReply, ActivateRequest, ActivationRef, DeleteSnapshotsReply,
        DeleteSnapshotsRequest, DestroyReply, FreezeReply, GetInventoryRequest, Inventory,
        LogChunk, LogsRequest, ResumeReply, SuspendReply, SuspendRequest,
        node_agent_client::NodeAgentClient,
        node_agent_server::{NodeAgent, NodeAgentServer},
    },
    task,
};
use authority::{Authority, Leaf, TRUST_DOMAIN};

const CONTROL_PLANE: &str = "spiffe://test.example/reveille/controlplane";
const N1: &str = "spiffe://test.example/reveille/node/n1";
const N2: &str = "spiffe://test.example/reveille/node/n2";

/// A node agent that has nothing; it tells who asked, as the instance of its inventory.
struct Agent;

#[tonic::async_trait]
impl NodeAgent for Agent {
    async fn get_inventory(
        &self,
        _: Request<GetInventoryRequest>,
    ) -> Result<Response<Inventory>, Status> {
        Ok(Response::new(Inventory::default()))
    }

    async fn activate(
        &self,
        _: Request<ActivateRequest>,
    ) -> Result<Response<ActivateReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn suspend(&self, _: Request<SuspendRequest>) -> Result<Response<SuspendReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn freeze(&self, _: Request<ActivationRef>) -> Result<Response<FreezeReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn resume(&self, _: Request<ActivationRef>) -> Result<Response<ResumeReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn destroy(&self, _: Request<ActivationRef>) -> Result<Response<DestroyReply>, Status> {
        Err(Status::unimplemented(""))
    }

    type LogsStream = futures::stream::Empty<Result<LogChunk, Status>>;

    async fn logs(&self, _: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_snapshots(
        &self,
        _: Request<DeleteSnapshotsRequest>,
    ) -> Result<Response<DeleteSnapshotsReply>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Node n1's agent, and the CA of everybody here.
struct Rig {
    folder: TempDir,
    authority: Authority,
    address: Address,
    _server: JoinSet<()>,
}

impl Rig {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let transport = authority.transport(&Leaf::of(N1));
        let address: Address = "127.0.0.1:0".parse().unwrap();
        let listener = transport.listen(&address).await.unwrap();
        let (address, server) = serve(listener);
        Self { folder, authority, address, _server: server }
    }

    /// As whom it is, to node n1.
    async fn ask(&self, caller: &Transport) -> Result<Inventory, Status> {
        ask(caller, &self.address, Expected::named(Role::Node, "n1")).await
    }

    async fn ask_as(&self, uri: &str) -> Result<Inventory, Status> {
        self.ask(&self.authority.transport(&Leaf::of(uri))).await
    }
}

fn serve(listener: Listener) -> (Address, JoinSet<()>) {
    let address = listener.address().unwrap();
    let mut server = JoinSet::new();
    task::spawn(&mut server, "agent", async {
        let server = Server::builder()
            .layer(Authorize::new(&[Role::ControlPlane]))
            .add_service(NodeAgentServer::new(Agent));
        server.serve_with_incoming(listener.incoming()).await.unwrap();
    });
    (address, server)
}

async fn ask(caller: &Transport, at: &Address, whom: Expected) -> Result<Inventory, Status> {
    let mut agent = NodeAgentClient::new(caller.channel(at, whom).unwrap());
    let asked = agent.get_inventory(GetInventoryRequest {});
    let reply = tokio::time::timeout(Duration::from_secs(20), asked).await.expect("an answer");
    reply.map(Response::into_inner)
}

/// Every reason that is somewhere in it.
fn said(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

#[tokio::test]
async fn two_parts_with_certificates_of_one_ca_talk() {
    let rig = Rig::start().await;
    rig.ask_as(CONTROL_PLANE).await.unwrap();
    // Also by a name.
    let Address::Tcp(address) = rig.address else { panic!() };
    let by_name: Address = format!("localhost:{}", address.port()).parse().unwrap();
    let caller = rig.authority.transport(&Leaf::of(CONTROL_PLANE));
    ask(&caller, &by_name, Expected::any(Role::Node)).await.unwrap();
}

#[tokio::test]
async fn a_caller_of_the_wrong_role_is_told_so_whatever_the_path() {
    async fn call(channel: &tonic::transport::Channel, path: &str) -> Code {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        client.unary(Request::new(()), path.parse().unwrap(), codec).await.unwrap_err().code()
    }
    const NEUTRAL: [&str; 2] =
        ["/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/Info"];
    let rig = Rig::start().await;
    for role in Role::ALL.into_iter().filter(|role| *role != Role::ControlPlane) {
        let uri = format!("spiffe://{TRUST_DOMAIN}/reveille/{role}/n1");
        let status = rig.ask_as(&uri).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{role}: {status}");
        assert!(status.message().contains(&uri), "{status}");
        assert!(status.message().contains("takes one of role controlplane"), "{status}");
        let caller = rig.authority.transport(&Leaf::of(&uri));
        let channel = caller.channel(&rig.address, Expected::any(Role::Node)).unwrap();
        for path in NEUTRAL {
            assert_eq!(call(&channel, path).await, Code::PermissionDenied, "{role}: {path}");
        }
    }
    // What the server does not serve, it does not tell strangers either.
    let caller = rig.authority.transport(&Leaf::of(CONTROL_PLANE));
    let channel = caller.channel(&rig.address, Expected::any(Role::Node)).unwrap();
    for path in ["/reveille.v1.Control/Drain", "/no.such.Service/Method", "/x", "//"] {
        assert_eq!(call(&channel, path).await, Code::PermissionDenied, "{path}");
    }
    for path in NEUTRAL {
        assert_eq!(call(&channel, path).await, Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn who_answers_must_be_who_was_called() {
    let rig = Rig::start().await;
    let caller = rig.authority.transport(&Leaf::of(CONTROL_PLANE));
    for (wanted, shown) in [
        (Expected::named(Role::Node, "n2"), "node \"n2\""),
        (Expected::any(Role::Router), "a router"),
    ] {
        let status = ask(&caller, &rig.address, wanted).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let said = said(&status);
        assert!(said.contains(&format!("{N1} answers instead of {shown}")), "{said}");
    }
}

#[tokio::test]
async fn strangers_are_refused_before_they_can_ask_anything() {
    let rig = Rig::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Authority::new(elsewhere.path());
    let past = Leaf { valid: -3600..-60, ..Leaf::of(CONTROL_PLANE) };
    let future = Leaf { valid: 3600..7200, ..Leaf::of(CONTROL_PLANE) };
    let foreign = Leaf::of("spiffe://other.example/reveille/controlplane");
    let stranger = |leaf: &Leaf| rig.authority.unchecked(leaf);
    for (case, config) in [
        ("no certificate", rig.authority.nobody()),
        ("another CA", other.unchecked(&Leaf::of(CONTROL_PLANE))),
        ("expired", stranger(&past)),
        ("not valid yet", stranger(&future)),
        ("another trust domain", stranger(&foreign)),
        ("an unknown role", stranger(&Leaf::of("spiffe://test.example/reveille/emperor"))),
        ("a node without a name", stranger(&Leaf::of("spiffe://test.example/reveille/node"))),
        ("no identity", stranger(&Leaf { uris: vec![], ..Leaf::of(CONTROL_PLANE) })),
        (
            "two identities",
            stranger(&Leaf { uris: vec![CONTROL_PLANE.into(), N1.into()], ..Leaf::of(N1) }),
        ),
        ("no ALPN", without_alpn(rig.authority.unchecked(&Leaf::of(CONTROL_PLANE)))),
    ] {
        let outcome = first_byte(&rig.address, config).await;
        assert!(outcome.is_err(), "{case}: the server began to speak HTTP/2");
    }
    let good = rig.authority.unchecked(&Leaf::of(CONTROL_PLANE));
    first_byte(&rig.address, good).await.expect("the same with a good certificate");
}

fn without_alpn(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols.clear();
    config
}

/// What the server says first. HTTP/2 begins with its settings.
async fn first_byte(at: &Address, config: ClientConfig) -> io::Result<u8> {
    let Address::Tcp(at) = at else { panic!() };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::from(Ipv4Addr::LOCALHOST);
    let read = async {
        let stream = TcpStream::connect(at).await.unwrap();
        let mut stream = connector.connect(name, stream).await?;
        stream.read_u8().await
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("an answer")
}

#[tokio::test]
async fn plain_text_and_garbage_get_nothing_and_harm_nobody() {
    let rig = Rig::start().await;
    let Address::Tcp(at) = rig.address else { panic!() };
    // Silent, until the end: it holds up nobody.
    let _silent = TcpStream::connect(at).await.unwrap();
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for garbage in [http2, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), vec![0; 4096]] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(&garbage).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let read = tokio::time::timeout(Duration::from_secs(20), read).await;
        let _ = read.expect("the connection is closed");
        // At most a TLS alert: type 21, version 3.x.
        assert!(answer.is_empty() || answer.starts_with(&[21, 3]), "{answer:?}");
    }
    // A client of ours without TLS is told nothing either.
    let mut plain = NodeAgentClient::new(rig.address.channel());
    let status = plain.get_inventory(GetInventoryRequest {}).await.unwrap_err();
    assert_ne!(status.code(), Code::PermissionDenied, "{status}");
    assert_ne!(status.code(), Code::Unauthenticated, "{status}");
    rig.ask_as(CONTROL_PLANE).await.unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart_and_connections_stay() {
    let rig = Rig::start().await;
    let leaf = Leaf::of(CONTROL_PLANE);
    let caller = rig.authority.transport(&leaf);
    let channel = caller.channel(&rig.address, Expected::any(Role::Node)).unwrap();
    let mut before = NodeAgentClient::new(channel);
    before.get_inventory(GetInventoryRequest {}).await.unwrap();
    // Everything moves to another CA, the server's certificate first.
    let next = Authority::new(&rig.folder.path().join("next"));
    next.replace(&rig.authority, &Leaf::of(N1));
    let status = rig.ask(&caller).await.unwrap_err();
    assert!(said(&status).contains("invalid peer certificate"), "{}", said(&status));
    next.replace(&rig.authority, &leaf);
    rig.ask(&caller).await.expect("both sides have taken up theirs");
    // The connection of before is neither broken nor asked again.
    before.get_inventory(GetInventoryRequest {}).await.unwrap();
}

#[tokio::test]
async fn files_that_cannot_be_used_are_not_taken_up() {
    let rig = Rig::start().await;
    let files = rig.authority.place(&Leaf::of(N1));
    let good = std::fs::read(&files.cert).unwrap();
    let other = rig.authority.issue(&Leaf::of(N2));
    for bad in [b"".to_vec(), b"half of a cert".to_vec(), other.0.into_bytes()] {
        std::fs::write(&files.cert, bad).unwrap();
        rig.ask_as(CONTROL_PLANE).await.expect("the certificate of before is kept");
    }
    std::fs::remove_file(&files.cert).unwrap();
    rig.ask_as(CONTROL_PLANE).await.expect("the certificate of before is kept");
    // A whole pair, but of another node: a part does not become another one while it runs.
    let key = std::fs::read(&files.key).unwrap();
    let (cert_of_n2, key_of_n2) = rig.authority.issue(&Leaf::of(N2));
    std::fs::write(&files.cert, cert_of_n2).unwrap();
    std::fs::write(&files.key, key_of_n2).unwrap();
    rig.ask_as(CONTROL_PLANE).await.expect("the certificate of before is kept");
    std::fs::write(&files.cert, good).unwrap();
    std::fs::write(&files.key, key).unwrap();
    rig.ask_as(CONTROL_PLANE).await.unwrap();
}

#[test]
fn what_is_wrong_with_the_files_is_told_without_what_is_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let load = |leaf: &Leaf| {
        let error = Tls::load(authority.files(leaf)).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    };
    let past = Leaf { valid: -3600..-60, ..Leaf::of(N1) };
    assert!(load(&past).contains("certificate expired"), "{}", load(&past));
    let nobody = Leaf { uris: vec![], ..Leaf::of(CONTROL_PLANE) };
    assert!(load(&nobody).contains("has 0 URI names"), "{}", load(&nobody));
    let good = authority.files(&Leaf::of(CONTROL_PLANE));
    for mode in [0o640, 0o604, 0o644, 0o660] {
        std::fs::set_permissions(&good.key, PermissionsExt::from_mode(mode)).unwrap();
        let error = Tls::load(good.clone()).unwrap_err().to_string();
        assert!(error.contains(&format!("mode {mode:o}): chmod 600 it")), "{error}");
    }
    std::fs::set_permissions(&good.key, PermissionsExt::from_mode(0o600)).unwrap();
    Tls::load(good.clone()).unwrap();
    let secret = std::fs::read_to_string(&good.key).unwrap();
    let inside = secret.lines().nth(1).unwrap();
    // A key with a letter too many, and one where a certificate should be.
    std::fs::write(&good.key, secret.replacen(inside, &format!("{inside}!"), 1)).unwrap();
    let broken = Tls::load(good.clone()).unwrap_err();
    let misplaced = Tls::load(TlsFiles { cert: good.key.clone(), ..good.clone() }).unwrap_err();
    let (_, foreign) = authority.issue(&Leaf::of(N1));
    std::fs::write(&good.key, foreign).unwrap();
    let mismatch = Tls::load(good.clone()).unwrap_err();
    assert!(mismatch.to_string().contains("cannot be used with"), "{mismatch}");
    for error in [broken, misplaced, mismatch] {
        let text = format!("{error} {error:?}");
        assert!(!text.contains(&inside[..16]), "{text}");
    }
}

#[tokio::test]
async fn without_a_certificate_tcp_is_refused_on_both_sides() {
    let transport = Transport::unix();
    for (address, why) in [
        ("127.0.0.1:0", "is open to everybody here"),
        ("0.0.0.0:0", "is open to everybody here"),
        ("control.example:8082", "is a name"),
    ] {
        let address: Address = address.parse().unwrap();
        let error = transport.listen(&address).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        let error = transport.channel(&address, Expected::any(Role::Node)).unwrap_err();
        assert!(error.to_string().contains("--tls-cert"), "{error}");
    }
    let error = "0.0.0.0:0".parse::<Address>().unwrap().listen().await.unwrap_err();
    assert!(error.to_string().contains("is not a loopback address"), "{error}");
    // Plain TCP on loopback is possible, for servers that ask for a token; all others refuse.
    let listener = "127.0.0.1:0".parse::<Address>().unwrap().listen().await.unwrap();
    let (address, _server) = serve(listener);
    let mut agent = NodeAgentClient::new(address.channel());
    let status = agent.get_inventory(GetInventoryRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
}

#[tokio::test]
async fn a_unix_socket_is_for_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let address = Address::Unix(path.clone());
    let (_, _server) = serve(Transport::unix().listen(&address).await.unwrap());
    let caller = Transport::unix();
    ask(&caller, &address, Expected::any(Role::Node)).await.expect("we ourselves");
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!("SKIPPED: another user's connection needs root");
        return;
    }
    // As if somebody had opened the way to it.
    for (path, mode) in [(folder.path(), 0o755), (path.as_path(), 0o666)] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    let (sender, said) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        use std::io::Read;
        // Of this thread alone; the kernel notes it at connect.
        let nobody = rustix::process::Uid::from_raw(65_534);
        rustix::thread::set_thread_uid(nobody).unwrap();
        let mut answer = Vec::new();
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let outcome = stream.read_to_end(&mut answer).map(|_| answer);
        let _ = sender.send(outcome);
    });
    let said = said.await.unwrap().expect("the connection is closed");
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn identities_are_read_strictly() {
    for (text, role, name) in [
        (CONTROL_PLANE, Role::ControlPlane, None),
        (N1, Role::Node, Some("n1")),
        ("spiffe://a/reveille/client/jo.doe_2", Role::Client, Some("jo.doe_2")),
    ] {
        let identity: Identity = text.parse().unwrap();
        assert_eq!((identity.role(), identity.name()), (role, name));
        assert_eq!(identity.to_string(), text);
    }
    for wrong in [
        "",
        "spiffe://a/reveille/node",
        "spiffe://a/reveille/node/",
        "spiffe://a/reveille/node/n1/x",
        "spiffe://a/reveille/node/n1/",
        "spiffe://a/reveille/nodes/n1",
        "spiffe://a/reveille/Node/n1",
        "spiffe://a/other/node/n1",
        "spiffe:///reveille/node/n1",
        "spiffe://A/reveille/node/n1",
        "spiffe://a/reveille/node/..",
        "spiffe://a/reveille/node/n%31",
        "SPIFFE://a/reveille/node/n1",
        "https://a/reveille/node/n1",
    ] {
        assert!(wrong.parse::<Identity>().is_err(), "{wrong}");
    }
}

#[test]
fn a_name_is_its_holders_alone() {
    let extensions = |peer: Peer| {
        let mut extensions = http::Extensions::new();
        extensions.insert(peer);
        extensions
    };
    let certified = |uri: &str| extensions(Peer::Certified(Arc::new(uri.parse().unwrap())));
    assert!(named(&certified(N1), Role::Node, "n1").is_ok());
    assert!(named(&extensions(Peer::Local), Role::Node, "n1").is_ok());
    for (who, role, name) in [
        (certified(N1), Role::Node, "n2"),
        (certified(N1), Role::Node, ""),
        (certified(N1), Role::Router, "n1"),
        (certified(CONTROL_PLANE), Role::Node, "n1"),
    ] {
        assert_eq!(named(&who, role, name).unwrap_err().code(), Code::PermissionDenied);
    }
    for who in [extensions(Peer::Anybody), http::Extensions::new()] {
        assert_eq!(named(&who, Role::Node, "n1").unwrap_err().code(), Code::Unauthenticated);
    }
}

#[test]
fn every_service_of_the_protos_has_its_row() {
    use prost::Message;
    let files = prost_types::FileDescriptorSet::decode(crate::proto::DESCRIPTORS).unwrap().file;
    let services = files.iter().flat_map(|file| {
        file.service.iter().map(|service| format!("{}.{}", file.package(), service.name()))
    });
    let mut all = 0;
    for service in services {
        let rows: Vec<_> = authorize::TABLE.iter().filter(|row| row.0 == service).collect();
        assert!(matches!(rows.as_slice(), [(_, [_, ..])]), "{service}: one row: {rows:?}");
        all += 1;
    }
    assert_eq!(all, 6);
}

#[test]
fn addresses_are_sockets_numbers_or_names() {
    let parse = |text: &str| text.parse::<Address>();
    assert!(matches!(parse("http://127.0.0.1:1"), Ok(Address::Tcp(_))));
    assert!(matches!(parse("[::1]:1"), Ok(Address::Tcp(_))));
    let Ok(Address::Name { host, port }) = parse("control-0.reveille.svc:8082") else { panic!() };
    assert_eq!((host.as_str(), port), ("control-0.reveille.svc", 8082));
    for text in ["unix:/run/a.sock", "127.0.0.1:1", "[::1]:1", "a.b:1"] {
        assert_eq!(parse(text).unwrap().to_string(), text);
    }
    for wrong in [
        "",
        "unix:",
        "nowhere",
        "a:b",
        "a:0",
        "127.0.0:1",
        "1.2.3.4.5:1",
        "a b:1",
        "-a:1",
        ":1",
        "a..b:1",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}
