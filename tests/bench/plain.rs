//! The bare parts of the warm path: Envoy with one thread, one listener and the actor as its one upstream, plain or
//! with an ext_proc that is asked for every request and does nothing.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};

use crate::harness::{eventually, repository};

/// Of this program: serve [`crate::echo`] there and do nothing else.
pub(crate) const ECHO: &str = "--echo";
const START: Duration = Duration::from_secs(20);

/// Envoy, and what it asks.
pub(crate) struct Plain {
    pub(crate) address: SocketAddr,
    envoy: Process,
    echo: Option<Process>,
    _dir: TempDir,
}

/// Ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Plain {
    pub(crate) async fn start(upstream: SocketAddr) -> Result<Self> {
        Self::with(upstream, None, tempfile::tempdir()?).await
    }

    pub(crate) async fn with_echo(upstream: SocketAddr) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("echo.sock");
        let echo = Command::new(std::env::current_exe()?).arg(ECHO).arg(&socket).spawn()?;
        let echo = Process(echo);
        eventually("the echo listens", START, || UnixStream::connect(&socket)).await;
        let mut plain = Self::with(upstream, Some(&socket), dir).await?;
        plain.echo = Some(echo);
        Ok(plain)
    }

    async fn with(upstream: SocketAddr, echo: Option<&Path>, dir: TempDir) -> Result<Self> {
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let file = dir.path().join("envoy.yaml");
        std::fs::write(&file, config(address, upstream, echo))?;
        let envoy = Command::new(repository().join(".deps/bin/envoy"))
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "error", "-c"])
            .arg(&file)
            .stdout(Stdio::null())
            .spawn()
            .context("plain Envoy")?;
        let envoy = Process(envoy);
        eventually("plain Envoy listens", START, || TcpStream::connect(address)).await;
        Ok(Self { address, envoy, echo: None, _dir: dir })
    }

    /// CPU time used so far by Envoy and by what it asks, in microseconds.
    pub(crate) fn used(&self) -> (f64, f64) {
        let of = |process: &Process| crate::cpu::of(process.0.id().cast_signed());
        (of(&self.envoy), self.echo.as_ref().map_or(0.0, of))
    }
}

fn config(listen: SocketAddr, upstream: SocketAddr, echo: Option<&Path>) -> String {
    let (filter, cluster) = echo.map(ext_proc).unwrap_or_default();
    format!(
        r#"
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: {}, port_value: {} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: plain
          route_config:
            virtual_hosts:
            - {{ name: all, domains: ["*"], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: actor, timeout: 0s }} }}] }}
          http_filters:{filter}
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:{cluster}
  - name: actor
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: actor
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}] }}]
"#,
        listen.ip(),
        listen.port(),
        upstream.ip(),
        upstream.port()
    )
}

/// As Reveille's filter: request headers only, few of them, the stream open until the request has ended.
fn ext_proc(socket: &Path) -> (String, String) {
    let filter = r#"
          - name: envoy.filters.http.ext_proc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: { envoy_grpc: { cluster_name: echo, skip_envoy_headers: true } }
              message_timeout: 5s
              processing_mode: { request_header_mode: SEND, response_header_mode: SKIP, response_trailer_mode: SEND }
              forward_rules: { allowed_headers: { patterns: [{ exact: ":authority" }, { exact: ":method" }, { exact: accept }] } }
              metadata_options: { receiving_namespaces: { untyped: [reveille] } }"#;
    let cluster = format!(
        r#"
  - name: echo
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: echo
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ pipe: {{ path: {} }} }} }} }}] }}]"#,
        socket.display()
    );
    (filter.to_owned(), cluster)
}
