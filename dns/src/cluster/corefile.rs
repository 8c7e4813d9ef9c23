//! Our part of a CoreDNS `Corefile`, between two marks of its own. Everything else stays as it is, to the byte.
//!
//! ```text
//!  # reveille:begin actors.internal …
//!  actors.internal:53 {
//!      errors
//!      cache 5
//!      bind 169.254.20.10            only where the cluster's own block has it (NodeLocal DNS)
//!      forward . 10.96.0.20
//!  }
//!  # reveille:end actors.internal
//! ```
//!
//! It stands in front: what is behind it needs no line end of ours, and its removal leaves exactly what was there. What is
//! there is read before, as CoreDNS would: a block of the same zone by somebody else, or marks that are not a pair, is a
//! reason to change nothing.

mod grammar;

use std::{fmt::Write, net::SocketAddr, ops::Range};

use reveille_api::Zone;

use super::bare_port;
use grammar::Server;

/// Why a Corefile is left alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// CoreDNS would not take it either.
    #[error("line {line}: {what}")]
    Syntax {
        /// Where.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// Two blocks for one zone, and CoreDNS does not start.
    #[error(
        "line {line}: {zone} is served there already: remove that block, or choose another --domain"
    )]
    Taken {
        /// Where.
        line: usize,
        /// Which zone.
        zone: String,
    },
    /// Somebody edited them.
    #[error("line {line}: the mark of {zone} has no other half: remove it")]
    Marks {
        /// Where.
        line: usize,
        /// Whose.
        zone: String,
    },
}

/// The Corefile with our block, new or repaired.
pub(crate) fn install(text: &str, zone: &Zone, servers: &[SocketAddr]) -> Result<String, Error> {
    let rest = uninstall(text, zone)?;
    let blocks = grammar::parse(&rest)?;
    let root = blocks.iter().find(|block| block.zones().any(|(zone, _)| zone == "."));
    let root_port = root.and_then(|block| block.zones().find(|(zone, _)| zone == "."));
    let port = root_port.map_or("53".into(), |(_, port)| port);
    for block in &blocks {
        let mut zones = block.zones();
        if zones.any(|(name, other)| name == zone.domain() && other == port) {
            return Err(Error::Taken { line: block.line, zone: zone.to_string() });
        }
    }
    Ok(block(zone, &port, root.and_then(Server::bind), servers) + &rest)
}

/// The Corefile without our block, as it was before.
pub(crate) fn uninstall(text: &str, zone: &Zone) -> Result<String, Error> {
    match ours(text, zone)? {
        None => Ok(text.to_owned()),
        Some(ours) => Ok([&text[..ours.start], &text[ours.end..]].concat()),
    }
}

/// Whether CoreDNS reads a changed Corefile by itself.
pub(crate) fn reloads(text: &str) -> bool {
    let blocks = grammar::parse(text).unwrap_or_default();
    blocks.iter().any(|block| block.directives.iter().any(|d| d.name() == "reload"))
}

fn begin(zone: &Zone) -> String {
    format!("# reveille:begin {zone}")
}

fn end(zone: &Zone) -> String {
    format!("# reveille:end {zone}")
}

fn block(zone: &Zone, port: &str, bind: Option<String>, servers: &[SocketAddr]) -> String {
    let mut text = format!(
        "{} (kept by 'reveille dns install'; 'reveille dns uninstall' removes it)\n{zone}:{port} {{\n    errors\n    cache 5\n",
        begin(zone)
    );
    // Writing to a String cannot fail.
    if let Some(bind) = bind {
        let _ = writeln!(text, "    {bind}");
    }
    let servers: Vec<_> = servers.iter().map(|server| bare_port(*server)).collect();
    let _ = write!(text, "    forward . {}\n}}\n{}\n", servers.join(" "), end(zone));
    text
}

/// Where our block stands, with its marks and the line end after them.
fn ours(text: &str, zone: &Zone) -> Result<Option<Range<usize>>, Error> {
    let (begin, end) = (begin(zone), end(zone));
    let is = |line: &str, mark: &str| {
        let rest = line.trim().strip_prefix(mark);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
    };
    let (mut at, mut open, mut found) = (0, None, None);
    for (n, line) in text.split_inclusive('\n').enumerate() {
        let odd = Error::Marks { line: n + 1, zone: zone.to_string() };
        if is(line, &begin) {
            if open.is_some() || found.is_some() {
                return Err(odd);
            }
            open = Some((at, n + 1));
        } else if is(line, &end) {
            let (start, _) = open.take().ok_or(odd)?;
            found = Some(start..at + line.len());
        }
        at += line.len();
    }
    match open {
        Some((_, line)) => Err(Error::Marks { line, zone: zone.to_string() }),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests;
