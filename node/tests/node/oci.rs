//! OCI layouts, made from directories.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An OCI layout with one image.
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
    /// Of its manifest.
    pub(crate) digest: String,
}

impl Layout {
    /// Of these archives, the lowest first; every second one is compressed by zstd, the others by gzip. `execution` is the
    /// `config` of its configuration.
    pub(crate) fn new(dir: &Path, archives: &[Vec<u8>], execution: Value) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        let mut layers = Vec::new();
        for (at, archive) in archives.iter().enumerate() {
            let (kind, blob) = if at % 2 == 0 {
                let mut gzip =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(archive).unwrap();
                ("gzip", gzip.finish().unwrap())
            } else {
                ("zstd", zstd::encode_all(&**archive, 1).unwrap())
            };
            let kind = format!("application/vnd.oci.image.layer.v1.tar+{kind}");
            layers.push(put(dir, &kind, &blob));
        }
        let diff_ids: Vec<_> = archives.iter().map(|archive| digest(archive)).collect();
        let config = json!({
            "os": "linux",
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "config": execution,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let kind = "application/vnd.oci.image.config.v1+json";
        let config = put(dir, kind, config.to_string().as_bytes());
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers });
        let manifest = put(dir, kind, manifest.to_string().as_bytes());
        let digest = manifest["digest"].as_str().unwrap().to_owned();
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { dir: dir.into(), digest }
    }
}

/// An archive of a directory.
pub(crate) fn archive(dir: &Path) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    archive.follow_symlinks(false);
    archive.append_dir_all(".", dir).unwrap();
    archive.into_inner().unwrap()
}

fn put(dir: &Path, kind: &str, blob: &[u8]) -> Value {
    let digest = digest(blob);
    let file = digest.replace(':', "/");
    fs::write(dir.join("blobs").join(file), blob).unwrap();
    json!({ "mediaType": kind, "digest": digest, "size": blob.len() })
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}
