//! The signer: the one process on a rig that can use the provider key, and the seam to it.
//!
//! It is for turning an unsigned transaction into a signed one, if and only if the policy allows it; and for proving,
//! with a key of its own, to a TLS server who the rig is, and to a verifier what its TPM measured.
//! The library half owns what both ends of the socket agree on: the messages ([`protocol`]), the rules
//! ([`policy`]) and the asking end ([`Client`]). The keys themselves live in the binary `rig-signer` alone, which opens
//! them with the crate `identity`: no code of this library reads, holds or makes a key.
//!
//! It never opens a network socket, never broadcasts, never asks a chain anything, and never signs a bare
//! hash or a text: a signature exists only over a transaction that [`policy::Policy::check`] has read, and whose
//! response, if it is one, is the only one to its task; or over the content of a TLS 1.3 client's CertificateVerify.
//!
//! What it does not do: whoever is root on the running rig can use the key. Root can ask as any user, or read the
//! process. The policy bounds what a taken-over provider can ask for; the tiers ([`Tier`]) say what the key is worth to
//! somebody who has the disk but not the running rig.
//!
//! Read first: [`policy`] (what is allowed), then [`protocol`] (what is said), then [`Client`].
//!
//! ```text
//!  rig-provider                         rig-signer
//!  Client::sign ── {"sign":{"tx"}} ──►  Policy::check ── Permit ──► journal ──► key ──► raw EIP-2718 bytes
//!        ◄───────── {"signed"} | {"refused":{"rule","why"}} ─────────────────────────────┘
//! ```

#![forbid(unsafe_code)]

pub mod identity;
pub mod policy;
pub mod protocol;
#[cfg(feature = "tls")]
pub mod tls;

mod client;

pub use client::{Client, Error};
pub use identity::{Identity, KeyState, Tier};
pub use protocol::Signed;
