//! The certificate of the HTTPS listener: read from two files, looked at again and again, sent to Envoy when it is new.
//!
//! ```text
//!  files ── every second ──▶ the same as before: nothing
//!                        └─▶ unreadable, no PEM, key of another certificate ──▶ a warning; the one before serves on
//!                        └─▶ another pair that fits ──▶ Envoy, over SDS
//! ```
//!
//! Looking is what finds every way in which people replace such files: renamed over, rewritten in place, or a link moved
//! to another directory. Envoy could watch them itself, on a disk of its own; but every Envoy would have to be given the
//! files, and nobody would be told which of them is broken.

use std::{
    convert::Infallible,
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustls::{
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use tokio::time::{MissedTickBehavior, interval};

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Where a certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// PEM: the certificate and those that it needs, its own first.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// A chain and the key that fits it, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    chain: Vec<u8>,
    key: Vec<u8>,
}

/// Why two files are no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there or not ours to read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It holds something else, or half of it.
    #[error("{path} has no {what} in PEM", path = path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Two files that do not belong together.
    #[error("the key in {key} is not that of the certificate in {certificate}", key = files.key.display(), certificate = files.certificate.display())]
    Mismatch {
        /// Which.
        files: Files,
        /// What does not fit.
        source: rustls::Error,
    },
}

impl Files {
    /// Reads them, and checks what can be checked before Envoy has them.
    pub async fn read(&self) -> Result<Certificate, Error> {
        self.certificate(self.content().await?)
    }

    /// Gives every certificate that comes after `last`, for ever.
    pub async fn follow(&self, last: Certificate, new: impl Fn(Certificate)) -> Infallible {
        let mut seen = Some(last);
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let content = self.content().await;
            let unchanged = match &content {
                Ok(content) => seen.as_ref() == Some(content),
                // It was said once.
                Err(_) => seen.is_none(),
            };
            if unchanged {
                continue;
            }
            seen = content.as_ref().ok().cloned();
            match content.and_then(|content| self.certificate(content)) {
                Ok(certificate) => {
                    tracing::info!(certificate = %self.certificate.display(), "a new certificate");
                    new(certificate);
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "no new certificate: the one before is kept");
                }
            }
        }
    }

    async fn content(&self) -> Result<Certificate, Error> {
        Ok(Certificate { chain: read(&self.certificate).await?, key: read(&self.key).await? })
    }

    fn certificate(&self, content: Certificate) -> Result<Certificate, Error> {
        let no = |path: &Path, what| Error::Pem { path: path.into(), what };
        let chain = CertificateDer::pem_slice_iter(&content.chain)
            .collect::<Result<Vec<_>, _>>()
            .ok()
            .filter(|chain| !chain.is_empty())
            .ok_or_else(|| no(&self.certificate, "certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&content.key)
            .map_err(|_| no(&self.key, "private key"))?;
        CertifiedKey::from_der(chain, key, &default_provider())
            .map_err(|source| Error::Mismatch { files: self.clone(), source })?;
        Ok(content)
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let read = tokio::fs::read(path).await;
    read.map_err(|source| Error::Read { path: path.into(), source })
}

impl Certificate {
    /// PEM.
    pub(crate) fn chain(&self) -> &[u8] {
        &self.chain
    }

    /// PEM.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }
}

/// Without the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
