//! The checks in their order, and what holds after each.
//!
//! Invariants: an [`Examined`] enrolment is consistent and nothing more, since all of it but the certificate could be
//! written by hand; an [`Enrolled`] one has answered a challenge, so its attestation key is in the TPM that was vouched
//! for. Only the latter measures anything.

use thiserror::Error;

use crate::attested::{AttestFault, Measured, Stamp};
use crate::certificates::{Anchors, ChainFault, Voucher};
use crate::claim::Claim;
use crate::credential::ActivationFault;
use crate::evidence::{Answer, Challenge, Credential, Enrolment, Quote};
use crate::keys::{AttestationKey, EndorsementKey, KeyFault, TlsKey};
use crate::request::RequestFault;

/// An enrolment that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnrolmentFault {
    /// A key is not of its kind.
    #[error("a key of the enrolment is not of its kind")]
    Key(#[source] KeyFault),
    /// Nobody vouches for the endorsement key.
    #[error("nobody vouches for the endorsement key")]
    Chain(#[source] ChainFault),
    /// The TLS key is not certified.
    #[error("the TLS key is not certified")]
    Certified(#[source] AttestFault),
    /// The request is not the TLS key's.
    #[error("the request for a TLS certificate does not hold")]
    Request(#[source] RequestFault),
}

/// An enrolment whose parts fit together. Its attestation key is not proven to be in a TPM.
#[derive(Debug, Clone)]
pub struct Examined {
    ek: EndorsementKey,
    ak: AttestationKey,
    tls: TlsKey,
    voucher: Voucher,
    certified: Stamp,
}

/// An enrolment whose TPM has answered a challenge.
#[derive(Debug, Clone)]
pub struct Enrolled(Examined);

// === impl Examined ===

impl Examined {
    /// Checks everything that needs no answer of the rig. `now` is in Unix seconds; `nonce` is the one that the verifier
    /// asked the certification over, or `None` to take the document's own: a certified key stays where it is, so an old
    /// certification is as good as a new one. Errors: [`EnrolmentFault`], the first that is found.
    pub fn of(
        enrolment: &Enrolment,
        anchors: &Anchors,
        now: i64,
        nonce: Option<&[u8]>,
    ) -> Result<Examined, EnrolmentFault> {
        let ek = EndorsementKey::parse(enrolment.ek.as_bytes()).map_err(EnrolmentFault::Key)?;
        let ak = AttestationKey::parse(enrolment.ak.as_bytes()).map_err(EnrolmentFault::Key)?;
        let tls = TlsKey::parse(enrolment.tls.as_bytes()).map_err(EnrolmentFault::Key)?;
        let voucher = anchors.vouch(&ek, &enrolment.certificates, now).map_err(EnrolmentFault::Chain)?;
        let nonce = nonce.unwrap_or_else(|| enrolment.nonce.as_bytes());
        let certified = ak.certifies(&tls, &enrolment.certified, nonce).map_err(EnrolmentFault::Certified)?;
        tls.requested(enrolment.request.as_bytes()).map_err(EnrolmentFault::Request)?;
        Ok(Examined { ek, ak, tls, voucher, certified })
    }

    /// A challenge for this rig: what to keep, and what to send.
    pub fn challenge(&self) -> (Challenge, Credential) {
        Challenge::make(&self.ek, &self.ak)
    }

    /// The rig that answered `challenge`. Errors: [`ActivationFault`].
    pub fn activate(self, challenge: &Challenge, answer: &Answer) -> Result<Enrolled, ActivationFault> {
        challenge.settle(&self.ek, &self.ak, answer)?;
        Ok(Enrolled(self))
    }

    /// Who vouches for the endorsement key.
    pub fn voucher(&self) -> &Voucher {
        &self.voucher
    }
}

// === impl Enrolled ===

impl Enrolled {
    /// The TLS key, which is in the TPM: what a certificate may be issued for.
    pub fn tls(&self) -> &TlsKey {
        &self.0.tls
    }

    /// The endorsement key: what a rig is recognised by.
    pub fn ek(&self) -> &EndorsementKey {
        &self.0.ek
    }

    /// When the TLS key was certified, to compare with what the TPM says later.
    pub fn certified(&self) -> Stamp {
        self.0.certified
    }

    /// What the rig's TPM measured, as an answer to `nonce`, which the verifier chose. Errors: [`AttestFault`].
    pub fn measured(&self, quote: &Quote, nonce: &[u8]) -> Result<Measured, AttestFault> {
        self.0.ak.quotes(quote, nonce)
    }

    /// What may be said of this rig: about its keys, and about `measured` where there is something.
    pub fn claim(&self, measured: Option<&Measured>) -> Claim {
        Claim::new(&self.0.voucher, measured)
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
