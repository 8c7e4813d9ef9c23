//! Our certificate, read from files and read again when they change.
//!
//! ```text
//!  each handshake ─▶ are the files as they were? ─ yes ─▶ go on
//!                                                 └ no ──▶ read, check ─▶ whole and still ours: this and later handshakes
//!                                                                      └▶ otherwise: what was, and a warning
//! ```
//!
//! Only TLS 1.3, no resumption: every connection shows a certificate that is valid then. Connections that stand are left alone.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::TLS13,
};

use super::{Expected, Identity, InvalidIdentity};

/// What the parts speak inside.
pub(super) const ALPN: &[u8] = b"h2";
/// Longest file that is read.
const LONGEST: u64 = 1 << 20;

/// Where a part's certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, then those between it and the CA's; PEM.
    pub cert: PathBuf,
    /// Its private key; PEM, for its owner's eyes only.
    pub key: PathBuf,
    /// Certificates of the CAs that every part's certificate must come from; PEM.
    pub ca: PathBuf,
}

/// Why the files cannot be used. Never says what is in them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may have copied the key.
    #[error("{} can be read by others (mode {mode:03o}): chmod 600 it", path.display())]
    Readable {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not what it should be.
    #[error("{} holds no {what} in PEM form", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The certificate says nothing that we understand.
    #[error("{}", path.display())]
    Identity {
        /// Which.
        path: PathBuf,
        /// What it says.
        source: InvalidIdentity,
    },
    /// Others would refuse it.
    #[error("{} is not valid under {}", cert.display(), ca.display())]
    Invalid {
        /// The certificate.
        cert: PathBuf,
        /// The CA's.
        ca: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// Key and certificate are not each other's, or of a kind that is not supported.
    #[error("{} cannot be used with {}", key.display(), cert.display())]
    Key {
        /// The key.
        key: PathBuf,
        /// The certificate.
        cert: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// A part cannot become another one while it runs.
    #[error("{} is now of {now}; this part started as {was}", path.display())]
    Another {
        /// The certificate.
        path: PathBuf,
        /// Of whom it was.
        was: String,
        /// Of whom it is.
        now: String,
    },
}

/// A part's certificate, as fresh as its files.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    material: Arc<Material>,
    /// Of the files it was made of.
    stamp: Stamp,
    /// Of files that could not be used, which was told.
    unfit: Option<Stamp>,
}

/// What one reading of the files gave.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) identity: Arc<Identity>,
    pub(super) server: Arc<ServerConfig>,
    roots: Arc<RootCertStore>,
    certified: Arc<CertifiedKey>,
}

impl Tls {
    /// Reads the files. They must be whole, and the certificate one that our own peers would take.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        // Before the reading: what changes meanwhile is read again.
        let stamp = Stamp::of(&files);
        let material = Arc::new(Material::read(&files)?);
        Ok(Self { files, current: Mutex::new(Current { material, stamp, unfit: None }) })
    }

    /// Who we are.
    pub fn identity(&self) -> Arc<Identity> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current.material.identity)
    }

    /// What to use now. Files are looked at each time, and read when they changed: three small ones, seldom.
    pub(super) fn now(&self) -> Arc<Material> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&self.files);
        if stamp != current.stamp {
            match self.read_again(&current.material.identity) {
                Ok(material) => {
                    tracing::info!(identity = %material.identity, "the certificate was renewed");
                    *current = Current { material: Arc::new(material), stamp, unfit: None };
                }
                Err(error) => {
                    if current.unfit.replace(stamp) != Some(stamp) {
                        let why = why(&error);
                        tracing::warn!(%error, why, "the changed certificate is not used; the one before is kept");
                    }
                }
            }
        }
        Arc::clone(&current.material)
    }

    fn read_again(&self, was: &Identity) -> Result<Material, TlsError> {
        let material = Material::read(&self.files)?;
        match *material.identity == *was {
            true => Ok(material),
            false => Err(TlsError::Another {
                path: self.files.cert.clone(),
                was: was.to_string(),
                now: material.identity.to_string(),
            }),
        }
    }
}

fn why(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

impl Material {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let TlsFiles { cert, key, ca } = files;
        let certificates = certificates(cert)?;
        let first = certificates.first().ok_or_else(|| no(cert, "certificate"))?;
        let identity = Identity::of_certificate(first)
            .map_err(|source| TlsError::Identity { path: cert.clone(), source })?;
        let identity = Arc::new(identity);
        let mut roots = RootCertStore::empty();
        for root in self::certificates(ca)? {
            roots.add(root).map_err(|_| no(ca, "CA certificate"))?;
        }
        if roots.is_empty() {
            return Err(no(ca, "certificate"));
        }
        let (roots, provider) = (Arc::new(roots), provider());
        let invalid = |source| TlsError::Invalid { cert: cert.clone(), ca: ca.clone(), source };
        let like_us = Expected { role: identity.role(), name: identity.name().map(str::to_owned) };
        Verifier::new(&roots, &identity, like_us)
            .verify(first, &certificates[1..], UnixTime::now())
            .map_err(invalid)?;
        let unfit = |source| TlsError::Key { key: key.clone(), cert: cert.clone(), source };
        let private = private_key(key)?;
        let certified =
            CertifiedKey::from_der(certificates.clone(), private, &provider).map_err(unfit)?;
        certified.keys_match().map_err(unfit)?;
        let certified = Arc::new(certified);
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| invalid(rustls::Error::General(error.to_string())))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(invalid)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(
                &certified,
            ))));
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { identity, server: Arc::new(server), roots, certified })
    }

    /// For a connection to this peer and to nobody else.
    pub(super) fn client(&self, peer: Expected) -> Result<ClientConfig, rustls::Error> {
        let verifier = Verifier::new(&self.roots, &self.identity, peer);
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(
                &self.certified,
            ))));
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        Ok(client)
    }
}

/// Of each file, what changes when it does. Follows symbolic links, so that a swapped folder is seen.
type Stamp = [Option<(u64, u64, i64, i64, u64)>; 3];

trait StampOf {
    fn of(files: &TlsFiles) -> Self;
}

impl StampOf for Stamp {
    fn of(files: &TlsFiles) -> Self {
        [&files.cert, &files.key, &files.ca].map(|path| {
            let m = fs::metadata(path).ok()?;
            Some((m.dev(), m.ino(), m.ctime(), m.ctime_nsec(), m.size()))
        })
    }
}

pub(super) fn no(path: &Path, what: &'static str) -> TlsError {
    TlsError::Pem { path: path.into(), what }
}

fn read(file: File, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut text = Vec::new();
    match file.take(LONGEST).read_to_end(&mut text) {
        Ok(_) => Ok(text),
        Err(source) => Err(TlsError::Read { path: path.into(), source }),
    }
}

fn open(path: &Path) -> Result<File, TlsError> {
    File::open(path).map_err(|source| TlsError::Read { path: path.into(), source })
}

/// What is in a file that may be read by others.
pub(super) fn text(path: &Path) -> Result<Vec<u8>, TlsError> {
    read(open(path)?, path)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates_in(&text(path)?, path)
}

pub(super) fn certificates_in(
    text: &[u8],
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text).collect();
    all.map_err(|_| no(path, "certificate"))
}

/// Who may read a key besides its owner: nobody; or, where root keeps it for somebody else, that one's group. So a Secret of a
/// Kubernetes pod that does not run as root.
const fn forbidden(kept_by_root: bool, we_are_root: bool) -> u32 {
    if kept_by_root && !we_are_root { 0o037 } else { 0o077 }
}

/// Refused when others may read it.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let file = open(path)?;
    // Of what was opened, not of what has the name by now.
    let metadata =
        file.metadata().map_err(|source| TlsError::Read { path: path.into(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    let forbidden = forbidden(metadata.uid() == 0, rustix::process::geteuid().is_root());
    if mode & forbidden != 0 {
        return Err(TlsError::Readable { path: path.into(), mode });
    }
    PrivateKeyDer::from_pem_slice(&read(file, path)?).map_err(|_| no(path, "private key"))
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Takes a server whose certificate our CA has signed and that is who is wanted. Host names do not matter.
#[derive(Debug)]
struct Verifier {
    roots: Arc<RootCertStore>,
    trust_domain: String,
    peer: Expected,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(roots: &Arc<RootCertStore>, own: &Identity, peer: Expected) -> Self {
        let trust_domain = own.trust_domain().to_owned();
        Self { roots: Arc::clone(roots), trust_domain, peer, provider: provider() }
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, between, now, algorithms)?;
        let other = |who: String| {
            let domain = &self.trust_domain;
            let wanted = &self.peer;
            rustls::Error::General(format!("{who} answers instead of {wanted} in {domain}"))
        };
        match Identity::of_certificate(certificate) {
            Ok(who) if who.trust_domain() == self.trust_domain && self.peer.is(&who) => Ok(()),
            Ok(who) => Err(other(who.to_string())),
            Err(error) => Err(other(format!("somebody ({error})"))),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_for_its_owner_alone_or_kept_by_root_for_a_group() {
        let refused = |mode, kept_by_root, root| mode & forbidden(kept_by_root, root) != 0;
        for (mode, kept_by_root, root, wanted) in [
            (0o600, true, true, false),
            (0o600, false, false, false),
            (0o640, true, true, true),
            (0o640, false, false, true),
            (0o440, true, false, false),
            (0o640, true, false, false),
            (0o660, true, false, true),
            (0o644, true, false, true),
        ] {
            assert_eq!(refused(mode, kept_by_root, root), wanted, "{mode:o}");
        }
    }
}
