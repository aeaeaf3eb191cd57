//! The key of the rig's TLS client: in the TPM where one holds the provider key, else made from the provider key.
//!
//! A software TLS key has no file. It is derived from the scalar, so that it is kept as well as the scalar, comes and
//! goes with it, and cannot be copied without it. A key in the TPM is a blob in `tls.key`:
//!
//! ```text
//!  0        6         7                 n-32      n
//!  ├────────┼─────────┼─────────────────┼─────────┤
//!  │ RIGTLS │ version │ the TPM's blob  │ SHA-256 │
//!  │        │   0x01  │                 │ of all  │
//!  └────────┴─────────┴─────────────────┴─────────┘
//! ```
//!
//! A blob that the TPM no longer knows is kept in `retired/`, and a new key is made: no money hangs on it, and the
//! fleet has to enrol a rig with another TPM anyway.

use hkdf::Hkdf;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature, SigningKey};
use sha2::{Digest, Sha256};
use tpm::{Blob, EcPoint, Fault, Loaded, Meaning, Tpm};
use zeroize::Zeroizing;

use crate::IdentityError;
use crate::life::{self, KeyState};
use crate::rig::{Rig, under_srk};
use crate::secret::Scalar;
use crate::store::TLS;

const HEADER: &[u8; 7] = b"RIGTLS\x01";
const DIGEST_BYTES: usize = 32;
/// A P-256 key's blob has some 220 bytes.
const FILE_BYTES_MAX: usize = 2048;
/// One derivation in 2^32 is no P-256 key; the next counter gives another.
const DERIVATIONS_MAX: u8 = 8;

/// SubjectPublicKeyInfo of a P-256 key before its point (RFC 5480): ecPublicKey, prime256v1, 66 bits-and-bytes.
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The key of the TLS client.
pub struct TlsKey {
    public: p256::PublicKey,
    place: Place,
}

enum Place {
    Tpm(Box<Blob>),
    Software(SigningKey),
}

/// Why a TLS key does not sign.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The key is in a TPM that nobody is connected to.
    #[error("the TLS key is in the TPM, and there is no connection to it")]
    NoTpm,
    /// The TPM does not sign.
    #[error("sign with the TLS key")]
    Tpm(#[from] Fault),
    /// What the TPM gave is none.
    #[error("the TPM's signature has numbers outside the curve")]
    Nonsense,
}

// === impl TlsKey ===

impl TlsKey {
    /// The TLS key that goes with a software key.
    pub(crate) fn of(scalar: &Scalar) -> Self {
        let hkdf = Hkdf::<Sha256>::new(Some(b"rig tls 1"), scalar.bytes());
        let key = (0..DERIVATIONS_MAX).find_map(|counter| {
            let mut bytes = Zeroizing::new([0; 32]);
            hkdf.expand(&[counter], &mut bytes[..]).expect("32 bytes are not too many");
            SigningKey::from_slice(&bytes[..]).ok()
        });
        let key = key.expect("one in 2^256");
        Self { public: key.verifying_key().into(), place: Place::Software(key) }
    }

    fn in_tpm(blob: Blob) -> Option<Self> {
        let public = blob.point().as_ref().and_then(EcPoint::public_key)?;
        Some(Self { public, place: Place::Tpm(Box::new(blob)) })
    }

    /// The public point, SEC 1, uncompressed.
    pub fn public(&self) -> [u8; 65] {
        EcPoint::from(&self.public).to_sec1()
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> Vec<u8> {
        [SPKI.as_slice(), &self.public()].concat()
    }

    /// The key as the TPM that holds it loads it. `None`: it is software.
    pub fn blob(&self) -> Option<&Blob> {
        match &self.place {
            Place::Tpm(blob) => Some(blob),
            Place::Software(_) => None,
        }
    }

    /// Loads the key, for the TPM to certify. `None`: it is software. Errors: what the TPM says.
    pub fn load(&self, tpm: &mut Tpm) -> Result<Option<Loaded>, Fault> {
        self.blob().map(|blob| under_srk(tpm, |tpm, srk| tpm.load(srk, blob))).transpose()
    }

    /// An ECDSA signature over a SHA-256 digest, DER, with a low s. Blocks for up to a second on a chip. A key in
    /// software needs no `tpm`. Errors: all of [`TlsError`].
    pub fn sign(&self, tpm: Option<&mut Tpm>, digest: [u8; 32]) -> Result<Vec<u8>, TlsError> {
        let signature: Signature = match &self.place {
            Place::Software(key) => key.sign_prehash(&digest).expect("a digest of 32 bytes can be signed"),
            Place::Tpm(blob) => {
                let tpm = tpm.ok_or(TlsError::NoTpm)?;
                let key = under_srk(tpm, |tpm, srk| tpm.load(srk, blob))?;
                let signed = tpm.sign(&key, digest);
                tpm.flush(key)?;
                Signature::from_slice(&signed?.to_bytes()).map_err(|_| TlsError::Nonsense)?
            }
        };
        Ok(signature.normalize_s().unwrap_or(signature).to_der().as_bytes().to_vec())
    }
}

impl std::fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = match self.place {
            Place::Tpm(_) => "TPM",
            Place::Software(_) => "software",
        };
        f.debug_struct("TlsKey").field("place", &place).finish_non_exhaustive()
    }
}

/// The key in this TPM; made where there is none. Errors: those of files; inside, why the TPM would not.
pub(crate) fn in_tpm(rig: &mut Rig<'_>) -> Result<Result<TlsKey, KeyState>, IdentityError> {
    if let Some(bytes) = rig.locked.read(TLS, FILE_BYTES_MAX)? {
        let known = match parse(&bytes).and_then(TlsKey::in_tpm) {
            None => Err(Meaning::Integrity),
            Some(key) => rig.ask("load the TLS key", |tpm| try_loading(tpm, &key)).map(|()| key),
        };
        match known {
            Ok(key) => return Ok(Ok(key)),
            Err(Meaning::Integrity | Meaning::HandleGone) => {
                rig.locked.retire(TLS, &retired_name(&bytes))?;
                tracing::warn!("TLS key retired: the TPM does not know it");
            }
            Err(meaning) => return Ok(Err(life::unborn(meaning))),
        }
    }
    let made = rig.ask("make a TLS key", |tpm| under_srk(tpm, Tpm::tls_key));
    let key = match made.map(TlsKey::in_tpm) {
        Ok(Some(key)) => key,
        Ok(None) => return Ok(Err(KeyState::TpmFailing)),
        Err(meaning) => return Ok(Err(life::unborn(meaning))),
    };
    if let Some(blob) = key.blob() {
        rig.locked.bear(TLS, &to_bytes(blob))?;
        tracing::info!("TLS key born in the TPM");
    }
    Ok(Ok(key))
}

/// Each key that is retired has a name of its own, so that their number has no bound that stops a signer.
fn retired_name(bytes: &[u8]) -> String {
    format!("tls-{}", hex::encode(&Sha256::digest(bytes)[..8]))
}

fn try_loading(tpm: &mut Tpm, key: &TlsKey) -> Result<(), Fault> {
    key.load(tpm)?.map_or(Ok(()), |loaded| tpm.flush(loaded))
}

fn to_bytes(blob: &Blob) -> Vec<u8> {
    let mut bytes = [HEADER.as_slice(), &blob.to_bytes()].concat();
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    bytes
}

fn parse(bytes: &[u8]) -> Option<Blob> {
    let (whole, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST_BYTES)?)?;
    if Sha256::digest(whole)[..] != *digest {
        return None;
    }
    Blob::from_bytes(whole.strip_prefix(HEADER)?).ok()
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::VerifyingKey;
    use p256::ecdsa::signature::hazmat::PrehashVerifier;

    use super::*;

    #[test]
    fn a_software_key_has_one_tls_key_which_signs() {
        let scalar = Scalar::from_slice(&[7; 32]).expect("a key");
        let (key, again) = (TlsKey::of(&scalar), TlsKey::of(&scalar));
        assert_eq!(key.public(), again.public());
        assert_ne!(key.public(), TlsKey::of(&Scalar::from_slice(&[8; 32]).expect("a key")).public());
        let der = key.sign(None, [3; 32]).expect("signed");
        let signature = Signature::from_der(&der).expect("DER");
        assert_eq!(signature.normalize_s(), None);
        let public = VerifyingKey::from_sec1_bytes(&key.public()).expect("a point");
        public.verify_prehash(&[3; 32], &signature).expect("its own signature");
        assert_eq!(key.spki().len(), 91);
        assert_eq!(format!("{key:?}"), "TlsKey { place: \"software\", .. }");
    }

    #[test]
    fn a_damaged_file_is_no_key() {
        let blob = Blob::from_bytes(&[0, 1, 9, 0, 2, 8, 7]).expect("a blob");
        let bytes = to_bytes(&blob);
        assert_eq!(parse(&bytes), Some(blob));
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), None, "{end}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(parse(&changed), None, "{at}");
        }
    }
}
