//! Reads manifests from YAML or JSON; errors name the line.

use std::path::Path;

use serde::{Deserialize, de::DeserializeOwned};
use serde_path_to_error::Track;

use super::{API_VERSION, Manifest, Metadata, Spec};
use crate::key::check_label;

/// A manifest that cannot be taken. One line: where, what, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ManifestError {
    /// Line in the text, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: String,
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Object<S> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Metadata,
    spec: S,
}

/// Every object of a YAML text with documents between `---` lines. Relative paths are seen from `folder`.
pub fn parse_all(text: &str, folder: &Path) -> Result<Vec<Manifest>, ManifestError> {
    let mut manifests = Vec::new();
    for document in documents(text) {
        let mut manifest = parse(&document)?;
        manifest.resolve_paths(folder);
        manifests.push(checked(manifest, &document)?);
    }
    if manifests.is_empty() {
        return Err(ManifestError { line: 1, message: "there is no object in it".into() });
    }
    Ok(manifests)
}

/// One object, YAML or JSON, with absolute paths.
pub fn parse_one(text: &str) -> Result<Manifest, ManifestError> {
    checked(parse(text)?, text)
}

/// The documents of a text, each with empty lines in front so that its line numbers are the text's.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for (number, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            documents.push("\n".repeat(number + 1));
        } else if let Some(document) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    let content = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    documents.retain(|document| document.lines().any(content));
    documents
}

fn parse(text: &str) -> Result<Manifest, ManifestError> {
    let header: Header = from_yaml(text)?;
    if header.api_version != API_VERSION {
        let message =
            format!("apiVersion {:?} is unknown; write {API_VERSION}", header.api_version);
        return Err(ManifestError { line: line_of(text, "apiVersion"), message });
    }
    match header.kind.as_str() {
        "ActorTemplate" => object(text, |spec| Spec::ActorTemplate(Box::new(spec))),
        "WorkerPool" => object(text, Spec::WorkerPool),
        "Actor" => object(text, Spec::Actor),
        kind => {
            let message =
                format!("kind {kind:?} is unknown; it is ActorTemplate, WorkerPool or Actor");
            Err(ManifestError { line: line_of(text, "kind"), message })
        }
    }
}

fn object<S: DeserializeOwned>(
    text: &str,
    wrap: impl FnOnce(S) -> Spec,
) -> Result<Manifest, ManifestError> {
    let object: Object<S> = from_yaml(text)?;
    Ok(Manifest { metadata: object.metadata, spec: wrap(object.spec) })
}

fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<T, ManifestError> {
    let mut track = Track::new();
    let read = serde_saphyr::with_deserializer_from_str(text, |yaml| {
        T::deserialize(serde_path_to_error::Deserializer::new(yaml, &mut track))
    });
    read.map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let message = error.without_snippet().to_string();
        // The library repeats the place at the end of its text.
        let message = message.split(" at line ").next().unwrap_or_default().replace('\n', " ");
        // A path that ends in `?` is one to a key, or to where it is no YAML any more.
        let path = track.path().to_string();
        let message = match message.strip_prefix("duplicate mapping key: ") {
            Some(key) => {
                let key = key.split(',').next().unwrap_or_default();
                let path = path.trim_end_matches('?').trim_start_matches('.');
                format!("{path}{key}: is given twice: write it once")
            }
            None if path == "." || path.ends_with('?') => allowed(&message),
            None => format!("{path}: {}", allowed(&message)),
        };
        ManifestError { line, message }
    })
}

/// What may be written instead, where the library tells only of its types.
fn allowed(message: &str) -> String {
    let value = message
        .strip_prefix("invalid value: string ")
        .and_then(|rest| rest.strip_suffix(", expected a duration"));
    if let Some(value) = value {
        return format!("{value} is no duration: write 30s, 5m or 1h30m");
    }
    let whole_number = |most: u64| format!("this is no whole number from 0 to {most}");
    match message {
        "invalid u16" => "this is no port: write 1 to 65535".into(),
        "invalid u32" => whole_number(u32::MAX.into()),
        "invalid u64" => whole_number(u64::MAX),
        "invalid boolean" => "this is neither true nor false".into(),
        "expected sequence start" => "this is no list: write [a, b]".into(),
        "expected mapping start" => "this is no mapping: write { key: value }".into(),
        "expected end of mapping after enum variant value" => "only one key is allowed here".into(),
        other => other.into(),
    }
}

/// Rules beyond the types. The line is that of the field's last part, found by its name.
fn checked(manifest: Manifest, text: &str) -> Result<Manifest, ManifestError> {
    let at = |key: &str, message: String| ManifestError { line: line_of(text, key), message };
    check_label("metadata.name", &manifest.metadata.name).map_err(|e| at("name", e.to_string()))?;
    if let Some(namespace) = &manifest.metadata.namespace {
        if matches!(manifest.spec, Spec::WorkerPool(_)) {
            return Err(at("namespace", "metadata.namespace: a WorkerPool has none".into()));
        }
        check_label("metadata.namespace", namespace).map_err(|e| at("namespace", e.to_string()))?;
    }
    manifest.spec.check().map_err(|message| {
        let path = message.split(':').next().unwrap_or_default().to_owned();
        at(path.rsplit('.').next().unwrap_or_default(), message)
    })?;
    Ok(manifest)
}

fn line_of(text: &str, key: &str) -> u64 {
    let found = text.lines().position(|line| {
        line.trim_start().trim_start_matches('"').starts_with(key)
            || line.contains(&format!("{key}:"))
    });
    let first = text.lines().position(|line| !line.is_empty()).unwrap_or(0);
    found.unwrap_or(first) as u64 + 1
}
