//! What a rig says of itself on the local network: the TXT record of its mDNS service.
//!
//! ```text
//! v=1           the form; another is not read
//! address=0x…   the provider's address
//! code=K7F2-…   its pairing code, which must belong to the address
//! tier=B        S, 4, B or N
//! state=ID-00   ID-00: its key is open; otherwise why not
//! name=…        the host's name
//! owner=0x…     the owner that its rig.toml names; absent: none
//! paired=0      1: the chain has both halves
//! ```
//!
//! Invariants: anybody on the network may say anything, so a record is a claim, bounded and of checked values, safe to be
//! shown on a terminal; keys that are not known are passed over, and a key that is there twice is refused.

use std::collections::BTreeMap;

use alloy::primitives::Address;
use signer::identity::pairing_code;
use signer::{KeyState, Tier};
use thiserror::Error;

use crate::parse;

/// All strings of a record with their lengths. A rig's has some 200.
const RECORD_BYTES_MAX: usize = 512;

/// The longest name of a host that Linux knows.
const NAME_CHARS_MAX: usize = 64;

/// What the form counts as.
const VERSION: &str = "1";

/// What a rig claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) address: Address,
    pub(crate) tier: Tier,
    pub(crate) state: KeyState,
    /// Safe to show; may be empty.
    pub(crate) name: String,
    pub(crate) owner: Option<Address>,
    pub(crate) is_paired: bool,
}

/// Why a record is not a rig's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum RecordError {
    #[error("the record has more than {RECORD_BYTES_MAX} bytes")]
    Long,
    #[error("the record is of form {0:?}, and only {VERSION} is known: update rig")]
    Version(String),
    #[error("the record has no `{0}`")]
    Missing(&'static str),
    #[error("the record has `{0}` twice")]
    Twice(&'static str),
    #[error("the record's `{0}` is not one that a rig says")]
    Value(&'static str),
    #[error("the record's code does not belong to its address")]
    Code,
}

// === impl Record ===

impl Record {
    /// The keys that are read.
    const KEYS: [&'static str; 8] = ["v", "address", "code", "tier", "state", "name", "owner", "paired"];

    /// Reads the strings of a record, each split at its first `=`.
    pub(crate) fn parse<'a>(strings: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Record, RecordError> {
        let mut values = BTreeMap::new();
        let mut bytes = 0_usize;
        for (key, value) in strings {
            // Each has a byte for its length and one for the sign.
            bytes = bytes.saturating_add(key.len()).saturating_add(value.len()).saturating_add(2);
            if bytes > RECORD_BYTES_MAX {
                return Err(RecordError::Long);
            }
            let Some(known) = Record::KEYS.into_iter().find(|known| known.eq_ignore_ascii_case(key)) else { continue };
            let text = std::str::from_utf8(value).map_err(|_| RecordError::Value(known))?;
            if values.insert(known, text).is_some() {
                return Err(RecordError::Twice(known));
            }
        }
        let needed = |key| values.get(key).copied().ok_or(RecordError::Missing(key));
        let of_address = |key, text: &str| match text.len() {
            42 => parse::address(text).map_err(|_| RecordError::Value(key)),
            _ => Err(RecordError::Value(key)),
        };
        match needed("v")? {
            VERSION => {}
            other => return Err(RecordError::Version(harmless(other))),
        }
        let address = of_address("address", needed("address")?)?;
        if needed("code")? != pairing_code(address) {
            return Err(RecordError::Code);
        }
        let tiers = [Tier::S, Tier::Four, Tier::B, Tier::N];
        let (tier, state) = (needed("tier")?, needed("state")?);
        Ok(Record {
            address,
            tier: tiers.into_iter().find(|each| each.to_string() == tier).ok_or(RecordError::Value("tier"))?,
            state: KeyState::ALL.into_iter().find(|each| each.code() == state).ok_or(RecordError::Value("state"))?,
            name: harmless(values.get("name").copied().unwrap_or_default()),
            owner: values.get("owner").map(|text| of_address("owner", text)).transpose()?,
            is_paired: match needed("paired")? {
                "0" => false,
                "1" => true,
                _ => return Err(RecordError::Value("paired")),
            },
        })
    }
}

/// `text` without what could move a cursor, colour a line or turn it around.
pub(super) fn harmless(text: &str) -> String {
    let shown = |c: char| if c.is_ascii_alphanumeric() || " -_.()#:".contains(c) { c } else { '?' };
    text.chars().take(NAME_CHARS_MAX).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use alloy::primitives::address;
    use proptest::prelude::*;

    use super::*;

    const ADDRESS: Address = address!("0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc");
    const OWNER: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

    fn strings() -> Vec<(&'static str, String)> {
        vec![
            ("v", "1".to_owned()),
            ("address", ADDRESS.to_string()),
            ("code", pairing_code(ADDRESS)),
            ("tier", "B".to_owned()),
            ("state", "ID-00".to_owned()),
            ("name", "rig-7".to_owned()),
            ("owner", OWNER.to_owned()),
            ("paired", "0".to_owned()),
        ]
    }

    fn parsed(strings: &[(&'static str, String)]) -> Result<Record, RecordError> {
        Record::parse(strings.iter().map(|(key, value)| (*key, value.as_bytes())))
    }

    fn with(key: &'static str, value: &str) -> Vec<(&'static str, String)> {
        strings().into_iter().map(|(each, old)| (each, if each == key { value.to_owned() } else { old })).collect()
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let expected = Record {
            address: ADDRESS,
            tier: Tier::B,
            state: KeyState::Open,
            name: "rig-7".to_owned(),
            owner: Some(OWNER.parse().expect("an address")),
            is_paired: false,
        };
        assert_eq!(parsed(&strings()), Ok(expected.clone()));
        let more = [strings(), vec![("gpus", "4".to_owned()), ("gpus", "5".to_owned())]].concat();
        assert_eq!(parsed(&more), Ok(expected.clone()), "what is not known is passed over");
        let short: Vec<_> = strings().into_iter().filter(|(key, _)| !["owner", "name"].contains(key)).collect();
        assert_eq!(parsed(&short), Ok(Record { owner: None, name: String::new(), ..expected }));
        for state in KeyState::ALL {
            assert_eq!(parsed(&with("state", state.code())).map(|record| record.state), Ok(state));
        }
    }

    #[test]
    fn a_bad_record_is_refused_by_what_is_wrong_with_it() {
        use RecordError::{Code, Long, Missing, Twice, Value, Version};
        let check =
            |key, value: &str, expected: RecordError| assert_eq!(parsed(&with(key, value)), Err(expected), "{value}");
        check("v", "2", Version("2".to_owned()));
        check("v", "\x1b[2J", Version("??2J".to_owned()));
        for value in ["", "0x12", &ADDRESS.to_string()[2..], &ADDRESS.to_string().replace("dc", "dC")] {
            check("address", value, Value("address"));
            check("owner", value, Value("owner"));
        }
        check("address", OWNER, Code);
        check("code", "", Code);
        check("code", "AAAA-AAAA-AAAA", Code);
        for value in ["", "b", "5", "BB", "\u{202e}B"] {
            check("tier", value, Value("tier"));
        }
        for value in ["", "open", "ID-99", "ID-0", "ID-00 "] {
            check("state", value, Value("state"));
        }
        for value in ["", "2", "true"] {
            check("paired", value, Value("paired"));
        }
        check("name", &"x".repeat(512), Long);
        for key in ["v", "address", "code", "tier", "state", "paired"] {
            let rest: Vec<_> = strings().into_iter().filter(|(each, _)| *each != key).collect();
            assert_eq!(parsed(&rest), Err(Missing(key)));
            let again = [strings(), with(key, "1").into_iter().filter(|(each, _)| *each == key).collect()].concat();
            assert_eq!(parsed(&again), Err(Twice(key)));
        }
        let binary = Record::parse([("v", &b"1"[..]), ("address", &[0xff; 42][..])]);
        assert_eq!(binary, Err(Value("address")));
    }

    #[test]
    fn a_name_cannot_move_the_cursor_or_turn_a_line_around() {
        let name = |text: &str| parsed(&with("name", text)).expect("a name is never a reason").name;
        assert_eq!(name("rack 3 (left) #2"), "rack 3 (left) #2");
        assert_eq!(name("a\x1b[31mb\r\n\u{202e}c\u{7}"), "a??31mb???c?");
        assert_eq!(name(&"é".repeat(100)), "?".repeat(64));
    }

    proptest! {
        #[test]
        fn whatever_is_said_is_a_record_or_an_error(all in prop::collection::vec((0_usize..8, prop::collection::vec(any::<u8>(), 0..64)), 0..12)) {
            let strings = all.iter().map(|(key, value)| (Record::KEYS[*key], value.as_slice()));
            if let Ok(record) = Record::parse(strings) {
                prop_assert!(record.name.chars().all(|c| c.is_ascii_graphic() || c == ' '));
            }
        }
    }
}
