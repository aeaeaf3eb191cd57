//! A kernel module's signature, as the kernel reads it from the module's end.
//!
//! ```text
//! module | PKCS#7 signed data (detached, DER) | 0 0 2 0 0 000 | length of the PKCS#7, 4 bytes, big-endian | MAGIC
//! ```
//! Invariants: the signature is a function of module and key; a signed module is not signed again. The private key never
//! leaves this process, so no program of a workshop sees it.
//!
//! Source: `struct module_signature` in the kernel's `include/linux/module_signature.h`.

use cms::content_info::ContentInfo;
use der::asn1::ObjectIdentifier;
use der::{Any, Decode, Encode};
use thiserror::Error;

use crate::keys::Pair;
use crate::sign::pkcs7;

const MAGIC: &[u8] = b"~Module signature appended~\n";

const ID_SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");

/// The signature is PKCS#7; the fields that other kinds need are zero.
const DESCRIPTION: [u8; 8] = [0, 0, 2, 0, 0, 0, 0, 0];

/// Why a module is not signed.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum SignatureError {
    #[error("it carries a signature already")]
    Signed,
    #[error("its signature cannot be encoded")]
    Encoding(#[source] der::Error),
}

/// `module` with the signature of `signer` behind it.
pub fn signed(module: &[u8], signer: &Pair) -> Result<Vec<u8>, SignatureError> {
    if is_signed(module) {
        return Err(SignatureError::Signed);
    }
    let build = || -> Result<Vec<u8>, der::Error> {
        let content = Any::from_der(&pkcs7::detached(module, signer))?;
        ContentInfo { content_type: ID_SIGNED_DATA, content }.to_der()
    };
    let signature = build().map_err(SignatureError::Encoding)?;
    let bytes = u32::try_from(signature.len()).expect("a signature is some hundred bytes");
    Ok([module, &signature, &DESCRIPTION, &bytes.to_be_bytes(), MAGIC].concat())
}

/// Whether somebody's signature is at its end.
pub fn is_signed(module: &[u8]) -> bool {
    module.ends_with(MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_signed_once_and_always_the_same() {
        let signer = Pair::make("test").expect("a key");
        let module = b"\x7fELF and so on".as_slice();
        let first = signed(module, &signer).expect("a signature");
        assert!(is_signed(&first) && !is_signed(module));
        assert_eq!(first, signed(module, &signer).expect("a signature"));
        assert!(matches!(signed(&first, &signer), Err(SignatureError::Signed)));
    }

    #[test]
    fn the_end_says_where_the_signature_begins() {
        let signer = Pair::make("test").expect("a key");
        let module = [7_u8; 1000];
        let whole = signed(&module, &signer).expect("a signature");
        let body = &whole[..whole.len() - MAGIC.len()];
        let (rest, length) = body.split_last_chunk::<4>().expect("a length");
        let (rest, description) = rest.split_last_chunk::<8>().expect("a description");
        assert_eq!(*description, DESCRIPTION);
        let signature = &rest[module.len()..];
        assert_eq!(u32::from_be_bytes(*length), u32::try_from(signature.len()).expect("short"));
        let info = ContentInfo::from_der(signature).expect("PKCS#7");
        assert_eq!(info.content_type, ID_SIGNED_DATA);
    }
}
