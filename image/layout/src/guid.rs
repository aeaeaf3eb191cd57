//! The 128-bit names of disks, partitions and their kinds.
//!
//! Kept in the order in which they are written as text. On disk the first three groups stand in the machine's order, which
//! is why [`Guid::from_disk`] and [`Guid::to_disk`] exist and nothing else turns bytes around.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// A GUID. Shown and parsed as lower-case text with four hyphens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid([u8; 16]);

/// A text that is not a GUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a GUID: {0:?}; write it as 8-4-4-4-12 hexadecimal digits")]
pub struct GuidError(String);

/// Where the hyphens stand.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// So much of a wrong text is repeated in its error.
const SHOWN_CHARS: usize = 40;

// === impl Guid ===

impl Guid {
    /// All zero: an unused entry of a partition table.
    pub const NIL: Guid = Guid([0; 16]);

    /// `text_order` as the digits of the text follow each other.
    #[must_use]
    pub const fn from_bytes(text_order: [u8; 16]) -> Guid {
        Guid(text_order)
    }

    /// The digits of the text as one number.
    #[must_use]
    pub const fn from_u128(digits: u128) -> Guid {
        Guid(digits.to_be_bytes())
    }

    /// The bytes in the order of the text.
    #[must_use]
    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }

    /// As it lies in a partition table.
    #[must_use]
    pub fn from_disk(disk_order: [u8; 16]) -> Guid {
        Guid(turned(disk_order))
    }

    /// As it lies in a partition table.
    #[must_use]
    pub fn to_disk(&self) -> [u8; 16] {
        turned(self.0)
    }

    /// The id that every image gives to what is called `label`: the first half of the SHA-256 of `rig LABEL`, made a
    /// UUID of version 8.
    #[must_use]
    pub fn derived(label: &str) -> Guid {
        let digest = Sha256::digest(format!("rig {label}"));
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Guid(bytes)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, byte) in self.0.iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                out.write_str("-")?;
            }
            write!(out, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Guid {
    type Err = GuidError;

    fn from_str(text: &str) -> Result<Guid, GuidError> {
        let refused = || GuidError(text.chars().take(SHOWN_CHARS).collect());
        if text.len() != 36 || HYPHENS.iter().any(|place| text.as_bytes().get(*place) != Some(&b'-')) {
            return Err(refused());
        }
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let mut bytes = [0; 16];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| refused())?;
        Ok(Guid(bytes))
    }
}

/// The first three groups turned around; turning twice changes nothing.
fn turned(bytes: [u8; 16]) -> [u8; 16] {
    let mut turned = bytes;
    turned[0..4].reverse();
    turned[4..6].reverse();
    turned[6..8].reverse();
    turned
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_esp_lies_on_disk_as_every_tool_writes_it() {
        let esp: Guid = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B".parse().expect("it is a GUID");
        let disk = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
        assert_eq!(esp.to_disk(), disk);
        assert_eq!(esp.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
    }

    #[test]
    fn an_id_derived_from_a_label_never_changes() {
        assert_eq!(Guid::derived("rig-esp").to_string(), "972a520e-2892-8e1b-819b-2f7d554b70b5");
        assert_ne!(Guid::derived("rig-root-a"), Guid::derived("rig-root-b"));
    }

    #[test]
    fn what_is_not_a_guid_is_refused() {
        for text in [
            "",
            "c12a7328",
            "c12a7328-f81f-11d2-ba4b-00a0c93ec93",
            "c12a7328-f81f-11d2-ba4b-00a0c93ec93bb",
            "c12a7328xf81f-11d2-ba4b-00a0c93ec93b",
            "g12a7328-f81f-11d2-ba4b-00a0c93ec93b",
            "c12a-328-f81f-11d2-ba4b-00a0c93ec93b",
            "{12a7328-f81f-11d2-ba4b-00a0c93ec93}",
            "ééééééééé-ééééééé",
        ] {
            assert!(text.parse::<Guid>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_and_disk_bring_a_guid_back(bytes: [u8; 16]) {
            let guid = Guid::from_bytes(bytes);
            prop_assert_eq!(guid.to_string().parse::<Guid>(), Ok(guid));
            prop_assert_eq!(Guid::from_disk(guid.to_disk()), guid);
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = text.parse::<Guid>();
        }
    }
}
