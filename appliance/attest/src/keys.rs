//! The three keys of a rig's TPM, told apart by what the TPM lets them do.
//!
//! Invariants: a value of one of these types has the attributes that its role needs and none that would spoil it. An
//! attestation key is *restricted*: it signs only what its TPM made itself. An unrestricted key signs any digest, so that
//! whoever may use it can write quotes by hand; it must never pass for an attestation key.
//!
//! The public area alone proves nothing: anybody can write these bytes. An [`AttestationKey`] is proven by answering a
//! challenge, a [`TlsKey`] by a certification, an [`EndorsementKey`] by its maker's certificate or the owner's word.

use std::fmt;

use p256::PublicKey;
use p256::ecdsa::VerifyingKey;
use rsa::RsaPublicKey;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::keys::public::{
    ALG_AES, ALG_CFB, ALG_NULL, BORN_HERE, DECRYPT, ENCRYPTED_DUPLICATION, Numbers, Public, RESTRICTED, SIGN,
};
use crate::signature::{ALG_ECDSA, ALG_SHA256};
use crate::structure::StructureFault;

mod public;

/// TPM_RH_ENDORSEMENT: the hierarchy that an owner's clear leaves alone, and whose quotes carry plain numbers.
const ENDORSEMENT: u32 = 0x4000_000b;

/// A public area that is not the key that it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyFault {
    /// The bytes are no TPMT_PUBLIC.
    #[error("the public area of the {key} cannot be read")]
    Structure {
        /// Which key.
        key: &'static str,
        /// Where it breaks.
        #[source]
        source: StructureFault,
    },
    /// It lacks an attribute.
    #[error("the {key} is not {attribute}")]
    Lacks {
        /// Which key.
        key: &'static str,
        /// The attribute's name in the TPM specification.
        attribute: &'static str,
    },
    /// It has an attribute that its role excludes.
    #[error("the {key} is {attribute}, and must not be")]
    Excluded {
        /// Which key.
        key: &'static str,
        /// The attribute's name in the TPM specification.
        attribute: &'static str,
    },
    /// Its algorithms are not the ones we use.
    #[error("the {key} has {field} {found:#06x}, where {expected} belongs")]
    Algorithm {
        /// Which key.
        key: &'static str,
        /// Which algorithm of it.
        field: &'static str,
        /// What it says.
        found: u32,
        /// What belongs there.
        expected: &'static str,
    },
    /// The numbers are no key: not on the curve, or no modulus of the right size.
    #[error("the numbers of the {key} are no public key")]
    Numbers {
        /// Which key.
        key: &'static str,
    },
}

/// A TPM's name of an object: the algorithm's number and the SHA-256 of its public area.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyName([u8; KeyName::BYTES]);

/// The key that a TPM is known by; its maker signs a certificate for it. It decrypts, and only for the TPM itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndorsementKey {
    name: KeyName,
    pub(crate) key: EndorsementNumbers,
}

/// The numbers of an endorsement key, of one of the two kinds that makers provision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EndorsementNumbers {
    Rsa2048(RsaPublicKey),
    P256(PublicKey),
}

/// The key that signs what the TPM says about itself: restricted, on P-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationKey {
    name: KeyName,
    pub(crate) key: VerifyingKey,
}

/// The key of the rig's TLS identity: made in the TPM, never leaves it, signs what it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsKey {
    name: KeyName,
    key: VerifyingKey,
}

// === impl KeyName ===

impl KeyName {
    /// Two for the algorithm, 32 for the digest.
    pub const BYTES: usize = 34;

    /// The name of the object with this TPMT_PUBLIC.
    pub fn of(public: &[u8]) -> KeyName {
        KeyName::over(&[public])
    }

    fn over(parts: &[&[u8]]) -> KeyName {
        let mut name = [0; KeyName::BYTES];
        name[..2].copy_from_slice(&ALG_SHA256.to_be_bytes());
        let digest = parts.iter().fold(Sha256::new(), |digest, part| digest.chain_update(part));
        name[2..].copy_from_slice(&digest.finalize());
        KeyName(name)
    }

    /// How signatures name a primary key of the endorsement hierarchy: its place is part of the name.
    pub(crate) fn qualified_as_endorsement_primary(&self) -> KeyName {
        KeyName::over(&[&ENDORSEMENT.to_be_bytes(), &self.0])
    }

    /// The bytes as the TPM writes them.
    pub fn as_bytes(&self) -> &[u8; KeyName::BYTES] {
        &self.0
    }

    /// SHA-256 of the public area.
    pub fn digest(&self) -> [u8; 32] {
        *self.0.last_chunk().expect("a name is longer than its digest")
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyName({self})")
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

// === impl EndorsementKey ===

impl EndorsementKey {
    /// Reads a TPMT_PUBLIC: RSA-2048 or P-256, restricted decryption with AES-128-CFB, made in its TPM.
    /// Errors: [`KeyFault`], the first that is found.
    pub fn parse(public: &[u8]) -> Result<EndorsementKey, KeyFault> {
        let public = Public::read("endorsement key", public)?;
        public.needs(BORN_HERE | RESTRICTED | DECRYPT)?;
        public.excludes(SIGN | ENCRYPTED_DUPLICATION)?;
        match public.symmetric {
            Some((ALG_AES, 128, ALG_CFB)) => {}
            Some((algorithm, ..)) => return Err(public.wrong("symmetric algorithm", algorithm, "AES-128-CFB")),
            None => return Err(public.wrong("symmetric algorithm", ALG_NULL, "AES-128-CFB")),
        }
        let key = match &public.numbers {
            Numbers::Rsa { .. } => EndorsementNumbers::Rsa2048(public.rsa()?),
            Numbers::Ecc { .. } => EndorsementNumbers::P256(public.point()?),
        };
        Ok(EndorsementKey { name: public.name, key })
    }

    /// Its name; the digest in it is the TPM's fingerprint.
    pub fn name(&self) -> &KeyName {
        &self.name
    }
}

// === impl AttestationKey ===

impl AttestationKey {
    /// Reads a TPMT_PUBLIC: P-256, ECDSA with SHA-256, restricted signing, made in its TPM, and nothing else.
    /// Errors: [`KeyFault`], the first that is found.
    pub fn parse(public: &[u8]) -> Result<AttestationKey, KeyFault> {
        let public = Public::read("attestation key", public)?;
        public.needs(BORN_HERE | RESTRICTED | SIGN)?;
        public.excludes(DECRYPT | ENCRYPTED_DUPLICATION)?;
        public.has_no_symmetric()?;
        match public.scheme {
            Some((ALG_ECDSA, ALG_SHA256)) => {}
            Some((scheme, _)) => return Err(public.wrong("scheme", scheme, "ECDSA with SHA-256")),
            None => return Err(public.wrong("scheme", ALG_NULL, "ECDSA with SHA-256")),
        }
        let key = VerifyingKey::from(public.point()?);
        Ok(AttestationKey { name: public.name, key })
    }

    /// Its name.
    pub fn name(&self) -> &KeyName {
        &self.name
    }
}

// === impl TlsKey ===

impl TlsKey {
    /// Reads a TPMT_PUBLIC: P-256, signs any digest with ECDSA, made in its TPM and not to be moved.
    /// Errors: [`KeyFault`], the first that is found.
    pub fn parse(public: &[u8]) -> Result<TlsKey, KeyFault> {
        let public = Public::read("TLS key", public)?;
        public.needs(BORN_HERE | SIGN)?;
        public.excludes(RESTRICTED | DECRYPT | ENCRYPTED_DUPLICATION)?;
        public.has_no_symmetric()?;
        match public.scheme {
            Some((ALG_ECDSA, ALG_SHA256)) | None => {}
            Some((scheme, _)) => return Err(public.wrong("scheme", scheme, "ECDSA with SHA-256")),
        }
        let key = VerifyingKey::from(public.point()?);
        Ok(TlsKey { name: public.name, key })
    }

    /// Its name.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// The point, uncompressed: what a certificate of it carries.
    pub fn sec1(&self) -> Vec<u8> {
        self.key.to_encoded_point(false).as_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests;
