//! What protects a key at rest, and what the owner asks for.

use std::fmt;
use std::str::FromStr;

/// What protects a key at rest, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// Secure Boot with the vendor's own keys, and a policy over PCR 7, 11 and 12.
    S,
    /// Measured boot without Secure Boot: a policy over PCR 4, 11 and 12.
    Four,
    /// Bound to this TPM, whatever boots.
    B,
    /// Software. With a binding to hardware fields: clone detection.
    N,
}

/// The tier that the owner asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wish {
    /// B where a TPM can be used, N elsewhere.
    #[default]
    Auto,
    /// This tier or none.
    Exactly(Tier),
}

/// A word that is no tier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no tier: write auto, S, 4, B or N")]
pub struct UnknownTier {
    word: String,
}

// === impl Tier ===

impl Tier {
    /// Every tier, best first.
    pub const ALL: [Self; 4] = [Self::S, Self::Four, Self::B, Self::N];

    /// Whether a TPM holds the key.
    pub fn needs_tpm(self) -> bool {
        match self {
            Self::S | Self::Four | Self::B => true,
            Self::N => false,
        }
    }

    /// Whether the key opens for approved software only.
    pub fn needs_approval(self) -> bool {
        match self {
            Self::S | Self::Four => true,
            Self::B | Self::N => false,
        }
    }

    /// The byte that stands for it in a key file.
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::S => b'S',
            Self::Four => b'4',
            Self::B => b'B',
            Self::N => b'N',
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.byte() == byte)
    }

    /// The next tier to try for a key that must be born now. `None` after N.
    pub(crate) fn next_best(self) -> Option<Self> {
        match self {
            Self::S | Self::Four => Some(Self::B),
            Self::B => Some(Self::N),
            Self::N => None,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::S => "S",
            Self::Four => "4",
            Self::B => "B",
            Self::N => "N",
        })
    }
}

// === impl Wish ===

impl Wish {
    /// The tier to try first.
    pub(crate) fn first(self) -> Tier {
        match self {
            Self::Auto => Tier::B,
            Self::Exactly(tier) => tier,
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(tier) => tier.fmt(f),
        }
    }
}

impl FromStr for Wish {
    type Err = UnknownTier;

    fn from_str(word: &str) -> Result<Self, UnknownTier> {
        match word {
            "auto" => Ok(Self::Auto),
            "S" => Ok(Self::Exactly(Tier::S)),
            "4" => Ok(Self::Exactly(Tier::Four)),
            "B" => Ok(Self::Exactly(Tier::B)),
            "N" => Ok(Self::Exactly(Tier::N)),
            _ => Err(UnknownTier { word: word.chars().take(16).collect() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_written_as_it_is_read() {
        for wish in [Wish::Auto].into_iter().chain(Tier::ALL.map(Wish::Exactly)) {
            assert_eq!(wish.to_string().parse(), Ok(wish));
        }
        for word in ["", "b", "auto ", "5"] {
            assert!(word.parse::<Wish>().is_err(), "{word}");
        }
    }

    #[test]
    fn a_tier_has_a_byte_of_its_own() {
        for tier in Tier::ALL {
            assert_eq!(Tier::from_byte(tier.byte()), Some(tier));
        }
        assert_eq!(Tier::from_byte(0), None);
    }
}
