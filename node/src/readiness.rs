//! Readiness: when an activation answers through its endpoint.
//!
//! While a sandbox comes up, a connection attempt meets a closed endpoint (refused), the namespace's own kernel
//! (refused), for some milliseconds nobody (no answer, and the kernel would try again only after a second), and then
//! the actor. So attempts are made quickly one after another, a silent one is overtaken by the next, and the first
//! that gets an answer ends the search. All connections are closed when it returns.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reveille_api::{
    ActorKey,
    manifest::template::{ActorTemplateSpec, Protocol},
};
use tokio::{net::TcpStream, sync::SetOnce, time::Instant};

/// Pause after a refusal: while the sandbox comes up (asking more often would take the CPU from it), once it is up, and
/// when it is clear that its process takes its time.
const CALM: Duration = Duration::from_millis(4);
const EAGER: Duration = Duration::from_millis(1);
const PATIENT: Duration = Duration::from_millis(10);
const EAGER_FOR: Duration = Duration::from_millis(500);
/// A silent attempt is overtaken after this long, the first few of them quickly: an answer that comes a moment later
/// would otherwise be waited for much longer than that moment.
const SILENT: Duration = Duration::from_millis(2);
const VERY_SILENT: Duration = Duration::from_millis(32);
const FEW: usize = 16;
/// A connected attempt without an answer is overtaken after this long.
const SLOW: Duration = Duration::from_millis(250);
/// Attempts that may be under way, and how long each may take to connect: more than the others take to come.
const MAX_ATTEMPTS: usize = 48;
const CONNECT: Duration = Duration::from_secs(1);
/// An answer's body is read to its end, so that the connection ends in order, but not beyond this.
const MAX_BODY: usize = 64 << 10;

/// What is asked.
#[derive(Debug)]
pub(crate) struct Check {
    endpoint: SocketAddr,
    http: Option<Http>,
    last_miss: Mutex<Option<Miss>>,
    /// Attempts that are connected and wait for an answer.
    connected: AtomicUsize,
    up: SetOnce<Instant>,
}

#[derive(Clone, Debug)]
struct Http {
    path: String,
    host: String,
    protocol: Protocol,
}

/// Why an attempt did not count.
#[derive(Debug)]
pub(crate) enum Miss {
    Io(io::Error),
    Http(hyper::Error),
    Status(StatusCode),
    Invalid(String),
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "no connection: {error}"),
            Self::Http(error) => write!(f, "no HTTP answer: {error}"),
            Self::Status(status) => write!(f, "it answered {status}"),
            Self::Invalid(why) => f.write_str(why),
        }
    }
}

impl From<hyper::Error> for Miss {
    fn from(error: hyper::Error) -> Self {
        Self::Http(error)
    }
}

impl Check {
    pub(crate) fn new(endpoint: SocketAddr, actor: &ActorKey, spec: &ActorTemplateSpec) -> Self {
        let http = spec.readiness.http_get.as_ref().map(|get| Http {
            path: get.path.clone(),
            host: actor.host_prefix().into(),
            protocol: spec.protocol,
        });
        Self { http, ..Self::listens(endpoint) }
    }

    /// Only that the port listens.
    pub(crate) fn listens(endpoint: SocketAddr) -> Self {
        let (last_miss, connected, up) = (Mutex::default(), AtomicUsize::new(0), SetOnce::new());
        Self { endpoint, http: None, last_miss, connected, up }
    }

    /// The sandbox is up: from now on an answer may come at any moment.
    pub(crate) fn hurry(&self) {
        let _ = self.up.set(Instant::now());
    }

    /// Between two attempts.
    async fn pause(&self) {
        match self.up.get() {
            Some(since) if since.elapsed() < EAGER_FOR => tokio::time::sleep(EAGER).await,
            Some(_) => tokio::time::sleep(PATIENT).await,
            None => tokio::select! {
                () = tokio::time::sleep(CALM) => {}
                _ = self.up.wait() => {}
            },
        }
    }

    /// Returns once an attempt has succeeded, and never otherwise: the caller has the deadline.
    pub(crate) async fn passed(&self) {
        let mut attempts = FuturesUnordered::new();
        attempts.push(self.attempt());
        let mut up = false;
        loop {
            let patience = match self.connected.load(Ordering::Relaxed) {
                0 if attempts.len() < FEW => SILENT,
                0 => VERY_SILENT,
                _ => SLOW,
            };
            tokio::select! {
                Some(outcome) = attempts.next() => {
                    let Err(miss) = outcome else { return };
                    *self.lock() = Some(miss);
                    self.pause().await;
                    if !attempts.is_empty() {
                        continue;
                    }
                }
                _ = self.up.wait(), if !up => up = true,
                () = tokio::time::sleep(patience), if attempts.len() < MAX_ATTEMPTS => {}
            }
            attempts.push(self.attempt());
        }
    }

    /// What the operator needs to know when time runs out.
    pub(crate) fn last_miss(&self) -> String {
        match &*self.lock() {
            // Those came before it took connections.
            None | Some(Miss::Io(_)) if self.connected.load(Ordering::Relaxed) > 0 => {
                "it takes connections and answers on none".into()
            }
            None => "nobody answers".into(),
            Some(miss) => miss.to_string(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Miss>> {
        self.last_miss.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attempt(&self) -> Result<(), Miss> {
        let connect = tokio::time::timeout(CONNECT, TcpStream::connect(self.endpoint)).await;
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "nobody answers");
        let stream = connect.map_err(|_| silent()).flatten().map_err(Miss::Io)?;
        let Some(http) = &self.http else { return Ok(()) };
        self.connected.fetch_add(1, Ordering::Relaxed);
        let asked = http.ask(stream).await;
        self.connected.fetch_sub(1, Ordering::Relaxed);
        asked
    }
}

impl Http {
    async fn ask(&self, stream: TcpStream) -> Result<(), Miss> {
        let _ = stream.set_nodelay(true);
        let io = TokioIo::new(stream);
        let status = match self.protocol {
            Protocol::Http1 => {
                let request = self.request(self.path.clone(), true)?;
                let (mut sender, connection) = conn::http1::handshake(io).await?;
                drive(connection, async move { read(sender.send_request(request).await?).await })
                    .await?
            }
            Protocol::H2c => {
                let request = self.request(format!("http://{}{}", self.host, self.path), false)?;
                let handshake = conn::http2::handshake(TokioExecutor::new(), io);
                let (mut sender, connection) = handshake.await?;
                drive(connection, async move { read(sender.send_request(request).await?).await })
                    .await?
            }
        };
        if status.is_success() || status.is_redirection() {
            Ok(())
        } else {
            Err(Miss::Status(status))
        }
    }

    fn request(&self, uri: String, http1: bool) -> Result<Request<Empty<Bytes>>, Miss> {
        let mut request = Request::get(uri).header("user-agent", "reveille-readiness");
        if http1 {
            request = request.header("host", &self.host).header("connection", "close");
        }
        request.body(Empty::new()).map_err(|error| Miss::Invalid(error.to_string()))
    }
}

async fn read(response: hyper::Response<hyper::body::Incoming>) -> Result<StatusCode, Miss> {
    let status = response.status();
    // Too long a body is no fault of the actor's.
    let _ = Limited::new(response.into_body(), MAX_BODY).collect().await;
    Ok(status)
}

/// Runs a connection for as long as the exchange on it takes.
async fn drive(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    exchange: impl Future<Output = Result<StatusCode, Miss>>,
) -> Result<StatusCode, Miss> {
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        status = &mut exchange => status,
        // The answer may be complete though the connection is over.
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn check(endpoint: SocketAddr) -> Check {
        let http = Http { path: "/up".into(), host: "a.b".into(), protocol: Protocol::Http1 };
        Check { http: Some(http), ..Check::listens(endpoint) }
    }

    async fn answer(listener: &TcpListener, text: &str) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1024];
        let length = stream.read(&mut request).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        String::from_utf8(request[..length].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn it_asks_until_the_answer_is_good_and_leaves_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let check = check(listener.local_addr().unwrap());
        let server = async {
            answer(&listener, "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await;
            answer(&listener, "HTTP/1.1 302 Yes\r\ncontent-length: 2\r\n\r\nok").await
        };
        let ((), request) = tokio::join!(check.passed(), server);
        assert!(request.starts_with("GET /up HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("host: a.b\r\n") && request.contains("connection: close"));
        assert_eq!(check.last_miss(), "it answered 503 Service Unavailable");
    }

    #[tokio::test]
    async fn a_server_that_stopped_answering_is_not_called_one_that_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        drop(listener);
        let check = check(endpoint);
        let hang = async {
            while check.lock().is_none() {
                tokio::task::yield_now().await;
            }
            let listener = TcpListener::bind(endpoint).await.unwrap();
            let silent = listener.accept().await.unwrap();
            while check.connected.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            drop(silent);
        };
        tokio::select! {
            () = check.passed() => panic!("nobody answered"),
            () = hang => {}
        }
        assert_eq!(check.last_miss(), "it takes connections and answers on none");
    }

    #[tokio::test]
    async fn a_port_nobody_listens_on_is_tried_until_somebody_does() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        drop(listener);
        let check = Check::listens(endpoint);
        let late = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            TcpListener::bind(endpoint).await.unwrap()
        };
        let ((), _listener) = tokio::join!(check.passed(), late);
        assert!(check.last_miss().starts_with("no connection"), "{}", check.last_miss());
    }
}
