//! The scalar of a secp256k1 key: drawn, checked, wiped.

use std::io;

use alloy_primitives::keccak256;
use k256::elliptic_curve::sec1::ToEncodedPoint;
use zeroize::Zeroizing;

use crate::{Address, IdentityError};

/// One draw in 2^128 is zero or beyond the curve's order; more than a few in a row are a broken source.
const DRAWS_MAX: usize = 8;

/// A number that is a secp256k1 key. Wiped on drop, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Scalar(Zeroizing<[u8; 32]>);

// === impl Scalar ===

impl Scalar {
    /// `None`: not 32 bytes, zero, or not below the curve's order.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut scalar = Zeroizing::new([0; 32]);
        if bytes.len() != scalar.len() {
            return None;
        }
        scalar.copy_from_slice(bytes);
        k256::SecretKey::from_slice(bytes).is_ok().then_some(Self(scalar))
    }

    /// Draws a key from the system's random numbers, each mixed with what `other` fills in: neither source alone
    /// decides. Errors: `Random`, and those of `other`.
    pub(crate) fn draw(
        mut other: impl FnMut(&mut [u8; 32]) -> Result<(), IdentityError>,
    ) -> Result<Self, IdentityError> {
        for _ in 0..DRAWS_MAX {
            let mut mixed = random::<32>()?;
            let mut more = Zeroizing::new([0; 32]);
            other(&mut more)?;
            mixed.iter_mut().zip(more.iter()).for_each(|(byte, more)| *byte ^= more);
            if let Some(scalar) = Self::from_slice(&mixed[..]) {
                return Ok(scalar);
            }
        }
        Err(IdentityError::Random(io::Error::other("the numbers drawn are no keys")))
    }

    /// Big endian.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The account's address: the last twenty bytes of the public point's Keccak-256.
    pub fn address(&self) -> Address {
        let secret = k256::SecretKey::from_slice(&self.0[..]).expect("checked when it was made");
        let point = secret.public_key().to_encoded_point(false);
        let digest = keccak256(&point.as_bytes()[1..]);
        digest[12..].try_into().expect("twenty bytes")
    }

    pub(crate) fn into_bytes(self) -> Zeroizing<[u8; 32]> {
        self.0
    }
}

impl std::fmt::Debug for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scalar(..)")
    }
}

/// From `getrandom(2)`, which waits until the system's pool is ready at first boot. Errors: `Random`.
pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, IdentityError> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(&mut bytes[..]).map_err(|source| IdentityError::Random(source.into()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_between_one_and_the_order() {
        let check = |bytes: &[u8], expected| assert_eq!(Scalar::from_slice(bytes).is_some(), expected, "{bytes:?}");
        check(&[0; 32], false);
        check(&[0xFF; 32], false);
        check(&[1; 31], false);
        check(&[1; 32], true);
    }

    #[test]
    fn both_sources_are_mixed_and_a_dead_one_does_not_matter() {
        let dead = |_: &mut [u8; 32]| Ok(());
        let (first, second) = (Scalar::draw(dead).expect("a key"), Scalar::draw(dead).expect("a key"));
        assert_ne!(first, second);
        let mut asked = 0;
        let stuck = |bytes: &mut [u8; 32]| {
            asked += 1;
            bytes.fill(0xA5);
            Ok(())
        };
        Scalar::draw(stuck).expect("a key");
        assert_eq!(asked, 1);
    }
}
