//! Sessions with a salt that only the TPM can read: what they protect does not cross the bus in the clear.
//!
//! The salt goes to the storage root key by ECDH; both ends derive the session's key from it; one parameter is
//! encrypted with AES-128-CFB under a key that is new each time, and an HMAC covers command and answer. Part 1 of the TPM
//! library, "Session-based encryption" and annex C.

use aes::Aes128;
use aes::cipher::{AsyncStreamCipher, KeyIvInit};
use p256::ecdh::EphemeralSecret;
use p256::elliptic_curve::rand_core::{OsRng, RngCore};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::Fault;
use crate::answer::{Answer, Asked};
use crate::command::{CONTINUE_SESSION, Command, Tpm};
use crate::kdf::{self, Key};
use crate::keys::Srk;
use crate::point::EcPoint;
use crate::template::{AES, AES_BITS, CFB, NULL, SHA256};
use crate::wire::{Reader, Short, Writer};

/// TPM_RH_NULL.
pub(crate) const NO_HANDLE: u32 = 0x4000_0007;
/// TPMA_SESSION: the command's first parameter is encrypted.
const DECRYPT: u8 = 1 << 5;
/// TPMA_SESSION: the answer's first parameter is encrypted.
const ENCRYPT: u8 = 1 << 6;
const NONCE: usize = 32;
/// Longest nonce of a TPM, bytes: that of SHA-512.
const NONCE_MAX: usize = 64;

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Authorises with the object's password, which is empty here.
    Hmac,
    /// Authorises by policy.
    Policy,
}

/// Which way the secret goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// The command's first parameter.
    InCommand,
    /// The answer's first parameter.
    InAnswer,
}

/// A salted session that is open in the TPM.
pub(crate) struct Session {
    handle: u32,
    nonce_tpm: Vec<u8>,
    key: Key,
}

// === impl Session ===

impl Session {
    pub(crate) fn start(tpm: &mut Tpm, srk: &Srk, purpose: Purpose) -> Result<Self, Fault> {
        let not_on_curve = || Fault::NotOnCurve { what: "the TPM's storage root key" };
        let theirs = srk.point()?;
        let their_key = theirs.public_key().ok_or_else(not_on_curve)?;
        let secret = EphemeralSecret::random(&mut OsRng);
        let ours = EcPoint::from(&secret.public_key());
        let shared = secret.diffie_hellman(&their_key);
        let salt = kdf::kdfe(shared.raw_secret_bytes(), "SECRET", &ours.x, &theirs.x);

        let nonce = nonce();
        let encrypted_salt = Writer::new().sized(&ours.x).sized(&ours.y);
        let purpose = match purpose {
            Purpose::Hmac => 0,
            Purpose::Policy => 1,
        };
        let parameters = Writer::new().sized(&nonce).sized(encrypted_salt.as_bytes()).u8(purpose);
        let parameters = parameters.u16(AES).u16(AES_BITS).u16(CFB).u16(SHA256);
        let command = Command::new(Asked::StartAuthSession).handle(srk.handle()).handle(NO_HANDLE);
        let answer = tpm.run(&command.parameters(parameters))?;
        let nonce_tpm = answer.parse(read_nonce)?.to_vec();
        let key = kdf::kdfa(&*salt, "ATH", &nonce_tpm, &nonce, 256);
        Ok(Self { handle: answer.handle()?, nonce_tpm, key })
    }

    pub(crate) fn handle(&self) -> u32 {
        self.handle
    }

    /// Runs a command on the one object `name`, which this session authorises. The first of `parameters` is hidden if
    /// the secret is in the command; with the secret in the answer, its parameters come back in the clear.
    pub(crate) fn run(
        &mut self,
        tpm: &mut Tpm,
        command: &Command,
        name: &[u8],
        mut parameters: Zeroizing<Vec<u8>>,
        hidden: Hidden,
    ) -> Result<Answer, Fault> {
        let asked = command.asked();
        let code = (asked.code() as u32).to_be_bytes();
        let nonce = nonce();
        let attributes = CONTINUE_SESSION
            | match hidden {
                Hidden::InCommand => DECRYPT,
                Hidden::InAnswer => ENCRYPT,
            };
        if hidden == Hidden::InCommand {
            let (key, iv) = self.parameter_key(&nonce, &self.nonce_tpm);
            let first = first_parameter(&mut parameters).map_err(|Short(why)| asked.nonsense(why))?;
            cfb_mode::Encryptor::<Aes128>::new(&(*key).into(), &(*iv).into()).encrypt(first);
        }
        let hash = Sha256::new().chain_update(code).chain_update(name).chain_update(&*parameters).finalize();
        let proof = kdf::hmac(&*self.key, &[&hash, &nonce, &self.nonce_tpm, &[attributes]]);
        let authorisation = Writer::new().u32(self.handle).sized(&nonce).u8(attributes).sized(&*proof);
        let mut answer = tpm.run_frame(asked, command.handle_bytes(), Some(authorisation.as_bytes()), &parameters)?;

        let (nonce_tpm, answer_attributes, proof) =
            read_authorisation(answer.authorisations()).map_err(|Short(why)| asked.nonsense(why))?;
        let hash = Sha256::new().chain_update([0; 4]).chain_update(code).chain_update(answer.parameters()).finalize();
        if !kdf::is_hmac(&*self.key, &[&hash, nonce_tpm, &nonce, &[answer_attributes]], proof) {
            return Err(asked.nonsense("its proof is not the session's"));
        }
        self.nonce_tpm = nonce_tpm.to_vec();
        if hidden == Hidden::InAnswer {
            if answer_attributes & ENCRYPT == 0 {
                return Err(asked.nonsense("it is not encrypted"));
            }
            let (key, iv) = self.parameter_key(&self.nonce_tpm, &nonce);
            let first = first_parameter(answer.parameters_mut()).map_err(|Short(why)| asked.nonsense(why))?;
            cfb_mode::Decryptor::<Aes128>::new(&(*key).into(), &(*iv).into()).decrypt(first);
        }
        Ok(answer)
    }

    fn parameter_key(&self, newer: &[u8], older: &[u8]) -> (Zeroizing<[u8; 16]>, Zeroizing<[u8; 16]>) {
        let both = kdf::kdfa(&*self.key, "CFB", newer, older, 2 * AES_BITS);
        let mut halves = (Zeroizing::new([0; 16]), Zeroizing::new([0; 16]));
        halves.0.copy_from_slice(&both[..16]);
        halves.1.copy_from_slice(&both[16..]);
        halves
    }
}

// === impl Tpm ===

impl Tpm {
    /// A policy session that hides nothing and proves nothing but its policy.
    pub(crate) fn plain_policy_session(&mut self) -> Result<u32, Fault> {
        let parameters = Writer::new().sized(&nonce()).sized(&[]).u8(1).u16(NULL).u16(SHA256);
        let command = Command::new(Asked::StartAuthSession).handle(NO_HANDLE).handle(NO_HANDLE);
        let answer = self.run(&command.parameters(parameters))?;
        answer.parse(read_nonce)?;
        answer.handle()
    }
}

fn nonce() -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    OsRng.fill_bytes(&mut nonce);
    nonce
}

/// The content of the leading TPM2B.
fn first_parameter(parameters: &mut [u8]) -> Result<&mut [u8], Short> {
    let count = Reader::new(parameters).u16()?;
    parameters.get_mut(2..2 + usize::from(count)).ok_or(Short("it ends too early"))
}

fn read_nonce<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Short> {
    let nonce = reader.sized()?;
    if nonce.len() > NONCE_MAX { Err(Short("its nonce is too long")) } else { Ok(nonce) }
}

/// TPMS_AUTH_RESPONSE: nonce, attributes, HMAC.
fn read_authorisation(bytes: &[u8]) -> Result<(&[u8], u8, &[u8]), Short> {
    let mut reader = Reader::new(bytes);
    let read = (read_nonce(&mut reader)?, reader.u8()?, reader.sized()?);
    reader.end()?;
    Ok(read)
}
