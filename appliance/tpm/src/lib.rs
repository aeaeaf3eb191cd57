//! Speaks to a TPM 2.0: seals and opens a secret, keeps a TLS key, attests, counts.
//!
//! For the key's keeper on the rig. It owns the frames, the sessions and the maths of policies. It never takes ownership
//! of a TPM, never sets a password, never makes anything persistent but a counter, and never writes to disk.
//!
//! Invariants: every object and session that a call opens is flushed before it returns, also when it fails; what a TPM
//! answers is bounded and read with care, and an answer that lies about its sizes is [`Fault::Nonsense`]; a secret goes
//! over the bus encrypted, and is erased here after use; policies are computed here, never asked of the TPM.
//!
//! What this protects against: reading the secret from a copied disk, from another machine, or from the wires between
//! processor and TPM by listening. What it does not: **whoever is root on the running rig** can open the device, unseal
//! what the booted software may unseal, sign with the TLS key, quote, delete the counter (it does not start again from
//! where it was), reset the lockout and clear the TPM. Sealing keeps a key at rest and from being copied; it does not keep
//! it from the software that runs. Who holds the machine in hand and sits between processor and TPM, sending instead of
//! listening, can replay measurements, and can show a storage root key of their own: compare [`Srk::name`] with the one
//! that the secret was sealed under, where that matters.
//!
//! Read first: [`Tpm`], then `seal.rs` for the way of a secret, [`policy`] for what binds it, [`Fault::meaning`] for what
//! refusals mean.
#![forbid(unsafe_code)]

pub mod answer;
mod attestation;
mod blob;
mod code;
mod command;
mod fault;
mod kdf;
mod keys;
mod nv;
mod pcr;
mod place;
mod point;
pub mod policy;
mod probe;
mod seal;
mod session;
mod template;
mod transport;
mod wire;

pub use attestation::{Attested, Credential};
pub use blob::{Blob, BlobError};
pub use code::Code;
pub use command::Tpm;
pub use fault::{Fault, Meaning};
pub use keys::{EkKind, Loaded, Srk};
pub use nv::RELEASE_COUNTER;
pub use pcr::{PcrValues, Pcrs};
pub use place::{Place, PlaceError};
pub use point::{EcPoint, EcSignature};
pub use policy::{CounterLimit, PolicyDigest, Steps};
pub use probe::Probe;
pub use seal::{Authorized, Route};
