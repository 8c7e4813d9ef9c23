//! The rules of a worker's outer namespace, by `nft`.
//!
//! | a packet | is |
//! | --- | --- |
//! | to a live port, from the host | sent inside, to the sandbox |
//! | of a connection made through a port that is not live any more, either way | answered with a reset, though conntrack remembers the connection |
//! | to any other TCP port of the worker | answered with a reset |
//! | of a connection that the sandbox makes, either way | passed, masqueraded, if the chain [`egress`](super::egress) says so, which is empty unless its template asks |
//! | else from the sandbox, other than replies | dropped, or reset where it is TCP: an actor reaches nobody |
//!
//! An endpoint is one element of the map and one of the set; both come and go in one transaction, by a
//! [message](elements) to the kernel. A worker that is made ready for its next activation gets all of its rules anew, whatever
//! the last one had.

mod elements;

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use super::{
    INSIDE, UPLINK, egress,
    netns::{Netns, thread},
};

/// Without endpoint and egress. The chain may be missing in a worker of an agent from before it.
const SHUT_IN: &str = "add chain ip reveille egress\nflush chain ip reveille egress\n";

/// Runs `nft`, in the namespaces of workers and in the machine's.
#[derive(Clone, Debug)]
pub(super) struct Firewall {
    nft: Arc<PathBuf>,
    /// Of the names of the machine's side: also that of its table.
    prefix: String,
}

impl Firewall {
    pub(super) fn new(nft: &Path, prefix: &str) -> Self {
        Self { nft: Arc::new(nft.into()), prefix: prefix.into() }
    }

    /// The rules, with no endpoint open and nobody to reach, in place of those that are there.
    pub(super) async fn install(&self, ns: &Netns) -> io::Result<()> {
        self.apply(ns, format!("{}{}", none("reveille"), ruleset())).await
    }

    /// Opens an endpoint, and closes the one that was open.
    pub(super) async fn open(&self, ns: &Netns, port: u16, inner: u16) -> io::Result<()> {
        ns.enter(move || elements::open(port, INSIDE, inner)).await?
    }

    /// Closes the endpoint, if one is open, and lets nothing out: new connections are refused at once, the others reset at
    /// their next packet.
    pub(super) async fn close(&self, ns: &Netns) -> io::Result<()> {
        ns.enter(elements::close).await?
    }

    /// Lets out what these rules accept, and nothing else.
    pub(super) async fn let_out(&self, ns: &Netns, rules: &str) -> io::Result<()> {
        self.apply(ns, format!("{SHUT_IN}{rules}")).await
    }

    /// The machine's rules, without which nobody is let out.
    pub(super) async fn guard(&self) -> io::Result<()> {
        self.apply_here(format!("{}{}", none(&self.prefix), egress::host(&self.prefix))).await
    }

    /// Takes them away, if they are there.
    pub(super) async fn unguard(&self) -> io::Result<()> {
        self.apply_here(none(&self.prefix)).await
    }

    async fn apply_here(&self, script: String) -> io::Result<()> {
        let nft = self.nft.clone();
        thread("nft", move || run(&nft, &script)).await?
    }

    async fn apply(&self, ns: &Netns, script: String) -> io::Result<()> {
        let nft = self.nft.clone();
        ns.enter(move || run(&nft, &script)).await?
    }
}

fn run(nft: &Path, script: &str) -> io::Result<()> {
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run {nft:?}: {error}")))?;
    let stdin = child.stdin.take();
    let written = stdin.map_or(Ok(()), |mut stdin| stdin.write_all(script.as_bytes()));
    // Also of one that took nothing: its end says more, and somebody must ask for it.
    let output = child.wait_with_output()?;
    if output.status.success() {
        return written;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().map_or_else(|| output.status.to_string(), str::to_owned);
    Err(io::Error::other(format!("nft failed: {first}")))
}

/// No such table, whether there was one or not.
fn none(table: &str) -> String {
    format!("add table ip {table}\ndelete table ip {table}\n")
}

fn ruleset() -> String {
    let mut rules = String::from("table ip reveille {\n");
    let mut add = |line: &str| {
        let _ = writeln!(rules, "  {line}");
    };
    add("map endpoints { type inet_service : ipv4_addr . inet_service; }");
    add("set live { type inet_service; }");
    add("chain egress {");
    add("}");
    add("chain prerouting {");
    add("  type nat hook prerouting priority dstnat; policy accept;");
    add(&format!("  iifname {UPLINK} dnat ip to tcp dport map @endpoints"));
    add("}");
    add("chain forward {");
    add("  type filter hook forward priority filter; policy drop;");
    add(&format!("  ct original ip saddr {INSIDE} jump egress"));
    add("  meta l4proto tcp ct original proto-dst != @live reject with tcp reset");
    add(&format!("  iifname {UPLINK} ct status dnat accept"));
    add(&format!("  oifname {UPLINK} ct direction reply ct status dnat accept"));
    add("  meta l4proto tcp reject with tcp reset");
    add("}");
    add("chain input {");
    add("  type filter hook input priority filter; policy drop;");
    add(&format!("  iifname {UPLINK} meta l4proto tcp reject with tcp reset"));
    add("}");
    add("chain postrouting {");
    add("  type nat hook postrouting priority srcnat; policy accept;");
    let (low, high) = (egress::SOURCES.start, egress::SOURCES.end - 1);
    add(&format!(
        "  oifname {UPLINK} ip saddr {INSIDE} meta l4proto {{ tcp, udp }} masquerade to :{low}-{high}"
    ));
    add("}");
    // What this node itself sends to end connections belongs to none.
    add("chain output {");
    add("  type filter hook output priority raw; policy accept;");
    add("  notrack");
    add("}");
    rules.push_str("}\n");
    rules
}
