//! What the TPM signs about itself, and what only it can read.

use zeroize::Zeroizing;

use crate::answer::Asked;
use crate::command::{Command, Tpm};
use crate::keys::{ENDORSEMENT, Loaded};
use crate::template::NULL;
use crate::wire::{Reader, Short, Writer};
use crate::{Fault, Pcrs};

/// Longest nonce, bytes: TPM2B_DATA of a TPM whose largest digest is SHA-256 has room for 34; keep to a digest.
const NONCE_MAX: usize = 32;
/// Longest part of a credential, bytes: what is encrypted to an RSA-2048 key.
const CREDENTIAL_MAX: usize = 256;
/// Longest statement, bytes: a quote over 24 PCRs has 145.
const ATTEST_MAX: usize = 512;
/// Longest signature structure, bytes.
const SIGNATURE_MAX: usize = 128;

/// A statement of the TPM and its signature, as the TPM wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// TPMS_ATTEST: what was signed.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE: ECDSA with SHA-256. [`crate::EcSignature::from_wire`] reads it.
    pub signature: Vec<u8>,
}

/// A secret that only the TPM with one endorsement key can read, and only for one attestation key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Content of TPM2B_ID_OBJECT.
    pub blob: Vec<u8>,
    /// Content of TPM2B_ENCRYPTED_SECRET.
    pub secret: Vec<u8>,
}

// === impl Tpm ===

impl Tpm {
    /// States that `key` is in this TPM, with its name and attributes in it. `nonce` has at most 32 bytes.
    pub fn certify(&mut self, ak: &Loaded, key: &Loaded, nonce: &[u8]) -> Result<Attested, Fault> {
        bounded("the nonce", nonce, NONCE_MAX)?;
        let command = Command::new(Asked::Certify).owned_handle(key.handle()).owned_handle(ak.handle());
        self.run(&command.parameters(Writer::new().sized(nonce).u16(NULL)))?.parse(read_attested)
    }

    /// States what PCRs hold now, and the counts of restarts. `nonce` has at most 32 bytes.
    pub fn quote(&mut self, ak: &Loaded, pcrs: &Pcrs, nonce: &[u8]) -> Result<Attested, Fault> {
        bounded("the nonce", nonce, NONCE_MAX)?;
        let parameters = Writer::new().sized(nonce).u16(NULL).bytes(pcrs.wire().as_bytes());
        self.run(&Command::new(Asked::Quote).owned_handle(ak.handle()).parameters(parameters))?.parse(read_attested)
    }

    /// Reads a credential that was made for these two keys.
    ///
    /// # Errors
    ///
    /// [`crate::Meaning::Integrity`] where it is for another attestation key; [`crate::Meaning::WrongTpm`] where it is for
    /// another TPM.
    pub fn activate(&mut self, ak: &Loaded, ek: &Loaded, credential: &Credential) -> Result<Zeroizing<Vec<u8>>, Fault> {
        bounded("the credential's blob", &credential.blob, CREDENTIAL_MAX)?;
        bounded("the credential's secret", &credential.secret, CREDENTIAL_MAX)?;
        self.scoped(|tpm| {
            let session = tpm.plain_policy_session()?;
            // No nonce of the TPM, no hash of parameters, no reference, no expiry.
            let nothing = Writer::new().sized(&[]).sized(&[]).sized(&[]).u32(0);
            let policy = Command::new(Asked::PolicySecret).owned_handle(ENDORSEMENT).handle(session);
            tpm.run(&policy.parameters(nothing))?.parse(read_secret_ticket)?;
            let command = Command::new(Asked::ActivateCredential).owned_handle(ak.handle());
            let command = command.handle_by_policy(ek.handle(), session);
            let parameters = Writer::new().sized(&credential.blob).sized(&credential.secret);
            let answer = tpm.run(&command.parameters(parameters))?;
            answer.parse(|reader| Ok(Zeroizing::new(reader.sized()?.to_vec())))
        })
    }
}

fn bounded(what: &'static str, bytes: &[u8], max: usize) -> Result<(), Fault> {
    if bytes.len() > max { Err(Fault::TooLong { what, bytes: bytes.len(), max }) } else { Ok(()) }
}

/// TPM2B_ATTEST, TPMT_SIGNATURE.
pub(crate) fn read_attested(reader: &mut Reader<'_>) -> Result<Attested, Short> {
    let attest = reader.sized()?;
    let signature = reader.bytes(reader.rest().len())?;
    if attest.len() > ATTEST_MAX || signature.len() > SIGNATURE_MAX {
        return Err(Short("the statement or its signature is too long"));
    }
    if crate::EcSignature::from_wire(signature).is_none() {
        return Err(Short("the signature is not ECDSA with SHA-256"));
    }
    Ok(Attested { attest: attest.to_vec(), signature: signature.to_vec() })
}

/// TPM2B_TIMEOUT, TPMT_TK_AUTH. Nothing of it is used.
pub(crate) fn read_secret_ticket(reader: &mut Reader<'_>) -> Result<(), Short> {
    reader.sized()?;
    reader.u16()?;
    reader.u32()?;
    reader.sized().map(drop)
}
