//! A server on this machine, and clients of it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, Query},
    rr::{Name, RecordType},
};
use reveille_api::{Zone, net::Address};
use reveille_dns::{Addrs, App, Config, Fronts, Source};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const ACTOR: &str = "cOuNtEr.demo.actors.LOCALHOST.";

pub(crate) struct Running {
    pub(crate) addrs: Addrs,
    pub(crate) fronts: Fronts,
    pub(crate) shutdown: CancellationToken,
    tasks: JoinSet<Result<(), reveille_dns::Error>>,
}

impl Running {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addrs.dns[0]
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        let ended = timeout(PATIENCE, self.tasks.join_next()).await.expect("it goes on").unwrap();
        assert!(ended.unwrap().is_ok());
    }

    /// One series of its metrics.
    pub(crate) async fn metric(&self, series: &str) -> u64 {
        let page = self.get("/metrics").await;
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {series} in {page}")).parse().unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        let Some(Address::Tcp(status)) = &self.addrs.status else { panic!("{:?}", self.addrs) };
        let mut stream = TcpStream::connect(status).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut page = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut page)).await.expect("no page").unwrap();
        page
    }
}

pub(crate) fn zone() -> Zone {
    "actors.localhost".parse().unwrap()
}

pub(crate) fn loopback() -> Vec<IpAddr> {
    vec![Ipv4Addr::LOCALHOST.into()]
}

pub(crate) fn config(fronts: Source) -> Config {
    let port = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Config { status: Some(Address::Tcp(port(0))), ..Config::new(port(0), zone(), fronts) }
}

pub(crate) async fn start() -> Running {
    start_with(loopback()).await
}

pub(crate) async fn start_with(fronts: Vec<IpAddr>) -> Running {
    run(config(Source::Given(fronts))).await
}

pub(crate) async fn run(config: Config) -> Running {
    serve(config.build().await.unwrap())
}

pub(crate) fn serve(app: App) -> Running {
    let (addrs, fronts) = (app.addrs().clone(), app.fronts());
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(app.run(shutdown.clone()));
    Running { addrs, fronts, shutdown, tasks }
}

pub(crate) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

pub(crate) fn with_edns(mut message: Message, payload: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_version(version);
    message.set_edns(edns);
    message
}

pub(crate) async fn udp_raw(addr: SocketAddr, message: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(message, addr).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let n = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("no reply").unwrap();
    buffer.truncate(n);
    buffer
}

pub(crate) async fn udp(addr: SocketAddr, message: Message) -> Message {
    let reply =
        Message::from_vec(&udp_raw(addr, &message.to_vec().unwrap()).await).expect("a message");
    assert_eq!(reply.metadata.id, message.metadata.id);
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    reply
}

pub(crate) async fn tcp(addr: SocketAddr, message: Message) -> Message {
    stream(&mut TcpStream::connect(addr).await.unwrap(), message).await
}

pub(crate) async fn stream(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    message: Message,
) -> Message {
    let bytes = message.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
    let len = timeout(PATIENCE, stream.read_u16()).await.expect("no reply").unwrap();
    let mut reply = vec![0; len.into()];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

/// Asks until it holds.
pub(crate) async fn eventually<F: Future<Output = Result<(), String>>>(ask: impl Fn() -> F) {
    let end = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(()) => return,
            Err(last) if Instant::now() > end => panic!("still: {last}"),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}
