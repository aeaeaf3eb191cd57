//! Who says that an endorsement key is in a genuine TPM: its maker by a certificate, or the owner by a pin.
//!
//! Invariants: a chain ends in a root that was given, never in one that came with the rig; the first certificate carries
//! exactly the rig's endorsement key and says that it is one; every certificate between is a CA's, is valid at the given
//! time, and carries no critical extension that we do not know; SHA-1 signatures are refused. A pin is another, weaker
//! answer and never looks like a certificate. Revocation is not checked: that needs a network.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::evidence::{Certificates, MAX_CERTIFICATE, MAX_CERTIFICATES};
use crate::keys::EndorsementKey;

mod chain;
mod profile;
mod words;

/// Most roots; the largest public collection of TPM makers' roots and issuers has below 2000.
pub const MAX_ROOTS: usize = 4096;

/// A certificate chain that does not speak for the endorsement key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChainFault {
    /// The TPM keeps no certificate, and the owner has not pinned its key.
    #[error("the TPM has no certificate of its maker, and its key {fingerprint} is not pinned")]
    NoCertificate {
        /// What the owner would pin.
        fingerprint: Fingerprint,
    },
    /// Not a certificate.
    #[error("certificate {at} cannot be read")]
    Unreadable {
        /// Which of those that came, from 1.
        at: usize,
    },
    /// None of them is of this endorsement key: taken from another TPM.
    #[error("none of the certificates is of this endorsement key; they belong to another TPM")]
    Foreign,
    /// Its certificate is no endorsement key's.
    #[error("the certificate of the endorsement key is not one for endorsement keys: {why}")]
    NotEndorsement {
        /// What is wrong with it.
        why: &'static str,
    },
    /// It names itself as its issuer.
    #[error("the certificate of the endorsement key was issued by itself")]
    SelfIssued,
    /// Nobody that we trust or that came along issued it.
    #[error("nobody among the trusted roots is or vouches for `{issuer}`")]
    UnknownIssuer {
        /// The name that was looked for.
        issuer: String,
    },
    /// Somebody of the issuer's name is there, but did not sign.
    #[error("`{issuer}` did not sign the certificate of `{subject}`, or with an algorithm that is not trusted")]
    Signature {
        /// Whose key should verify it.
        issuer: String,
        /// Whose certificate.
        subject: String,
    },
    /// Before its first or after its last second.
    #[error("the certificate of `{subject}` is not valid now: it is from {from} to {until}")]
    NotValidNow {
        /// Whose certificate.
        subject: String,
        /// First moment.
        from: String,
        /// Last moment.
        until: String,
    },
    /// An issuer that is no CA, or not for this.
    #[error("`{subject}` issued a certificate and must not: {why}")]
    NotAnIssuer {
        /// Whose certificate.
        subject: String,
        /// What forbids it.
        why: &'static str,
    },
    /// Says something critical that this version does not know.
    #[error("the certificate of `{subject}` has a critical extension that is not known here, {oid}")]
    Critical {
        /// Whose certificate.
        subject: String,
        /// Which extension.
        oid: String,
    },
    /// More issuers than a maker has.
    #[error("the chain is longer than {MAX_CERTIFICATES} certificates")]
    TooLong,
}

/// Roots that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RootsFault {
    /// No certificate in it.
    #[error("there is no certificate in it, neither PEM nor DER")]
    None,
    /// One that cannot be read.
    #[error("certificate {at} in it cannot be read")]
    Unreadable {
        /// Which, from 1.
        at: usize,
    },
    /// More than [`MAX_ROOTS`].
    #[error("there are more than {MAX_ROOTS} roots")]
    TooMany,
}

/// SHA-256 of an endorsement key's public area: what an owner compares and pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

/// Not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a fingerprint is 64 hexadecimal digits")]
pub struct NoFingerprint;

/// Certificates that are trusted because the verifier's owner put them there. Their dates are not looked at.
#[derive(Debug, Clone, Default)]
pub struct Roots(Vec<Vec<u8>>);

/// Whom to believe that a key is a TPM's.
#[derive(Debug, Clone, Default)]
pub struct Anchors {
    /// TPM makers.
    pub roots: Roots,
    /// Endorsement keys that the owner confirmed on first use.
    pub pinned: Vec<Fingerprint>,
}

/// The maker's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maker {
    /// Who issued the certificate, as X.509 names it.
    pub issuer: String,
    /// The root behind the issuer.
    pub root: String,
    /// The TPM's maker, model and version as its certificate has them, where it has them.
    pub model: Option<String>,
}

/// Who says that this endorsement key is in a TPM. The two are not equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Voucher {
    /// Its maker, by a certificate that ends in a trusted root.
    Maker(Maker),
    /// The owner alone, who confirmed the key on first use. Nobody says that it is in a TPM at all.
    Owner(Fingerprint),
}

// === impl Anchors ===

impl Anchors {
    /// Who vouches for `ek` at `now`, Unix seconds. A pin stands in where there is no certificate or none of its issuers
    /// is trusted, never where a certificate is wrong. Errors: [`ChainFault`].
    pub fn vouch(&self, ek: &EndorsementKey, certificates: &Certificates, now: i64) -> Result<Voucher, ChainFault> {
        let fingerprint = Fingerprint::of(ek);
        let is_pinned = self.pinned.contains(&fingerprint);
        if certificates.is_empty() {
            return match is_pinned {
                true => Ok(Voucher::Owner(fingerprint)),
                false => Err(ChainFault::NoCertificate { fingerprint }),
            };
        }
        match self.maker(ek, certificates, now) {
            Ok(maker) => Ok(Voucher::Maker(maker)),
            Err(ChainFault::UnknownIssuer { .. }) if is_pinned => Ok(Voucher::Owner(fingerprint)),
            Err(fault) => Err(fault),
        }
    }

    fn maker(&self, ek: &EndorsementKey, certificates: &Certificates, now: i64) -> Result<Maker, ChainFault> {
        let read = |(at, der)| parse(der).ok_or(ChainFault::Unreadable { at: at + 1 });
        let mut given = certificates.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
        let own = given.iter().position(|it| profile::is_of(it.public_key(), ek)).ok_or(ChainFault::Foreign)?;
        let leaf = given.swap_remove(own);
        profile::endorsement(&leaf)?;
        // A maker may leave the subject empty; an empty issuer would be nobody's.
        if leaf.issuer().as_raw() == leaf.subject().as_raw() {
            return Err(ChainFault::SelfIssued);
        }
        let roots: Vec<X509Certificate<'_>> = self.roots.0.iter().filter_map(|der| parse(der)).collect();
        let root = chain::follow(&leaf, given, &roots, now)?;
        let issuer = words::of(leaf.issuer());
        Ok(Maker { issuer, root, model: words::model(&leaf) })
    }
}

// === impl Roots ===

impl Roots {
    /// No root.
    pub fn none() -> Roots {
        Roots::default()
    }

    /// Adds the certificates of a file: one in DER, or any number in PEM. Errors: [`RootsFault`]; then nothing is added.
    pub fn add(&mut self, file: &[u8]) -> Result<(), RootsFault> {
        let is_pem = file.windows(PEM_BEGIN.len()).any(|window| window == PEM_BEGIN);
        let ders = if is_pem { pem(file)? } else { vec![file.to_vec()] };
        for (at, der) in ders.iter().enumerate() {
            let is_readable = der.len() <= MAX_CERTIFICATE && parse(der).is_some();
            match is_readable {
                true => {}
                false if !is_pem => return Err(RootsFault::None),
                false => return Err(RootsFault::Unreadable { at: at + 1 }),
            }
        }
        if self.0.len() + ders.len() > MAX_ROOTS {
            return Err(RootsFault::TooMany);
        }
        self.0.extend(ders);
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

// === impl Fingerprint ===

impl Fingerprint {
    /// The fingerprint of `ek`.
    pub fn of(ek: &EndorsementKey) -> Fingerprint {
        Fingerprint(ek.name().digest())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Fingerprint, NoFingerprint> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| NoFingerprint)?;
        Ok(Fingerprint(digest))
    }
}

/// How a certificate in PEM begins.
const PEM_BEGIN: &[u8] = b"-----BEGIN ";

fn pem(file: &[u8]) -> Result<Vec<Vec<u8>>, RootsFault> {
    let mut ders = Vec::new();
    for (at, block) in Pem::iter_from_buffer(file).enumerate() {
        let block = block.map_err(|_| RootsFault::Unreadable { at: at + 1 })?;
        if block.label == "CERTIFICATE" {
            ders.push(block.contents);
        }
        if ders.len() > MAX_ROOTS {
            return Err(RootsFault::TooMany);
        }
    }
    if ders.is_empty() { Err(RootsFault::None) } else { Ok(ders) }
}

/// One certificate and nothing behind it.
fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, certificate)| certificate)
}

#[cfg(test)]
mod tests;
