//! The actor zone: `<actor>.<namespace>.<domain>`.

use std::{borrow::Cow, fmt, str::FromStr};

use crate::{
    ActorKey, InvalidLabel,
    key::{check_label, is_label},
};

/// The domain under which actors are reached, lower case, without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    domain: String,
}

impl Zone {
    /// The domain itself, `actors.localhost`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The hostname of an actor.
    pub fn host(&self, actor: &ActorKey) -> String {
        format!("{}.{}", actor.host_prefix(), self.domain)
    }

    /// `name.namespace` of an authority such as `Counter.demo.actors.localhost.:8080`, lower case, or
    /// nothing when it names no actor of this zone. Allocates only for upper-case letters.
    pub fn actor_prefix<'a>(&self, authority: &'a str) -> Option<Cow<'a, str>> {
        let host = strip_port(authority)?;
        let host = host.strip_suffix('.').unwrap_or(host);
        let cut = host.len().checked_sub(self.domain.len() + 1)?;
        let (prefix, tail) = (host.get(..cut)?, host.get(cut + 1..)?);
        if host.as_bytes()[cut] != b'.' || !tail.eq_ignore_ascii_case(&self.domain) {
            return None;
        }
        let prefix = if prefix.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(prefix.to_ascii_lowercase())
        } else {
            Cow::Borrowed(prefix)
        };
        let (name, namespace) = prefix.split_once('.')?;
        (is_label(name) && is_label(namespace)).then_some(prefix)
    }

    /// The actor an authority names.
    pub fn actor(&self, authority: &str) -> Option<ActorKey> {
        self.actor_prefix(authority).map(|prefix| ActorKey::from_host_prefix(&prefix))
    }
}

/// The host of an authority; nothing when its port is not a number of 1 to 65535.
fn strip_port(authority: &str) -> Option<&str> {
    let Some((host, port)) = authority.split_once(':') else { return Some(authority) };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    (digits && port.parse::<u16>().is_ok_and(|port| port != 0)).then_some(host)
}

impl FromStr for Zone {
    type Err = InvalidLabel;

    fn from_str(domain: &str) -> Result<Self, InvalidLabel> {
        let domain = domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase();
        for label in domain.split('.') {
            check_label("domain label", label)?;
        }
        Ok(Self { domain })
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.domain)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone() -> Zone {
        "actors.localhost".parse().unwrap()
    }

    #[test]
    fn port_dot_and_case_do_not_matter() {
        for host in [
            "counter.demo.actors.localhost",
            "counter.demo.actors.localhost:8080",
            "counter.demo.actors.localhost.",
            "Counter.DEMO.Actors.LocalHost.:80",
        ] {
            let actor = zone().actor(host).unwrap_or_else(|| panic!("{host}"));
            assert_eq!(actor.to_string(), "demo/counter");
        }
    }

    #[test]
    fn everything_else_names_no_actor() {
        let long = format!("{}.demo.actors.localhost", "a".repeat(64));
        for host in [
            "",
            ".",
            ":80",
            "actors.localhost",
            "demo.actors.localhost",
            ".demo.actors.localhost",
            "counter..actors.localhost",
            "a.b.c.actors.localhost",
            "counter.demo.actors.example",
            "counter.demoactors.localhost",
            "counter.demo.actors.localhost..",
            "counter.demo.actors.localhost:",
            "counter.demo.actors.localhost:0",
            "counter.demo.actors.localhost:+80",
            "counter.demo.actors.localhost:99999",
            "counter.demo.actors.localhost:80:80",
            "co_unter.demo.actors.localhost",
            "-c.demo.actors.localhost",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "cöunter.demo.actors.localhost",
            long.as_str(),
        ] {
            assert_eq!(zone().actor(host), None, "{host}");
        }
    }

    proptest! {
        #[test]
        fn no_authority_panics_and_a_found_actor_round_trips(authority in ".{0,80}") {
            if let Some(actor) = zone().actor(&authority) {
                prop_assert_eq!(zone().actor(&zone().host(&actor)), Some(actor));
            }
        }
    }
}
