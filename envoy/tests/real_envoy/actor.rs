//! A small actor: HTTP/1.1 and HTTP/2 with prior knowledge.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use reveille_api::task;
use tokio::{net::TcpListener, task::JoinSet};

pub(crate) struct Actor {
    pub(crate) addr: SocketAddr,
    requests: Arc<AtomicUsize>,
    _server: JoinSet<()>,
}

impl Actor {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        task::spawn(&mut server, "actor", async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let count = count.clone();
                let service = service_fn(move |request| {
                    count.fetch_add(1, Ordering::Relaxed);
                    serve(request)
                });
                task::spawn(&mut connections, "actor-connection", async move {
                    let mut builder = auto::Builder::new(TokioExecutor::new());
                    builder.http2().enable_connect_protocol();
                    let _ =
                        builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { addr, requests, _server: server }
    }

    /// How many there were.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn serve(request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        // The connection is closed without an answer.
        "/break" => return Err(std::io::Error::other("on purpose")),
        "/echo" => {
            let body = request.into_body().collect().await.map_err(std::io::Error::other)?;
            Response::new(Full::new(body.to_bytes()).boxed())
        }
        "/sink" => {
            let mut body = request.into_body();
            let mut length = 0;
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(std::io::Error::other)?;
                length += frame.into_data().map_or(0, |data| data.len());
            }
            Response::new(Full::from(length.to_string()).boxed())
        }
        "/bytes" => {
            let query = request.uri().query().unwrap_or_default();
            let length: usize = query.trim_start_matches("n=").parse().unwrap();
            let chunk = Bytes::from(vec![7; 1 << 16]);
            let chunks = (0..length >> 16).map(move |_| Ok(Frame::data(chunk.clone())));
            Response::new(BodyExt::boxed(StreamBody::new(stream::iter(chunks))))
        }
        "/hang" => std::future::pending().await,
        // One chunk each 50 ms, 40 of them or as many as are asked for.
        "/stream" => {
            let asked = request.uri().query().and_then(|query| query.strip_prefix("n="));
            let length = asked.map_or(40, |n| n.parse().unwrap());
            let chunks = stream::unfold(0, move |n| async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                (n < length).then(|| (Ok(Frame::data(Bytes::from("tick\n"))), n + 1))
            });
            Response::new(BodyExt::boxed(StreamBody::new(chunks)))
        }
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", hyper::header::HeaderValue::from_static("0"));
            let frames = [Frame::data(Bytes::from("body")), Frame::trailers(trailers)];
            let body = StreamBody::new(stream::iter(frames.map(Ok)));
            Response::builder().header("trailer", "grpc-status").body(BodyExt::boxed(body)).unwrap()
        }
        "/upgrade" => {
            let extended = request.method() == hyper::Method::CONNECT;
            let upgrade = hyper::upgrade::on(request);
            task::detach("echo", async move {
                let Ok(io) = upgrade.await else { return };
                let (mut read, mut write) = tokio::io::split(TokioIo::new(io));
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            // Over HTTP/2 it is an ordinary answer.
            if extended {
                return Ok(Response::new(Full::default().boxed()));
            }
            Response::builder()
                .status(101)
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .body(Full::default().boxed())
                .unwrap()
        }
        _ => {
            let mut text = format!(
                "{} {} {:?}\n",
                request.method(),
                request.uri().path_and_query().map_or("", |p| p.as_str()),
                request.version()
            );
            if let Some(authority) = request.uri().authority() {
                text += &format!(":authority: {authority}\n");
            }
            for (name, value) in request.headers() {
                text += &format!("{name}: {}\n", value.to_str().unwrap_or("?"));
            }
            Response::builder()
                .header("server", "small-actor")
                .header("server-timing", "app;dur=1")
                .header("x-reveille-reason", "forged")
                .header("x-reveille-wake", "forged")
                .body(Full::from(text).boxed())
                .unwrap()
        }
    })
}
