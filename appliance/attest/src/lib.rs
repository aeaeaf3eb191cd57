//! Whether a rig's keys live in a genuine TPM, and what that TPM says about the software that booted.
//!
//! For whoever receives a rig's evidence: the owner with `rig attest`, and a fleet server. The signer of a rig produces
//! the documents; this crate owns their formats and checks them.
//!
//! It never speaks to a TPM, to the network or to a clock: the time and the trusted roots are arguments. It holds no
//! private key. It claims no more than it checked, see [`Claim`].
//!
//! The order of an enrolment:
//!
//! ```text
//! rig                                     verifier
//!  Enrolment  ------------------------->  Examined::of: certificates, kinds of keys, certification, request
//!             <-------------------------  Credential   (and keeps a Challenge)
//!  Answer     ------------------------->  Examined::activate -> Enrolled
//!             <-------------------------  a nonce
//!  Quote      ------------------------->  Enrolled::measured -> Measured, Claim
//! ```
//!
//! Only an [`Enrolled`] rig's quote means anything: until the answer to the challenge is right, the attestation key may
//! be a file on somebody's desk.
//!
//! Read first: [`evidence`] for the documents, [`enrolled`] for the order of the checks, then one file per check.
#![forbid(unsafe_code)]

pub mod attested;
pub mod certificates;
pub mod claim;
pub mod clock;
pub mod credential;
pub mod document;
pub mod enrolled;
pub mod evidence;
pub mod keys;
pub mod request;
mod signature;
mod structure;

pub use attested::{AttestFault, Measured, Stamp};
pub use certificates::{Anchors, ChainFault, Fingerprint, Maker, Roots, RootsFault, Voucher};
pub use claim::Claim;
pub use clock::{Clock, Motion, Storage};
pub use credential::ActivationFault;
pub use document::{Document, DocumentFault, Hex, Secret};
pub use enrolled::{Enrolled, EnrolmentFault, Examined};
pub use evidence::{Answer, Attested, Challenge, Credential, Enrolment, Evidence, PcrValues, Quote};
pub use keys::{AttestationKey, EndorsementKey, KeyFault, KeyName, TlsKey};
pub use request::RequestFault;
pub use signature::low_s;
pub use structure::StructureFault;

#[cfg(test)]
mod tests {
    pub(crate) mod soft;
}
