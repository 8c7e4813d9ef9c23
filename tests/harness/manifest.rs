//! Manifests of the test actors.

use std::fmt::Write;

use super::repository;

/// Templates and actors, in one namespace or several.
#[derive(Clone, Debug)]
pub struct Manifests {
    text: String,
    runtime: &'static str,
}

impl Default for Manifests {
    fn default() -> Self {
        Self::new()
    }
}

impl Manifests {
    pub fn new() -> Self {
        Self::of("gvisor")
    }

    /// With templates of this runtime.
    pub fn of(runtime: &'static str) -> Self {
        Self { text: String::new(), runtime }
    }

    /// A counter's template; `extra` is added to its spec, one field a line.
    pub fn counter(self, namespace: &str, name: &str, extra: &str) -> Self {
        let rootfs = repository().join(".deps/rootfs/counter");
        let command = format!(
            "rootfs: {{ directory: {} }}\ncommand: [\"/counter\"]\nreadiness: {{ httpGet: {{ path: /healthz }} }}\n",
            rootfs.display()
        );
        self.template(namespace, name, &format!("{command}{extra}"))
    }

    /// A template that runs a Python program; `extra` is added to its spec, one field a line.
    pub fn python(self, namespace: &str, name: &str, program: &str, extra: &str) -> Self {
        let rootfs = repository().join(".deps/rootfs/python");
        let command = serde_json::json!(["/usr/bin/python3", "-u", "-c", program]);
        let fields =
            format!("rootfs: {{ directory: {} }}\ncommand: {command}\n{extra}", rootfs.display());
        self.template(namespace, name, &fields)
    }

    /// A template with these fields of its spec.
    pub fn template(mut self, namespace: &str, name: &str, fields: &str) -> Self {
        let _ = writeln!(
            self.text,
            "---\napiVersion: reveille.dev/v1alpha1\nkind: ActorTemplate\n\
             metadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n  runtime: {}",
            self.runtime
        );
        for line in fields.lines() {
            let _ = writeln!(self.text, "  {line}");
        }
        self
    }

    /// An actor of a template.
    pub fn actor(mut self, namespace: &str, name: &str, template: &str) -> Self {
        let _ = writeln!(
            self.text,
            "---\napiVersion: reveille.dev/v1alpha1\nkind: Actor\n\
             metadata: {{ name: {name}, namespace: {namespace} }}\nspec: {{ template: {template} }}"
        );
        self
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}
