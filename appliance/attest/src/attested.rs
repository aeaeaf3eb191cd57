//! What a TPM signs about itself: that a key is in it, and what it measured.
//!
//! Invariants: the signature is checked before a byte of the structure is read; the structure opens with the magic number
//! that a restricted key never puts under somebody else's bytes; the nonce is the verifier's; the key that signed is a
//! primary of the endorsement hierarchy, because only there are the reset counters the true ones.

use p256::ecdsa::signature::Verifier;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::clock::Clock;
use crate::evidence::{Attested, PCRS, PcrValues, Quote};
use crate::keys::{AttestationKey, TlsKey};
use crate::signature::{self, ALG_SHA256};
use crate::structure::{Reader, StructureFault};

/// TPM_GENERATED_VALUE: "TCG" behind a byte that no text begins with.
const MAGIC: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_CERTIFY.
const CERTIFY: u16 = 0x8017;
/// TPM_ST_ATTEST_QUOTE.
const QUOTE: u16 = 0x8018;

/// A signed statement that does not say what it should.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AttestFault {
    /// Not the structure that it should be.
    #[error("the {what} cannot be read")]
    Structure {
        /// Statement or signature.
        what: &'static str,
        /// Where it breaks.
        #[source]
        source: StructureFault,
    },
    /// Not ECDSA with SHA-256.
    #[error("the signature has scheme {scheme:#06x} and hash {hash:#06x}, where ECDSA with SHA-256 belongs")]
    SignatureScheme {
        /// TPM_ALG_ID of the scheme.
        scheme: u16,
        /// TPM_ALG_ID of the hash.
        hash: u16,
    },
    /// The attestation key did not sign these bytes.
    #[error("the attestation key did not sign this statement")]
    Signature,
    /// It lacks the number that the TPM puts in front of its own statements.
    #[error("the statement was not made by a TPM: its magic number is {0:#010x}")]
    Magic(u32),
    /// A statement of another type.
    #[error("the statement has type {found:#06x}, where {expected:#06x} belongs")]
    Type {
        /// TPMI_ST_ATTEST that it says.
        found: u16,
        /// TPMI_ST_ATTEST that belongs there.
        expected: u16,
    },
    /// Made for somebody else's question, or for an earlier one.
    #[error("the statement answers another nonce: it is stale, or was made for somebody else")]
    Nonce,
    /// The key is in another hierarchy, where the TPM disguises its counters.
    #[error("the attestation key is no primary key of the endorsement hierarchy")]
    Hierarchy,
    /// The clock says neither yes nor no about being safe.
    #[error("the statement's clock is neither safe nor unsafe, but {0}")]
    Safe(u8),
    /// It certifies another object.
    #[error("the statement certifies another key, {certified}")]
    OtherKey {
        /// The object's name in hexadecimal.
        certified: String,
    },
    /// It covers other PCRs than the document lists, or of another bank.
    #[error("the quote covers other PCRs than the ones that come with it")]
    Selection,
    /// A quote over nothing.
    #[error("the quote covers no PCR")]
    Nothing,
    /// The values are not the ones that were signed.
    #[error("the PCR values are not the ones that the quote was signed over")]
    Values,
    /// A PCR that was asked for is not covered.
    #[error("the quote does not cover PCR {0}")]
    NotCovered(u8),
    /// A PCR has another value than it should.
    #[error("PCR {index} is {found}, and should be {expected}")]
    OtherValue {
        /// Which PCR.
        index: u8,
        /// Its value in hexadecimal.
        found: String,
        /// The value that was asked for, in hexadecimal.
        expected: String,
    },
}

/// When a statement was signed, by the TPM's own reckoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Counters and clock.
    pub clock: Clock,
    /// The TPM's firmware version, in its maker's own counting.
    pub firmware: u64,
}

/// PCR values that an attestation key signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// The values; at least one.
    pub pcrs: PcrValues,
    /// When.
    pub stamp: Stamp,
}

/// A statement whose signature, magic number, type, signer and nonce are right.
struct Statement<'a> {
    stamp: Stamp,
    body: Reader<'a>,
}

// === impl AttestationKey ===

impl AttestationKey {
    /// Whether this key certifies that `tls` is in its TPM, over `nonce`.
    /// Errors: [`AttestFault`], the first that is found.
    pub fn certifies(&self, tls: &TlsKey, certified: &Attested, nonce: &[u8]) -> Result<Stamp, AttestFault> {
        let Statement { stamp, mut body } = self.statement(certified, CERTIFY, nonce)?;
        let name = body.sized("the certified name").map_err(broken)?;
        body.sized("the certified qualified name").map_err(broken)?;
        body.end().map_err(broken)?;
        match name == tls.name().as_bytes() {
            true => Ok(stamp),
            false => Err(AttestFault::OtherKey { certified: hex::encode(name) }),
        }
    }

    /// What this key's TPM measured, where `quote` answers `nonce`: the verifier's own, never the one in the document.
    /// Errors: [`AttestFault`], the first that is found.
    pub fn quotes(&self, quote: &Quote, nonce: &[u8]) -> Result<Measured, AttestFault> {
        let Statement { stamp, mut body } = self.statement(&quote.quoted, QUOTE, nonce)?;
        let selected = read_selection(&mut body)?;
        let digest = body.sized("the digest of the PCRs").map_err(broken)?;
        body.end().map_err(broken)?;
        if selected == 0 {
            return Err(AttestFault::Nothing);
        }
        if selected != quote.pcrs.iter().fold(0, |bits, (index, _)| bits | 1_u32 << index) {
            return Err(AttestFault::Selection);
        }
        let values = quote.pcrs.iter().fold(Sha256::new(), |digest, (_, value)| digest.chain_update(value));
        match values.finalize()[..] == *digest {
            true => Ok(Measured { pcrs: quote.pcrs.clone(), stamp }),
            false => Err(AttestFault::Values),
        }
    }

    fn statement<'a>(&self, from: &'a Attested, kind: u16, nonce: &[u8]) -> Result<Statement<'a>, AttestFault> {
        let bytes = from.attest.as_bytes();
        let signature = signature::read(from.signature.as_bytes())?;
        self.key.verify(bytes, &signature).map_err(|_| AttestFault::Signature)?;
        let mut reader = Reader::of(bytes);
        let magic = reader.u32("the magic number").map_err(broken)?;
        if magic != MAGIC {
            return Err(AttestFault::Magic(magic));
        }
        let found = reader.u16("the type").map_err(broken)?;
        if found != kind {
            return Err(AttestFault::Type { found, expected: kind });
        }
        let signer = reader.sized("the signer's name").map_err(broken)?;
        if signer != self.name().qualified_as_endorsement_primary().as_bytes() {
            return Err(AttestFault::Hierarchy);
        }
        if reader.sized("the nonce").map_err(broken)? != nonce {
            return Err(AttestFault::Nonce);
        }
        let stamp = read_stamp(&mut reader)?;
        Ok(Statement { stamp, body: reader })
    }
}

// === impl Measured ===

impl Measured {
    /// Whether PCR `index` is covered and has this value. Errors: [`AttestFault`].
    pub fn expects(&self, index: u8, expected: &[u8; 32]) -> Result<(), AttestFault> {
        match self.pcrs.get(index) {
            None => Err(AttestFault::NotCovered(index)),
            Some(value) if value == expected => Ok(()),
            Some(value) => {
                let (found, expected) = (hex::encode(value), hex::encode(expected));
                Err(AttestFault::OtherValue { index, found, expected })
            }
        }
    }
}

fn broken(source: StructureFault) -> AttestFault {
    AttestFault::Structure { what: "statement", source }
}

fn read_stamp(reader: &mut Reader<'_>) -> Result<Stamp, AttestFault> {
    let ms = reader.u64("the clock").map_err(broken)?;
    let resets = reader.u32("the count of resets").map_err(broken)?;
    let restarts = reader.u32("the count of restarts").map_err(broken)?;
    let is_safe = match reader.u8("whether the clock is safe").map_err(broken)? {
        0 => false,
        1 => true,
        other => return Err(AttestFault::Safe(other)),
    };
    let firmware = reader.u64("the firmware version").map_err(broken)?;
    Ok(Stamp { clock: Clock { ms, resets, restarts, is_safe }, firmware })
}

/// TPML_PCR_SELECTION as one bit for each PCR. Only the SHA-256 bank alone is taken.
fn read_selection(reader: &mut Reader<'_>) -> Result<u32, AttestFault> {
    if reader.u32("the number of banks").map_err(broken)? != 1 {
        return Err(AttestFault::Selection);
    }
    if reader.u16("the bank").map_err(broken)? != ALG_SHA256 {
        return Err(AttestFault::Selection);
    }
    let size = usize::from(reader.u8("the size of the selection").map_err(broken)?);
    if size > usize::from(PCRS / 8) {
        return Err(AttestFault::Selection);
    }
    let bytes = reader.bytes(size, "the selection").map_err(broken)?;
    Ok(bytes.iter().rev().fold(0, |bits, byte| bits << 8 | u32::from(*byte)))
}

#[cfg(test)]
mod tests;
