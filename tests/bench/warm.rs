//! Plain Envoy, and the load on either.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::harness::{eventually, repository};

/// Envoy with one listener, no filter but the router, and the actor as its one upstream.
pub(crate) struct PlainEnvoy {
    pub(crate) address: SocketAddr,
    child: Child,
    _dir: TempDir,
}

impl PlainEnvoy {
    pub(crate) async fn start(upstream: SocketAddr) -> Result<Self> {
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("envoy.yaml");
        std::fs::write(&file, config(address, upstream))?;
        let child = Command::new(repository().join(".deps/bin/envoy"))
            .args(["--disable-hot-restart", "--log-level", "error", "-c"])
            .arg(&file)
            .stdout(Stdio::null())
            .spawn()
            .context("plain Envoy")?;
        eventually("plain Envoy listens", Duration::from_secs(20), || TcpStream::connect(address))
            .await;
        Ok(Self { address, child, _dir: dir })
    }
}

impl Drop for PlainEnvoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `wrk` with 32 connections for three seconds.
pub(crate) async fn requests_per_second(front: SocketAddr, host: &str) -> Result<f64> {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c32", "-d3s", "-H", &format!("Host: {host}"), &format!("http://{front}/")]);
    let output = tokio::task::spawn_blocking(move || wrk.output()).await?.context("wrk")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let bad = text.lines().find(|l| l.contains("Non-2xx") || l.contains("Socket errors"));
    anyhow::ensure!(bad.is_none(), "{}", bad.unwrap_or_default());
    let rate = text.lines().find_map(|l| l.strip_prefix("Requests/sec:"));
    rate.and_then(|r| r.trim().parse().ok()).with_context(|| format!("no rate in: {text}"))
}

fn config(listen: SocketAddr, upstream: SocketAddr) -> String {
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
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
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
