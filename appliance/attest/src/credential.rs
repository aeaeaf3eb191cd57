//! TPM2_MakeCredential in software, and the answer to it.
//!
//! A secret is encrypted so that only the TPM with one endorsement key can read it, and it does so only if a key with
//! one name is in it. The name contains the attestation key's attributes, so the right answer proves: that key, with
//! those attributes, is in that TPM. Source: TPM 2.0 library specification, part 1, "Credential Protection".
//!
//! Invariants: every challenge has a fresh secret and a fresh seed; both are wiped; answers are compared by digest, so
//! that the time it takes tells nothing about the secret.

use aes::Aes128;
use aes::cipher::{AsyncStreamCipher, KeyIvInit};
use cfb_mode::Encryptor;
use hmac::{Hmac, Mac};
use p256::PublicKey;
use p256::ecdh::EphemeralSecret;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use rsa::rand_core::{OsRng, RngCore};
use rsa::{Oaep, RsaPublicKey};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::document::{Hex, Secret};
use crate::evidence::{Answer, Challenge, ChallengeFormat, Credential, CredentialFormat};
use crate::keys::{AttestationKey, EndorsementKey, EndorsementNumbers, KeyName};
use crate::structure::sized;

/// What the seed is for. The zero at the end belongs to it.
const IDENTITY: &str = "IDENTITY\0";

type Seed = Zeroizing<[u8; 32]>;

/// An answer that does not prove what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ActivationFault {
    /// The challenge was made for another TPM.
    #[error("the challenge was made for another endorsement key")]
    OtherEndorsement,
    /// The challenge was made for another attestation key.
    #[error("the challenge was made for another attestation key")]
    OtherAttestation,
    /// The secret is another one.
    #[error("the answer is not the secret of this challenge")]
    WrongAnswer,
}

// === impl Challenge ===

impl Challenge {
    /// A challenge for the TPM with `ek`, about `ak`: what to keep, and what to give to the rig. The secret and the seed
    /// come from the system's random numbers.
    pub fn make(ek: &EndorsementKey, ak: &AttestationKey) -> (Challenge, Credential) {
        let mut secret = Zeroizing::new([0; Secret::BYTES]);
        OsRng.fill_bytes(secret.as_mut_slice());
        let (seed, to_ek) = match &ek.key {
            EndorsementNumbers::Rsa2048(key) => seed_by_oaep(key),
            EndorsementNumbers::P256(key) => seed_by_ecdh(key),
        };
        let blob = wrap(&seed, ak.name().as_bytes(), secret.as_slice());
        let credential = Credential {
            format: CredentialFormat::V1,
            blob: Hex::new(blob).expect("an HMAC and a secret of 32 bytes have 68 bytes"),
            secret: Hex::new(to_ek).expect("RSA-2048 encrypts to 256 bytes, a point has 68"),
        };
        let challenge = Challenge {
            format: ChallengeFormat::V1,
            ek: Hex::from(ek.name().digest()),
            ak: Hex::from(*ak.name().as_bytes()),
            secret: Secret::new(*secret),
        };
        (challenge, credential)
    }

    /// Whether `answer` proves that `ak` is in the TPM with `ek`. Errors: [`ActivationFault`].
    pub fn settle(&self, ek: &EndorsementKey, ak: &AttestationKey, answer: &Answer) -> Result<(), ActivationFault> {
        if self.ek.as_bytes() != ek.name().digest() {
            return Err(ActivationFault::OtherEndorsement);
        }
        if self.ak.as_bytes() != ak.name().as_bytes() {
            return Err(ActivationFault::OtherAttestation);
        }
        match Sha256::digest(self.secret.expose()) == Sha256::digest(answer.secret.expose()) {
            true => Ok(()),
            false => Err(ActivationFault::WrongAnswer),
        }
    }
}

/// A random seed, and its OAEP encryption.
fn seed_by_oaep(key: &RsaPublicKey) -> (Seed, Vec<u8>) {
    let mut seed = Seed::default();
    OsRng.fill_bytes(seed.as_mut_slice());
    let padding = Oaep::new_with_label::<Sha256, _>(IDENTITY);
    let encrypted =
        key.encrypt(&mut OsRng, padding, seed.as_slice()).expect("a seed is shorter than an RSA-2048 block");
    (seed, encrypted)
}

/// A seed from a shared point, and our half of it as TPMS_ECC_POINT.
fn seed_by_ecdh(key: &PublicKey) -> (Seed, Vec<u8>) {
    let ours = EphemeralSecret::random(&mut OsRng);
    let (x, y) = coordinates(&ours.public_key());
    let shared = ours.diffie_hellman(key);
    let seed = kdfe(shared.raw_secret_bytes(), &x, &coordinates(key).0);
    (seed, [sized(&x), sized(&y)].concat())
}

fn coordinates(key: &PublicKey) -> ([u8; 32], [u8; 32]) {
    let point = key.to_encoded_point(false);
    let part = |part: Option<&p256::FieldBytes>| (*part.expect("a public key is not the point at infinity")).into();
    (part(point.x()), part(point.y()))
}

/// KDFe with SHA-256 for 256 bits: one round of the hash.
fn kdfe(shared: &[u8], ours: &[u8; 32], theirs: &[u8; 32]) -> Seed {
    let digest = Sha256::new().chain_update(1_u32.to_be_bytes()).chain_update(shared).chain_update(IDENTITY);
    Zeroizing::new(digest.chain_update(ours).chain_update(theirs).finalize().into())
}

/// KDFa with SHA-256 for up to 256 bits: one round of the HMAC.
fn kdfa(seed: &Seed, label: &str, context: &[u8], bits: u32) -> Zeroizing<[u8; 32]> {
    let mut mac = hmac(seed.as_slice());
    for part in [&1_u32.to_be_bytes(), label.as_bytes(), &[0], context, &bits.to_be_bytes()] {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// Content of TPM2B_ID_OBJECT: the HMAC behind its size, then the secret, behind its size and encrypted.
fn wrap(seed: &Seed, name: &[u8; KeyName::BYTES], secret: &[u8]) -> Vec<u8> {
    let key = kdfa(seed, "STORAGE", name, 128);
    let mut encrypted = sized(secret);
    let (key, _) = key.split_at(16);
    let cipher =
        Encryptor::<Aes128>::new_from_slices(key, &[0; 16]).expect("AES-128 has a key and a block of 16 bytes");
    cipher.encrypt(&mut encrypted);
    let mut mac = hmac(kdfa(seed, "INTEGRITY", &[], 256).as_slice());
    mac.update(&encrypted);
    mac.update(name);
    let integrity: [u8; 32] = mac.finalize().into_bytes().into();
    [sized(&integrity), encrypted].concat()
}

fn hmac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("an HMAC takes a key of any length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::soft::Soft;

    #[test]
    fn the_wrapping_is_the_one_that_was_computed_apart() {
        // Made with the hash, HMAC and AES of another language's library.
        let seed = Zeroizing::new(std::array::from_fn(|at| u8::try_from(at).expect("below 32")));
        let name: Vec<u8> = [0, 0x0b].into_iter().chain(100..132).collect();
        let secret: Vec<u8> = (200..232).collect();
        let name = name.try_into().expect("34 bytes");
        let expected = "0020f785972028c8322c701fb00823578cbaab3de512b10559c969e5a3242ceaed391b0f50083e7b6d29558d8eef7cbb\
                        568719874ec4f71c658c0f10cdc31e8a088affa6";
        assert_eq!(hex::encode(wrap(&seed, &name, &secret)), expected);
        let seed = kdfe(&[0x11; 32], &[0x22; 32], &[0x33; 32]);
        let expected = "349308f14b258cab5f67a14bfd8329ea42365fcdca2f9e7e658bc7504d5d0cb3";
        assert_eq!(hex::encode(seed.as_slice()), expected);
    }

    #[test]
    fn only_the_tpm_with_both_keys_answers() {
        let (one, other) = (Soft::new(1), Soft::new(2));
        let (challenge, credential) = Challenge::make(&one.ek(), &one.ak());
        let answer = one.activate(&credential, one.ak().name()).expect("its own");
        assert_eq!(challenge.settle(&one.ek(), &one.ak(), &answer), Ok(()));
        assert!(one.activate(&credential, other.ak().name()).is_none(), "another attestation key");
        assert!(other.activate(&credential, one.ak().name()).is_none(), "another TPM");
    }

    #[test]
    fn an_answer_settles_its_own_challenge_only() {
        let (one, other) = (Soft::new(1), Soft::new(2));
        let (challenge, credential) = Challenge::make(&one.ek(), &one.ak());
        let (again, _) = Challenge::make(&one.ek(), &one.ak());
        let answer = one.activate(&credential, one.ak().name()).expect("its own");
        let check = |challenge: &Challenge, ek, ak, expected| {
            assert_eq!(challenge.settle(&ek, &ak, &answer), Err(expected));
        };
        check(&challenge, other.ek(), one.ak(), ActivationFault::OtherEndorsement);
        check(&challenge, one.ek(), other.ak(), ActivationFault::OtherAttestation);
        check(&again, one.ek(), one.ak(), ActivationFault::WrongAnswer);
    }

    #[test]
    fn two_challenges_share_nothing() {
        let one = Soft::new(1);
        let ((first, to_first), (second, to_second)) =
            (Challenge::make(&one.ek(), &one.ak()), Challenge::make(&one.ek(), &one.ak()));
        assert_ne!(first.secret, second.secret);
        assert_ne!(to_first.secret, to_second.secret);
        assert_ne!(to_first.blob, to_second.blob);
    }
}
