//! The certificate that `up` serves HTTPS with when it is given none: self-signed, made once, kept in the data directory.
//!
//! A wildcard stands for one label and an actor's name has two before the domain. So it is for `*.<namespace>.<domain>`
//! of each namespace that an `--apply` file names, and made anew, with the same key, when another one comes. Clients take
//! it for actors there once they trust it (`curl --cacert`).

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rcgen::{CertificateParams, DnType, KeyPair};
use reveille_api::{
    Zone,
    manifest::{DEFAULT_NAMESPACE, Manifest},
};
use reveille_envoy::certificate::Files;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use webpki::EndEntityCert;

use crate::error::{Error, Result};

/// Where it is.
pub(super) fn files(data_dir: &Path, domain: &Zone) -> Files {
    let file = |kind| data_dir.join("https").join(format!("{domain}.{kind}"));
    Files { certificate: file("crt"), key: file("key") }
}

/// Makes it, unless it is there and is for all of these.
pub(super) fn make(files: &Files, domain: &Zone, manifests: &[Manifest]) -> Result {
    let cannot = |error: rcgen::Error| Error::because("cannot make a certificate", &error);
    let key = fs::read_to_string(&files.key).ok().and_then(|pem| KeyPair::from_pem(&pem).ok());
    let had = key.as_ref().map(|_| namespaces_of(files, domain)).unwrap_or_default();
    let mut namespaces: BTreeSet<_> = manifests.iter().filter_map(Manifest::namespace).collect();
    namespaces.insert(DEFAULT_NAMESPACE);
    if namespaces.iter().all(|namespace| had.contains(*namespace)) {
        return Ok(());
    }
    namespaces.extend(had.iter().map(String::as_str));
    let hosts = namespaces.iter().map(|namespace| format!("*.{namespace}.{domain}"));
    let names: Vec<_> = [domain.to_string()].into_iter().chain(hosts).collect();
    let mut params = CertificateParams::new(names).map_err(cannot)?;
    params.distinguished_name.push(DnType::CommonName, "reveille up, for development");
    let key = match key {
        Some(key) => key,
        None => KeyPair::generate().map_err(cannot)?,
    };
    let certificate = params.self_signed(&key).map_err(cannot)?;
    write(&files.key, &key.serialize_pem(), 0o600)?;
    write(&files.certificate, &certificate.pem(), 0o644)
}

/// Namespaces that the certificate is for.
fn namespaces_of(files: &Files, domain: &Zone) -> BTreeSet<String> {
    let names = || -> Option<Vec<String>> {
        let der = CertificateDer::from_pem_file(&files.certificate).ok()?;
        let cert = EndEntityCert::try_from(&der).ok()?;
        Some(cert.valid_dns_names().map(str::to_owned).collect())
    };
    let end = format!(".{domain}");
    let namespace = |name: &String| Some(name.strip_prefix("*.")?.strip_suffix(&end)?.to_owned());
    names().unwrap_or_default().iter().filter_map(namespace).collect()
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
        make(&files, &domain, &[]).unwrap();
        let first = files.read().await.unwrap();
        assert_eq!(files.key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        make(&files, &domain, &[]).unwrap();
        assert_eq!(files.read().await.unwrap(), first);
    }

    #[test]
    fn it_is_for_the_actors_of_every_namespace_there_was_and_keeps_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let domain: Zone = "actors.test".parse().unwrap();
        let files = files(dir.path(), &domain);
        let manifest = |namespace: &str| {
            let text = format!(
                "apiVersion: reveille.dev/v1alpha1\nkind: Actor\n\
                 metadata: {{name: a, namespace: {namespace}}}\nspec: {{template: t}}\n"
            );
            reveille_api::manifest::parse_all(&text, Path::new("/")).unwrap()
        };
        let accepts = |host: &str| {
            let der = CertificateDer::from_pem_file(&files.certificate).unwrap();
            let cert = EndEntityCert::try_from(&der).unwrap();
            cert.verify_is_valid_for_subject_name(&host.try_into().unwrap()).is_ok()
        };
        make(&files, &domain, &manifest("demo")).unwrap();
        let key = fs::read(&files.key).unwrap();
        assert!(accepts("counter.demo.actors.test") && accepts("a.default.actors.test"));
        assert!(!accepts("counter.shop.actors.test"));
        make(&files, &domain, &manifest("shop")).unwrap();
        assert!(accepts("counter.demo.actors.test") && accepts("counter.shop.actors.test"));
        assert_eq!(fs::read(&files.key).unwrap(), key);
    }
}
