//! Registries, as `oci-client` speaks to them, and what they are told of who we are.

use std::{
    env,
    fs::File,
    io::{BufReader, ErrorKind, Read},
    path::PathBuf,
    time::Duration,
};

use docker_credential::{CredentialRetrievalError, DockerCredential};
use futures::{StreamExt, TryStreamExt};
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    manifest::{
        IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
        OCI_IMAGE_MEDIA_TYPE, OciDescriptor,
    },
    secrets::RegistryAuth,
};
use tokio_util::{
    io::{StreamReader, SyncIoBridge},
    sync::CancellationToken,
};

use super::{
    Error,
    document::{Descriptor, Digest, MAX_DOCUMENT},
};
use crate::{actor::chain, files};

const MANIFESTS: &[&str] = &[
    OCI_IMAGE_MEDIA_TYPE,
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
];
const CONNECT: Duration = Duration::from_secs(10);
/// Between two pieces of an answer.
const SILENCE: Duration = Duration::from_secs(30);
/// For a document, or for the beginning of a layer.
const ANSWER: Duration = Duration::from_secs(60);

/// How registries are spoken to.
#[derive(Clone, Debug)]
pub(crate) struct Registries {
    /// A file like docker's `config.json`, read anew for each pull.
    pub(crate) auth: Option<PathBuf>,
    /// Those that are spoken to without TLS, as `host` or `host:port`. Loopback is too.
    pub(crate) plain_http: Vec<String>,
}

/// One image at its registry.
#[derive(Clone)]
pub(super) struct Registry {
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
}

impl Registries {
    /// An image by its name; `digest` instead of what the name says.
    pub(super) async fn find(
        &self,
        name: &str,
        digest: Option<&Digest>,
    ) -> Result<Registry, Error> {
        let invalid = |error| Error::bad(format!("it is no name of an image: {error}"));
        let mut reference: Reference = name.parse().map_err(invalid)?;
        if let Some(digest) = digest {
            reference = reference.clone_with_digest(digest.to_string());
        }
        let host = reference.resolve_registry().to_owned();
        let protocol =
            if self.is_plain(&host) { ClientProtocol::Http } else { ClientProtocol::Https };
        // For its HTTP client; an error says that somebody has chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_from(ClientConfig {
            protocol,
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: concat!("reveille/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        });
        let client =
            client.map_err(|error| Error::bad(format!("no registry can be asked: {error}")))?;
        let file = self.auth.clone();
        let auth = files::blocking(move || Ok(credentials(file, &host))).await??;
        client.store_auth_if_needed(reference.resolve_registry(), &auth).await;
        Ok(Registry { client, reference, auth })
    }

    fn is_plain(&self, registry: &str) -> bool {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let loopback = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        loopback || self.plain_http.iter().any(|plain| plain == registry || plain == host)
    }
}

impl Registry {
    /// What its name, or this digest, stands for.
    pub(super) async fn manifest(&self, digest: Option<&Digest>) -> Result<Vec<u8>, Error> {
        let reference = match digest {
            Some(digest) => self.reference.clone_with_digest(digest.to_string()),
            None => self.reference.clone(),
        };
        let pulled = self.client.pull_manifest_raw(&reference, &self.auth, MANIFESTS);
        let (bytes, _) = self.in_time(pulled).await?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(Error::bad("its manifest is too long"));
        }
        Ok(bytes.into())
    }

    /// A configuration.
    pub(super) async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        if descriptor.size > MAX_DOCUMENT {
            return Err(Error::bad("its configuration is too long"));
        }
        let blob = described(descriptor);
        let pulled = async {
            let mut pieces = self.client.pull_blob_stream(&self.reference, &blob).await?;
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.try_next().await? {
                bytes.extend_from_slice(&piece);
                if bytes.len() as u64 > MAX_DOCUMENT {
                    let long = "it is longer than it may be";
                    return Err(OciDistributionError::SpecViolationError(long.into()));
                }
            }
            Ok(bytes)
        };
        self.in_time(pulled).await
    }

    /// A layer, for a thread that may block. It breaks off when `stop` says so.
    pub(super) async fn layer(
        &self,
        descriptor: &Descriptor,
        stop: CancellationToken,
    ) -> Result<Box<dyn Read + Send>, Error> {
        let blob = described(descriptor);
        let pieces = self.in_time(self.client.pull_blob_stream(&self.reference, &blob)).await?;
        let pieces = pieces.take_until(stop.cancelled_owned()).boxed();
        Ok(Box::new(SyncIoBridge::new(StreamReader::new(pieces))))
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, OciDistributionError>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(ANSWER, work).await {
            Ok(done) => done.map_err(|error| self.failure(error)),
            Err(_) => {
                let registry = self.reference.registry();
                Err(Error::Away(format!(
                    "the registry {registry} did not answer within {ANSWER:?}"
                )))
            }
        }
    }

    /// Nothing of what a registry answers is repeated but codes: it may be anything.
    fn failure(&self, error: OciDistributionError) -> Error {
        use OciDistributionError as E;
        let registry = self.reference.registry();
        let absent = || Error::bad(format!("the registry {registry} does not have it"));
        let refused = || match self.auth {
            RegistryAuth::Anonymous => Error::Away(format!(
                "the registry {registry} does not give it to everybody, and --registry-auth has nothing for it"
            )),
            _ => Error::Away(format!(
                "the registry {registry} does not give it to whom --registry-auth names for it"
            )),
        };
        let answers = |what: String| Error::Away(format!("the registry {registry} answers {what}"));
        match error {
            E::RequestError(error) => {
                let why = chain(&error.without_url());
                Error::Away(format!("the registry {registry} cannot be reached: {why}"))
            }
            E::UnauthorizedError { .. } | E::AuthenticationFailure(_) => refused(),
            E::ImageManifestNotFoundError(_) => absent(),
            E::ServerError { code: 404, .. } => absent(),
            E::ServerError { code: 401 | 403, .. } => refused(),
            E::ServerError { code, .. } => answers(code.to_string()),
            E::RegistryError { envelope, .. } => {
                match envelope.errors.into_iter().next().map(|error| error.code) {
                    Some(
                        OciErrorCode::ManifestUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::BlobUnknown
                        | OciErrorCode::NotFound,
                    ) => absent(),
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => refused(),
                    Some(code) => answers(format!("{code:?}")),
                    None => answers("with an error".into()),
                }
            }
            E::IoError(error) => Error::Away(format!("the registry {registry} broke off: {error}")),
            E::DigestError(_) => {
                Error::bad(format!("the registry {registry} sends something else"))
            }
            _ => answers("what is not understood".into()),
        }
    }
}

fn described(descriptor: &Descriptor) -> OciDescriptor {
    OciDescriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    }
}

/// What is known of us there. Nothing of it is ever told.
fn credentials(file: Option<PathBuf>, registry: &str) -> Result<RegistryAuth, Error> {
    let given = file.is_some();
    let Some(file) = file.or_else(default_file) else { return Ok(RegistryAuth::Anonymous) };
    let path = file.display();
    let reader = match File::open(&file) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == ErrorKind::NotFound && !given => {
            return Ok(RegistryAuth::Anonymous);
        }
        Err(error) => return Err(Error::Away(format!("--registry-auth {path}: {error}"))),
    };
    match docker_credential::get_credential_from_reader(reader, registry) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(RegistryAuth::Basic(user, password))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(RegistryAuth::Bearer(token)),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(RegistryAuth::Anonymous),
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
            Err(Error::Away(format!("{helper} of {path} knows nothing for {registry}")))
        }
        Err(CredentialRetrievalError::HelperCommunicationError) => Err(Error::Away(format!(
            "the credential helper of {path} for {registry} cannot be run"
        ))),
        Err(_) => {
            Err(Error::Away(format!("--registry-auth {path} is not like docker's config.json")))
        }
    }
}

/// Where docker has it.
fn default_file() -> Option<PathBuf> {
    let dir = env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let dir = dir.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".docker")));
    dir.map(|dir| dir.join("config.json"))
}
