//! The series of other parts on the same machine, on one page with one's own, and whether they can work: `up` has one address for
//! all of them.
//!
//! A part that does not answer in time is left out, and `reveille_part_up` says so.

use std::{fmt::Write, io, str::FromStr, time::Duration};

use futures::future::join_all;
use http::{Request, header::ACCEPT};

use super::{Label, Part, page::OWN};
use crate::net::{self, Address};

/// For one part's page.
const PATIENCE: Duration = Duration::from_secs(2);
/// Largest page that is read.
const LARGEST: usize = 8 << 20;
/// Ends an OpenMetrics page.
const END: &str = "# EOF\n";

/// A part beside the router, and where its page is: written `node=unix:/run/node.http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Which.
    pub part: Part,
    /// A Unix socket or a TCP address of its own page.
    pub address: Address,
}

/// Not such a part.
#[derive(Debug, thiserror::Error)]
#[error("write PART=ADDRESS: a part is one of {parts}, an address unix:/path or IP:PORT", parts = parts())]
pub struct InvalidOther;

/// All but the router, whose page has its own series.
fn known() -> impl Iterator<Item = Part> {
    Part::all().into_iter().filter(|part| *part != Part::Router)
}

fn parts() -> String {
    known().map(Label::value).collect::<Vec<_>>().join(", ")
}

impl FromStr for Other {
    type Err = InvalidOther;

    fn from_str(text: &str) -> Result<Self, InvalidOther> {
        let (part, address) = text.split_once('=').ok_or(InvalidOther)?;
        let part = known().find(|known| known.value() == part);
        let address = address.parse().map_err(|_| InvalidOther)?;
        Ok(Self { part: part.ok_or(InvalidOther)?, address })
    }
}

/// What a part's page says; nothing when it does not answer.
pub(super) type Answer = (Part, Option<String>);

/// Asks all of them at once, for the form that we were asked for, and each for its own series alone.
pub(super) async fn gather(others: &[Other], accept: Option<&str>) -> Vec<Answer> {
    join_all(others.iter().map(async |other| {
        let answer = ask(&other.address, "/metrics", accept).await;
        let told = answer.inspect_err(
            |error| tracing::debug!(part = other.part.value(), %error, "a part's page is not there"),
        );
        (other.part, told.ok())
    }))
    .await
}

/// The series of the part that has its page there, without those of others.
pub async fn own(address: &Address) -> io::Result<String> {
    ask(address, "/metrics", None).await
}

/// Which of them cannot do its work, if one cannot. Asks all of them at once.
pub(super) async fn unready(others: &[Other]) -> Option<String> {
    let asked = others.iter().map(async |other| {
        let answer = ask(&other.address, "/readyz", None).await;
        answer.err().map(|error| format!("{} is not ready: {error}", other.part.value()))
    });
    join_all(asked).await.into_iter().flatten().next()
}

async fn ask(address: &Address, path: &str, accept: Option<&str>) -> io::Result<String> {
    let request = Request::get(format!("{path}?{OWN}"));
    let request = accept.iter().fold(request, |request, accept| request.header(ACCEPT, *accept));
    net::ask(address, request, LARGEST, PATIENCE).await
}

/// Our own series and theirs. Those of different parts have different names.
pub(super) fn joined(own: String, others: &[Answer]) -> String {
    if others.is_empty() {
        return own;
    }
    let open_metrics = own.ends_with(END);
    let mut text = own.trim_end_matches(END).to_owned();
    text.push_str("# HELP reveille_part_up 1 while the page of a part answers.\n");
    text.push_str("# TYPE reveille_part_up gauge\n");
    for (part, answer) in others {
        let up = u8::from(answer.is_some());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "reveille_part_up{{part=\"{}\"}} {up}", part.value());
    }
    for answer in others.iter().filter_map(|(_, answer)| answer.as_deref()) {
        text.push_str(answer.trim_end_matches(END));
    }
    if open_metrics {
        text.push_str(END);
    }
    text
}
