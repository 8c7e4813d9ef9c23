//! A CA, and certificates as right or as wrong as a test needs them.

use std::{
    fs,
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType,
};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::super::{TlsFiles, Transport};

pub(super) const TRUST_DOMAIN: &str = "test.example";

/// A certificate to be.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) uris: Vec<String>,
    /// In seconds from now.
    pub(super) valid: Range<i64>,
    pub(super) file: String,
}

impl Leaf {
    pub(super) fn of(uri: &str) -> Self {
        let file = uri.trim_start_matches("spiffe://").replace('/', "-");
        Self { uris: vec![uri.into()], valid: -60..3600, file }
    }
}

pub(super) struct Authority {
    folder: PathBuf,
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

fn from_now(seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    match seconds < 0 {
        true => SystemTime::now() - by,
        false => SystemTime::now() + by,
    }
}

impl Authority {
    pub(super) fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
        Self { folder: folder.into(), certificate, issuer: Issuer::new(params, key) }
    }

    /// A certificate and its key.
    pub(super) fn issue(&self, leaf: &Leaf) -> (String, String) {
        let mut params = CertificateParams::default();
        let uris = leaf.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
        params.subject_alt_names = uris.collect();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = from_now(leaf.valid.start).into();
        params.not_after = from_now(leaf.valid.end).into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    pub(super) fn place(&self, leaf: &Leaf) -> TlsFiles {
        let file = |end| self.folder.join(format!("{}.{end}", leaf.file));
        TlsFiles { cert: file("pem"), key: file("key"), ca: self.folder.join("ca.pem") }
    }

    /// Its files, made anew.
    pub(super) fn files(&self, leaf: &Leaf) -> TlsFiles {
        let files = self.place(leaf);
        write(&files, &self.issue(leaf));
        files
    }

    pub(super) fn transport(&self, leaf: &Leaf) -> Transport {
        Transport::tls(self.files(leaf)).unwrap()
    }

    /// Puts a certificate of ours, and our own, in the place of another authority's.
    pub(super) fn replace(&self, other: &Self, leaf: &Leaf) {
        let files = other.place(leaf);
        write(&files, &self.issue(leaf));
        fs::write(&files.ca, self.certificate.pem()).unwrap();
    }

    /// A client that looks at nobody's certificate, not even at its own.
    pub(super) fn unchecked(&self, leaf: &Leaf) -> ClientConfig {
        let (certificate, key) = self.issue(leaf);
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = unchecked().with_client_auth_cert(vec![certificate], key).unwrap();
        h2(config)
    }

    /// One that shows none.
    pub(super) fn nobody(&self) -> ClientConfig {
        h2(unchecked().with_no_client_auth())
    }
}

fn h2(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

fn write(files: &TlsFiles, (certificate, key): &(String, String)) {
    fs::write(&files.key, key).unwrap();
    fs::set_permissions(&files.key, PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&files.cert, certificate).unwrap();
}

fn unchecked() -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
}

#[derive(Debug)]
struct Anyone;

mod anyone {
    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    impl ServerCertVerifier for super::Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            rustls::crypto::ring::default_provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    }
}
