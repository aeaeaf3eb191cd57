//! The documents that travel between a rig and whoever checks it.
//!
//! Each has a `format` with a version; a reader takes the versions that it knows and refuses the rest. Byte fields are
//! the TPM's own structures, unwrapped: what a size would say is said by the JSON string.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::document::{Document, Hex, OutOfBounds, Secret};

/// Most certificates that come with an endorsement key: its own, and up to three issuers below the root.
pub const MAX_CERTIFICATES: usize = 4;
/// Longest certificate, bytes DER. A TPM maker's has 800 to 2000.
pub const MAX_CERTIFICATE: usize = 4096;
/// Longest public area, bytes: an RSA-2048 endorsement key has 314.
pub const MAX_PUBLIC: usize = 512;
/// Longest attestation structure, bytes: a quote over 24 PCRs has 145.
pub const MAX_ATTEST: usize = 512;
/// Longest signature structure, bytes: one on P-256 has 72.
pub const MAX_SIGNATURE: usize = 128;
/// Longest nonce, bytes: a SHA-256 digest, which every TPM takes.
pub const MAX_NONCE: usize = 32;
/// Shortest nonce, bytes: one that nobody guesses.
pub const MIN_NONCE: usize = 16;
/// Longest request for a TLS certificate, bytes DER; one for a P-256 key has below 400.
pub const MAX_REQUEST: usize = 2048;
/// PCRs that a TPM for a computer has.
pub const PCRS: u8 = 24;

/// A verifier's nonce.
pub type Nonce = Hex<MIN_NONCE, MAX_NONCE>;

/// What a TPM signed about itself, and its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attested {
    /// TPMS_ATTEST, as it was signed.
    pub attest: Hex<1, MAX_ATTEST>,
    /// TPMT_SIGNATURE.
    pub signature: Hex<1, MAX_SIGNATURE>,
}

/// A rig's keys, and what speaks for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// `rig-enrolment-1`.
    pub format: EnrolmentFormat,
    /// DER: the endorsement key's own, and issuers between it and a root, in any order. Empty where the TPM keeps none.
    pub certificates: Certificates,
    /// TPMT_PUBLIC of the endorsement key.
    pub ek: Hex<1, MAX_PUBLIC>,
    /// TPMT_PUBLIC of the attestation key.
    pub ak: Hex<1, MAX_PUBLIC>,
    /// TPMT_PUBLIC of the TLS key.
    pub tls: Hex<1, MAX_PUBLIC>,
    /// What the certification was asked over.
    pub nonce: Nonce,
    /// TPM2_Certify of the TLS key by the attestation key.
    pub certified: Attested,
    /// PKCS#10 request, DER, for a certificate of the TLS key.
    pub request: Hex<1, MAX_REQUEST>,
}

/// A secret that only the TPM with one endorsement key can read, and only for one attestation key. Goes to the rig.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// `rig-credential-1`.
    pub format: CredentialFormat,
    /// Content of TPM2B_ID_OBJECT: the outer HMAC behind its size, and the encrypted secret.
    pub blob: Hex<1, 128>,
    /// Content of TPM2B_ENCRYPTED_SECRET: the seed, encrypted to the endorsement key.
    pub secret: Hex<1, 256>,
}

/// The verifier's half of a [`Credential`]. Stays with the verifier, and is a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// `rig-challenge-1`.
    pub format: ChallengeFormat,
    /// SHA-256 of the endorsement key's public area.
    pub ek: Hex<32, 32>,
    /// Name of the attestation key.
    pub ak: Hex<34, 34>,
    /// What the rig must answer.
    pub secret: Secret,
}

/// What the rig's TPM read out of a [`Credential`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// `rig-answer-1`.
    pub format: AnswerFormat,
    /// The secret of the challenge.
    pub secret: Secret,
}

/// What a TPM measured, signed by its attestation key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quote {
    /// `rig-quote-1`.
    pub format: QuoteFormat,
    /// TPM2_Quote.
    pub quoted: Attested,
    /// The SHA-256 PCRs that it covers.
    pub pcrs: PcrValues,
    /// What it was asked over.
    pub nonce: Nonce,
}

/// Everything that a rig has to show, in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// `rig-evidence-1`.
    pub format: EvidenceFormat,
    /// Its keys.
    pub enrolment: Enrolment,
    /// Its measurements, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<Quote>,
}

/// At most [`MAX_CERTIFICATES`] certificates, DER.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Certificates(Vec<Hex<1, MAX_CERTIFICATE>>);

/// Values of SHA-256 PCRs by their index, each below [`PCRS`] and there once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct PcrValues(BTreeMap<u8, Hex<32, 32>>);

struct CertificatesVisitor;

struct PcrValuesVisitor;

macro_rules! format_of {
    ($name:ident, $words:literal, $document:ident, $what:literal) => {
        /// The versions of the document that this version of the crate reads.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        pub enum $name {
            /// The first.
            #[default]
            #[serde(rename = $words)]
            V1,
        }

        impl Document for $document {
            const WHAT: &'static str = $what;
        }
    };
}

format_of!(EnrolmentFormat, "rig-enrolment-1", Enrolment, "enrolment");
format_of!(CredentialFormat, "rig-credential-1", Credential, "credential");
format_of!(ChallengeFormat, "rig-challenge-1", Challenge, "challenge");
format_of!(AnswerFormat, "rig-answer-1", Answer, "answer");
format_of!(QuoteFormat, "rig-quote-1", Quote, "quote");
format_of!(EvidenceFormat, "rig-evidence-1", Evidence, "evidence");

// === impl Attested ===

impl Attested {
    /// TPMS_ATTEST and TPMT_SIGNATURE as the TPM gave them. Errors: longer than any such structure.
    pub fn new(attest: impl Into<Vec<u8>>, signature: impl Into<Vec<u8>>) -> Result<Attested, OutOfBounds> {
        Ok(Attested { attest: Hex::new(attest)?, signature: Hex::new(signature)? })
    }
}

// === impl Answer ===

impl Answer {
    /// The answer that carries `secret`, as TPM2_ActivateCredential gave it. Errors: not 32 bytes.
    pub fn new(secret: &[u8]) -> Result<Answer, OutOfBounds> {
        Ok(Answer { format: AnswerFormat::V1, secret: Secret::of(secret)? })
    }
}

// === impl Certificates ===

impl Certificates {
    /// These certificates, DER. Errors: more than [`MAX_CERTIFICATES`], or one longer than [`MAX_CERTIFICATE`].
    pub fn new(ders: impl IntoIterator<Item = Vec<u8>>) -> Result<Certificates, OutOfBounds> {
        let ders = ders.into_iter().map(Hex::new).collect::<Result<Vec<_>, _>>()?;
        match ders.len() {
            0..=MAX_CERTIFICATES => Ok(Certificates(ders)),
            many => Err(OutOfBounds { bytes: many, least: 0, most: MAX_CERTIFICATES }),
        }
    }

    /// Each one's DER.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Hex::as_bytes)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Certificates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(CertificatesVisitor)
    }
}

impl<'de> Visitor<'de> for CertificatesVisitor {
    type Value = Certificates;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX_CERTIFICATES} certificates")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Certificates, A::Error> {
        let mut certificates = Vec::new();
        while let Some(certificate) = list.next_element()? {
            if certificates.len() == MAX_CERTIFICATES {
                return Err(de::Error::custom(format_args!("more than {MAX_CERTIFICATES} certificates")));
            }
            certificates.push(certificate);
        }
        Ok(Certificates(certificates))
    }
}

// === impl PcrValues ===

impl PcrValues {
    /// These values. Returns `None` where an index is not below [`PCRS`] or comes twice.
    pub fn new(values: impl IntoIterator<Item = (u8, [u8; 32])>) -> Option<PcrValues> {
        let mut pcrs = BTreeMap::new();
        for (index, value) in values {
            if index >= PCRS || pcrs.insert(index, Hex::from(value)).is_some() {
                return None;
            }
        }
        Some(PcrValues(pcrs))
    }

    /// Index and value, lowest index first: the order in which a quote hashes them.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.0.iter().map(|(index, value)| (*index, value.as_bytes()))
    }

    /// The value at `index`, where it is among them.
    pub fn get(&self, index: u8) -> Option<&[u8]> {
        self.0.get(&index).map(Hex::as_bytes)
    }
}

impl<'de> Deserialize<'de> for PcrValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PcrValuesVisitor)
    }
}

impl<'de> Visitor<'de> for PcrValuesVisitor {
    type Value = PcrValues;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "values of PCRs below {PCRS}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PcrValues, A::Error> {
        let mut pcrs = BTreeMap::new();
        while let Some((index, value)) = map.next_entry::<u8, Hex<32, 32>>()? {
            if index >= PCRS {
                return Err(de::Error::custom(format_args!("there is no PCR {index}")));
            }
            if pcrs.insert(index, value).is_some() {
                return Err(de::Error::custom(format_args!("PCR {index} comes twice")));
            }
        }
        Ok(PcrValues(pcrs))
    }
}

#[cfg(test)]
mod tests;
