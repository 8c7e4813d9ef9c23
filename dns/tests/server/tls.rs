//! DNS over TLS.

use std::{net::SocketAddr, path::Path, sync::Arc};

use hickory_proto::rr::RecordType;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use reveille_dns::{Config, Source, Tls, certificate::Files};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::rig::*;

const HOST: &str = "dns.example";

/// A certificate of itself, in files.
fn issue(dir: &Path) -> (Files, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([HOST.to_owned()]).unwrap();
    let files = Files { certificate: dir.join("dns.pem"), key: dir.join("dns.key") };
    std::fs::write(&files.key, signing_key.serialize_pem()).unwrap();
    std::fs::write(&files.certificate, cert.pem()).unwrap();
    (files, cert.pem())
}

async fn connect(addr: SocketAddr, trusted: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"dot".to_vec()];
    let stream = TcpStream::connect(addr).await?;
    let name = ServerName::try_from(HOST).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[tokio::test]
async fn questions_are_answered_over_tls_and_a_renewed_certificate_is_used_without_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (files, first) = issue(dir.path());
    let tls = Tls { listen: vec!["127.0.0.1:0".parse().unwrap()], files };
    let dns = run(Config { tls: Some(tls), ..config(Source::Given(loopback())) }).await;
    let addr = dns.addrs.tls[0];

    let mut client = connect(addr, &first).await.unwrap();
    let reply = stream(&mut client, question(ACTOR, RecordType::A)).await;
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"dot"[..]));

    let (files, second) = issue(dir.path());
    let mut client = connect(addr, &second).await.unwrap();
    stream(&mut client, question(ACTOR, RecordType::A)).await;
    assert!(connect(addr, &first).await.is_err());

    // A broken one is not used.
    std::fs::write(&files.key, "nonsense").unwrap();
    let mut client = connect(addr, &second).await.unwrap();
    stream(&mut client, question(ACTOR, RecordType::A)).await;
    assert_eq!(dns.metric("reveille_dns_queries_total{transport=\"tls\"}").await, 3);

    // Who speaks no TLS is hung up on.
    let mut plain = TcpStream::connect(addr).await.unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    plain.write_all(&[0; 64]).await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut rest)).await.expect("it is held");
}

#[tokio::test]
async fn a_missing_certificate_is_told_before_anything_listens() {
    let files = Files { certificate: "/nowhere/dns.pem".into(), key: "/nowhere/dns.key".into() };
    let tls = Tls { listen: vec!["127.0.0.1:0".parse().unwrap()], files };
    let config = Config { tls: Some(tls), ..config(Source::Given(loopback())) };
    let error = config.build().await.err().unwrap().to_string();
    assert!(error.contains("/nowhere/dns.pem"), "{error}");
}
