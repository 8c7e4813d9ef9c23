//! TLS from Envoy to the router: a certificate on both sides, read again when its files change.
//!
//! Which files they are is Envoy's own business. The supervisor writes two secrets that name them into a folder of Envoy's
//! working directory; every cluster, that of the bootstrap and those the router sends, refers to the secrets by the same
//! relative path. (A secret of the bootstrap itself would do for both too, but Envoy 1.40 reads its files only once.)
//!
//! A collector of traces is no part of ours: its certificate names its host, and comes from CAs that the router sends.

use std::path::{Path, PathBuf};

use envoy_types::pb::envoy::{
    config::core::v3::{
        ApiVersion, ConfigSource, DataSource, PathConfigSource, TransportSocket, WatchedDirectory,
        config_source, data_source, transport_socket,
    },
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, CommonTlsContext, SdsSecretConfig, Secret,
        SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext,
        common_tls_context::ValidationContextType, secret, subject_alt_name_matcher::SanType,
        tls_parameters::TlsProtocol,
    },
    service::discovery::v3::DiscoveryResponse,
    r#type::matcher::v3::{StringMatcher, string_matcher},
};
use prost::Message;
use reveille_api::net::{Address, Identity, Role, TlsFiles};

use crate::proto::any;

/// Folder of the secrets in Envoy's working directory.
pub(crate) const FOLDER: &str = "tls";
/// Who Envoy is, and whom it takes for a router.
const CERTIFICATE: &str = "certificate";
const ROUTER: &str = "router";

/// What Envoy proves itself by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Of Envoy's certificate.
    pub files: TlsFiles,
    /// Who Envoy is by that certificate: routers are of the same trust domain.
    pub identity: Identity,
}

/// Files of the secrets by name, for [`FOLDER`].
pub(crate) fn secrets(config: &Config) -> [(String, Vec<u8>); 2] {
    let TlsFiles { cert, key, ca } = &config.files;
    let certificate = secret::Type::TlsCertificate(TlsCertificate {
        certificate_chain: file(cert),
        private_key: file(key),
        watched_directory: folder_of(cert),
        ..Default::default()
    });
    let routers = format!("spiffe://{}/reveille/{}/", config.identity.trust_domain(), Role::Router);
    let prefix = string_matcher::MatchPattern::Prefix(routers);
    let router = secret::Type::ValidationContext(CertificateValidationContext {
        trusted_ca: file(ca),
        watched_directory: folder_of(ca),
        match_typed_subject_alt_names: vec![SubjectAltNameMatcher {
            san_type: SanType::Uri.into(),
            matcher: Some(StringMatcher { match_pattern: Some(prefix), ..Default::default() }),
            ..Default::default()
        }],
        ..Default::default()
    });
    [(CERTIFICATE, certificate), (ROUTER, router)].map(|(name, secret)| {
        let secret = Secret { name: name.into(), r#type: Some(secret) };
        let response = DiscoveryResponse { resources: vec![any(&secret)], ..Default::default() };
        (format!("{name}.pb"), response.encode_to_vec())
    })
}

fn file(path: &Path) -> Option<DataSource> {
    let path = path.to_string_lossy().into_owned();
    Some(DataSource {
        specifier: Some(data_source::Specifier::Filename(path)),
        ..Default::default()
    })
}

/// A file is replaced by a rename in its folder, or by one of a link there, or is written anew.
fn folder_of(path: &Path) -> Option<WatchedDirectory> {
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_else(|| PathBuf::from("/"));
    let path = folder.to_string_lossy().into_owned();
    Some(WatchedDirectory { path, watch_modify: true })
}

/// For a cluster whose endpoints are reached by TCP.
pub(crate) fn to_router() -> TransportSocket {
    let by_path = |name: &str| SdsSecretConfig {
        name: name.into(),
        sds_config: Some(ConfigSource {
            config_source_specifier: Some(config_source::ConfigSourceSpecifier::PathConfigSource(
                PathConfigSource { path: format!("./{FOLDER}/{name}.pb"), ..Default::default() },
            )),
            resource_api_version: ApiVersion::V3.into(),
            ..Default::default()
        }),
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: TlsProtocol::TlSv13.into(),
                tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
                ..Default::default()
            }),
            tls_certificate_sds_secret_configs: vec![by_path(CERTIFICATE)],
            validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(
                by_path(ROUTER),
            )),
            alpn_protocols: vec!["h2".into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    socket(&context)
}

/// For a server that is none of the parts: its certificate is for the host of this address, and comes from these CAs.
pub(crate) fn to_outside(at: &Address, roots: &[u8]) -> TransportSocket {
    let (san, host) = match at {
        Address::Name { host, .. } => (SanType::Dns, host.clone()),
        Address::Tcp(address) => (SanType::IpAddress, address.ip().to_string()),
        Address::Unix(path) => (SanType::Dns, path.display().to_string()),
    };
    // An address is not asked for by name.
    let sni = if san == SanType::Dns { host.clone() } else { String::new() };
    let exact = Some(string_matcher::MatchPattern::Exact(host));
    let roots = data_source::Specifier::InlineBytes(roots.to_vec());
    let validation = CertificateValidationContext {
        trusted_ca: Some(DataSource { specifier: Some(roots), ..Default::default() }),
        match_typed_subject_alt_names: vec![SubjectAltNameMatcher {
            san_type: san.into(),
            matcher: Some(StringMatcher { match_pattern: exact, ..Default::default() }),
            ..Default::default()
        }],
        ..Default::default()
    };
    let common = CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..Default::default()
        }),
        validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
        alpn_protocols: vec!["h2".into()],
        ..Default::default()
    };
    socket(&UpstreamTlsContext { sni, common_tls_context: Some(common), ..Default::default() })
}

fn socket(context: &UpstreamTlsContext) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(context))),
    }
}
