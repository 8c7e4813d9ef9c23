//! The flags of a part's certificate.

use std::path::PathBuf;

use reveille_api::net::{Role, TlsFiles, Transport};

use crate::error::{Error, Result, chain};

/// Flags of every part that speaks to another one, and of the client verbs.
#[derive(clap::Args, Clone, Debug, Default)]
#[group(skip)]
#[command(next_help_heading = "TLS (for TCP addresses; all three, see 'reveille certs --help')")]
pub(crate) struct Args {
    /// Certificate of this part, PEM; read again when it changes, like the other two
    #[arg(long, value_name = "FILE", env = "REVEILLE_TLS_CERT", hide_env_values = true)]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key, PEM; no others may read the file
    #[arg(long, value_name = "FILE", env = "REVEILLE_TLS_KEY", hide_env_values = true)]
    pub(crate) tls_key: Option<PathBuf>,
    /// Certificates of the CAs that every part's certificate comes from, PEM
    #[arg(long, value_name = "FILE", env = "REVEILLE_TLS_CA", hide_env_values = true)]
    pub(crate) tls_ca: Option<PathBuf>,
}

/// Variables that `up` does not hand on to its parts: they are meant for the client verbs.
pub(crate) const VARIABLES: [&str; 3] =
    ["REVEILLE_TLS_CERT", "REVEILLE_TLS_KEY", "REVEILLE_TLS_CA"];

impl Args {
    /// The files, if there are any; some of them are too few.
    pub(crate) fn files(&self) -> Result<Option<TlsFiles>> {
        let whole = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
        let all = (whole(&self.tls_cert), whole(&self.tls_key), whole(&self.tls_ca));
        let (Ok(cert), Ok(key), Ok(ca)) = all else {
            return Err(Error::usage("--tls-cert, --tls-key, --tls-ca: an empty path"));
        };
        match (cert, key, ca) {
            (Some(cert), Some(key), Some(ca)) => Ok(Some(TlsFiles { cert, key, ca })),
            (None, None, None) => Ok(None),
            (cert, key, ca) => {
                let flags = [("--tls-cert", cert), ("--tls-key", key), ("--tls-ca", ca)];
                let missing = flags.iter().filter(|(_, path)| path.is_none());
                let missing: Vec<_> = missing.map(|(flag, _)| *flag).collect();
                let missing = missing.join(" and ");
                Err(Error::usage(format!(
                    "TLS needs a certificate, a key and a CA: give {missing} too"
                )))
            }
        }
    }

    /// Paths that a part without privileges must be able to open.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        [&self.tls_cert, &self.tls_key, &self.tls_ca].into_iter().flatten().cloned().collect()
    }

    /// Reads them. They must be of this role, and of this name where there is one.
    pub(crate) fn transport(&self, role: Role, name: Option<&str>) -> Result<Transport> {
        let Some(files) = self.files()? else { return Ok(Transport::unix()) };
        let cert = files.cert.display().to_string();
        let transport = Transport::tls(files).map_err(|error| {
            Error::Usage(format!("--tls-cert, --tls-key, --tls-ca: {}", chain(&error)))
        })?;
        let Some(who) = transport.identity() else { return Ok(transport) };
        let named = !role.is_named() || who.name() == name;
        if who.role() == role && named {
            return Ok(transport);
        }
        let flag = |name| format!(" --name {name}");
        let name = name.filter(|_| role.is_named()).map(flag).unwrap_or_default();
        Err(Error::Usage(format!(
            "--tls-cert {cert} is of {who}; this is another part: reveille certs issue {role}{name}"
        )))
    }
}
