//! The owner's key in an encrypted wallet file, version 3 of the Web3 Secret Storage.
//!
//! ```text
//! {"version":3, "address":"…", "crypto":{
//!    "cipher":"aes-128-ctr", "cipherparams":{"iv":16 bytes}, "ciphertext":at most 32 bytes, "mac":32 bytes,
//!    "kdf":"scrypt" | "pbkdf2", "kdfparams":{"dklen":32, "salt":…, "n","r","p" | "c","prf":"hmac-sha256"}}}
//!
//! key = kdf(password)    mac = keccak256(key[16..32] ciphertext)    secret = aes-128-ctr(key[0..16], iv, ciphertext)
//! ```
//!
//! The crate that alloy offers for it reads without bounds, stops with a panic at short fields and leaves the key in
//! memory, so the three steps are taken here, with the ciphers of the crates that it uses too.
//!
//! Invariants: everything about the file is checked before the first round of the password's work, so that a file cannot
//! order more memory or time than the bounds here; the derived key and the secret are wiped.

use alloy::primitives::{Address, hex, keccak256};
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use pbkdf2::pbkdf2_hmac;
use serde::Deserialize;
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

/// Wallets write about half a kilobyte.
pub(super) const FILE_BYTES_MAX: usize = 64 * 1024;

/// Four times what the common wallets ask for, which is 256 MiB.
const SCRYPT_BYTES_MAX: u64 = 1 << 30;

/// Blocks that are mixed, n·r·p: sixteen times what the common wallets ask for. Some ten seconds of one core.
const SCRYPT_WORK_MAX: u64 = 1 << 25;

/// Forty times what the common wallets ask for.
const PBKDF2_ROUNDS_MAX: u64 = 10_000_000;

/// The one length that the cipher and the checksum leave room for.
const DERIVED_BYTES: u64 = 32;

/// Wallets write 32.
const SALT_BYTES_MAX: usize = 256;

/// A file that is understood and within bounds, and still locked.
#[derive(Debug)]
pub(super) struct Keystore {
    kdf: Kdf,
    salt: Vec<u8>,
    iv: [u8; 16],
    ciphertext: Vec<u8>,
    mac: [u8; 32],
    /// The file's own word for whose key it is; nothing checks it before the key is open.
    pub(super) address: Option<Address>,
}

#[derive(Debug)]
enum Kdf {
    Scrypt(scrypt::Params),
    Pbkdf2 { rounds: u32 },
}

/// Why a file is not opened.
#[derive(Debug, Error)]
pub(crate) enum KeystoreError {
    #[error("it is not an encrypted wallet file of version 3")]
    Format(#[source] serde_json::Error),
    #[error("it is of version {0}, and only version 3 is known")]
    Version(u64),
    #[error("its {what} is {has:?}, and only {known} is known")]
    Unknown { what: &'static str, has: String, known: &'static str },
    #[error("its {what} is missing")]
    Missing { what: &'static str },
    #[error("its {what} is not {bytes} bytes in hexadecimal")]
    Bytes { what: &'static str, bytes: &'static str },
    #[error("its {what} is {has}, which is not {wanted}")]
    Absurd { what: &'static str, has: u64, wanted: String },
    #[error("the password does not open it")]
    Password,
}

/// The file as it is written; other fields are passed over.
#[derive(Deserialize)]
struct File {
    version: u64,
    address: Option<String>,
    #[serde(alias = "Crypto")]
    crypto: Crypto,
}

#[derive(Deserialize)]
struct Crypto {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: String,
    kdf: String,
    kdfparams: KdfParams,
    mac: String,
}

#[derive(Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Deserialize)]
struct KdfParams {
    dklen: u64,
    salt: String,
    n: Option<u64>,
    r: Option<u64>,
    p: Option<u64>,
    c: Option<u64>,
    prf: Option<String>,
}

// === impl Keystore ===

impl Keystore {
    /// Reads a file's text.
    pub(super) fn parse(text: &[u8]) -> Result<Keystore, KeystoreError> {
        let File { version, address, crypto } = serde_json::from_slice(text).map_err(KeystoreError::Format)?;
        if version != 3 {
            return Err(KeystoreError::Version(version));
        }
        known("cipher", &crypto.cipher, "aes-128-ctr")?;
        let params = &crypto.kdfparams;
        at_most("dklen", params.dklen, DERIVED_BYTES, params.dklen == DERIVED_BYTES)?;
        let salt = bytes(&params.salt).filter(|salt| salt.len() <= SALT_BYTES_MAX);
        // Old wallets left out the zeros at a key's begin.
        let ciphertext = bytes(&crypto.ciphertext).filter(|bytes| (1..=32).contains(&bytes.len()));
        Ok(Keystore {
            kdf: Kdf::parse(&crypto.kdf, params)?,
            salt: salt.ok_or(KeystoreError::Bytes { what: "salt", bytes: "at most 256" })?,
            iv: exactly(&crypto.cipherparams.iv).ok_or(KeystoreError::Bytes { what: "iv", bytes: "16" })?,
            ciphertext: ciphertext.ok_or(KeystoreError::Bytes { what: "ciphertext", bytes: "1 to 32" })?,
            mac: exactly(&crypto.mac).ok_or(KeystoreError::Bytes { what: "mac", bytes: "32" })?,
            // Some wallets leave it out or empty to tell less.
            address: address.and_then(|text| text.trim_start_matches("0x").parse().ok()),
        })
    }

    /// Opens it. Takes up to some seconds of one core, and as much memory as the file says.
    pub(super) fn open(&self, password: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
        let mut key = Zeroizing::new([0_u8; 32]);
        match &self.kdf {
            Kdf::Scrypt(params) => scrypt::scrypt(password, &self.salt, params, key.as_mut_slice())
                .expect("32 bytes is a length that scrypt gives"),
            Kdf::Pbkdf2 { rounds } => pbkdf2_hmac::<Sha256>(password, &self.salt, *rounds, key.as_mut_slice()),
        }
        let checked = Zeroizing::new([&key[16..], &self.ciphertext].concat());
        if keccak256(checked.as_slice()) != self.mac {
            return Err(KeystoreError::Password);
        }
        let mut secret = Zeroizing::new([0_u8; 32]);
        let digits = &mut secret[32 - self.ciphertext.len()..];
        digits.copy_from_slice(&self.ciphertext);
        let mut cipher = Ctr128BE::<aes::Aes128>::new_from_slices(&key[..16], &self.iv)
            .expect("the key and the counter have the cipher's lengths");
        cipher.apply_keystream(digits);
        Ok(secret)
    }
}

// === impl Kdf ===

impl Kdf {
    fn parse(name: &str, params: &KdfParams) -> Result<Kdf, KeystoreError> {
        let needed = |what, value: Option<u64>| value.ok_or(KeystoreError::Missing { what });
        match name {
            "scrypt" => {
                let (n, r, p) = (needed("n", params.n)?, needed("r", params.r)?, needed("p", params.p)?);
                Ok(Kdf::Scrypt(scrypt_params(n, r, p)?))
            }
            "pbkdf2" => {
                let prf = params.prf.as_deref().ok_or(KeystoreError::Missing { what: "prf" })?;
                known("prf", prf, "hmac-sha256")?;
                let c = needed("c", params.c)?;
                at_most("c", c, PBKDF2_ROUNDS_MAX, (1..=PBKDF2_ROUNDS_MAX).contains(&c))?;
                Ok(Kdf::Pbkdf2 { rounds: u32::try_from(c).expect("the bound is below 2^32") })
            }
            other => Err(KeystoreError::Unknown { what: "kdf", has: short(other), known: "scrypt or pbkdf2" }),
        }
    }
}

fn scrypt_params(n: u64, r: u64, p: u64) -> Result<scrypt::Params, KeystoreError> {
    if n < 2 || !n.is_power_of_two() {
        return Err(KeystoreError::Absurd { what: "n", has: n, wanted: "a power of two".to_owned() });
    }
    let memory = n.saturating_mul(r).saturating_mul(128);
    at_most("scrypt memory in bytes, 128·n·r,", memory, SCRYPT_BYTES_MAX, (1..=SCRYPT_BYTES_MAX).contains(&memory))?;
    let work = n.saturating_mul(r).saturating_mul(p);
    at_most("scrypt work, n·r·p,", work, SCRYPT_WORK_MAX, (1..=SCRYPT_WORK_MAX).contains(&work))?;
    let small = |number: u64| u32::try_from(number).expect("the bounds are below 2^32");
    let log_n = u8::try_from(n.trailing_zeros()).expect("a number of 64 bits has fewer than 64 zeros");
    let wanted = format!("below 2^{} as scrypt (RFC 7914) wants it with r = {r}", 16 * r);
    scrypt::Params::new(log_n, small(r), small(p), scrypt::Params::RECOMMENDED_LEN).map_err(|_| KeystoreError::Absurd {
        what: "n",
        has: n,
        wanted,
    })
}

fn at_most(what: &'static str, has: u64, most: u64, is_fine: bool) -> Result<(), KeystoreError> {
    let wanted = if most == DERIVED_BYTES { most.to_string() } else { format!("between 1 and {most}") };
    if is_fine { Ok(()) } else { Err(KeystoreError::Absurd { what, has, wanted }) }
}

fn known(what: &'static str, has: &str, known: &'static str) -> Result<(), KeystoreError> {
    if has == known { Ok(()) } else { Err(KeystoreError::Unknown { what, has: short(has), known }) }
}

/// Enough of a name to see what it is.
fn short(name: &str) -> String {
    name.chars().take(32).collect()
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).ok()
}

fn exactly<const N: usize>(text: &str) -> Option<[u8; N]> {
    bytes(text)?.try_into().ok()
}

#[cfg(test)]
mod tests;
