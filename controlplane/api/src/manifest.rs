//! What a user writes: `ActorTemplate`, `WorkerPool` and `Actor` manifests.
//!
//! One module reads them for every caller: the client from a YAML file (errors name the line), the control plane and
//! the node from JSON. A manifest that parses here is valid; [`Spec::check`] holds every rule.

pub mod egress;
mod image;
pub mod quantity;
mod read;
pub mod template;

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

pub use read::{ManifestError, parse_all, parse_one};
pub use template::ActorTemplateSpec;

/// The API group and version of every manifest.
pub const API_VERSION: &str = "reveille.dev/v1alpha1";
/// Where namespaced objects go when they name no namespace.
pub const DEFAULT_NAMESPACE: &str = "default";

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Its name and namespace.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: Spec,
}

/// Name and namespace of an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// A DNS-1123 label.
    pub name: String,
    /// A DNS-1123 label. Worker pools have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What an object asks for, by its kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// How to run actors of one kind.
    ActorTemplate(Box<ActorTemplateSpec>),
    /// Which workers run what.
    WorkerPool(WorkerPoolSpec),
    /// One actor.
    Actor(ActorSpec),
}

impl Spec {
    /// The `kind` of the manifest.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ActorTemplate(_) => "ActorTemplate",
            Self::WorkerPool(_) => "WorkerPool",
            Self::Actor(_) => "Actor",
        }
    }

    /// Every rule that the types do not hold already; the message names the field.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::ActorTemplate(spec) => spec.check(),
            Self::WorkerPool(spec) if spec.workers_per_node == 0 => {
                Err("spec.workersPerNode: 0 is no worker: give 1 or more, or no such pool".into())
            }
            Self::WorkerPool(spec) => check_labels("spec.labels", &spec.labels),
            Self::Actor(spec) => {
                crate::key::check_label("template", &spec.template).map_err(|e| e.to_string())
            }
        }
    }
}

/// Which workers run what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerPoolSpec {
    /// Labels a template's `workerSelector` is matched with.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Nodes that give workers to this pool; all of them when empty.
    #[serde(default)]
    pub node_selector: Selector,
    /// Workers taken from each such node, as far as it has them free of other pools.
    pub workers_per_node: u32,
}

/// Chooses what has all of these labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// Labels and the values they must have.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

impl Selector {
    /// True when `labels` has every label asked for.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// One actor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActorSpec {
    /// A template in the actor's namespace.
    pub template: String,
}

impl Manifest {
    /// The namespace, where the object has one.
    pub fn namespace(&self) -> Option<&str> {
        match self.spec {
            Spec::WorkerPool(_) => None,
            _ => Some(self.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)),
        }
    }

    /// The folder on the node that a template runs from, where it names one.
    pub fn rootfs_folder(&self) -> Option<&Path> {
        match &self.spec {
            Spec::ActorTemplate(spec) => spec.rootfs.folder(),
            _ => None,
        }
    }

    /// Whom a template's actors are to open connections to.
    pub fn egress(&self) -> &[egress::Egress] {
        match &self.spec {
            Spec::ActorTemplate(spec) => &spec.egress,
            _ => &[],
        }
    }

    /// Makes paths absolute, as seen from the manifest's folder.
    pub fn resolve_paths(&mut self, folder: &Path) {
        if let Spec::ActorTemplate(spec) = &mut self.spec {
            spec.rootfs.resolve(folder);
        }
    }

    /// The manifest as JSON, as `Apply` takes it.
    pub fn to_json(&self) -> serde_json::Value {
        let spec = match &self.spec {
            Spec::ActorTemplate(spec) => serde_json::to_value(spec),
            Spec::WorkerPool(spec) => serde_json::to_value(spec),
            Spec::Actor(spec) => serde_json::to_value(spec),
        };
        serde_json::json!({
            "apiVersion": API_VERSION,
            "kind": self.spec.kind(),
            "metadata": self.metadata,
            "spec": spec.unwrap_or_default(),
        })
    }
}

/// Label keys and values as Kubernetes has them, without the optional prefix.
pub(crate) fn check_labels(field: &str, labels: &BTreeMap<String, String>) -> Result<(), String> {
    let word = |s: &str| {
        s.len() <= 63 && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
    };
    match labels.iter().find(|(key, value)| key.is_empty() || !word(key) || !word(value)) {
        Some((key, value)) => Err(format!("{field}: {key:?}: {value:?} is not a label")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
