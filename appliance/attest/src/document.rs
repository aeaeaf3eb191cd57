//! How documents are written: JSON with a `format`, bytes in hexadecimal, every field bounded.
//!
//! Invariants: an unknown field, an unknown format and a field beyond its bound are refused; nothing is allocated in
//! proportion to a number that a document names; a secret is never shown by `Debug` and is wiped when dropped.

use std::fmt;

use serde::de::{self, DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

/// Longest document, bytes. The longest real one, four certificates and a quote, has below 16 KiB; the bounds of the
/// fields allow 48 KiB.
pub const MAX_DOCUMENT: usize = 64 * 1024;

/// A document that cannot be read.
#[derive(Debug, Error)]
pub enum DocumentFault {
    /// It is longer than any honest one.
    #[error("the {what} has {bytes} bytes; one has {MAX_DOCUMENT} at most")]
    TooLong {
        /// Which document.
        what: &'static str,
        /// Its length, bytes.
        bytes: usize,
    },
    /// It is not JSON, or not of this format.
    #[error("the {what} is not one that this version reads")]
    Malformed {
        /// Which document.
        what: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
}

/// A document of ours: parsed whole or refused.
pub trait Document: Serialize + DeserializeOwned {
    /// What people call it.
    const WHAT: &'static str;

    /// Reads it from JSON. Errors: [`DocumentFault`], with line and column behind it.
    fn parse(json: &[u8]) -> Result<Self, DocumentFault> {
        if json.len() > MAX_DOCUMENT {
            return Err(DocumentFault::TooLong { what: Self::WHAT, bytes: json.len() });
        }
        serde_json::from_slice(json).map_err(|source| DocumentFault::Malformed { what: Self::WHAT, source })
    }

    /// Writes it as JSON for people to look at, with a newline at the end. Wiped when dropped: some hold secrets.
    fn print(&self) -> Zeroizing<String> {
        let mut text = serde_json::to_string_pretty(self).expect("a document is plain data");
        text.push('\n');
        Zeroizing::new(text)
    }
}

/// `MIN` to `MAX` bytes, in JSON as lower or upper case hexadecimal without a prefix.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Hex<const MIN: usize, const MAX: usize>(Vec<u8>);

/// A secret of 32 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; Secret::BYTES]>);

/// A number of bytes outside a field's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{bytes} bytes, where {least} to {most} belong")]
pub struct OutOfBounds {
    /// How many there are.
    pub bytes: usize,
    /// The fewest that belong.
    pub least: usize,
    /// The most that belong.
    pub most: usize,
}

struct HexVisitor<const MIN: usize, const MAX: usize>;

// === impl Hex ===

impl<const MIN: usize, const MAX: usize> Hex<MIN, MAX> {
    /// The bytes. Errors: fewer than `MIN` or more than `MAX`.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, OutOfBounds> {
        let bytes = bytes.into();
        match (MIN..=MAX).contains(&bytes.len()) {
            true => Ok(Hex(bytes)),
            false => Err(OutOfBounds { bytes: bytes.len(), least: MIN, most: MAX }),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<const N: usize> From<[u8; N]> for Hex<N, N> {
    fn from(bytes: [u8; N]) -> Self {
        Hex(bytes.to_vec())
    }
}

impl<const MIN: usize, const MAX: usize> fmt::Debug for Hex<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hex({})", hex::encode(&self.0))
    }
}

impl<const MIN: usize, const MAX: usize> Serialize for Hex<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = Zeroizing::new(hex::encode(&self.0));
        serializer.serialize_str(&digits)
    }
}

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for Hex<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(HexVisitor)
    }
}

impl<const MIN: usize, const MAX: usize> Visitor<'_> for HexVisitor<MIN, MAX> {
    type Value = Hex<MIN, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MIN} to {MAX} bytes in hexadecimal")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let bytes = text.len() / 2;
        if !(MIN..=MAX).contains(&bytes) {
            return Err(E::custom(OutOfBounds { bytes, least: MIN, most: MAX }));
        }
        // The words of the decoder's error name a digit, and the digit may be one of a secret.
        hex::decode(text).map(Hex).map_err(|_| E::custom("not pairs of hexadecimal digits"))
    }
}

// === impl Secret ===

impl Secret {
    /// Its length, bytes: as much as a SHA-256 endorsement key can carry.
    pub const BYTES: usize = 32;

    /// A secret from these bytes.
    pub fn new(bytes: [u8; Secret::BYTES]) -> Secret {
        Secret(Zeroizing::new(bytes))
    }

    /// A secret from these bytes. Errors: not 32 of them.
    pub fn of(bytes: &[u8]) -> Result<Secret, OutOfBounds> {
        let wrong = |_| OutOfBounds { bytes: bytes.len(), least: Secret::BYTES, most: Secret::BYTES };
        <[u8; Secret::BYTES]>::try_from(bytes).map(Secret::new).map_err(wrong)
    }

    pub(crate) fn expose(&self) -> &[u8; Secret::BYTES] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = Zeroizing::new(hex::encode(self.0.as_slice()));
        serializer.serialize_str(&digits)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut digits = Hex::<{ Secret::BYTES }, { Secret::BYTES }>::deserialize(deserializer)?;
        let secret = Secret::of(digits.as_bytes()).map_err(de::Error::custom);
        digits.0.zeroize();
        secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_outside_the_bounds_and_other_letters_are_refused() {
        let check = |json: &str, expected: Option<&[u8]>| {
            let read = serde_json::from_str::<Hex<1, 3>>(json);
            assert_eq!(read.as_ref().ok().map(Hex::as_bytes), expected, "{json}: {read:?}");
        };
        check(r#""00ffAb""#, Some(&[0, 0xff, 0xab]));
        for bad in
            [r#""""#, r#""0""#, r#""00000000""#, r#""0000000""#, r#""0x00""#, r#""zz""#, "7", "null", "[0]", r#""é""#]
        {
            check(bad, None);
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new([0xab; 32]);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        let bad = serde_json::from_str::<Secret>(&format!("\"{}zz\"", "ab".repeat(31))).expect_err("zz");
        assert!(!bad.to_string().contains("abab"), "{bad}");
    }
}
