//! Names that become file names, so that each has exactly one legal spelling.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A source, as the provider names it: 1 to 64 of `a-z A-Z 0-9 - _ .`, not starting with a dot.
///
/// It becomes a file name, so nothing else is ever accepted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceName(String);

/// A service of a source, and a host name for its sisters; spelled like a [`SourceName`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(String);

/// A volume of a source; spelled like a [`SourceName`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

/// A SHA-256 digest, written `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A name or digest that is not one.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// See [`SourceName`].
    #[error("{kind} name {name:?} is not 1 to 64 of a-z, A-Z, 0-9, '-', '_' and '.', or starts with a dot")]
    Name {
        /// Of what.
        kind: &'static str,
        /// What was given.
        name: String,
    },
    /// See [`Digest`].
    #[error("digest {0:?} is not sha256: and 64 lower-case hexadecimal digits")]
    Digest(String),
}

/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 64;

fn is_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with('.') && name.bytes().all(legal)
}

/// What the three kinds of names have in common.
macro_rules! name {
    ($Name:ident, $kind:literal) => {
        impl $Name {
            /// The longest name, in bytes.
            pub const LEN_MAX: usize = NAME_BYTES_MAX;

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $Name {
            type Error = Malformed;

            fn try_from(name: String) -> Result<Self, Malformed> {
                if is_name(&name) { Ok(Self(name)) } else { Err(Malformed::Name { kind: $kind, name }) }
            }
        }

        impl From<$Name> for String {
            fn from(name: $Name) -> Self {
                name.0
            }
        }

        impl std::str::FromStr for $Name {
            type Err = Malformed;

            fn from_str(name: &str) -> Result<Self, Malformed> {
                Self::try_from(name.to_owned())
            }
        }

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(SourceName, "source");
name!(ServiceName, "service");
name!(VolumeName, "volume");

// === impl Digest ===

impl Digest {
    const PREFIX: &'static str = "sha256:";

    /// The 64 digits, which are the blob's file name.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0[Self::PREFIX.len()..]
    }
}

impl TryFrom<String> for Digest {
    type Error = Malformed;

    fn try_from(digest: String) -> Result<Self, Malformed> {
        let legal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match digest.strip_prefix(Self::PREFIX) {
            Some(hex) if hex.len() == 64 && hex.bytes().all(legal) => Ok(Self(digest)),
            _ => Err(Malformed::Digest(digest)),
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl std::str::FromStr for Digest {
    type Err = Malformed;

    fn from_str(digest: &str) -> Result<Self, Malformed> {
        Self::try_from(digest.to_owned())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_name_is_a_plain_file_name() {
        for good in ["0xAb12", "a", "source-1_x.y", &"a".repeat(64)] {
            assert!(good.parse::<SourceName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".a", "a/b", "a\0", "a b", "ä", &"a".repeat(65)] {
            assert!(bad.parse::<SourceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_digest_has_one_spelling() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(good.parse::<Digest>().expect("legal").hex(), "0a".repeat(32));
        for bad in ["", "sha256:", &"0a".repeat(32), &good.to_uppercase(), &format!("{good}0")] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
    }
}
