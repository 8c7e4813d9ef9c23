//! An OpenTelemetry collector that keeps what it is sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
};
use rcgen::{CertificateParams, Issuer, KeyPair};
use reveille_api::task;
use rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::eventually;

/// Spans are sent each second.
const ARRIVE: Duration = Duration::from_secs(30);

/// Takes spans and metrics of everybody, until it is dropped.
pub struct Collector {
    pub address: SocketAddr,
    tls: bool,
    spans: Kept,
    metrics: Metrics,
    server: JoinSet<()>,
}

type Kept = Arc<Mutex<Vec<Span>>>;
/// The service that sent it, and its name.
type Metrics = Arc<Mutex<BTreeSet<(String, String)>>>;

/// One that was sent.
#[derive(Clone, Debug)]
pub struct Span {
    pub service: String,
    /// Which of those of that name.
    pub instance: String,
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty for the first of a trace.
    pub parent: String,
    pub attributes: BTreeMap<String, String>,
    /// Trace and span.
    pub links: Vec<(String, String)>,
    pub micros: u64,
    pub failed: bool,
    /// All of it, as it came.
    pub text: String,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let (spans, metrics) = (Kept::default(), Metrics::default());
        let serve = Server::builder()
            .add_service(TraceServiceServer::new(Keep(Arc::clone(&spans))))
            .add_service(MetricsServiceServer::new(KeepMetrics(Arc::clone(&metrics))))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let mut server = JoinSet::new();
        server.spawn(async move { serve.await.expect("it serves") });
        Self { address, tls: false, spans, metrics, server }
    }

    /// One that speaks nothing but TLS, as `localhost` and `127.0.0.1`; the CA of its certificate is written there.
    pub async fn with_tls(ca: &Path) -> Self {
        let mut collector = Self::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (acceptor, behind) = (acceptor(ca), collector.address);
        collector.address = listener.local_addr().expect("a bound address");
        collector.tls = true;
        collector.server.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                task::detach("collector-tls", async move {
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let Ok(mut server) = TcpStream::connect(behind).await else { return };
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        collector
    }

    /// For `--otlp-endpoint`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// All there are of a trace.
    pub fn trace(&self, id: &str) -> Vec<Span> {
        let spans = self.spans.lock().expect("not poisoned");
        spans.iter().filter(|span| span.trace == id).cloned().collect()
    }

    /// Waits until a trace has what it takes; gives its spans.
    pub async fn whole(&self, id: &str, names: &[(&str, &str)]) -> Vec<Span> {
        eventually("the trace is whole", ARRIVE, || async {
            let spans = self.trace(id);
            let has = |(service, name): &(&str, &str)| {
                spans.iter().any(|span| span.service == *service && span.name == *name)
            };
            if names.iter().all(has) { Ok(spans) } else { Err(outline(&spans)) }
        })
        .await
    }
}

impl Collector {
    /// Waits until each of these services has sent this metric.
    pub async fn metrics(&self, wanted: &[(&str, &str)]) {
        eventually("the metrics are there", ARRIVE, || async {
            let kept = self.metrics.lock().expect("not poisoned");
            let is = |(service, name): &&(&str, &str)| {
                kept.contains(&((*service).to_owned(), (*name).to_owned()))
            };
            let missing: Vec<_> = wanted.iter().filter(|wanted| !is(wanted)).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} of {kept:?}")) }
        })
        .await
    }
}

fn acceptor(ca_file: &Path) -> TlsAcceptor {
    let key = || KeyPair::generate().expect("a key");
    let (ca_key, own_key) = (key(), key());
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // Else it is called as the other one is, and Envoy takes that for its own issuer.
    ca.distinguished_name.push(rcgen::DnType::CommonName, "CA of a collector");
    let written = ca.self_signed(&ca_key).expect("a CA").pem();
    std::fs::write(ca_file, written).expect("written");
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let own = CertificateParams::new(names).expect("names");
    let own = own.signed_by(&own_key, &Issuer::new(ca, ca_key)).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(own_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], key.into())
        .expect("a key of the certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

struct KeepMetrics(Metrics);

#[tonic::async_trait]
impl MetricsService for KeepMetrics {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut kept = self.0.lock().expect("not poisoned");
        for of_resource in request.into_inner().resource_metrics {
            let resource = of_resource.resource.unwrap_or_default();
            let service = attributes(&resource.attributes).remove("service.name");
            let service = service.unwrap_or_default();
            let metrics = of_resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            kept.extend(metrics.map(|metric| (service.clone(), metric.name)));
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// For messages.
pub fn outline(spans: &[Span]) -> Vec<String> {
    let line = |s: &Span| format!("{} {} {} <- {}", s.service, s.name, s.id, s.parent);
    spans.iter().map(line).collect()
}

struct Keep(Kept);

#[tonic::async_trait]
impl TraceService for Keep {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock().expect("not poisoned");
        for of_resource in request.into_inner().resource_spans {
            let resource = of_resource.resource.unwrap_or_default();
            let mut who = attributes(&resource.attributes);
            let mut who = |key| who.remove(key).unwrap_or_default();
            let (service, instance) = (who("service.name"), who("service.instance.id"));
            for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                kept.push(Span {
                    service: service.clone(),
                    instance: instance.clone(),
                    text: format!("{span:?}"),
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    attributes: attributes(&span.attributes),
                    links: span.links.iter().map(|l| (hex(&l.trace_id), hex(&l.span_id))).collect(),
                    micros: span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano)
                        / 1000,
                    failed: span.status.is_some_and(|status| status.code == 2),
                    name: span.name,
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|v| v.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    };
    all.iter().map(|a| (a.key.clone(), text(&a.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
