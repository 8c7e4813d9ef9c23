//! Servers that are none of the parts, like a collector: their certificates come from CAs that others trust too, and name the
//! host that is called.

use std::{path::Path, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore};
use tonic::transport::Channel;

use super::{Address, TlsError, tls, transport};

/// CAs whose word is taken.
#[derive(Clone, Debug)]
pub struct Roots {
    pem: Arc<[u8]>,
    client: Arc<ClientConfig>,
}

impl Roots {
    /// Reads them, PEM. Of the many of a system some may be beyond us: one that is not must be there.
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        let pem = tls::text(path)?;
        let mut roots = RootCertStore::empty();
        let (taken, _) = roots.add_parsable_certificates(tls::certificates_in(&pem, path)?);
        if taken == 0 {
            return Err(tls::no(path, "CA certificate"));
        }
        let client = ClientConfig::builder_with_provider(tls::provider());
        let client = match client.with_safe_default_protocol_versions() {
            Ok(client) => client,
            Err(error) => unreachable!("the provider has what is the default: {error}"),
        };
        let mut client = client.with_root_certificates(roots).with_no_client_auth();
        client.alpn_protocols = vec![tls::ALPN.to_vec()];
        Ok(Self { pem: pem.into(), client: Arc::new(client) })
    }

    /// As they were read, for another program.
    pub fn pem(&self) -> &[u8] {
        &self.pem
    }
}

impl Address {
    /// A channel to a server that is none of the parts: with TLS, where there are roots. It connects when first used and
    /// reconnects by itself; a call that takes longer than `patience` has failed.
    pub fn outside(&self, roots: Option<&Roots>, patience: Duration) -> Channel {
        let client = roots.map(|roots| Arc::clone(&roots.client));
        transport::connect_outside(self.clone(), client, patience)
    }
}
