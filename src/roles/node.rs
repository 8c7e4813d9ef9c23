//! `reveille node`.

use std::{ffi::OsString, path::PathBuf};

use reveille_api::{
    manifest::{egress::IpBlock, quantity::Bytes},
    net::{self, Address},
};
use reveille_node::Cidr;

use super::{Common, Role, Stop, role_error};
use crate::{
    client::DEFAULT_DATA_DIR,
    error::{Error, Result},
    tls, tools,
};

const EXAMPLES: &str = "\
Examples:
  reveille node --name n1 --workers 8 --allow-rootfs /srv/actors
  reveille node --name n1 --store s3://snapshots/reveille --snapshot-cache 20Gi
  reveille node --name n1 --listen 0.0.0.0:8083 --advertise n1.example:8083 --control-plane control.example:8082 \\
    --tls-cert certs/node-n1.pem --tls-key certs/node-n1.key --tls-ca certs/ca.pem

SIGTERM leaves the actors running: the next agent with the same data directory adopts them. SIGINT ends them
and removes every namespace, interface and rule.";

/// Run the node agent: sandboxes, their networks and snapshots (needs root)
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name of the node; its workers are NAME-0, NAME-1, …
    #[arg(long, value_name = "NAME", default_value = "local")]
    name: String,
    /// Data directory; snapshots and logs are kept in node
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Where the control plane reaches the agent: unix:/path, or IP:PORT with TLS [default: run/node.sock in the data directory]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<Address>,
    /// Where the control plane is told to reach it: name:port or IP:PORT [default: --listen]
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<Address>,
    /// The control plane: unix:/path, or IP:PORT or name:port with TLS [default: run/control.sock in the data directory]
    #[arg(long, value_name = "ADDRESS")]
    control_plane: Option<Address>,
    /// Metrics and probes: IP:PORT or unix:/path [default: not served]
    #[arg(long, value_name = "ADDRESS")]
    status: Option<Address>,
    /// Actors that can run at a time
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    workers: u32,
    /// Label that worker pools select nodes by; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    label: Vec<(String, String)>,
    /// Addresses of the workers' networks, a /30 for each
    #[arg(long, value_name = "CIDR", default_value_t = Cidr::default())]
    worker_cidr: Cidr,
    #[command(flatten)]
    runtimes: tools::Runtimes,
    /// Folder that templates may run from; may be given more than once
    #[arg(long, value_name = "DIR")]
    allow_rootfs: Vec<PathBuf>,
    /// Network that templates may let their actors reach, like 10.1.2.0/24, or 0.0.0.0/0, which names no private one; may be given
    /// more than once [default: actors reach nobody]
    #[arg(long, value_name = "CIDR")]
    allow_egress: Vec<IpBlock>,
    #[command(flatten)]
    images: ImageArgs,
    #[command(flatten)]
    snapshots: SnapshotArgs,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    tls: tls::Args,
}

/// Where images come from; `up` hands them on.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ImageArgs {
    /// File with who we are at registries, like docker's config.json; read anew for each pull [default: ~/.docker/config.json]
    #[arg(long, value_name = "FILE")]
    registry_auth: Option<PathBuf>,
    /// Registry that is spoken to without TLS; may be given more than once. Those on loopback always are
    #[arg(long, value_name = "HOST[:PORT]")]
    plain_http: Vec<String>,
    /// Disk that images may take on the node, like 20Gi: beyond it those leave that no actor and no snapshot needs, the longest
    /// unused first; a larger one is refused
    #[arg(long, value_name = "BYTES", default_value_t = Bytes(reveille_node::config::IMAGE_CACHE))]
    image_cache: Bytes,
}

impl ImageArgs {
    /// As flags of `reveille node`.
    pub(crate) fn flags(&self) -> Vec<(&'static str, OsString)> {
        let absolute = |file: &PathBuf| std::path::absolute(file).unwrap_or_else(|_| file.clone());
        let auth =
            self.registry_auth.as_ref().map(|file| ("--registry-auth", absolute(file).into()));
        let plain = self.plain_http.iter().map(|host| ("--plain-http", host.into()));
        let cache = ("--image-cache", self.image_cache.to_string().into());
        auth.into_iter().chain(plain).chain([cache]).collect()
    }
}

/// Where snapshots are kept; `up` hands them on.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct SnapshotArgs {
    /// Where snapshots go that other nodes can restore, the same for all nodes: file:///dir, s3://bucket/path, gs://… or az://…, with
    /// credentials in AWS_…, GOOGLE_… or AZURE_… variables [default: they stay on their node]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Folder with a key for each namespace, NAMESPACE.key, 64 hexadecimal digits: what goes to the store is encrypted
    #[arg(long, value_name = "DIR", requires = "store")]
    store_keys: Option<PathBuf>,
    /// Disk that snapshots may take on the node, like 20Gi: beyond it those leave that are in the store, the longest unused first
    #[arg(long, value_name = "BYTES", requires = "store")]
    snapshot_cache: Option<Bytes>,
}

impl SnapshotArgs {
    /// As flags of `reveille node`.
    pub(crate) fn flags(&self) -> Vec<(&'static str, OsString)> {
        let store = self.store.as_ref().map(|url| ("--store", url.into()));
        let keys = self.store_keys.as_ref().map(|dir| ("--store-keys", dir.into()));
        let cache = self.snapshot_cache.map(|bytes| ("--snapshot-cache", bytes.to_string().into()));
        store.into_iter().chain(keys).chain(cache).collect()
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

impl Args {
    fn config(self) -> Result<reveille_node::Config> {
        self.runtimes.check().map_err(Error::failed)?;
        reveille_node::check_egress(&self.allow_egress).map_err(Error::failed)?;
        let default = self.runtimes.complete(reveille_node::Config::new(self.data_dir));
        Ok(reveille_node::Config {
            transport: self.tls.transport(net::Role::Node, Some(&self.name))?,
            node: self.name,
            advertise: self.advertise,
            listen: self.listen.unwrap_or(default.listen),
            control_plane: self.control_plane.unwrap_or(default.control_plane),
            status: self.status,
            workers: self.workers,
            labels: self.label.into_iter().collect(),
            worker_cidr: self.worker_cidr,
            rootfs_allow: self.allow_rootfs,
            egress_allow: self.allow_egress,
            registry_auth: self.images.registry_auth,
            plain_http: self.images.plain_http,
            image_cache: self.images.image_cache.0,
            store: self.snapshots.store,
            store_keys: self.snapshots.store_keys,
            snapshot_cache: self.snapshots.snapshot_cache.map(|bytes| bytes.0),
            ..default
        })
    }
}

impl Role for Args {
    const PART: &'static str = "node";

    fn common(&self) -> &Common {
        &self.common
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn page(&self) -> Option<Address> {
        self.status.clone()
    }

    fn unprivileged(&self) -> Option<Vec<PathBuf>> {
        None
    }

    fn check(self) -> Result {
        self.config()?.check().map_err(|error| role_error(Self::PART)(&error))
    }

    async fn serve(self, stop: Stop) -> Result {
        let config = self.config()?;
        let wrong = role_error(Self::PART);
        let app = config.build().await.map_err(|error| wrong(&error))?;
        app.run(stop.token, stop.for_good).await.map_err(|error| wrong(&error))
    }
}
