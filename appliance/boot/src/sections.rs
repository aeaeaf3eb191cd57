//! What an owner can write in `rig.toml` for the machine itself: Wi-Fi, a wired address, the fleet's token, how the key
//! is kept, and the word that erases the state.
//!
//! Invariants: a table has keys, and unknown ones are errors; every text has a bound and an alphabet, so that nothing in
//! it can become another line of a file that is made from it. An empty password or token counts as absent: that is how
//! the rig leaves a place whose secret it has taken.

use std::marker::PhantomData;
use std::net::IpAddr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::secret::Secret;

/// The longest name of a Wi-Fi network, in bytes. Source: IEEE 802.11, SSID.
const SSID_BYTES_MAX: usize = 32;

/// A passphrase of WPA2 and WPA3, in signs. Source: IEEE 802.11, annex J.4.
const PASSPHRASE: std::ops::RangeInclusive<usize> = 8..=63;

/// The digits of a key that stands in place of a passphrase.
const KEY_DIGITS: usize = 64;

/// The longest join token. Ours have about fifty signs.
const TOKEN_BYTES_MAX: usize = 256;

/// The longest erase word. Ours have fourteen signs.
const WORD_BYTES_MAX: usize = 64;

/// Name servers. Source: resolvers look at the first three.
const DNS_MAX: usize = 3;

/// The longest name of an interface. Source: `IFNAMSIZ` less its zero.
const INTERFACE_BYTES_MAX: usize = 15;

/// The tables of this chapter; whatever else the file holds is for others to judge.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Sections {
    /// A wireless network.
    #[serde(default, deserialize_with = "table")]
    pub wifi: Option<Wifi>,
    /// The wired network, where it gives no addresses.
    #[serde(default, deserialize_with = "table")]
    pub ethernet: Option<Ethernet>,
    /// The fleet that the rig is to join.
    #[serde(default, deserialize_with = "table")]
    pub fleet: Option<Fleet>,
    /// What is to be done with the state.
    #[serde(default, deserialize_with = "table")]
    pub state: Option<StateWish>,
    /// How the rig's key is to be kept.
    #[serde(default, deserialize_with = "table")]
    pub key: Option<KeyWish>,
}

/// `[wifi]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wifi {
    /// Its name.
    #[serde(deserialize_with = "ssid")]
    pub network: String,
    /// Its password. The rig takes it from the stick and keeps it.
    #[serde(default, deserialize_with = "passphrase")]
    pub password: Option<Secret>,
    /// The country whose rules the radio keeps, such as `DE`.
    #[serde(deserialize_with = "country")]
    pub country: String,
    /// Whether the network does not say its name.
    #[serde(default)]
    pub hidden: bool,
    /// Whether it has no password.
    #[serde(default)]
    pub open: bool,
}

/// `[ethernet]`: a fixed address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ethernet {
    /// The rig's address with the length of the network's prefix, such as `192.168.1.20/24`.
    pub address: Subnet,
    /// The router.
    pub gateway: Option<IpAddr>,
    /// Name servers.
    #[serde(default, deserialize_with = "servers")]
    pub dns: Vec<IpAddr>,
    /// The interface that has it; `None`: the only wired one, so a machine with two needs it.
    #[serde(default, deserialize_with = "interface")]
    pub interface: Option<String>,
}

/// An address and the length of its network's prefix, in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

/// `[fleet]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// The token that lets a new rig in, once. The rig takes it from the stick and keeps it.
    #[serde(default, deserialize_with = "token")]
    pub join_token: Option<Secret>,
}

/// `[state]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateWish {
    /// The word that a notice showed: it erases the state that it names, and no other.
    #[serde(default, deserialize_with = "word")]
    pub erase: Option<String>,
}

/// `[key]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyWish {
    /// What is to protect a key that is born from now on.
    pub tier: Tier,
    /// A higher number than the key's own asks for a new key.
    pub generation: u32,
}

/// What protects a key. The signer's example of a policy explains them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Tier {
    /// The best that needs no preparation.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// Secure Boot with the vendor's keys, and a TPM.
    S,
    /// Measured boot and a TPM.
    #[serde(rename = "4")]
    Four,
    /// A TPM.
    B,
    /// Software.
    N,
}

// === impl Tier ===

impl Tier {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Auto => "auto",
            Tier::S => "S",
            Tier::Four => "4",
            Tier::B => "B",
            Tier::N => "N",
        }
    }
}

// === impl Ethernet ===

impl Ethernet {
    /// What is wrong with the table as a whole, if anything is.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let gateway = self.gateway?;
        // An IPv6 router usually has an address of the cable itself, which is in no network.
        let is_on_link = match (self.address.address, gateway) {
            (IpAddr::V6(_), IpAddr::V6(gateway)) => gateway.is_unicast_link_local(),
            (IpAddr::V4(_), _) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        };
        (!is_on_link && !self.address.holds(gateway))
            .then(|| format!("[ethernet] the gateway {gateway} is not in the network {}", self.address))
    }
}

// === impl Subnet ===

impl Subnet {
    fn bits(address: IpAddr) -> (u128, u32) {
        match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        }
    }

    /// Whether `other` is in this network.
    #[must_use]
    pub fn holds(&self, other: IpAddr) -> bool {
        let ((mine, length), (theirs, others)) = (Subnet::bits(self.address), Subnet::bits(other));
        let behind = length - u32::from(self.prefix);
        length == others && mine.checked_shr(behind).unwrap_or(0) == theirs.checked_shr(behind).unwrap_or(0)
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

impl std::str::FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Subnet, String> {
        let wrong = || format!("an address looks like \"192.168.1.20/24\", not {text:?}");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let most = Subnet::bits(address).1;
        if prefix == 0 || u32::from(prefix) > most {
            return Err(format!("the prefix of an address is 1 to {most}, not {prefix}"));
        }
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return Err(format!("{address} is nobody's own address"));
        }
        Ok(Subnet { address, prefix })
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Subnet, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A table, with its keys. For serde a list of the same values would do as well, and nothing would find the secrets in it.
fn table<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    struct Keyed<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Keyed<T> {
        type Value = T;

        fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            out.write_str("a table")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }

    from.deserialize_map(Keyed(PhantomData)).map(Some)
}

/// A secret as it is written. What stands there without quotes is a mistake and may still be the secret, so the error,
/// which everybody on the network can read, does not repeat it.
fn secret<'de, D: Deserializer<'de>>(from: D, what: &str) -> Result<Secret, D::Error> {
    match toml::Value::deserialize(from)? {
        toml::Value::String(text) => Ok(Secret::new(text)),
        toml::Value::Integer(_)
        | toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_)
        | toml::Value::Array(_)
        | toml::Value::Table(_) => Err(D::Error::custom(format!("{what} stands between straight quotes"))),
    }
}

fn ssid<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    if !(1..=SSID_BYTES_MAX).contains(&text.len()) || text.chars().any(char::is_control) {
        return Err(D::Error::custom(format!(
            "a Wi-Fi network's name has 1 to {SSID_BYTES_MAX} bytes and no control signs"
        )));
    }
    Ok(text)
}

fn passphrase<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
    let secret = secret(from, "a Wi-Fi password")?;
    let text = secret.reveal();
    if text.is_empty() {
        return Ok(None);
    }
    let is_phrase = PASSPHRASE.contains(&text.len()) && text.bytes().all(|sign| (b' '..=b'~').contains(&sign));
    if !is_phrase && !is_key(text) {
        let (least, most) = PASSPHRASE.into_inner();
        return Err(D::Error::custom(format!(
            "a Wi-Fi password has {least} to {most} signs of plain ASCII, or is {KEY_DIGITS} hexadecimal digits; this has {} bytes",
            text.len()
        )));
    }
    Ok(Some(secret))
}

/// Whether a password is the key itself, in hexadecimal digits.
pub(crate) fn is_key(text: &str) -> bool {
    text.len() == KEY_DIGITS && text.bytes().all(|sign| sign.is_ascii_hexdigit())
}

fn country<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    if text.len() != 2 || !text.bytes().all(|sign| sign.is_ascii_uppercase()) {
        return Err(D::Error::custom(format!("a country is two capital letters, such as \"DE\", not {text:?}")));
    }
    Ok(text)
}

fn token<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
    let secret = secret(from, "a join token")?;
    let text = secret.reveal();
    if text.len() > TOKEN_BYTES_MAX || !text.bytes().all(|sign| sign.is_ascii_graphic()) {
        return Err(D::Error::custom(format!("a join token has at most {TOKEN_BYTES_MAX} signs and no spaces")));
    }
    Ok((!text.is_empty()).then_some(secret))
}

fn word<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    if text.len() > WORD_BYTES_MAX || !text.bytes().all(|sign| sign.is_ascii_graphic()) {
        return Err(D::Error::custom("erase is the word that the rig showed, such as \"erase-0123abcd\""));
    }
    Ok((!text.is_empty()).then_some(text))
}

fn servers<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpAddr>, D::Error> {
    let servers = Vec::<IpAddr>::deserialize(from)?;
    if servers.len() > DNS_MAX {
        return Err(D::Error::custom(format!("dns has at most {DNS_MAX} servers, not {}", servers.len())));
    }
    Ok(servers)
}

fn interface<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    let is_sign = |sign: u8| sign.is_ascii_alphanumeric() || matches!(sign, b'-' | b'_' | b'.');
    if !(1..=INTERFACE_BYTES_MAX).contains(&text.len()) || !text.bytes().all(is_sign) {
        return Err(D::Error::custom(format!("an interface has a name such as \"eno1\", not {text:?}")));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_router_is_in_the_network_or_on_the_cable() {
        let check = |address: &str, gateway: &str, is_right: bool| {
            let text = format!("[ethernet]\naddress = \"{address}\"\ngateway = \"{gateway}\"\n");
            assert_eq!(crate::judge::sections(&text).is_ok(), is_right, "{text}");
        };
        check("192.168.1.20/24", "192.168.1.1", true);
        check("192.168.1.20/24", "192.168.2.1", false);
        check("192.168.1.20/24", "169.254.0.1", false);
        check("192.168.1.20/24", "fe80::1", false);
        check("2001:db8::20/64", "2001:db8::1", true);
        check("2001:db8::20/64", "fe80::1", true);
        check("2001:db8::20/64", "febf:ffff::1", true);
        check("2001:db8::20/64", "fec0::1", false);
        check("2001:db8::20/64", "2001:db8:1::1", false);
        check("2001:db8::20/64", "192.168.1.1", false);
    }

    #[test]
    fn a_table_that_is_written_as_a_list_is_refused() {
        let check = |text: &str, line: u32| {
            let why = crate::judge::sections(text).expect_err(text);
            assert_eq!(why, format!("rig.toml line {line}: invalid type: sequence, expected a table"));
        };
        check("a = 1\nwifi = [\"my network\", \"hunter22\", \"DE\"]\n", 2);
        check("fleet = [\"token-of-a-rig\"]\n", 1);
        check("state = [\"erase-0123abcd\"]\n", 1);
        check("key = [\"N\", 1]\n", 1);
        check("ethernet = [\"192.168.1.20/24\"]\n", 1);
        check("[[wifi]]\nnetwork = \"a\"\n", 1);
    }

    #[test]
    fn a_key_that_is_missing_is_named_with_the_line_of_its_table() {
        let why = crate::judge::sections("a = 1\n[wifi]\nnetwork = \"a\"\n").expect_err("no country");
        assert_eq!(why, "rig.toml line 2: missing field `country`");
    }

    #[test]
    fn a_secret_without_quotes_is_not_repeated() {
        let check = |text: &str, expected: &str| {
            let why = crate::judge::sections(text).expect_err(text);
            assert_eq!(why, expected);
        };
        let wifi = |value: &str| format!("[wifi]\nnetwork = \"a\"\ncountry = \"DE\"\npassword = {value}\n");
        for value in ["12345678", "1234567.8", "true", "2026-01-31", "[\"12345678\"]", "{ a = 12345678 }"] {
            check(&wifi(value), "rig.toml line 4: a Wi-Fi password stands between straight quotes");
            check(
                &format!("[fleet]\njoin_token = {value}\n"),
                "rig.toml line 2: a join token stands between straight quotes",
            );
        }
    }
}
