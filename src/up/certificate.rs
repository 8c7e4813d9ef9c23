//! The certificate that `up` serves HTTPS with when it is given none: self-signed, made once, kept in the data directory.
//!
//! It is for `<domain>` and `*.<domain>`. A wildcard stands for one label and an actor has two, so no client takes it for
//! an actor without being told to (`curl -k`): it is for development, and says so.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rcgen::{CertificateParams, DnType, KeyPair};
use reveille_api::Zone;
use reveille_envoy::certificate::Files;

use crate::error::{Error, Result};

/// Where it is.
pub(super) fn files(data_dir: &Path, domain: &Zone) -> Files {
    let file = |kind| data_dir.join("https").join(format!("{domain}.{kind}"));
    Files { certificate: file("crt"), key: file("key") }
}

/// Makes it, unless it is there.
pub(super) fn make(files: &Files, domain: &Zone) -> Result {
    if files.certificate.exists() && files.key.exists() {
        return Ok(());
    }
    let cannot = |error: rcgen::Error| Error::because("cannot make a certificate", &error);
    let names = [domain.to_string(), format!("*.{domain}")];
    let mut params = CertificateParams::new(names).map_err(cannot)?;
    params.distinguished_name.push(DnType::CommonName, "reveille up, for development");
    let key = KeyPair::generate().map_err(cannot)?;
    let certificate = params.self_signed(&key).map_err(cannot)?;
    write(&files.key, &key.serialize_pem(), 0o600)?;
    write(&files.certificate, &certificate.pem(), 0o644)
}

/// Whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> Result {
    let new: PathBuf = path.with_added_extension("new");
    let written = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, path)
    };
    written().map_err(|error| Error::because(path.display(), &error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn it_is_made_once_and_its_key_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let domain: Zone = "actors.test".parse().unwrap();
        let files = files(dir.path(), &domain);
        make(&files, &domain).unwrap();
        let first = files.read().await.unwrap();
        assert_eq!(files.key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        make(&files, &domain).unwrap();
        assert_eq!(files.read().await.unwrap(), first);
    }
}
