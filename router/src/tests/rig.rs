//! A whole router on Unix sockets, with a fake control plane.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reveille_api::{
    Ladder,
    metrics::Registry,
    net::{Address, Transport},
    task,
};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{
    HOST, binding, counter,
    envoy::{self, Exchange},
    fake::{Fake, Session},
    reply,
};
use crate::{Config, Error, app::Parts, router::Router};

/// See the module.
pub(super) struct Rig {
    pub(super) envoy: Channel,
    pub(super) grpc: Address,
    pub(super) status: SocketAddr,
    pub(super) control_plane: Address,
    pub(super) shutdown: CancellationToken,
    pub(super) hurry: CancellationToken,
    pub(super) running: JoinSet<Result<(), Error>>,
    pub(super) router: Arc<Router>,
    _folder: TempDir,
}

/// 1 s to wake, 2 s to wait, 1,200 places, 5 s to drain and no grace.
pub(super) fn ladder() -> Ladder {
    let s = Duration::from_secs(1);
    let ladder = Ladder::new(s, 2 * s, 1_200, 65_536).unwrap();
    ladder.with_drain(5 * s).unwrap().with_grace(Duration::ZERO).unwrap()
}

impl Rig {
    pub(super) async fn start() -> (Self, Fake) {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Config)) -> (Self, Fake) {
        let folder = tempfile::tempdir().unwrap();
        let control_plane = Address::Unix(folder.path().join("control.sock"));
        let fake = Fake::listen(&control_plane).await;
        let mut config = Config {
            transport: Transport::unix(),
            listen: Address::Unix(folder.path().join("router.sock")),
            status: "127.0.0.1:0".parse().unwrap(),
            others: Vec::new(),
            control_plane: control_plane.clone(),
            zone: "actors.test".parse().unwrap(),
            ladder: ladder(),
            router: "router-1".into(),
            http: vec!["127.0.0.1:8080".parse().unwrap()],
            https: None,
            access_log: None,
            traces: None,
            namespace_share: 50,
        };
        change(&mut config);
        let hurry = CancellationToken::new();
        let app = config.build().await.unwrap().hurried_by(hurry.clone());
        let (grpc, status) = (app.addrs().grpc.clone(), app.addrs().status);
        let envoy = grpc.channel();
        let router = app.router();
        let shutdown = CancellationToken::new();
        let mut running = JoinSet::new();
        task::spawn(&mut running, "router", app.run(shutdown.clone()));
        let rig = Self {
            envoy,
            grpc,
            status,
            control_plane,
            shutdown,
            hurry,
            running,
            router,
            _folder: folder,
        };
        (rig, fake)
    }

    /// With its session standing.
    pub(super) async fn in_session() -> (Self, Fake, Session) {
        let (rig, mut fake) = Self::start().await;
        let session = fake.welcomed().await;
        (rig, fake, session)
    }

    pub(super) async fn get(&self, host: &str) -> Exchange {
        envoy::get(&self.envoy, host).await
    }

    /// Wakes the counter; the request that did it.
    pub(super) async fn wake(&self, fake: &mut Fake, epoch: u64, term: u64) -> Exchange {
        let mut exchange = self.get(HOST).await;
        fake.wake().await.reply(reply(binding(&counter(), epoch, term)));
        assert_eq!(exchange.endpoint().await, format!("10.0.0.{epoch}:20000"));
        exchange
    }

    /// A page of the status server: status line and everything after it.
    pub(super) async fn page(&self, path: &str, accept: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.status).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        (text[9..12].parse().unwrap(), text)
    }

    /// The value of one series.
    pub(super) async fn metric(&self, series: &str) -> f64 {
        let (_, text) = self.page("/metrics", "*/*").await;
        let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
    }
}

/// Only the router's core.
pub(super) fn core(ladder: Ladder, control_plane: Channel) -> Arc<Router> {
    let zone = "actors.test".parse().unwrap();
    let parts = Parts { name: "router-1".into(), zone, ladder, share: 50 };
    parts.assemble(control_plane, &mut Registry::default())
}
