//! What an actor may reach, as rules. Two tables keep to it:
//!
//! ```text
//!   sandbox ─▶ worker's rules, chain `egress` ─▶ masqueraded: worker's address, ports 1024 to 19999 ─▶ host's rules ─▶ masqueraded ─▶ out
//!                │ there from before the activation        │ no port of an endpoint, so the host can      │ never to this machine,
//!                │ until its endpoint is closed            │ tell whose a packet is                      │ nor to another worker
//! ```
//!
//! Which ranges a template names is for the worker's rules to judge. These know this machine's addresses as they were when the
//! actor was let out; those it got since are the host's rules' to keep, which are there as long as an agent runs that may let actors
//! out, and set anew with each that it does.

use std::fmt::Write as _;

use reveille_api::manifest::egress::{Egress, IpBlock, NEVER, PRIVATE};

use super::{UPLINK, ports::PORTS};

/// What a worker's connections to others come from.
pub(super) const SOURCES: std::ops::Range<u16> = 1024..*PORTS.start();
/// Connections of one actor at a time, so that none fills the tables of its machine.
const MOST: u32 = 4096;

/// The rules of the chain: whoever gets to its end is refused.
pub(super) fn rules(egress: &[Egress], never: impl IntoIterator<Item = IpBlock>) -> String {
    let mut rules = String::new();
    let mut add = |rule: String| {
        let _ = writeln!(rules, "add rule ip reveille egress {rule}");
    };
    add("ct direction reply accept".into());
    add(format!("ct state new ct count over {MOST} return"));
    add(format!("ip daddr {} return", set(NEVER.into_iter().chain(never))));
    let (private, public): (Vec<_>, Vec<_>) =
        egress.iter().partition(|egress| egress.cidr.is_private());
    for egress in private {
        accept(egress).for_each(&mut add);
    }
    add(format!("ip daddr {} return", set(PRIVATE)));
    for egress in public {
        accept(egress).for_each(&mut add);
    }
    rules
}

fn accept(Egress { cidr, ports }: &Egress) -> impl Iterator<Item = String> {
    let rule = move |what: String| format!("oifname {UPLINK} ip daddr {cidr} {what} accept");
    let all = ports.is_empty().then(|| rule("meta l4proto { tcp, udp }".into()));
    let some = ports.iter().map(move |ports| {
        let (transport, first, last) = (ports.transport.name(), ports.first, ports.last);
        rule(format!("{transport} dport {first}-{last}"))
    });
    all.into_iter().chain(some)
}

/// A set must not name an address twice.
fn set(blocks: impl IntoIterator<Item = IpBlock>) -> String {
    let mut blocks: Vec<_> = blocks.into_iter().collect();
    // Wider ones first.
    blocks.sort_by_key(|block| (block.bits(), *block));
    let mut whole: Vec<IpBlock> = Vec::new();
    for block in blocks {
        if !whole.iter().any(|wider| wider.contains(block)) {
            whole.push(block);
        }
    }
    let whole: Vec<_> = whole.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", whole.join(", "))
}

/// The host's rules, for the workers whose links have this prefix.
pub(super) fn host(prefix: &str) -> String {
    let (workers, first, last) = (format!("\"{prefix}h*\""), PORTS.start(), PORTS.end());
    let replies = format!("tcp sport {first}-{last}");
    let (low, high) = (SOURCES.start, SOURCES.end - 1);
    format!(
        "table ip {prefix} {{
           chain input {{
             type filter hook input priority filter; policy accept;
             iifname {workers} {replies} accept
             iifname {workers} meta l4proto tcp reject with tcp reset
             iifname {workers} drop
           }}
           chain forward {{
             type filter hook forward priority filter; policy accept;
             iifname {workers} oifname {workers} meta l4proto tcp reject with tcp reset
             iifname {workers} oifname {workers} drop
           }}
           chain postrouting {{
             type nat hook postrouting priority srcnat; policy accept;
             iifname {workers} meta l4proto {{ tcp, udp }} th sport {low}-{high} masquerade
           }}
         }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::INSIDE;

    #[test]
    fn what_is_named_by_itself_comes_before_what_all_do_not_name() {
        let block = |text: &str| text.parse::<IpBlock>().unwrap();
        let egress: Vec<Egress> = serde_json::from_value(serde_json::json!([
            { "cidr": "0.0.0.0/0", "ports": [443, "8000-8100", "53/udp"] },
            { "cidr": "10.1.2.0/24" },
        ]))
        .unwrap();
        let never = ["10.213.0.0/16", "10.213.0.1/32", "192.0.2.7/32", "192.0.2.7/32"].map(block);
        let rules = rules(&egress, never);
        let rules: Vec<_> = rules
            .lines()
            .map(|line| line.trim_start_matches("add rule ip reveille egress "))
            .collect();
        assert_eq!(
            rules,
            [
                "ct direction reply accept",
                "ct state new ct count over 4096 return",
                "ip daddr { 224.0.0.0/3, 0.0.0.0/8, 127.0.0.0/8, 10.213.0.0/16, 10.0.2.0/24, 192.0.2.7/32 } return",
                "oifname up0 ip daddr 10.1.2.0/24 meta l4proto { tcp, udp } accept",
                "ip daddr { 10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 169.254.0.0/16, 192.168.0.0/16 } return",
                "oifname up0 ip daddr 0.0.0.0/0 tcp dport 443-443 accept",
                "oifname up0 ip daddr 0.0.0.0/0 tcp dport 8000-8100 accept",
                "oifname up0 ip daddr 0.0.0.0/0 udp dport 53-53 accept",
            ]
        );
    }

    #[test]
    fn nobody_names_the_network_inside() {
        assert!(NEVER.iter().any(|never| never.contains(IpBlock::of(INSIDE, 32))));
    }
}
