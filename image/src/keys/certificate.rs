//! An RSA key and the certificate that firmware and kernel know it by.
//!
//! Invariants: a certificate is a function of its key and its name, so that making it again gives the same bytes; dates
//! are fixed and far apart, because a rig's clock may say anything at boot and nothing of ours looks at them; a private
//! key leaves this type as PKCS#8 text that is wiped, or as a signature.

use std::fmt;

use der::asn1::{BitString, PrintableStringRef, SetOfVec, UtcTime};
use der::{Any, Decode, DecodePem, Encode, EncodePem, Tag};
use rsa::pkcs1v15::{Signature, SigningKey, VerifyingKey};
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use rsa::rand_core::OsRng;
use rsa::sha2::{Digest, Sha256};
use rsa::signature::{SignatureEncoding, Signer, Verifier};
use rsa::{RsaPrivateKey, RsaPublicKey};
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::certificate::{Certificate, TbsCertificate, Version};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, ObjectIdentifier, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};
use zeroize::Zeroizing;

/// Every UEFI firmware checks RSA-2048 with SHA-256; longer keys are refused by some boards.
const RSA_BITS: usize = 2048;
/// A certificate is a page of text at most; a larger file is something else.
pub(crate) const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
/// The digest algorithm of all our signatures.
pub(crate) const SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
pub(crate) const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const SHA_256_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// 2025-01-01 and 2049-12-31 23:59:59, Unix seconds: the last end that still has the short form of a date.
const VALID_SECONDS: (u64, u64) = (1_735_689_600, 2_524_607_999);
/// A serial number has at most 20 bytes; 16 of the key's digest are unique enough.
const SERIAL_BYTES: usize = 16;

/// An RSA private key and its self-signed certificate.
#[derive(Clone)]
pub struct Pair {
    key: SigningKey<Sha256>,
    certificate: Certificate,
}

/// Why a key or a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The random numbers or the primes.
    #[error("no RSA key could be made")]
    Make(#[source] rsa::Error),
    /// Not PKCS#8 in PEM.
    #[error("this is no RSA private key: a PEM file that opens with BEGIN PRIVATE KEY is expected")]
    Key(#[source] rsa::pkcs8::Error),
    /// Not X.509.
    #[error("this is no X.509 certificate, neither PEM nor DER")]
    Certificate(#[source] der::Error),
    /// Bigger than any certificate.
    #[error("this is no certificate: it has more than {CERTIFICATE_BYTES_MAX} bytes")]
    TooLong,
    /// A key of a kind that firmware does not check.
    #[error("the certificate's key is not RSA")]
    NotRsa,
    /// The two files do not belong together.
    #[error("the certificate is for another key: restore the pair from your copy")]
    Strangers,
    /// A name that a certificate cannot carry.
    #[error("a certificate's name cannot be encoded")]
    Encoding(#[source] der::Error),
}

// === impl Pair ===

impl Pair {
    /// A new key under `name`. Errors: `Make`, `Encoding`.
    pub(crate) fn make(name: &str) -> Result<Self, PairError> {
        let key = RsaPrivateKey::new(&mut OsRng, RSA_BITS).map_err(PairError::Make)?;
        let key = SigningKey::<Sha256>::new(key);
        let certificate = certify(&key, name).map_err(PairError::Encoding)?;
        Ok(Self { key, certificate })
    }

    /// Errors: `Key`, and those of [`certificate`]; `Strangers` if the two do not belong together.
    pub(crate) fn read(key_pem: &str, certificate_file: &[u8]) -> Result<Self, PairError> {
        let key = RsaPrivateKey::from_pkcs8_pem(key_pem).map_err(PairError::Key)?;
        let certificate = certificate(certificate_file)?;
        if public_key(&certificate)? != RsaPublicKey::from(&key) {
            return Err(PairError::Strangers);
        }
        Ok(Self { key: SigningKey::new(key), certificate })
    }

    /// The certificate, for whoever must trust this key.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Its DER.
    pub fn certificate_der(&self) -> Vec<u8> {
        der_of(&self.certificate)
    }

    pub(crate) fn certificate_pem(&self) -> String {
        self.certificate.to_pem(LineEnding::LF).expect("what was made or parsed has a PEM form")
    }

    pub(crate) fn key_pem(&self) -> Zeroizing<String> {
        let key: &RsaPrivateKey = self.key.as_ref();
        key.to_pkcs8_pem(LineEnding::LF).expect("an RSA key has a PKCS#8 form")
    }

    pub(crate) fn public_pem(&self) -> String {
        let key: &RsaPrivateKey = self.key.as_ref();
        key.to_public_key().to_public_key_pem(LineEnding::LF).expect("an RSA key has a SPKI form")
    }

    /// PKCS#1 v1.5 over SHA-256 of `message`: the same bytes every time.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.key.sign(message).to_vec()
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("subject", &self.certificate.tbs_certificate.subject.to_string()).finish()
    }
}

/// Reads a certificate, PEM or DER. Errors: `TooLong`, `Certificate`.
pub fn certificate(file: &[u8]) -> Result<Certificate, PairError> {
    if file.len() > CERTIFICATE_BYTES_MAX {
        return Err(PairError::TooLong);
    }
    match file.starts_with(b"-----") {
        true => Certificate::from_pem(file).map_err(PairError::Certificate),
        false => Certificate::from_der(file).map_err(PairError::Certificate),
    }
}

pub(crate) fn der_of(certificate: &Certificate) -> Vec<u8> {
    certificate.to_der().expect("what was made or parsed has a DER form")
}

/// Whether `signature` is by the key of `certificate` over SHA-256 of `message`.
pub(crate) fn is_signed_by(certificate: &Certificate, message: &[u8], signature: &[u8]) -> bool {
    let Ok(key) = public_key(certificate) else { return false };
    let Ok(signature) = Signature::try_from(signature) else { return false };
    VerifyingKey::<Sha256>::new(key).verify(message, &signature).is_ok()
}

fn public_key(certificate: &Certificate) -> Result<RsaPublicKey, PairError> {
    let info = certificate.tbs_certificate.subject_public_key_info.to_der().map_err(PairError::Encoding)?;
    rsa::pkcs8::DecodePublicKey::from_public_key_der(&info).map_err(|_| PairError::NotRsa)
}

pub(crate) fn algorithm(oid: ObjectIdentifier) -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid, parameters: Some(Any::null()) }
}

fn certify(key: &SigningKey<Sha256>, name: &str) -> Result<Certificate, der::Error> {
    let private: &RsaPrivateKey = key.as_ref();
    let info = private.to_public_key().to_public_key_der().expect("an RSA key has a SPKI form");
    let mut serial = Sha256::digest(info.as_bytes())[..SERIAL_BYTES].to_vec();
    // Positive and of the same length for every key: the top bit clear, the next one set.
    serial[0] = serial[0] & 0x7f | 0x40;
    let name = common_name(name)?;
    let tbs_certificate = TbsCertificate {
        version: Version::V3,
        serial_number: SerialNumber::new(&serial)?,
        signature: algorithm(SHA_256_WITH_RSA),
        issuer: name.clone(),
        validity: Validity { not_before: time(VALID_SECONDS.0)?, not_after: time(VALID_SECONDS.1)? },
        subject: name,
        subject_public_key_info: SubjectPublicKeyInfoOwned::from_der(info.as_bytes())?,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: None,
    };
    let signature = key.sign(&tbs_certificate.to_der()?).to_vec();
    Ok(Certificate {
        tbs_certificate,
        signature_algorithm: algorithm(SHA_256_WITH_RSA),
        signature: BitString::from_bytes(&signature)?,
    })
}

fn common_name(name: &str) -> Result<Name, der::Error> {
    let value = Any::new(Tag::PrintableString, PrintableStringRef::new(name)?.as_bytes())?;
    let attribute = AttributeTypeAndValue { oid: COMMON_NAME, value };
    Ok(RdnSequence(vec![RelativeDistinguishedName(SetOfVec::try_from(vec![attribute])?)]))
}

fn time(seconds: u64) -> Result<Time, der::Error> {
    Ok(Time::UtcTime(UtcTime::from_unix_duration(std::time::Duration::from_secs(seconds))?))
}
