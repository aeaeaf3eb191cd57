//! What a source's packets may do, as nftables rules: text made here, read by `nft` in the namespace it is for.
//!
//! A hub's table decides by its last word, drop. The gateway's table is a second wall: it repeats the forbidden
//! destinations for whatever comes from an uplink, keeps uplinks from the gateway itself, and lets nothing into
//! them that was not asked for. Every drop that a person may want to see is counted by name.

use std::fmt::{self, Display, Write as _};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use runner::protocol::{CALLBACK_ADDR, CALLBACK_PORT};

use super::{Egress, NetworkError, NetworkPlan, Policy, Published, Step, UPLINKS};

/// Debian's nftables. By its full path, because the runner's environment is not part of what is trusted.
const NFT: &str = "/usr/sbin/nft";

/// The hub's end of the uplink.
pub(super) const UPLINK: &str = "up0";

/// How the gateway's ends of the uplinks begin.
pub(super) const UPLINK_PREFIX: &str = "rig-up";

/// Connections of one source to the outside at a time. With [`NEW_PER_S`] it bounds what a source can have of the
/// gateway's connection table: closed ones stay there for 120 s, so 5,000 of usually 262,144.
const CONNECTIONS_MAX: u32 = 1024;

/// New connections of one source to the outside per second, and how many may come at once.
const NEW_PER_S: u32 = 32;
const NEW_BURST: u32 = 128;

/// What may pass at once beyond one second's worth, which the kernel always lets pass, in bytes: its largest packet.
const BURST_BYTES: u64 = 64 * 1024;

/// The largest rate and the largest total that the kernel takes, in bytes.
const RATE_BYTES_PER_S_MAX: u64 = u32::MAX as u64;
const TOTAL_BYTES_MAX: u64 = u64::MAX >> 1;

/// Destinations that are not the internet: everything that the IANA's special-purpose registry does not call
/// globally reachable, multicast, and the metadata service that hides behind a public address. All other clouds'
/// metadata is inside: 169.254.169.254, 100.100.100.200 (Alibaba), 192.0.0.192 (Oracle).
pub(super) const FORBIDDEN: [(Ipv4Addr, u8); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    // Carriers' own (CGNAT).
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // Azure's WireServer: metadata and credentials of the host.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    // Multicast, reserved, and broadcast.
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// Whether no source may send there.
pub(super) fn is_forbidden(address: Ipv4Addr) -> bool {
    let leading = |address: Ipv4Addr, prefix: u8| address.to_bits() >> (32 - prefix);
    FORBIDDEN.iter().any(|(network, prefix)| leading(address, *prefix) == leading(*network, *prefix))
}

/// The table of the hub of `plan`; none where nothing can be reached that should not be. `nearby` are the
/// networks that the gateway is on, by whatever addresses: the host's own network is not for its jobs.
pub(super) fn of_hub(plan: &NetworkPlan, nearby: &[(Ipv4Addr, u8)]) -> Option<String> {
    let egress = match &plan.policy {
        Policy::None => return None,
        Policy::Internal if plan.published.is_empty() => return None,
        Policy::Internal => None,
        Policy::Internet(egress) => Some(egress),
    };
    let mut table = format!(
        r#"table inet rig {{
    counter to_hub {{ }}
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iifname "s*" ip daddr {CALLBACK_ADDR} tcp dport {CALLBACK_PORT} accept
        counter name "to_hub"
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
{}    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ct status dnat snat ip to {CALLBACK_ADDR}
        oifname "{UPLINK}" masquerade
    }}
"#,
        Redirections(&plan.published)
    );
    if let Some(egress) = egress {
        table.push_str(&outside(egress, nearby));
    }
    let to_outside = if egress.is_some() {
        format!("        oifname \"{UPLINK}\" goto outbound\n        iifname \"{UPLINK}\" goto inbound\n")
    } else {
        String::new()
    };
    table.push_str(&format!(
        r#"    chain forward {{
        type filter hook forward priority filter; policy drop;
{to_outside}        iifname "s*" oifname "s*" meta nfproto ipv4 accept
    }}
}}
"#
    ));
    Some(table)
}

/// What the hub does with packets to and from the uplink.
fn outside(egress: &Egress, nearby: &[(Ipv4Addr, u8)]) -> String {
    let Egress { rate_bytes_per_s, total_bytes, resolvers } = egress;
    let rate_bytes_per_s = (*rate_bytes_per_s).min(RATE_BYTES_PER_S_MAX);
    let total_bytes = (*total_bytes).min(TOTAL_BYTES_MAX);
    let over_rate = format!("limit rate over {rate_bytes_per_s} bytes/second burst {BURST_BYTES} bytes");
    let other_dns = match resolvers.as_slice() {
        [] => "th dport 53".to_owned(),
        resolvers => format!("th dport 53 ip daddr != {{ {} }}", Elements(resolvers)),
    };
    let forbidden = forbidden_set(nearby);
    format!(
        r#"{forbidden}    quota total {{
        over {total_bytes} bytes
    }}
    counter to_forbidden {{ }}
    counter other_protocol {{ }}
    counter mail {{ }}
    counter other_dns {{ }}
    counter over_rate {{ }}
    counter over_total {{ }}
    counter too_many {{ }}
    counter unasked {{ }}
    chain outbound {{
        iifname != "s*" drop
        ip daddr @forbidden counter name "to_forbidden" drop
        meta nfproto != ipv4 counter name "other_protocol" drop
        meta l4proto != {{ tcp, udp }} counter name "other_protocol" drop
        tcp dport 25 counter name "mail" drop
        {other_dns} counter name "other_dns" drop
        {over_rate} counter name "over_rate" drop
        quota name "total" counter name "over_total" drop
        ct state established accept
        ct state != new drop
        limit rate over {NEW_PER_S}/second burst {NEW_BURST} packets counter name "too_many" drop
        ct count over {CONNECTIONS_MAX} counter name "too_many" drop
        accept
    }}
    chain inbound {{
        ct state != {{ established, related }} counter name "unasked" drop
        quota name "total" counter name "over_total" drop
        {over_rate} counter name "over_rate" drop
        accept
    }}
    chain input_outside {{
        type filter hook input priority filter - 1; policy accept;
        iifname "{UPLINK}" counter name "unasked" drop
    }}
    chain output {{
        type filter hook output priority filter; policy accept;
        oifname "{UPLINK}" drop
    }}
"#
    )
}

/// The gateway's table for all uplinks, in place of one that may be there: in one transaction, so that there is no
/// moment without it.
pub(super) fn of_gateway(nearby: &[(Ipv4Addr, u8)]) -> String {
    let forbidden = forbidden_set(nearby);
    let (network, prefix) = UPLINKS;
    format!(
        r#"{REMOVE_GATEWAY}table inet rig {{
{forbidden}    counter to_forbidden {{ }}
    counter to_gateway {{ }}
    counter other {{ }}
    counter unasked {{ }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{UPLINK_PREFIX}*" goto from_source
        oifname "{UPLINK_PREFIX}*" ct state established,related accept
        oifname "{UPLINK_PREFIX}*" counter name "unasked" drop
    }}
    chain from_source {{
        ip daddr @forbidden counter name "to_forbidden" drop
        ip saddr {network}/{prefix} meta l4proto {{ tcp, udp }} accept
        counter name "other" drop
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname "{UPLINK_PREFIX}*" counter name "to_gateway" drop
    }}
    chain output {{
        type filter hook output priority filter; policy accept;
        oifname "{UPLINK_PREFIX}*" meta l4proto icmp ct state related accept
        oifname "{UPLINK_PREFIX}*" drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {network}/{prefix} oifname != "{UPLINK_PREFIX}*" masquerade
    }}
}}
"#
    )
}

/// Removes the gateway's table; legal whether it is there or not.
pub(super) const REMOVE_GATEWAY: &str = "add table inet rig\ndelete table inet rig\n";

/// Has the rules read in the network namespace of the calling thread, all or none of them. A process belongs to the
/// namespace of the thread that started it.
pub(super) fn feed(place: &'static str, rules: &str) -> Result<(), NetworkError> {
    let mut command = Command::new(NFT);
    command.args(["-f", "-"]).env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut nft = command.spawn().step("run nft; it is in the package nftables")?;
    let written = nft.stdin.take().map_or(Ok(()), |mut input| input.write_all(rules.as_bytes()));
    let output = nft.wait_with_output().step("wait for nft")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(NetworkError::Rules { place, said });
    }
    written.step("write to nft")
}

/// Whether an error says that there is no `nft`, by which no rule can have been made either.
pub(super) fn is_without_nft(error: &NetworkError) -> bool {
    matches!(error, NetworkError::Step { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

fn forbidden_set(nearby: &[(Ipv4Addr, u8)]) -> String {
    let networks = FORBIDDEN.iter().chain(nearby).map(|(address, prefix)| format!("{address}/{prefix}"));
    let networks: Vec<String> = networks.collect();
    format!(
        "    set forbidden {{\n        type ipv4_addr; flags interval; auto-merge\n        elements = {{ {} }}\n    }}\n",
        Elements(&networks)
    )
}

/// The elements of a set.
struct Elements<'a, T>(&'a [T]);

impl<T: Display> Display for Elements<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, element) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            write!(f, "{comma}{element}")?;
        }
        Ok(())
    }
}

/// One rule per published port.
struct Redirections<'a>(&'a [Published]);

impl Display for Redirections<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rules = String::new();
        for Published { port, service, target } in self.0 {
            let to = NetworkPlan::address(*service);
            let from = format!("iifname \"s*\" ip daddr {CALLBACK_ADDR} tcp dport {port}");
            writeln!(rules, "        {from} dnat ip to {to}:{target}")?;
        }
        f.write_str(&rules)
    }
}
