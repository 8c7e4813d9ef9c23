//! TLS of the HTTPS listener: versions, protocols, and where Envoy gets the certificate.

use envoy_types::pb::envoy::{
    config::core::v3::{
        AggregatedConfigSource, ApiVersion, ConfigSource, DataSource, TransportSocket,
        config_source::ConfigSourceSpecifier, data_source, transport_socket,
    },
    extensions::transport_sockets::tls::v3::{
        CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret, TlsCertificate,
        TlsParameters, secret, tls_parameters::TlsProtocol,
    },
};

use super::names;
use crate::{
    certificate::Certificate,
    proto::{any, duration},
};

/// HTTP/2 for whoever can.
const ALPN: [&str; 2] = ["h2", "http/1.1"];

/// Whatever name the client asks for: what a request is for, its Host says, as without TLS. So a client that connects
/// by address or by a name of its own gets an answer it can read and not a broken handshake.
pub(super) fn socket() -> TransportSocket {
    let certificate = SdsSecretConfig {
        name: names::CERTIFICATE.into(),
        sds_config: Some(ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::Ads(
                AggregatedConfigSource::default(),
            )),
            // The listener opens with the certificate, however long that takes.
            initial_fetch_timeout: duration(std::time::Duration::ZERO),
            resource_api_version: ApiVersion::V3.into(),
            ..Default::default()
        }),
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
                tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
                ..Default::default()
            }),
            tls_certificate_sds_secret_configs: vec![certificate],
            alpn_protocols: ALPN.map(str::to_owned).into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(&context))),
    }
}

pub(super) fn secret(certificate: &Certificate) -> Secret {
    let inline = |bytes: &[u8]| {
        let specifier = Some(data_source::Specifier::InlineBytes(bytes.to_vec()));
        Some(DataSource { specifier, ..Default::default() })
    };
    Secret {
        name: names::CERTIFICATE.into(),
        r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: inline(certificate.chain()),
            private_key: inline(certificate.key()),
            ..Default::default()
        })),
    }
}
