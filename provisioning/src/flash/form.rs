//! The few questions that a rig cannot do without, asked on a terminal.
//!
//! Invariant: an answer that cannot be right is asked for again, at once and with what is wrong; an empty one leaves the
//! stick as it is, except where a question says otherwise.

use std::io;

use zeroize::Zeroizing;

use super::settings::{Hidden, WifiWish, Wishes, rig_name};
use crate::parse;
use crate::person;

/// Somebody who answers wrongly more often than this wants something else.
const TRIES_MAX: usize = 5;

/// Asks for owner, name and Wi-Fi.
pub(crate) fn ask() -> io::Result<Wishes> {
    let owner = until("Owner's address (0x...; empty: write it into rig.toml later): ", |text| {
        if text.is_empty() { Ok(None) } else { parse::address(text).map(Some) }
    })?;
    let name = until("Name of the rig (empty: none): ", |text| match text {
        "" => Ok(None),
        text => rig_name(text).map(Some),
    })?;
    let network = until("Wi-Fi network (empty: a cable): ", |text| match text.len() {
        0 => Ok(None),
        1..=32 => Ok(Some(text.to_owned())),
        _ => Err("a Wi-Fi network's name has at most 32 bytes".to_owned()),
    })?;
    let mut wishes = Wishes { owner, name, ..Wishes::default() };
    if let Some(network) = network {
        wishes.country = Some(until("Country you are in, two letters such as DE: ", country)?);
        let password = password(&network)?;
        wishes.wifi = Some(WifiWish { network, password, is_hidden: false });
    }
    Ok(wishes)
}

/// Asks for the password of a wireless network; nothing typed: it has none.
pub(crate) fn password(network: &str) -> io::Result<Option<Hidden>> {
    for _ in 0..TRIES_MAX {
        let typed = person::secret(&format!("Password of {network:?} (empty: it has none): "))?;
        if typed.is_empty() {
            return Ok(None);
        }
        match wifi_password(&typed) {
            Ok(password) => return Ok(Some(password)),
            Err(why) => eprintln!("{why}."),
        }
    }
    Err(io::Error::other("no usable password was typed"))
}

/// Checks a wireless network's password. Errors: a sentence, without the password. Source: IEEE 802.11, annex J.4.
pub(crate) fn wifi_password(bytes: &[u8]) -> Result<Hidden, String> {
    let is_phrase = (8..=63).contains(&bytes.len()) && bytes.iter().all(|sign| (b' '..=b'~').contains(sign));
    let is_key = bytes.len() == 64 && bytes.iter().all(u8::is_ascii_hexdigit);
    if !is_phrase && !is_key {
        let length = bytes.len();
        return Err(format!(
            "a Wi-Fi password has 8 to 63 signs of plain ASCII, or is 64 hexadecimal digits; this has {length} bytes"
        ));
    }
    Ok(Hidden(Zeroizing::new(String::from_utf8_lossy(bytes).into_owned())))
}

/// Checks a country. Errors: a sentence.
pub(crate) fn country(text: &str) -> Result<String, String> {
    match text.len() == 2 && text.bytes().all(|sign| sign.is_ascii_alphabetic()) {
        true => Ok(text.to_uppercase()),
        false => Err(format!("a country is two letters, such as DE, not {text:?}")),
    }
}

fn until<T>(question: &str, read: impl Fn(&str) -> Result<T, String>) -> io::Result<T> {
    for _ in 0..TRIES_MAX {
        match read(&person::answer(question)?) {
            Ok(answer) => return Ok(answer),
            Err(why) => eprintln!("{why}."),
        }
    }
    Err(io::Error::other("no usable answer was typed"))
}
