//! What the network starts with, where the owner said something: a fixed address for `systemd-networkd`, and the wireless
//! network for `wpa_supplicant`.
//!
//! The image by itself asks for an address on every cable and every radio. A file made here has a lower number, and so
//! comes before the image's. Every text that comes from the owner has an alphabet that ends no line (see
//! [`crate::sections`]).

use std::fmt::Write;
use std::path::Path;

use crate::files;
use crate::notices::Notice;
use crate::secret::Secret;
use crate::sections::{Ethernet, Wifi, is_key};

/// The name of the file with the fixed address.
pub const STATIC: &str = "10-rig-static.network";

/// The route of a cable. The image's own number for cables: lower ones win, and radios have a higher one.
const WIRED_METRIC: u32 = 100;

/// Cards that are looked at. A machine with more wired ones is a switch.
const CARDS_MAX: usize = 64;

/// Cards that a notice names.
const CARDS_SHOWN: usize = 8;

/// The wired cards in `folder`, where the kernel lists all interfaces, by name. What cannot be read is left out.
#[must_use]
pub fn wired(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    // Hardware, of the kind that Ethernet is (ARPHRD_ETHER), and no radio.
    let is_wired = |path: &Path| {
        files::fact(&path.join("type")).as_deref() == Some("1")
            && path.join("device").exists()
            && !path.join("phy80211").exists()
            && !path.join("wireless").exists()
    };
    let cards = entries.take(CARDS_MAX).flatten().filter(|entry| is_wired(&entry.path()));
    let mut names: Vec<String> = cards.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// What is said where an address is for one card and nobody knows which of `wired`; then none gets it.
#[must_use]
pub fn unclear(ethernet: &Ethernet, wired: &[String]) -> Option<Notice> {
    let (None, [first, _, ..]) = (&ethernet.interface, wired) else { return None };
    let shown = wired.iter().take(CARDS_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if wired.len() > CARDS_SHOWN { " and more" } else { "" };
    let what =
        format!("rig.toml does not say which network card has the address {}, so none has it.", ethernet.address);
    let next = format!(
        "This machine has these wired cards: {shown}{more}. Name the one with the cable in rig.toml, such as:\n\
         [ethernet]\ninterface = \"{first}\"\nUntil then every card asks the network for an address."
    );
    Some(Notice::new("ethernet", what, next))
}

/// The file that gives a fixed address.
#[must_use]
pub fn fixed(ethernet: &Ethernet) -> String {
    let which = match &ethernet.interface {
        Some(interface) => format!("Name={interface}"),
        None => "Type=ether\nKind=!*".to_owned(),
    };
    // Names on the local network are the provider's own business.
    let mut text = format!(
        "[Match]\n{which}\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nAddress={}\nLLMNR=no\nMulticastDNS=no\n",
        ethernet.address
    );
    // Writing to a string never fails.
    for server in &ethernet.dns {
        let _ = writeln!(text, "DNS={server}");
    }
    if let Some(gateway) = ethernet.gateway {
        let _ = write!(text, "\n[Route]\nGateway={gateway}\nMetric={WIRED_METRIC}\n");
    }
    text
}

/// The file for `wpa_supplicant`: one network, WPA2 or WPA3, or none at all where it is open.
#[must_use]
pub fn wpa(wifi: &Wifi, password: Option<&Secret>) -> Secret {
    // The name in hexadecimal digits, the password between quotes: neither needs escaping then.
    let name: String = wifi.network.bytes().map(|byte| format!("{byte:02x}")).collect();
    let scan = u8::from(wifi.hidden);
    let mut text =
        format!("country={}\nupdate_config=0\nnetwork={{\n\tssid={name}\n\tscan_ssid={scan}\n", wifi.country);
    match password.map(Secret::reveal) {
        // WPA3 starts from the words, so a ready key is one for WPA2.
        Some(key) if is_key(key) => {
            let _ = writeln!(text, "\tkey_mgmt=WPA-PSK WPA-PSK-SHA256\n\tieee80211w=1\n\tpsk={key}");
        }
        Some(words) => {
            let _ = writeln!(text, "\tkey_mgmt=SAE WPA-PSK WPA-PSK-SHA256\n\tieee80211w=1\n\tpsk=\"{words}\"");
        }
        None => text.push_str("\tkey_mgmt=NONE\n"),
    }
    text.push_str("}\n");
    Secret::new(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections(text: &str) -> crate::sections::Sections {
        crate::judge::sections(text).expect(text)
    }

    #[test]
    fn the_files_are_as_they_were_agreed_on() {
        let all = "[ethernet]\naddress = \"192.168.1.20/24\"\ngateway = \"192.168.1.1\"\ndns = [\"192.168.1.1\", \"fd00::1\"]\n\
            [wifi]\nnetwork = \"caf\u{e9} net\"\npassword = \"pass \\\"word\\\"\"\ncountry = \"DE\"\nhidden = true\n";
        let sections = sections(all);
        let ethernet = sections.ethernet.expect("is there");
        let mut text = format!("# {STATIC}\n{}", fixed(&ethernet));
        let wifi = sections.wifi.expect("is there");
        let _ = write!(text, "# wpa_supplicant.conf\n{}", wpa(&wifi, wifi.password.as_ref()).reveal());
        assert_eq!(text, include_str!("../tests/network.golden"));
    }

    #[test]
    fn an_address_may_be_for_one_interface_and_without_a_router() {
        let sections = sections("[ethernet]\naddress = \"10.0.0.2/8\"\ninterface = \"eno1\"\n");
        let text = fixed(&sections.ethernet.expect("is there"));
        assert!(text.contains("Name=eno1\n") && !text.contains("Gateway"), "{text}");
    }

    #[test]
    fn an_address_without_a_card_is_given_only_where_there_is_no_choice() {
        let check = |interface: &str, wired: &[&str], expected: Option<&str>| {
            let text = format!("[ethernet]\naddress = \"10.0.0.2/8\"\n{interface}\n");
            let wired: Vec<String> = wired.iter().map(|name| (*name).to_owned()).collect();
            let notice = unclear(&sections(&text).ethernet.expect("is there"), &wired);
            assert_eq!(notice.is_some(), expected.is_some(), "{interface} {wired:?}");
            if let (Some(notice), Some(expected)) = (notice, expected) {
                assert!(notice.next.contains(expected) && notice.what.contains("10.0.0.2/8"), "{notice:?}");
            }
        };
        check("", &[], None);
        check("", &["eno1"], None);
        check("", &["eno1", "eno2"], Some("cards: eno1, eno2. Name"));
        check("", &["a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9"], Some("a7, a8 and more. Name"));
        check("interface = \"eno1\"", &[], None);
        check("interface = \"eno1\"", &["eno1", "eno2"], None);
        check("interface = \"eno3\"", &["eno1", "eno2"], None);
    }

    #[test]
    fn a_wired_card_is_told_from_a_radio_and_from_what_is_no_hardware() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, kind, parts) in [
            ("lo", "772", &[][..]),
            ("eno2", "1", &["device"]),
            ("eno1", "1", &["device", "power"]),
            ("wlan0", "1", &["device", "phy80211", "wireless"]),
            ("br0", "1", &["bridge"]),
            ("ib0", "32", &["device"]),
        ] {
            let card = folder.path().join(name);
            std::fs::create_dir(&card).expect("makes");
            std::fs::write(card.join("type"), format!("{kind}\n")).expect("writes");
            for part in parts {
                std::fs::create_dir(card.join(part)).expect("makes");
            }
        }
        assert_eq!(wired(folder.path()), ["eno1", "eno2"]);
        assert!(wired(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn a_password_of_each_kind_is_written_as_its_kind_needs() {
        let wifi = sections("[wifi]\nnetwork = \"home\"\ncountry = \"DE\"\nopen = true\n").wifi.expect("is there");
        let check = |password: Option<&str>, expected: &str| {
            let text = wpa(&wifi, password.map(|text| Secret::new(text.to_owned())).as_ref());
            assert!(text.reveal().contains(expected), "{expected}");
            assert_eq!(text.reveal().lines().count(), if password.is_some() { 8 } else { 6 } + 1);
        };
        check(None, "key_mgmt=NONE\n");
        check(Some("hunter22"), "psk=\"hunter22\"\n");
        check(Some("a\\\"}\" #psk"), "psk=\"a\\\"}\" #psk\"\n");
        check(Some(&"0a".repeat(32)), &format!("psk={}\n", "0a".repeat(32)));
    }
}
