//! The rules of a worker's outer namespace, by `nft`.
//!
//! | a packet | is |
//! | --- | --- |
//! | to a live port, from the host | sent inside, to the sandbox |
//! | of a connection made through a port that is not live any more, either way | answered with a reset, though conntrack remembers the connection |
//! | to any other TCP port of the worker | answered with a reset |
//! | from the sandbox, other than replies | dropped, or reset where it is TCP: an actor reaches nobody |
//!
//! An endpoint is one element of the map and one of the set; both come and go in one transaction.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use super::{INSIDE, UPLINK, netns::Netns};

/// Runs `nft` in namespaces.
#[derive(Clone, Debug)]
pub(super) struct Firewall {
    nft: Arc<PathBuf>,
}

impl Firewall {
    pub(super) fn new(nft: &Path) -> Self {
        Self { nft: Arc::new(nft.into()) }
    }

    /// The rules, with no endpoint open.
    pub(super) async fn install(&self, ns: &Netns) -> io::Result<()> {
        self.apply(ns, ruleset()).await
    }

    /// Opens an endpoint.
    pub(super) async fn open(&self, ns: &Netns, port: u16, inner: u16) -> io::Result<()> {
        let script = format!(
            "add element ip reveille endpoints {{ {port} : {INSIDE} . {inner} }}\n\
             add element ip reveille live {{ {port} }}\n"
        );
        self.apply(ns, script).await
    }

    /// Closes the endpoint, if one is open: new connections are refused at once, the others reset at their next packet.
    pub(super) async fn close(&self, ns: &Netns) -> io::Result<()> {
        let script = "flush set ip reveille live\nflush map ip reveille endpoints\n";
        self.apply(ns, script.into()).await
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

fn ruleset() -> String {
    let mut rules = String::from("table ip reveille {\n");
    let mut add = |line: &str| {
        let _ = writeln!(rules, "  {line}");
    };
    add("map endpoints { type inet_service : ipv4_addr . inet_service; }");
    add("set live { type inet_service; }");
    add("chain prerouting {");
    add("  type nat hook prerouting priority dstnat; policy accept;");
    add(&format!("  iifname {UPLINK} dnat ip to tcp dport map @endpoints"));
    add("}");
    add("chain forward {");
    add("  type filter hook forward priority filter; policy drop;");
    add("  meta l4proto tcp ct original proto-dst != @live reject with tcp reset");
    add(&format!("  iifname {UPLINK} ct status dnat accept"));
    add(&format!("  oifname {UPLINK} ct direction reply ct status dnat accept"));
    add("  meta l4proto tcp reject with tcp reset");
    add("}");
    add("chain input {");
    add("  type filter hook input priority filter; policy drop;");
    add(&format!("  iifname {UPLINK} meta l4proto tcp reject with tcp reset"));
    add("}");
    // What this node itself sends to end connections belongs to none.
    add("chain output {");
    add("  type filter hook output priority raw; policy accept;");
    add("  notrack");
    add("}");
    rules.push_str("}\n");
    rules
}
