//! The whole of `rig.toml` as a stick has it, judged as the rig judges it: by the machine's half and the provider's half
//! together, from the file that is shipped.

use std::path::Path;

use boot::effective::effective;
use boot::judge::{Judged, judge, sections};
use boot::policy::signer_toml;
use boot::text;
use chain::settings::parse_toml;
use proptest::prelude::*;
use signer::policy::{PolicyFile, TierWish};

use super::Settings;

/// The file on a new stick.
const SHIPPED: &str = include_str!("../../../image/release/stick/rig.toml");

const OWNER: &str = "address = \"0x70997970C51812dc3A010C7d01b50e0d17dc79C8\"";

/// The shipped file after its owner wrote an address.
fn owned() -> String {
    SHIPPED.replace("address = \"\"", OWNER)
}

/// As `rig-boot` asks, and as `rig-provider --check` answers.
fn judged(text: &str) -> Judged {
    let read = || parse_toml::<Settings>(text, Path::new("rig.toml")).map_err(|error| error.to_string());
    judge(text, || read()?.check())
}

fn settings(text: &str) -> Settings {
    parse_toml(text, Path::new("rig.toml")).expect(text)
}

#[test]
fn the_shipped_file_waits_for_an_owner_and_is_right_with_one() {
    assert_eq!(judged(SHIPPED), Judged::Waiting);
    assert_eq!(judged(&owned()), Judged::Right);
    assert_eq!(judged(&owned().replace('\n', "\r\n")), Judged::Right);
    assert!(SHIPPED.lines().all(|line| line.chars().count() <= 120));
}

#[test]
fn everything_that_the_shipped_file_offers_is_right() {
    let switched_on = |line: &str| {
        let is_setting = line.contains(" = ") && !line.contains(". ") || line.starts_with("# [");
        line.strip_prefix("# ").filter(|_| is_setting).unwrap_or(line).to_owned()
    };
    let text: String = owned().lines().map(|line| switched_on(line) + "\n").collect();
    assert_eq!(judged(&text), Judged::Right, "{text}");
    let settings = settings(&text);
    let wifi = settings.wifi.expect("is on");
    assert_eq!((wifi.network.as_str(), wifi.password.expect("is on").reveal()), ("my network", "my password"));
    assert!(settings.ethernet.is_some() && settings.fleet.is_some() && settings.key.is_some());
    assert!(!settings.status_page.enabled && !settings.lan.announce && !settings.gpu.enabled);
    assert_eq!(settings.state.and_then(|state| state.erase).as_deref(), Some("erase-01234567"));
}

#[test]
fn what_is_wrong_is_said_with_its_line_or_its_table() {
    let line = owned().lines().count() + 1;
    let check = |added: &str, expected: &str| {
        let Judged::Wrong(why) = judged(&(owned() + added)) else { panic!("{added} is right") };
        assert!(why.contains(expected), "{added}: {why}");
        assert!(why.contains("line ") || why.starts_with('['), "{why}");
        assert!(!why.contains("hunter22"), "{why}");
    };
    let at = |number: usize, rest: &str| format!("rig.toml line {}: {rest}", line + number);
    check("[wify]\n", &at(0, "unknown key `wify`, did you mean `wifi`?"));
    check("[wifi]\npasword = \"hunter22\"\n", &at(1, "unknown key `pasword`, did you mean `password`?"));
    check("[wifi]\nnetwork = \"a\"\n", "missing field `country`");
    check("[wifi]\ncountry = \"DE\"\n", "missing field `network`");
    check("[wifi]\nnetwork = \"\"\n", &at(1, "a Wi-Fi network's name has 1 to 32 bytes"));
    check(&format!("[wifi]\nnetwork = \"{}\"\n", "a".repeat(33)), "1 to 32 bytes");
    check("[wifi]\nnetwork = \"a\\nb\"\n", "no control signs");
    check("[wifi]\nnetwork = 5\n", &at(1, "invalid type"));
    check("[wifi]\npassword = \"short\"\n", &at(1, "a Wi-Fi password has 8 to 63 signs"));
    check(&format!("[wifi]\npassword = \"{}\"\n", "g".repeat(64)), "64 hexadecimal digits; this has 64 bytes");
    check("[wifi]\npassword = \"p\u{e4}ssw\u{f6}rter\"\n", "plain ASCII");
    check("[wifi]\npassword = \"hunter22\\nnetwork={\"\n", "plain ASCII");
    check("[wifi]\ncountry = \"de\"\n", "a country is two capital letters, such as \"DE\", not \"de\"");
    check("[wifi]\ncountry = \"Germany\"\n", "two capital letters");
    check("[wifi]\nhidden = \"yes\"\n", "invalid type: string \"yes\", expected a boolean");
    check(
        "[wifi]\nnetwork = \"a\"\ncountry = \"DE\"\nopen = true\npassword = \"hunter22\"\n",
        "[wifi] is open and has",
    );
    check("[wifi]\nnetwork = \"a\"\nnetwork = \"b\"\n", "duplicate key");
    check("[wifi]\nnetwork = \u{201c}home\u{201d}\n", "curly quotes");
    check("[wifi]\nnetwork = my home\n", &at(1, ""));
    check("[wifi\n", &at(0, ""));
    check("wifi\n", &at(0, ""));
    check("[ethernet]\n", "missing field `address`");
    check("[ethernet]\naddress = \"192.168.1.20\"\n", "an address looks like \"192.168.1.20/24\"");
    check("[ethernet]\naddress = \"192.168.1.256/24\"\n", "an address looks like");
    check("[ethernet]\naddress = \"192.168.1.20/33\"\n", "the prefix of an address is 1 to 32, not 33");
    check("[ethernet]\naddress = \"fd00::2/129\"\n", "the prefix of an address is 1 to 128, not 129");
    check("[ethernet]\naddress = \"127.0.0.1/8\"\n", "127.0.0.1 is nobody's own address");
    check("[ethernet]\naddress = \"192.168.1.20/24\"\ngateway = \"router\"\n", "invalid IP address");
    let gateway = "[ethernet]\naddress = \"192.168.1.20/24\"\ngateway = \"192.168.2.1\"\n";
    check(gateway, "[ethernet] the gateway 192.168.2.1 is not in the network 192.168.1.20/24");
    check("[ethernet]\naddress = \"192.168.1.20/24\"\ngateway = \"fd00::1\"\n", "is not in the network");
    check("[ethernet]\ndns = [\"1.1.1.1\", \"1.0.0.1\", \"8.8.8.8\", \"8.8.4.4\"]\n", "at most 3 servers");
    check("[ethernet]\ninterface = \"eno1/../x\"\n", "an interface has a name such as \"eno1\"");
    check("[ethernet]\ninterface = \"\"\n", "an interface has a name");
    check(&format!("[fleet]\njoin_token = \"{}\"\n", "t".repeat(257)), "at most 256 signs");
    check("[fleet]\njoin_token = \"a b\"\n", "no spaces");
    check("[fleet]\ntoken = \"a\"\n", "did you mean `join_token`?");
    check("[state]\nerase = true\n", "invalid type");
    check("[state]\nerase = \"erase everything\"\n", "erase is the word that the rig showed");
    check("[key]\ntier = \"A\"\n", "unknown variant `A`");
    check("[key]\ntier = 4\n", &at(1, ""));
    check("[key]\ngeneration = -1\n", &at(1, ""));
    check("[status_page]\nenable = false\n", "did you mean `enabled`?");
    check("[status_page]\nlisten = \"80\"\n", &at(1, ""));
    check("[lan]\nanounce = true\n", "did you mean `announce`?");
    check("[owner]\nname = \"b\"\n", &at(0, "duplicate key"));
    check("[[owner]]\n", &at(0, "duplicate key"));
}

#[test]
fn an_owner_that_is_none_is_told_from_one_that_is_missing() {
    let check = |owner: &str, expected: Option<&str>| {
        let found = judged(&SHIPPED.replace("address = \"\"", owner));
        match expected {
            None => assert_eq!(found, Judged::Waiting, "{owner}"),
            Some(words) => assert!(matches!(&found, Judged::Wrong(why) if why.contains(words)), "{owner}: {found:?}"),
        }
    };
    check("address = \"  \"", None);
    check("# address = \"\"", None);
    check("address = \"0x70997970\"", Some("line "));
    check("address = \"hunter\"", Some("line "));
    check("address = 7", Some("line "));
    check(&format!("address = \"0x{}\"", "0".repeat(40)), Some("owner.address is the zero address"));
    let vault = "address = \"0xa5c582254AA313528898311362bc698b041580cC\"";
    check(vault, Some("network.contracts.vault is the same address as owner.address"));
    check("adress = \"0x70997970C51812dc3A010C7d01b50e0d17dc79C8\"", None);
    assert_eq!(judged(""), Judged::Waiting);
    assert_eq!(judged("# nothing\r\n"), Judged::Waiting);
}

#[test]
fn the_settings_that_take_effect_and_the_signers_policy_are_right() {
    let text = owned();
    let settings = settings(&effective(&text).expect("TOML"));
    let shown = settings.status_page.at().map(|listen| listen.to_string());
    assert_eq!(shown.as_deref(), Some("0.0.0.0:80"));
    assert!(settings.lan.announce && settings.places.console.as_deref() == Some(Path::new("/dev/tty1")));
    let off = effective(&text.replace("# [status_page]\n# enabled", "[status_page]\nenabled")).expect("TOML");
    assert!(self::settings(&off).status_page.at().is_none());

    let wished = text + "[key]\ntier = \"B\"\ngeneration = 3\n";
    let key = sections(&wished).expect("right").key.expect("is there");
    let policy = signer_toml(&wished, key).expect("right");
    let policy = PolicyFile::parse(&policy, Path::new("signer.toml")).expect("right");
    assert_eq!(policy.owner, settings.owner.address);
    assert_eq!(policy.contracts.vault, settings.network.contracts.vault);
    assert_eq!((policy.identity.tier, policy.identity.generation), (TierWish::B, 3));
    for (tier, wish) in
        [("auto", TierWish::Auto), ("S", TierWish::S), ("4", TierWish::Four), ("B", TierWish::B), ("N", TierWish::N)]
    {
        let wished = owned() + &format!("key.tier = \"{tier}\"\n").replace("key.", "[key]\n");
        let policy = signer_toml(&wished, sections(&wished).expect("right").key.expect("is there")).expect("right");
        let policy = PolicyFile::parse(&policy, Path::new("signer.toml")).expect("right");
        assert_eq!(policy.identity.tier, wish);
    }
}

/// The shipped file with a few bytes changed.
fn scratched() -> impl Strategy<Value = Vec<u8>> {
    let scratches = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..8);
    scratches.prop_map(|scratches| {
        let mut bytes = owned().into_bytes();
        for (at, byte, how) in scratches {
            // All of it may have been taken away.
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        bytes
    })
}

proptest! {
    #[test]
    fn whatever_a_file_holds_it_is_judged_and_what_is_right_stays_right(
        scratched in scratched(), wild in proptest::collection::vec(any::<u8>(), 0..300)
    ) {
        for bytes in [scratched, wild] {
            let Ok(text) = text::of(&bytes) else { continue };
            if judged(text) != Judged::Right {
                continue;
            }
            let key = sections(text).expect("right").key.unwrap_or_default();
            let policy = signer_toml(text, key).expect("right settings make a policy");
            let taken = boot::wipe::wiped(text, true).expect("right settings can be wiped").text;
            prop_assert_eq!(judged(&taken), Judged::Right);
            let effective = effective(&taken).expect("right settings take effect");
            prop_assert_eq!(judged(&effective), Judged::Right);
            PolicyFile::parse(&policy, Path::new("signer.toml")).expect("the signer holds to it");
        }
    }
}
