//! What is signed, and with which key.
//!
//! Invariants: a signature is a function of key and bytes (RSA PKCS#1 v1.5; ECDSA after RFC 6979) and carries no time, so
//! that a build that is done again gives the same image; what is signed already is not signed twice; nothing is written
//! here but to memory.

use layout::manifest::Manifest;
use layout::uki::UkiError;
use p256::ecdsa::Signature;
use p256::ecdsa::signature::Signer;

use crate::keys::Keys;

pub mod authenticode;
pub(crate) mod pkcs7;

/// Why a program of the firmware cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Not a PE image.
    #[error("this is no program for UEFI")]
    Image(#[source] UkiError),
    /// It carries a signature, ours or somebody's.
    #[error("this is signed already: sign the file that the build made, not the one on the ESP")]
    Signed,
    /// Too large for a 32-bit field.
    #[error("a program for UEFI has less than 4 GiB")]
    TooLong,
}

/// A UKI or a loader with the database key's signature. Errors: all of [`SignError`].
pub fn uki(keys: &Keys, unsigned: &[u8]) -> Result<Vec<u8>, SignError> {
    authenticode::sign(unsigned, keys.database())
}

/// The manifest's signature by the release key: DER, over SHA-256 of these very bytes.
pub fn manifest(keys: &Keys, json: &[u8]) -> Vec<u8> {
    let signature: Signature = keys.release().sign(json);
    signature.normalize_s().unwrap_or(signature).to_der().as_bytes().to_vec()
}

/// A manifest as text and its signature, as they are published.
pub fn published(keys: &Keys, manifest: &Manifest) -> (Vec<u8>, Vec<u8>) {
    let json = manifest.to_json();
    let signature = self::manifest(keys, &json);
    (json, signature)
}
