//! Where this machine is in its owner's network, for whoever stands before it.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::announce::JAIL_LINKS;

/// Addresses that are shown. A box has one or two; a screen has few lines.
const ADDRESSES_MAX: usize = 4;

/// The machine's addresses with their interfaces, such as `eno1 192.168.1.20`: IPv4 first, and neither those of the
/// machine itself nor those into jails. Empty: there is no network, or the kernel does not say.
pub(crate) fn addresses() -> Vec<String> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let mut found: Vec<(IpAddr, String)> = interfaces
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter(|interface| !interface.interface_name.starts_with(JAIL_LINKS))
        .filter_map(|interface| {
            let address = interface.address?;
            let four = address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
            let six = address.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip()));
            Some((four.or(six)?, interface.interface_name))
        })
        .filter(|(address, _)| is_told(address))
        .collect();
    found.sort();
    found.truncate(ADDRESSES_MAX);
    found.into_iter().map(|(address, interface)| format!("{interface} {address}")).collect()
}

/// Whether somebody else could use it: a link-local IPv6 address is on every card that has a cable.
fn is_told(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => !four.is_loopback(),
        IpAddr::V6(six) => !six.is_loopback() && !six.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_others_can_use_are_told() {
        let told = ["192.168.1.20", "169.254.7.7", "10.0.2.15", "2001:db8::7", "fd00::7"];
        let kept_back = ["127.0.0.1", "127.5.5.5", "::1", "fe80::1"];
        for (addresses, expected) in [(&told[..], true), (&kept_back[..], false)] {
            for address in addresses {
                assert_eq!(is_told(&address.parse().expect("an address")), expected, "{address}");
            }
        }
    }

    #[test]
    fn what_is_told_of_this_machine_is_short_and_not_its_loopback() {
        let found = addresses();
        assert!(found.len() <= ADDRESSES_MAX && !found.iter().any(|line| line.starts_with("lo ")), "{found:?}");
    }
}
