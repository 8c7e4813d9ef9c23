//! The certificate for DNS over TLS, read from its files and read again when they change.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// How DNS over TLS names itself (RFC 7858).
const ALPN: &[u8] = b"dot";

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, then those it needs; PEM.
    pub certificate: PathBuf,
    /// Its private key; PEM.
    pub key: PathBuf,
}

/// Why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is of another kind.
    #[error("{} holds no {what} in PEM form", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// They are not each other's, or of a kind that is not supported.
    #[error("{} cannot be used with {}", key.display(), certificate.display())]
    Key {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// As fresh as its files.
#[derive(Debug)]
struct Certificate {
    files: Files,
    current: ArcSwap<CertifiedKey>,
    /// Of the files that were read last, whether or not they could be used.
    stamp: Mutex<Stamp>,
}

/// Of each file, what changes when it does. Follows symbolic links.
type Stamp = [Option<(u64, u64, i64, i64, u64)>; 2];

impl Files {
    /// Reads them, and gives what a TLS server is to be made with.
    pub(crate) fn server(self) -> Result<ServerConfig, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let stamp = self.stamp();
        let certified = Arc::new(self.read(&provider)?);
        let key = |source| self.unfit(source);
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(key)?;
        let current = ArcSwap::new(certified);
        let certificate = Certificate { files: self, current, stamp: Mutex::new(stamp) };
        let mut server = builder.with_no_client_auth().with_cert_resolver(Arc::new(certificate));
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok(server)
    }

    fn read(&self, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| Error::Read { path: path.into(), source })
        };
        let pem = |path: &Path, what| Error::Pem { path: path.into(), what };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(&self.certificate)?)
            .collect::<Result<_, _>>()
            .map_err(|_| pem(&self.certificate, "certificate"))?;
        if chain.is_empty() {
            return Err(pem(&self.certificate, "certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|_| pem(&self.key, "private key"))?;
        let certified =
            CertifiedKey::from_der(chain, key, provider).map_err(|source| self.unfit(source))?;
        certified.keys_match().map_err(|source| self.unfit(source))?;
        Ok(certified)
    }

    fn unfit(&self, source: rustls::Error) -> Error {
        Error::Key { key: self.key.clone(), certificate: self.certificate.clone(), source }
    }

    fn stamp(&self) -> Stamp {
        [&self.certificate, &self.key].map(|path| {
            let m = fs::metadata(path).ok()?;
            Some((m.dev(), m.ino(), m.ctime(), m.ctime_nsec(), m.size()))
        })
    }
}

impl Certificate {
    /// Reads the files if they changed: two small ones, seldom. Nobody waits while another one does that.
    fn look(&self) {
        let Ok(mut last) = self.stamp.try_lock() else { return };
        let stamp = self.files.stamp();
        if *last == stamp {
            return;
        }
        *last = stamp;
        match self.files.read(&rustls::crypto::ring::default_provider()) {
            Ok(certified) => {
                tracing::info!("the certificate of DNS over TLS was renewed");
                self.current.store(Arc::new(certified));
            }
            Err(error) => {
                let why = std::error::Error::source(&error).map(ToString::to_string);
                let why = why.unwrap_or_default();
                tracing::warn!(%error, why, "the changed certificate is not used; the one before is kept");
            }
        }
    }
}

impl ResolvesServerCert for Certificate {
    /// The files are looked at for each connection.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let _ = hello;
        self.look();
        Some(self.current.load_full())
    }
}
