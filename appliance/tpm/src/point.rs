//! Public keys and signatures on P-256, as numbers of a fixed length.
//!
//! A TPM may leave out leading zeros of a number; here each has its 32 bytes again.

use p256::ecdsa::VerifyingKey;
use p256::elliptic_curve::sec1::{FromEncodedPoint, ToEncodedPoint};
use p256::{EncodedPoint, PublicKey};

use crate::template;
use crate::wire::{Reader, Short};

/// Bytes of a number on P-256.
pub(crate) const NUMBER: usize = 32;

/// A public key on P-256. Not checked to lie on the curve; what uses it as a key checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EcPoint {
    /// Big-endian.
    pub x: [u8; 32],
    /// Big-endian.
    pub y: [u8; 32],
}

/// An ECDSA signature on P-256. A TPM's `s` may be high.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EcSignature {
    /// Big-endian.
    pub r: [u8; 32],
    /// Big-endian.
    pub s: [u8; 32],
}

// === impl EcPoint ===

impl EcPoint {
    /// From SEC1, uncompressed: 4, x, y. `None` for anything else, also for a point beside the curve.
    pub fn from_sec1(bytes: &[u8]) -> Option<Self> {
        let encoded = EncodedPoint::from_bytes(bytes).ok().filter(|point| !point.is_compressed())?;
        let key: Option<PublicKey> = PublicKey::from_encoded_point(&encoded).into();
        key.as_ref().map(Self::from)
    }

    /// SEC1, uncompressed.
    pub fn to_sec1(&self) -> [u8; 65] {
        let mut bytes = [4; 65];
        bytes[1..33].copy_from_slice(&self.x);
        bytes[33..].copy_from_slice(&self.y);
        bytes
    }

    /// The key, if it lies on the curve.
    pub fn public_key(&self) -> Option<PublicKey> {
        let encoded = EncodedPoint::from_affine_coordinates(&self.x.into(), &self.y.into(), false);
        PublicKey::from_encoded_point(&encoded).into()
    }

    /// TPMT_PUBLIC under which a TPM checks signatures of this key: see [`crate::policy::vendor_public`].
    pub(crate) fn as_verification_key(&self) -> Vec<u8> {
        template::verification_key(self)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Short> {
        Ok(Self { x: number(reader)?, y: number(reader)? })
    }
}

impl From<&PublicKey> for EcPoint {
    fn from(key: &PublicKey) -> Self {
        let encoded = key.to_encoded_point(false);
        let mut point = Self { x: [0; NUMBER], y: [0; NUMBER] };
        if let (Some(x), Some(y)) = (encoded.x(), encoded.y()) {
            point.x.copy_from_slice(x);
            point.y.copy_from_slice(y);
        }
        point
    }
}

impl From<&VerifyingKey> for EcPoint {
    fn from(key: &VerifyingKey) -> Self {
        Self::from(&PublicKey::from(key))
    }
}

// === impl EcSignature ===

impl EcSignature {
    /// From `r` and `s` behind each other.
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut signature = Self { r: [0; NUMBER], s: [0; NUMBER] };
        signature.r.copy_from_slice(&bytes[..NUMBER]);
        signature.s.copy_from_slice(&bytes[NUMBER..]);
        signature
    }

    /// `r` and `s` behind each other.
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..NUMBER].copy_from_slice(&self.r);
        bytes[NUMBER..].copy_from_slice(&self.s);
        bytes
    }

    /// From a whole TPMT_SIGNATURE. `None` unless it is ECDSA with SHA-256 on P-256 and nothing follows.
    pub fn from_wire(signature: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(signature);
        let signature = Self::read(&mut reader).ok()?;
        reader.end().ok()?;
        Some(signature)
    }

    /// TPMT_SIGNATURE: ECDSA with SHA-256.
    pub(crate) fn wire(&self) -> crate::wire::Writer {
        crate::wire::Writer::new().u16(template::ECDSA).u16(template::SHA256).sized(&self.r).sized(&self.s)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Short> {
        if reader.u16()? != template::ECDSA || reader.u16()? != template::SHA256 {
            return Err(Short("the signature is not ECDSA with SHA-256"));
        }
        Ok(Self { r: number(reader)?, s: number(reader)? })
    }
}

fn number(reader: &mut Reader<'_>) -> Result<[u8; NUMBER], Short> {
    let bytes = reader.sized()?;
    let mut number = [0; NUMBER];
    let at = NUMBER.checked_sub(bytes.len()).ok_or(Short("a number is longer than the curve's"))?;
    number[at..].copy_from_slice(bytes);
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_without_its_leading_zeros_gets_them_back() {
        let signature = EcSignature::from_wire(&[0, 0x18, 0, 0x0b, 0, 1, 7, 0, 0]).expect("a signature");
        assert_eq!((signature.r[31], signature.r[..31].iter().max(), signature.s), (7, Some(&0), [0; 32]));
    }

    #[test]
    fn other_signatures_are_none() {
        let whole = EcSignature { r: [1; 32], s: [2; 32] }.wire().into_bytes();
        assert!(EcSignature::from_wire(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(EcSignature::from_wire(&whole[..length]), None, "{length}");
        }
        let mut long = whole.clone();
        long.push(0);
        assert_eq!(EcSignature::from_wire(&long), None);
        let mut scheme = whole.clone();
        scheme[1] = 0x14;
        assert_eq!(EcSignature::from_wire(&scheme), None);
        let mut number = vec![0, 0x18, 0, 0x0b, 0, 33];
        number.extend([1; 70]);
        assert_eq!(EcSignature::from_wire(&number), None);
    }

    #[test]
    fn a_point_beside_the_curve_is_none() {
        assert_eq!(EcPoint::from_sec1(&EcPoint { x: [1; 32], y: [1; 32] }.to_sec1()), None);
        assert_eq!(EcPoint::from_sec1(&[]), None);
        assert_eq!(EcPoint::from_sec1(&[0]), None);
    }
}
