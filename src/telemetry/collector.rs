//! Where a collector is, and how it is reached.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use reveille_api::net::{Address, Roots};
use tonic::transport::Channel;

use crate::error::{Error, Result, chain};

const HTTP: &str = "http://";
const HTTPS: &str = "https://";

/// As it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    address: Address,
    tls: bool,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (tls, address) = match text.strip_prefix(HTTPS) {
            Some(address) => (true, address),
            None => (false, text.strip_prefix(HTTP).unwrap_or(text)),
        };
        match address.strip_suffix('/').unwrap_or(address).parse() {
            Ok(address @ (Address::Tcp(_) | Address::Name { .. })) => Ok(Self { address, tls }),
            _ => Err("write http://IP:PORT or http://NAME:PORT, or https:// for TLS".into()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.tls { HTTPS } else { HTTP }, self.address)
    }
}

/// One that can be called.
#[derive(Clone, Debug)]
pub(super) struct Collector {
    pub(super) address: Address,
    /// CAs that its certificate may come from; without them there is no TLS.
    pub(super) roots: Option<Roots>,
}

impl Collector {
    pub(super) fn new(endpoint: &Endpoint, ca: Option<PathBuf>) -> Result<Self> {
        let address = endpoint.address.clone();
        if !endpoint.tls {
            return match ca {
                None => Ok(Self { address, roots: None }),
                Some(_) => Err(Error::usage("--otlp-ca: for --otlp-endpoint https://…")),
            };
        }
        let Some(file) = ca.or_else(system) else {
            return Err(Error::usage(
                "--otlp-endpoint https://…: this system has no CAs: give --otlp-ca",
            ));
        };
        let roots = Roots::read(&file);
        let roots = roots.map_err(|error| Error::Usage(format!("--otlp-ca: {}", chain(&error))))?;
        Ok(Self { address, roots: Some(roots) })
    }

    /// One on which a call takes no longer than this.
    pub(super) fn channel(&self, patience: Duration) -> Channel {
        self.address.outside(self.roots.as_ref(), patience)
    }
}

/// The file of the system's CAs.
pub(super) fn system() -> Option<PathBuf> {
    openssl_probe::probe().cert_file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_an_address_with_or_without_tls() {
        for (given, read) in [
            ("http://127.0.0.1:4317", "http://127.0.0.1:4317"),
            ("http://otel.example:4317/", "http://otel.example:4317"),
            ("https://otel.example:4317/", "https://otel.example:4317"),
            ("[::1]:4317", "http://[::1]:4317"),
        ] {
            assert_eq!(given.parse::<Endpoint>().unwrap().to_string(), read);
        }
        for wrong in ["http://a:1/v1/traces", "https://a", "unix:/x", "https://unix:/x", "4317", ""]
        {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn cas_are_read_at_the_start_and_only_for_tls() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let read = |url: &str, ca: Option<&PathBuf>| {
            Collector::new(&url.parse().unwrap(), ca.cloned()).map_err(|error| error.to_string())
        };
        assert!(read("http://a:1", None).unwrap().roots.is_none());
        assert!(read("http://a:1", Some(&file)).unwrap_err().contains("--otlp-ca: for"));
        assert!(read("https://a:1", Some(&file)).unwrap_err().contains("cannot read"));
        std::fs::write(&file, "nothing").unwrap();
        assert!(read("https://a:1", Some(&file)).unwrap_err().contains("no CA certificate"));
        let key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        std::fs::write(&file, ca.self_signed(&key).unwrap().pem()).unwrap();
        assert!(read("https://a:1", Some(&file)).unwrap().roots.is_some());
    }
}
