//! The TPM's ECDSA signatures over SHA-256.

use p256::ecdsa::Signature;

use crate::attested::AttestFault;
use crate::structure::{Reader, StructureFault};

/// TPM_ALG_ECDSA.
pub(crate) const ALG_ECDSA: u16 = 0x0018;
/// TPM_ALG_SHA256.
pub(crate) const ALG_SHA256: u16 = 0x000b;

/// Reads a TPMT_SIGNATURE: scheme, hash, then r and s behind their sizes.
pub(crate) fn read(bytes: &[u8]) -> Result<Signature, AttestFault> {
    let structure = |source: StructureFault| AttestFault::Structure { what: "signature", source };
    let mut reader = Reader::of(bytes);
    let scheme = reader.u16("its scheme").map_err(structure)?;
    let hash = reader.u16("its hash").map_err(structure)?;
    if (scheme, hash) != (ALG_ECDSA, ALG_SHA256) {
        return Err(AttestFault::SignatureScheme { scheme, hash });
    }
    let r = reader.scalar("r").map_err(structure)?;
    let s = reader.scalar("s").map_err(structure)?;
    reader.end().map_err(structure)?;
    Signature::from_scalars(r, s).map_err(|_| AttestFault::Signature)
}

/// The twin of a P-256 signature whose `s` is in the lower half: the only one of the two that Solidity libraries take.
/// A TPM answers with either, and both are right; so what is checked here takes both.
///
/// Returns `None` for numbers that are no signature: zero, or not below the order of the curve.
pub fn low_s(r: [u8; 32], s: [u8; 32]) -> Option<([u8; 32], [u8; 32])> {
    let signature = Signature::from_scalars(r, s).ok()?;
    let low = signature.normalize_s().unwrap_or(signature);
    Some((low.r().to_bytes().into(), low.s().to_bytes().into()))
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::SigningKey;
    use p256::ecdsa::signature::{Signer, Verifier};

    use super::*;

    #[test]
    fn both_twins_become_the_lower_one_and_it_verifies() {
        let key = SigningKey::from_slice(&[7; 32]).expect("a key");
        for message in 0..8_u8 {
            let signed: Signature = key.sign(&[message]);
            let (r, s) = signed.split_scalars();
            let twin = Signature::from_scalars(r.to_bytes(), (-*s).to_bytes()).expect("a signature");
            let low = |it: &Signature| low_s(it.r().to_bytes().into(), it.s().to_bytes().into()).expect("a signature");
            assert_eq!(low(&signed), low(&twin));
            let (r, s) = low(&signed);
            let low = Signature::from_scalars(r, s).expect("a signature");
            assert!(low.normalize_s().is_none(), "it was low already");
            assert!(key.verifying_key().verify(&[message], &low).is_ok());
        }
    }

    #[test]
    fn numbers_that_are_no_signature_have_no_twin() {
        assert_eq!(low_s([0; 32], [1; 32]), None);
        assert_eq!(low_s([1; 32], [0; 32]), None);
        assert_eq!(low_s([0xff; 32], [1; 32]), None);
    }
}
