//! Our entry among kube-dns's `stubDomains`: `{"actors.internal": ["10.96.0.20"]}`.

use std::{collections::BTreeMap, net::SocketAddr};

use reveille_api::Zone;

use super::bare_port;

/// Why they are left alone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// kube-dns would not take them either.
    #[error("stubDomains is no JSON object of lists of addresses")]
    Json(#[from] serde_json::Error),
    /// Somebody else sends the zone elsewhere.
    #[error(
        "stubDomains sends {0} elsewhere already: remove that entry, or choose another --domain"
    )]
    Taken(String),
}

type StubDomains = BTreeMap<String, Vec<String>>;

/// The text with our entry. `ours` tells whether one that is there came from us; nothing when somebody else's says the same.
pub(crate) fn install(
    text: Option<&str>,
    zone: &Zone,
    servers: &[SocketAddr],
    ours: bool,
) -> Result<Option<String>, Error> {
    let mut all = read(text)?;
    let servers: Vec<_> = servers.iter().map(|server| bare_port(*server)).collect();
    match all.get(zone.domain()) {
        // To the byte, also where somebody writes JSON in another way.
        Some(there) if *there == servers => return Ok(text.filter(|_| ours).map(str::to_owned)),
        Some(_) if !ours => return Err(Error::Taken(zone.to_string())),
        _ => {}
    }
    all.insert(zone.domain().to_owned(), servers);
    write(&all).map(Some)
}

/// The text without our entry; nothing when there is no other.
pub(crate) fn uninstall(text: &str, zone: &Zone) -> Result<Option<String>, Error> {
    let mut all = read(Some(text))?;
    match all.remove(zone.domain()) {
        None => Ok(Some(text.to_owned())),
        Some(_) if all.is_empty() => Ok(None),
        Some(_) => write(&all).map(Some),
    }
}

fn read(text: Option<&str>) -> Result<StubDomains, Error> {
    match text.map(str::trim).filter(|text| !text.is_empty()) {
        None => Ok(StubDomains::new()),
        Some(text) => Ok(serde_json::from_str(text)?),
    }
}

fn write(all: &StubDomains) -> Result<String, Error> {
    Ok(serde_json::to_string(all)? + "\n")
}
