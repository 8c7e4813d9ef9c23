//! [`Config`]: what an operator decides about one node.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

use reveille_api::{
    manifest::{egress::IpBlock, template::Runtime},
    net::{Address, ListenError, NoTls, Transport},
};

use crate::{
    images::Registries,
    runtime::{
        self,
        criu::{Places, Programs},
    },
    slots,
    slots::Cidr,
};

/// Bytes of the disk that images may take, if nothing else is said.
pub const IMAGE_CACHE: u64 = 20 << 30;

/// Everything the node agent is told. [`Config::build`](crate::Config::build) makes an [`App`](crate::App) of it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name; its workers are named `<node>-<index>`.
    pub node: String,
    /// Root of all state. The agent keeps its own under `node/`; interfaces and namespaces are named after a
    /// hash of this path, so that several data directories live side by side on one machine.
    pub data_dir: PathBuf,
    /// Files that live as long as the machine runs: pinned network namespaces, what containers write.
    pub run_dir: PathBuf,
    /// Our certificate, if the control plane and we are to reach each other by TCP.
    pub transport: Transport,
    /// Where the agent serves the control plane.
    pub listen: Address,
    /// Where the control plane is told to reach the agent; where it listens, if nothing else is said.
    pub advertise: Option<Address>,
    /// Where the control plane serves its agents.
    pub control_plane: Address,
    /// Where metrics and probes are served.
    pub status: Option<Address>,
    /// Places for activations.
    pub workers: u32,
    /// Labels a worker pool selects nodes by.
    pub labels: HashMap<String, String>,
    /// Addresses of the workers: one /30 each.
    pub worker_cidr: Cidr,
    /// The runsc binary.
    pub runsc: PathBuf,
    /// The criu binary, likewise.
    pub criu: PathBuf,
    /// The runc binary, which starts what criu saves; likewise.
    pub runc: PathBuf,
    /// Runtimes that must work. Others are left out if they do not.
    pub required: Vec<Runtime>,
    /// The nft binary; a bare name is looked up in `PATH` and the usual places.
    pub nft: PathBuf,
    /// A template's rootfs directory must lie in one of these.
    pub rootfs_allow: Vec<PathBuf>,
    /// Networks that templates may let actors reach. None: no actor reaches anybody.
    pub egress_allow: Vec<IpBlock>,
    /// Bytes of the disk that images may take: beyond it those leave that nobody needs, and a larger one is refused.
    pub image_cache: u64,
    /// A file like docker's `config.json`, with what registries are told of who we are. None: docker's own, if it is there.
    pub registry_auth: Option<PathBuf>,
    /// Registries that are spoken to without TLS, as `host` or `host:port`; those on loopback always are.
    pub plain_http: Vec<String>,
    /// URL of the store that snapshots go to, the same for all nodes. Without one they stay on their node.
    pub store: Option<String>,
    /// Directory with a file `<namespace>.key` for each namespace, 64 hexadecimal digits: what goes to the store is
    /// encrypted with it.
    pub store_keys: Option<PathBuf>,
    /// Bytes of the disk that snapshots may take; what is beyond and in the store too is evicted.
    pub snapshot_cache: Option<u64>,
}

impl Config {
    /// Defaults for everything that has one.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        // runsc and the control plane are told paths in it, and are elsewhere.
        let data_dir = data_dir.into();
        let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
        let run_dir = data_dir.join("run");
        Self {
            node: "local".into(),
            transport: Transport::unix(),
            listen: Address::Unix(run_dir.join("node.sock")),
            advertise: None,
            control_plane: Address::Unix(run_dir.join("control.sock")),
            status: None,
            workers: 8,
            labels: HashMap::new(),
            worker_cidr: Cidr::default(),
            runsc: "runsc".into(),
            criu: "criu".into(),
            runc: "runc".into(),
            required: Vec::new(),
            nft: "nft".into(),
            rootfs_allow: Vec::new(),
            egress_allow: Vec::new(),
            image_cache: IMAGE_CACHE,
            registry_auth: None,
            plain_http: Vec::new(),
            store: None,
            store_keys: None,
            snapshot_cache: None,
            data_dir,
            run_dir,
        }
    }

    pub(crate) fn registries(&self) -> Registries {
        let (auth, plain_http) = (self.registry_auth.clone(), self.plain_http.clone());
        Registries { auth, plain_http }
    }

    pub(crate) fn programs(&self) -> Programs {
        Programs { criu: self.criu.clone(), runc: self.runc.clone() }
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout::new(&self.data_dir, &self.run_dir)
    }
}

/// Where the agent keeps what.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
    /// Of gVisor: its state, its bundles.
    pub(crate) runsc: PathBuf,
    pub(crate) bundles: PathBuf,
    /// Of CRIU: its bundles, and what containers write.
    pub(crate) containers: PathBuf,
    pub(crate) memory: PathBuf,
    pub(crate) snapshots: PathBuf,
    pub(crate) images: PathBuf,
    /// Golden ones.
    pub(crate) goldens: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) records: PathBuf,
    pub(crate) slots: PathBuf,
    pub(crate) netns: PathBuf,
    /// Prefix of interfaces, namespaces and sandboxes: `rv` and six hexadecimal digits.
    pub(crate) prefix: String,
}

impl Layout {
    pub(crate) fn new(data_dir: &Path, run_dir: &Path) -> Self {
        let root = data_dir.join("node");
        // The hash must not depend on how the path was written.
        let whole = data_dir.canonicalize().unwrap_or_else(|_| data_dir.into());
        let hash = blake3::hash(whole.as_os_str().as_encoded_bytes()).to_hex();
        Self {
            runsc: root.join("runsc"),
            bundles: root.join("bundles"),
            containers: root.join("criu"),
            memory: run_dir.join("memory"),
            snapshots: root.join("snapshots"),
            images: root.join("images"),
            goldens: root.join("golden"),
            logs: root.join("logs"),
            records: root.join("records"),
            slots: root.join("slots.json"),
            netns: run_dir.join("netns"),
            prefix: format!("rv{}", &hash[..6]),
            root,
        }
    }

    /// For CRIU. `mounts` are those of the agent that its namespace must not hold.
    pub(crate) fn containers(&self, mounts: Vec<PathBuf>) -> Places {
        Places {
            bundles: self.containers.clone(),
            memory: self.memory.clone(),
            mounts,
            prefix: self.prefix.clone(),
        }
    }

    pub(crate) fn create(&self) -> Result<(), BuildError> {
        for dir in [&self.root, &self.snapshots, &self.logs, &self.records, &self.netns] {
            crate::files::create_private_dir(dir)
                .map_err(|source| BuildError::Directory { path: dir.clone(), source })?;
        }
        Ok(())
    }
}

/// Why the agent cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// It needs root: namespaces, mounts, sandboxes.
    #[error("the node agent must run as root: run it with sudo")]
    NotRoot,
    /// A directory cannot be made.
    #[error("cannot create {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A value that cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// The runtime does not work.
    #[error("the runtime {name} cannot be used")]
    Runtime {
        /// Its name.
        name: &'static str,
        /// Why.
        source: runtime::Error,
    },
    /// The network of the workers cannot be made.
    #[error("the workers' network cannot be made")]
    Slots(#[from] slots::Error),
    /// State on disk cannot be read.
    #[error("cannot read the node's state")]
    State(#[source] io::Error),
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The control plane cannot be reached safely.
    #[error(transparent)]
    ControlPlane(#[from] NoTls),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_do_not_depend_on_where_the_agent_was_started() {
        let config = Config::new("nr");
        let here = std::env::current_dir().unwrap().join("nr");
        assert_eq!(config.layout().bundles, here.join("node/bundles"));
        assert_eq!(config.listen, Address::Unix(here.join("run/node.sock")));
    }
}
