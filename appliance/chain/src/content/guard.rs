//! Which addresses a stranger's link, or a stranger's image name, may lead to.
//!
//! Invariant: for a name that a stranger wrote, only an address that [`is_public`] is connected to. Names are resolved
//! here and the connection goes to the very addresses that were checked, so a second answer of the name server (DNS
//! rebinding) changes nothing. Literal addresses never reach a resolver, so [`check_literal`] is asked on every hop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;
use url::{Host, Url};

/// IPv4 networks that are not the public internet. Source: IANA special-purpose registry, multicast and class E.
const RESERVED_V4: &[([u8; 4], u32)] = &[
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 3),
];

/// The only IPv6 network handed out to the public so far. Source: IANA IPv6 address space.
const GLOBAL_V6: (u128, u32) = (0x2000 << 112, 3);

/// What is not public inside it: IETF assignments with Teredo, 6to4, documentation twice. Source: IANA registry.
const RESERVED_V6: &[(u128, u32)] =
    &[(0x2001 << 112, 23), (0x2001_0db8 << 96, 32), (0x2002 << 112, 16), (0x3fff << 112, 20)];

/// Translated IPv4, on networks without IPv4 of their own (NAT64). Source: RFC 6052.
const NAT64_V6: (u128, u32) = (0x0064_ff9b << 96, 96);

/// A link led to an address that is not on the public internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("address {0} is not on the public internet")]
pub struct PrivateAddress(pub IpAddr);

/// Resolves names as the system does, and drops every address that is not public.
#[derive(Debug)]
pub struct GuardedResolver;

// === impl GuardedResolver ===

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let (public, private): (Vec<_>, Vec<_>) = found.partition(|address| is_public(address.ip()));
            match private.first() {
                Some(address) if public.is_empty() => Err(PrivateAddress(address.ip()).into()),
                _ => Ok(Box::new(public.into_iter()) as Addrs),
            }
        })
    }
}

/// Refuses a URL whose host is a literal address that is not public.
///
/// # Errors
/// The address.
pub fn check_literal(url: &Url) -> Result<(), PrivateAddress> {
    let ip = match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip),
        Some(Host::Domain(_)) | None => return Ok(()),
    };
    if is_public(ip) { Ok(()) } else { Err(PrivateAddress(ip)) }
}

/// The address that `error` was refused for, if it was.
pub fn refused_address(error: &(dyn std::error::Error + 'static)) -> Option<PrivateAddress> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref().copied())
}

/// Whether anybody on the internet can have this address.
pub(crate) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => is_public_v4(ip),
            None => is_public_v6(ip),
        },
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let within = |(net, bits): &([u8; 4], u32)| {
        let mask = u32::MAX << (32 - bits);
        ip.to_bits() & mask == u32::from_be_bytes(*net)
    };
    !RESERVED_V4.iter().any(within)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let within = |(net, bits): &(u128, u32)| ip.to_bits() & (u128::MAX << (128 - bits)) == *net;
    if within(&NAT64_V6) {
        let [.., a, b, c, d] = ip.octets();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    within(&GLOBAL_V6) && !RESERVED_V6.iter().any(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a test address")
    }

    #[test]
    fn the_public_internet_may_be_reached() {
        for address in
            ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "223.255.255.1"]
        {
            assert!(is_public(ip(address)), "{address}");
        }
        for address in ["2606:4700::1111", "2a00:1450::1", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2001:4860::8888"] {
            assert!(is_public(ip(address)), "{address}");
        }
    }

    #[test]
    fn what_is_not_the_public_internet_may_not() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!is_public(ip(address)), "{address}");
        }
        for address in [
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "100::1",
            "5f00::1",
        ] {
            assert!(!is_public(ip(address)), "{address}");
        }
    }

    #[test]
    fn a_literal_address_is_seen_through_every_spelling() {
        for link in [
            "http://127.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://017700000001/",
            "http://[::1]/",
            "http://[::ffff:7f00:1]/",
            "http://0/",
        ] {
            let url: Url = link.parse().expect("a test link");
            assert!(check_literal(&url).is_err(), "{link}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_home_is_refused() {
        let name: Name = "localhost".parse().expect("a name");
        let Err(error) = GuardedResolver.resolve(name).await else { panic!("localhost was let through") };
        assert!(refused_address(error.as_ref()).is_some(), "{error}");
    }
}
