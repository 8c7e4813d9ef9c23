//! `reveille certs`: a CA for development, and certificates of the parts.
//!
//! A certificate's identity is all that the parts look at ([`Identity`]); a CA of one's own that writes the same
//! identities does as well.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::Subcommand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};
use reveille_api::net::{Identity, Role, Tls, TlsError, TlsFiles};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use webpki::{EndEntityCert, anchor_from_trusted_cert};

use crate::error::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  reveille certs init --dir certs                          certs/ca.pem and certs/ca.key
  reveille certs issue controlplane --dir certs            certs/controlplane.pem and certs/controlplane.key
  reveille certs issue node --name n1 --dir certs          certs/node-n1.pem and certs/node-n1.key
  reveille certs issue router --name r1 --dir certs
  reveille certs issue envoy --dir certs
  reveille certs issue client --dir certs
  reveille get nodes --server control.example:8082 \\
    --tls-cert certs/client.pem --tls-key certs/client.key --tls-ca certs/ca.pem

The URI spiffe://<trust-domain>/reveille/<role>[/<name>] in a certificate is who its holder is; host names do not count.
Keep ca.key where no part can read it: whoever has it can be any part.";

const CA_VALID: &str = "3650days";
const VALID: &str = "90days";
const SHORTEST: Duration = Duration::from_secs(60);
/// Clocks differ.
const BEFORE: Duration = Duration::from_secs(300);

/// Make a development CA and the certificates by which the parts know each other over TCP
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Make the CA
    #[command(
        after_help = "Example:\n  reveille certs init --dir certs --trust-domain example.org"
    )]
    Init(Init),
    /// Make a part's certificate; again when it is about to expire, with --force
    #[command(after_help = "Example:\n  reveille certs issue node --name n1 --dir certs\n  \
                      reveille certs issue node --name n1 --dir certs --force      a new one; running parts take it up")]
    Issue(Issue),
}

#[derive(clap::Args, Debug)]
struct Folder {
    /// Where the files are; made with mode 0700
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Replace what is there
    #[arg(long)]
    force: bool,
}

#[derive(clap::Args, Debug)]
struct Init {
    #[command(flatten)]
    folder: Folder,
    /// Within which identities are unique: parts of another trust domain are strangers
    #[arg(long, value_name = "DOMAIN", default_value = "reveille.local")]
    trust_domain: String,
    /// How long the CA is valid
    #[arg(long, value_name = "TIME", default_value = CA_VALID, value_parser = humantime::parse_duration)]
    valid: Duration,
}

#[derive(clap::Args, Debug)]
struct Issue {
    /// What it is: controlplane, router, node, envoy, dns or client
    #[arg(value_name = "ROLE")]
    role: Role,
    /// Which of its kind; a router and a node must have one, that of their --name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Host name for tools that look at host names; may be given more than once
    #[arg(long, value_name = "HOST")]
    dns: Vec<String>,
    /// IP address for such tools; may be given more than once
    #[arg(long, value_name = "IP")]
    ip: Vec<IpAddr>,
    /// How long it is valid
    #[arg(long, value_name = "TIME", default_value = VALID, value_parser = humantime::parse_duration)]
    valid: Duration,
    #[command(flatten)]
    folder: Folder,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        match self.command {
            Command::Init(init) => init.run(),
            Command::Issue(issue) => issue.run(),
        }
    }
}

/// A certificate and its key.
struct Pair {
    cert: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn of(dir: &Path, stem: &str) -> Self {
        Self { cert: dir.join(format!("{stem}.pem")), key: dir.join(format!("{stem}.key")) }
    }

    fn ca(dir: &Path) -> Self {
        Self::of(dir, "ca")
    }

    fn exists(&self) -> bool {
        self.cert.exists() || self.key.exists()
    }

    /// The key first: a part that looks in between finds that they do not match, and keeps what it has.
    fn write(&self, cert: &str, key: &KeyPair) -> Result {
        write(&self.key, &key.serialize_pem())?;
        write(&self.cert, cert)?;
        say(&format!("{}\n{}", self.cert.display(), self.key.display()))
    }
}

impl Init {
    fn run(self) -> Result {
        let Folder { dir, force } = &self.folder;
        let pair = Pair::ca(dir);
        if pair.exists() && !force {
            return match read_ca(dir) {
                Ok(ca) if ca.trust_domain == self.trust_domain => {
                    say(&format!("{} unchanged", pair.cert.display()))
                }
                Ok(ca) => Err(Error::failed(format!(
                    "{} is of the trust domain {}: --force replaces it, and every certificate must then be issued again",
                    pair.cert.display(),
                    ca.trust_domain
                ))),
                Err(error) => Err(error),
            };
        }
        // Checked as part of an identity.
        Identity::new(&self.trust_domain, Role::Client, None)
            .map_err(|error| Error::usage(format!("--trust-domain: {error}")))?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|error| failed("make", dir, &error))?;
        let key =
            KeyPair::generate().map_err(|error| Error::because("cannot make a key", &error))?;
        let mut params = ca_params(&self.trust_domain)?;
        valid_for(&mut params, self.valid)?;
        let cert = params.self_signed(&key).map_err(signing)?;
        pair.write(&cert.pem(), &key)
    }
}

impl Issue {
    fn run(self) -> Result {
        let Folder { dir, force } = &self.folder;
        let ca = read_ca(dir)?;
        let identity = Identity::new(&ca.trust_domain, self.role, self.name.clone())
            .map_err(|error| Error::usage(format!("--name: {error}")))?;
        let stem = match identity.name() {
            Some(name) => format!("{}-{name}", self.role),
            None => self.role.to_string(),
        };
        let pair = Pair::of(dir, &stem);
        if pair.exists() && !force {
            return self.keep(&pair, &identity);
        }
        if !ca.is_valid_for(self.valid) {
            return Err(Error::usage(
                "--valid is longer than the CA is valid: give less, or make another CA (certs init --force)",
            ));
        }
        let key =
            KeyPair::generate().map_err(|error| Error::because("cannot make a key", &error))?;
        let cert = self.params(&identity)?.signed_by(&key, &ca.issuer).map_err(signing)?;
        pair.write(&cert.pem(), &key)
    }

    /// What is there already is what was asked for, or it is not touched.
    fn keep(&self, pair: &Pair, identity: &Identity) -> Result {
        let shown = pair.cert.display();
        let wrong = |why: &str| Error::failed(format!("{shown} {why}: --force replaces it"));
        let ca = Pair::ca(&self.folder.dir).cert;
        let files = TlsFiles { cert: pair.cert.clone(), key: pair.key.clone(), ca };
        let tls = Tls::load(files).map_err(|error: TlsError| {
            wrong(&format!("is there and cannot be used ({})", crate::error::chain(&error)))
        })?;
        if *tls.identity() != *identity {
            return Err(wrong(&format!("is of {}", tls.identity())));
        }
        if !self.has_names(&pair.cert)? {
            return Err(wrong("has not all of these host names and addresses"));
        }
        say(&format!("{shown} unchanged"))
    }

    fn has_names(&self, cert: &Path) -> Result<bool> {
        let text = fs::read(cert).map_err(|error| failed("read", cert, &error))?;
        let Ok(der) = CertificateDer::from_pem_slice(&text) else { return Ok(false) };
        let Ok(cert) = EndEntityCert::try_from(&der) else { return Ok(false) };
        let names = self.dns.iter().map(|name| ServerName::try_from(name.clone()).ok());
        let ips = self.ip.iter().map(|ip| Some(ServerName::from(*ip)));
        let has = |name: Option<ServerName<'_>>| {
            name.is_some_and(|name| cert.verify_is_valid_for_subject_name(&name).is_ok())
        };
        Ok(names.chain(ips).all(has))
    }

    fn params(&self, identity: &Identity) -> Result<CertificateParams> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let common = [Some(self.role.name()), identity.name()];
        let common: Vec<_> = common.into_iter().flatten().collect();
        params.distinguished_name.push(DnType::CommonName, common.join(" "));
        params.subject_alt_names = vec![SanType::URI(ia5(&identity.to_string())?)];
        for name in &self.dns {
            params.subject_alt_names.push(SanType::DnsName(ia5(name)?));
        }
        params.subject_alt_names.extend(self.ip.iter().map(|ip| SanType::IpAddress(*ip)));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Most parts are server to one and client to another.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, self.valid)?;
        Ok(params)
    }
}

/// The CA as `init` made it.
struct Ca {
    trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

impl Ca {
    /// Judged as a part judges a certificate. It is none of a part, but its time comes first.
    fn is_valid_for(&self, time: Duration) -> bool {
        let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) else {
            return false;
        };
        let end = UnixTime::since_unix_epoch(now.saturating_add(time));
        let (anchor, cert) =
            (anchor_from_trusted_cert(&self.der), EndEntityCert::try_from(&self.der));
        let (Ok(anchor), Ok(cert)) = (anchor, cert) else { return false };
        let usage = webpki::KeyUsage::client_auth();
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let judged =
            cert.verify_for_usage(algorithms, &[anchor], &[], end, usage, None, None).map(drop);
        !matches!(judged, Err(webpki::Error::CertExpired { .. }))
    }
}

fn read_ca(dir: &Path) -> Result<Ca> {
    let Pair { cert, key } = Pair::ca(dir);
    let text = match fs::read(&cert) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let dir = dir.display();
            let help = format!("there is no CA in {dir}: reveille certs init --dir {dir}");
            return Err(Error::failed(help));
        }
        Err(error) => return Err(failed("read", &cert, &error)),
    };
    let not_ours = || Error::failed(format!("{} is not of 'reveille certs init'", cert.display()));
    let der = CertificateDer::from_pem_slice(&text).map_err(|_| not_ours())?;
    let trust_domain = Identity::trust_domain_of_ca(&der).map_err(|_| not_ours())?;
    let mode =
        fs::metadata(&key).map_err(|error| failed("read", &key, &error))?.permissions().mode();
    if mode & 0o077 != 0 {
        let key = key.display();
        return Err(Error::failed(format!(
            "{key} can be read by others: chmod 600 it, or make a new CA"
        )));
    }
    let pem = fs::read_to_string(&key).map_err(|error| failed("read", &key, &error))?;
    // Its error might quote the file.
    let pair = KeyPair::from_pem(&pem).map_err(|_| {
        Error::failed(format!("{} holds no private key in PEM form", key.display()))
    })?;
    let issuer = Issuer::new(ca_params(&trust_domain)?, pair);
    Ok(Ca { trust_domain, issuer, der: der.into_owned() })
}

/// The same for the same trust domain: who issues needs the CA's name, not its certificate.
fn ca_params(trust_domain: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name = format!("Reveille development CA of {trust_domain}");
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(ia5(&format!("spiffe://{trust_domain}"))?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn valid_for(params: &mut CertificateParams, time: Duration) -> Result {
    if time < SHORTEST {
        return Err(Error::usage("--valid is too short: give a minute or more"));
    }
    let now = SystemTime::now();
    let until = now.checked_add(time).ok_or_else(|| Error::usage("--valid is too long"))?;
    params.not_before = (now - BEFORE).into();
    params.not_after = until.into();
    Ok(())
}

fn ia5(text: &str) -> Result<Ia5String> {
    Ia5String::try_from(text)
        .map_err(|_| Error::usage(format!("{text:?} has other than ASCII letters")))
}

fn signing(error: rcgen::Error) -> Error {
    Error::because("cannot sign the certificate", &error)
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> Error {
    Error::because(format!("cannot {verb} {}", path.display()), error)
}

/// Whole or not at all, and for its owner only.
fn write(path: &Path, text: &str) -> Result {
    let new = path.with_extension("new");
    let write = || {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file: File =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|error| failed("write", path, &error))
}

fn say(text: &str) -> Result {
    Ok(writeln!(io::stdout(), "{text}")?)
}
