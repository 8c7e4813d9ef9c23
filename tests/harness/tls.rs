//! A client of the HTTPS front that takes any certificate, and tells which it was.

use std::{net::SocketAddr, sync::Arc};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, header::HOST};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::client::Answer;

/// One connection.
pub struct Tls {
    stream: TlsStream<TcpStream>,
}

impl Tls {
    /// With these protocols of ALPN, the first preferred; `name` is a name (SNI) or an address (none).
    pub async fn connect(front: SocketAddr, name: &str, alpn: &[&str]) -> std::io::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Any(provider)))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).expect("a name or an address");
        let tcp = TcpStream::connect(front).await?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        Ok(Self { stream })
    }

    /// What the server has chosen.
    pub fn alpn(&self) -> Option<String> {
        let chosen = self.stream.get_ref().1.alpn_protocol()?;
        Some(String::from_utf8_lossy(chosen).into_owned())
    }

    /// The server's certificate, DER.
    pub fn certificate(&self) -> Vec<u8> {
        let chain = self.stream.get_ref().1.peer_certificates().expect("a certificate");
        chain[0].to_vec()
    }

    /// GET over HTTP/2 or HTTP/1.1, as was agreed; then the connection is closed.
    pub async fn get(self, host: &str, path: &str) -> Answer {
        let h2 = self.alpn().as_deref() == Some("h2");
        let io = TokioIo::new(self.stream);
        let body = Empty::<Bytes>::new();
        // Its end is that of the connection.
        let mut connections = JoinSet::new();
        if h2 {
            let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
            let (mut sender, connection) = shaken.expect("HTTP/2");
            connections.spawn(connection);
            let request = Request::get(format!("https://{host}{path}")).body(body);
            whole(sender.send_request(request.expect("a request")).await).await
        } else {
            let shaken = hyper::client::conn::http1::handshake(io).await;
            let (mut sender, connection) = shaken.expect("HTTP/1.1");
            connections.spawn(connection);
            let request = Request::get(path).header(HOST, host).body(body);
            whole(sender.send_request(request.expect("a request")).await).await
        }
    }
}

async fn whole(answer: hyper::Result<hyper::Response<hyper::body::Incoming>>) -> Answer {
    let (parts, body) = answer.expect("an answer").into_parts();
    let body = body.collect().await.expect("the whole answer").to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// Takes any certificate; its signature must be right.
#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
