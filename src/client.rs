//! The connection of the client verbs to the control plane.

use std::{
    io,
    path::{Path, PathBuf},
};

use reveille_api::{
    manifest::DEFAULT_NAMESPACE,
    net::{Address, Expected, Role, Transport},
    proto::{self, control_client::ControlClient, overview_client::OverviewClient},
    trace,
};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::{
    error::{Error, Result},
    tls,
};

/// Where `up` keeps everything unless told otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/reveille";

type Service = InterceptedService<Channel, Bearer>;
/// A connected client.
pub(crate) type Control = ControlClient<Service>;
/// A connected client of what goes on.
pub(crate) type Overview = OverviewClient<Service>;

/// How the control plane is reached.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Args {
    /// Control plane: unix:/path/to/socket, IP:PORT or name:port [default: the socket in the data directory]
    #[arg(long, value_name = "ADDRESS", env = "REVEILLE_SERVER", hide_env_values = true)]
    pub(crate) server: Option<Address>,
    /// Data directory of `reveille up`, where its socket and token are found
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    #[arg(env = "REVEILLE_DATA_DIR", hide_env_values = true)]
    pub(crate) data_dir: PathBuf,
    /// File with the token that a TCP address asks for [default: run/token in the data directory]
    #[arg(long, value_name = "FILE", env = "REVEILLE_TOKEN_FILE", hide_env_values = true)]
    pub(crate) token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tls: tls::Args,
}

/// Which namespace a verb is about.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Namespace {
    /// Namespace of the object, unless NAME is written as namespace/name
    #[arg(short, long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    #[arg(env = "REVEILLE_NAMESPACE", hide_env_values = true)]
    pub(crate) namespace: String,
}

impl Namespace {
    /// The key of `name` or `namespace/name`.
    pub(crate) fn key(&self, name: &str) -> Result<proto::ActorKey> {
        let (namespace, name) = name.split_once('/').unwrap_or((&self.namespace, name));
        let key = reveille_api::ActorKey::new(namespace, name).map_err(Error::usage)?;
        Ok(proto::ActorKey::from(&key))
    }
}

/// Variable with the trace that a verb belongs to, as W3C writes it.
const TRACEPARENT: &str = "TRACEPARENT";

/// Adds the token, and the trace that we are started in, to each call.
#[derive(Clone)]
pub(crate) struct Bearer {
    token: Option<MetadataValue<Ascii>>,
    trace: Option<MetadataValue<Ascii>>,
}

impl Bearer {
    fn new(token: Option<MetadataValue<Ascii>>) -> Self {
        let trace = std::env::var(TRACEPARENT).ok().and_then(|trace| trace.parse().ok());
        Self { token, trace }
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (key, value) in [("authorization", &self.token), (trace::HEADER, &self.trace)] {
            if let Some(value) = value {
                request.metadata_mut().insert(key, value.clone());
            }
        }
        Ok(request)
    }
}

impl Args {
    fn address(&self) -> Address {
        self.server.clone().unwrap_or_else(|| control_socket(&self.data_dir))
    }

    /// Connects; says so when nothing answers.
    pub(crate) async fn connect(&self) -> Result<Control> {
        Ok(ControlClient::new(self.service().await?))
    }

    /// The same, to see what goes on.
    pub(crate) async fn overview(&self) -> Result<Overview> {
        Ok(OverviewClient::new(self.service().await?))
    }

    async fn service(&self) -> Result<Service> {
        let address = self.address();
        let transport = match address.is_unix() {
            true => Transport::unix(),
            false => self.tls.transport(Role::Client, None)?,
        };
        let plain = !address.is_unix() && transport.identity().is_none();
        if plain && !address.is_loopback() {
            // The token would be anybody's who listens on the way.
            return Err(Error::usage(format!(
                "--server {address} is not on this machine: give --tls-cert, --tls-key and --tls-ca"
            )));
        }
        let bearer = Bearer::new(if plain { self.token()? } else { None });
        let server = || Expected::any(Role::ControlPlane);
        transport.reach(&address, server()).await.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Error::failed(format!(
                "no permission to open {address}: run this as the user that runs 'reveille up'"
            )),
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::TimedOut => no_answer(&address),
            _ => Error::because(format!("cannot connect to {address}"), &error),
        })?;
        let channel = match plain {
            true => address.channel(),
            false => transport.channel(&address, server()).map_err(Error::usage)?,
        };
        Ok(InterceptedService::new(channel, bearer))
    }

    fn token(&self) -> Result<Option<MetadataValue<Ascii>>> {
        let path = self.token_file.clone().unwrap_or_else(|| self.data_dir.join("run/token"));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.token_file.is_none() => {
                return Ok(None);
            }
            Err(error) => {
                return Err(Error::usage(format!(
                    "cannot read the token file {}: {error}",
                    path.display()
                )));
            }
        };
        let token = format!("Bearer {}", text.trim()).parse();
        let token =
            token.map_err(|_| Error::usage(format!("{} holds no token", path.display())))?;
        Ok(Some(token))
    }
}

/// The control plane's socket in a data directory.
pub(crate) fn control_socket(data_dir: &Path) -> Address {
    Address::Unix(data_dir.join("run/control.sock"))
}

fn no_answer(address: &Address) -> Error {
    Error::failed(format!(
        "no control plane answers at {address}: is 'reveille up' running? (--server and --data-dir \
         say where it is)"
    ))
}

/// The connection ended before the answer.
fn went_away(code: Code, text: &str) -> bool {
    code == Code::Unavailable || text == "transport error" || text.starts_with("h2 protocol error")
}

/// What a failed call means to the person who made it.
impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let reason = status.metadata().get("reveille-reason").and_then(|v| v.to_str().ok());
        let message = match (status.code(), status.message()) {
            (Code::Unauthenticated, _) => {
                "the control plane wants a token: give its run/token with --token-file".into()
            }
            (Code::Unimplemented, _) => {
                "the control plane does not know this operation: it is of another version".into()
            }
            // It was TLS, or no gRPC at all.
            (_, "h2 protocol error: http2 error") => {
                "what answers there is no control plane without TLS: if it has certificates, give --tls-cert, --tls-key \
                 and --tls-ca, else correct --server"
                    .into()
            }
            (code, text) if reason.is_none() && went_away(code, text) => {
                "the control plane went away during the call: see with 'reveille get' or 'reveille events' whether it \
                 was done, and try again"
                    .into()
            }
            (code, "") => code.description().to_owned(),
            (_, text) => text.to_owned(),
        };
        match reason {
            Some(reason) => Self::Failed(format!("{message} ({reason})")),
            None => Self::Failed(message),
        }
    }
}
