//! The second key, and the TPM's word: proofs for TLS connections, and what a verifier asks of a rig.
//!
//! Invariants: the TLS key signs the content of a TLS 1.3 client's CertificateVerify and its own certificate request,
//! which is written here, and nothing else; what the TPM attests, it attests over the verifier's nonce; every object is
//! flushed on every way out.

use alloy::primitives::Address;
use attest::evidence::{Certificates, EnrolmentFormat, MAX_CERTIFICATE, MAX_CERTIFICATES, Nonce, QuoteFormat};
use attest::{Attested, Credential, Enrolment, Hex, PcrValues, Quote};
use identity::{TlsError, TlsKey};
use rcgen::{CertificateParams, DistinguishedName, DnType, PublicKeyData, SignatureAlgorithm, SigningKey};
use sha2::{Digest, Sha256};
use signer::policy::{Refusal, Rule};
use signer::protocol::{Answer, Request, TlsIdentity};
use tpm::{EkKind, Fault, Loaded, Pcrs, Tpm};

use crate::keeper::Keeper;

/// What firmware, its settings, the boot loader, Secure Boot, the kernel and its command line are measured into.
const QUOTED: [u8; 9] = [0, 1, 2, 3, 4, 5, 7, 11, 12];

/// Bytes of the modulus of an RSA-2048 endorsement key, and of a secret that is encrypted to it.
const RSA_BYTES: usize = 256;

/// What a TLS 1.3 client signs begins with this (RFC 8446, section 4.4.3). A hash of the handshake follows.
const CONTEXT: &[u8; 33] = b"TLS 1.3, client CertificateVerify";
const CONTEXT_SPACES: usize = 64;

/// Why nothing came of a request.
#[derive(Debug, thiserror::Error)]
enum AttestationError {
    #[error("ask the TPM")]
    Tpm(#[from] Fault),
    #[error("use the TLS key")]
    Tls(#[from] TlsError),
    #[error("the TPM's answer is longer than any of its kind")]
    TooLong(#[from] attest::document::OutOfBounds),
    #[error("write the certificate request")]
    Request(#[from] rcgen::Error),
    #[error("the TLS key is not in the TPM")]
    SoftwareTls,
    #[error("the TPM gave other PCRs than were asked for")]
    Pcrs,
}

/// Refuses what no TPM needs to be asked for. Errors: [`Rule::TlsMessage`].
pub(crate) fn check(request: &Request) -> Result<(), Refusal> {
    match request {
        Request::TlsSign { message } if !is_certificate_verify(message) => {
            let why = format!("{} bytes that are no TLS 1.3 client's CertificateVerify", message.len());
            Err(Rule::TlsMessage.broken(why))
        }
        Request::TlsSign { .. }
        | Request::TlsIdentity
        | Request::Enrol { .. }
        | Request::Quote { .. }
        | Request::Activate { .. }
        | Request::Identity
        | Request::Sign { .. } => Ok(()),
    }
}

/// Answers a request that has passed [`check`], with an open key. Errors: [`Rule::NoTpm`].
pub(crate) fn answer(keeper: &mut Keeper, request: &Request) -> Result<Answer, Refusal> {
    let Some(address) = keeper.identity().map(|identity| identity.address) else {
        return Err(Rule::KeyClosed.broken("the key is closed".to_owned()));
    };
    if keeper.is_tpm_lost() && !keeper.reconnect() {
        return Ok(Answer::Failed { why: "the TPM does not answer any more".to_owned() });
    }
    let answer = match try_answer(keeper, address, request) {
        // The connection broke, as when what is behind it was started anew. Once more, on a fresh one.
        Some(Err(error)) if error.is_broken_connection() && keeper.reconnect() => try_answer(keeper, address, request),
        answer => answer,
    };
    match answer {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(error)) => {
            let why = chain_of(&error);
            tracing::warn!(error = why, "the TPM did not do it");
            Ok(Answer::Failed { why })
        }
        None => Err(Rule::NoTpm.broken("this machine shows no TPM that could attest".to_owned())),
    }
}

/// `None`: there is no TPM for it.
fn try_answer(keeper: &mut Keeper, address: Address, request: &Request) -> Option<Result<Answer, AttestationError>> {
    let (key, tpm) = keeper.tls()?;
    Some(match request {
        Request::TlsIdentity => tls_identity(key, tpm, address).map(Answer::TlsIdentity),
        Request::TlsSign { message } => {
            let der = key.sign(tpm, Sha256::digest(message).into());
            der.map(|der| Answer::TlsSignature { der: der.into() }).map_err(AttestationError::from)
        }
        Request::Enrol { nonce } => {
            enrol(tpm?, key, address, nonce).map(|enrolment| Answer::Enrolment(enrolment.into()))
        }
        Request::Quote { nonce } => quote(tpm?, nonce).map(|quote| Answer::Quote(quote.into())),
        Request::Activate { credential } => activate(tpm?, credential).map(Answer::Activated),
        Request::Identity | Request::Sign { .. } => return None,
    })
}

fn is_certificate_verify(message: &[u8]) -> bool {
    let content = message.strip_prefix(&[b' '; CONTEXT_SPACES]).and_then(|rest| rest.strip_prefix(CONTEXT));
    // The hash of the cipher suite: SHA-256 or SHA-384.
    matches!(content, Some([0, hash @ ..]) if matches!(hash.len(), 32 | 48))
}

// === the TLS key ===

fn tls_identity(key: &TlsKey, tpm: Option<&mut Tpm>, address: Address) -> Result<TlsIdentity, AttestationError> {
    let spki = key.spki().into();
    Ok(TlsIdentity { spki, csr: request(key, tpm, address)?.into() })
}

/// The TLS key for the writer of requests, which wants to share it; the TPM behind it has one user at a time.
struct Requester<'a> {
    key: &'a TlsKey,
    point: [u8; 65],
    tpm: std::cell::RefCell<Option<&'a mut Tpm>>,
    failed: std::cell::RefCell<Option<TlsError>>,
}

/// PKCS#10 request, DER, whose subject is the provider's address.
fn request(key: &TlsKey, tpm: Option<&mut Tpm>, address: Address) -> Result<Vec<u8>, AttestationError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, address.to_string());
    let requester = Requester { key, point: key.public(), tpm: tpm.into(), failed: None.into() };
    match (params.serialize_request(&requester), requester.failed.into_inner()) {
        (Ok(request), _) => Ok(request.der().to_vec()),
        (Err(_), Some(error)) => Err(error.into()),
        (Err(error), None) => Err(error.into()),
    }
}

// === impl Requester ===

impl PublicKeyData for Requester<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Requester<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signed = self.key.sign(self.tpm.borrow_mut().as_deref_mut(), Sha256::digest(message).into());
        signed.map_err(|error| {
            *self.failed.borrow_mut() = Some(error);
            rcgen::Error::RemoteKeyError
        })
    }
}

// === attestation ===

fn enrol(tpm: &mut Tpm, tls: &TlsKey, address: Address, nonce: &Nonce) -> Result<Enrolment, AttestationError> {
    let blob = tls.blob().ok_or(AttestationError::SoftwareTls)?;
    let request = Hex::new(request(tls, Some(&mut *tpm), address)?)?;
    let (ek, certificates) = endorsement(tpm)?;
    let key = tls.load(tpm)?.ok_or(AttestationError::SoftwareTls)?;
    let certified = with_ak(tpm, |tpm, ak| {
        let certified = tpm.certify(ak, &key, nonce.as_bytes())?;
        Ok((ak.public().to_vec(), certified))
    });
    let done = tpm.flush(key);
    let (ak, certified) = certified?;
    done?;
    Ok(Enrolment {
        format: EnrolmentFormat::V1,
        certificates,
        ek: Hex::new(ek)?,
        ak: Hex::new(ak)?,
        tls: Hex::new(blob.public())?,
        nonce: nonce.clone(),
        certified: Attested::new(certified.attest, certified.signature)?,
        request,
    })
}

fn quote(tpm: &mut Tpm, nonce: &Nonce) -> Result<Quote, AttestationError> {
    let selection = Pcrs::new(QUOTED).ok_or(AttestationError::Pcrs)?;
    let values = tpm.pcrs(&selection)?;
    let quoted = with_ak(tpm, |tpm, ak| tpm.quote(ak, &selection, nonce.as_bytes()))?;
    Ok(Quote {
        format: QuoteFormat::V1,
        quoted: Attested::new(quoted.attest, quoted.signature)?,
        pcrs: PcrValues::new(values.iter()).ok_or(AttestationError::Pcrs)?,
        nonce: nonce.clone(),
    })
}

fn activate(tpm: &mut Tpm, credential: &Credential) -> Result<attest::Answer, AttestationError> {
    let (blob, secret) = (credential.blob.as_bytes().to_vec(), credential.secret.as_bytes().to_vec());
    let kind = if secret.len() == RSA_BYTES { EkKind::Rsa2048 } else { EkKind::P256 };
    let credential = tpm::Credential { blob, secret };
    let secret = with_ak(tpm, |tpm, ak| {
        let ek = tpm.ek(kind)?;
        let secret = tpm.activate(ak, &ek, &credential);
        let flushed = tpm.flush(ek);
        let secret = secret?;
        flushed.map(|()| secret)
    })?;
    Ok(attest::Answer::new(&secret)?)
}

/// The endorsement key that a certificate speaks for, P-256 first since it is quick to make, and its certificates.
/// Without a certificate it is the P-256 key: the owner's word must do.
fn endorsement(tpm: &mut Tpm) -> Result<(Vec<u8>, Certificates), AttestationError> {
    let all = tpm.ek_certificates()?;
    let all: Vec<_> = all.into_iter().filter(|der| der.len() <= MAX_CERTIFICATE).take(MAX_CERTIFICATES).collect();
    let speaking_for = |part: &[u8]| {
        let has_it = |der: &&Vec<u8>| der.windows(part.len()).any(|window| window == part);
        all.iter().filter(has_it).cloned().collect::<Vec<_>>()
    };
    let p256 = public_of(tpm, EkKind::P256)?;
    // TPMT_PUBLIC ends with the coordinates, each behind its size; in a certificate they stand side by side.
    let x = p256.len().checked_sub(66).map_or(&[][..], |at| &p256[at..at + 32]);
    let certificates = if x.is_empty() { Vec::new() } else { speaking_for(x) };
    if !certificates.is_empty() || all.is_empty() {
        return Ok((p256, Certificates::new(certificates)?));
    }
    let rsa = public_of(tpm, EkKind::Rsa2048)?;
    let modulus = rsa.len().checked_sub(RSA_BYTES).map_or(&[][..], |at| &rsa[at..]);
    let certificates = if modulus.is_empty() { Vec::new() } else { speaking_for(modulus) };
    match certificates.is_empty() {
        true => Ok((p256, Certificates::default())),
        false => Ok((rsa, Certificates::new(certificates)?)),
    }
}

fn public_of(tpm: &mut Tpm, kind: EkKind) -> Result<Vec<u8>, Fault> {
    let ek = tpm.ek(kind)?;
    let public = ek.public().to_vec();
    tpm.flush(ek)?;
    Ok(public)
}

/// Makes the attestation key, uses it and gives its room back.
fn with_ak<T>(tpm: &mut Tpm, then: impl FnOnce(&mut Tpm, &Loaded) -> Result<T, Fault>) -> Result<T, Fault> {
    let ak = tpm.ak()?;
    let done = then(tpm, &ak);
    let flushed = tpm.flush(ak);
    let done = done?;
    flushed.map(|()| done)
}

// === impl AttestationError ===

impl AttestationError {
    fn is_broken_connection(&self) -> bool {
        match self {
            Self::Tpm(Fault::Io { .. }) | Self::Tls(TlsError::Tpm(Fault::Io { .. })) => true,
            Self::Tpm(_) | Self::Tls(_) | Self::TooLong(_) | Self::Request(_) | Self::SoftwareTls | Self::Pcrs => false,
        }
    }
}

/// The error with its causes, for the peer.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tls_1_3_clients_certificate_verify_is_one() {
        let content = |who: &str, hash: usize| {
            [&[b' '; 64], format!("TLS 1.3, {who} CertificateVerify\0").as_bytes(), &vec![7; hash]].concat()
        };
        assert!(is_certificate_verify(&content("client", 32)));
        assert!(is_certificate_verify(&content("client", 48)));
        for hash in [0, 1, 20, 31, 33, 47, 49, 64] {
            assert!(!is_certificate_verify(&content("client", hash)), "{hash}");
        }
        assert!(!is_certificate_verify(&content("server", 32)));
        let good = content("client", 32);
        for cut in 1..good.len() {
            assert!(!is_certificate_verify(&good[cut..]), "without its first {cut} bytes");
        }
        for at in 0..=64 + CONTEXT.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(!is_certificate_verify(&bad), "byte {at}");
        }
    }
}
