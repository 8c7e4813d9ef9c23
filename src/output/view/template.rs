//! Templates and worker pools.

use jiff::Timestamp;
use reveille_api::proto;
use serde::Serialize;
use serde_json::Value;

use crate::output::{View, age};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TemplateView {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) generation: u64,
    pub(crate) actors: u32,
    pub(crate) created: Option<Timestamp>,
    pub(crate) spec: Value,
}

/// A spec is JSON; one that is not, of a newer control plane perhaps, is shown as it is.
fn spec(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// A field of a spec, as text.
fn field(spec: &Value, pointer: &str) -> String {
    match spec.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// Where it is, whatever it is.
fn rootfs(spec: &Value) -> String {
    let kinds = ["directory", "image", "ociLayout"];
    kinds.map(|kind| field(spec, &format!("/rootfs/{kind}"))).concat()
}

impl From<proto::Template> for TemplateView {
    fn from(template: proto::Template) -> Self {
        Self {
            namespace: template.namespace,
            name: template.name,
            generation: template.generation,
            actors: template.actors,
            created: age::at(template.created_unix_ms),
            spec: spec(&template.spec),
        }
    }
}

impl View for TemplateView {
    const KIND: &'static str = "template";
    const COLUMNS: &'static [&'static str] = &[
        "NAMESPACE",
        "NAME",
        "RUNTIME",
        "PORT",
        "PROTOCOL",
        "SUSPEND AFTER",
        "ACTORS",
        "AGE",
        "GENERATION",
        "ROOTFS",
        "COMMAND",
    ];
    const PLAIN: usize = 8;
    const NAMESPACED: bool = true;

    fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.namespace.clone(),
            self.name.clone(),
            field(&self.spec, "/runtime"),
            field(&self.spec, "/port"),
            field(&self.spec, "/protocol"),
            field(&self.spec, "/idle/suspendAfter"),
            self.actors.to_string(),
            age::since(self.created),
            self.generation.to_string(),
            rootfs(&self.spec),
            field(&self.spec, "/command"),
        ]
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PoolView {
    pub(crate) name: String,
    pub(crate) workers: u32,
    pub(crate) used: u32,
    pub(crate) spec: Value,
}

impl From<proto::Pool> for PoolView {
    fn from(pool: proto::Pool) -> Self {
        Self { name: pool.name, workers: pool.workers, used: pool.used, spec: spec(&pool.spec) }
    }
}

impl View for PoolView {
    const KIND: &'static str = "pool";
    const COLUMNS: &'static [&'static str] =
        &["NAME", "WORKERS", "USED", "WORKERS PER NODE", "LABELS"];
    const PLAIN: usize = 3;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.workers.to_string(),
            self.used.to_string(),
            field(&self.spec, "/workersPerNode"),
            field(&self.spec, "/labels"),
        ]
    }
}
