//! The signer: the one process on a rig that can use the provider key, and the seam to it.
//!
//! It is for turning an unsigned transaction into a signed one, if and only if the policy allows it.
//! The library half owns what both ends of the socket agree on: the messages ([`protocol`]), the rules
//! ([`policy`]) and the asking end ([`Client`]). The key itself lives in the binary `rig-signer` alone:
//! no program that links this library contains code that can read, hold or make a key.
//!
//! It never opens a network socket, never broadcasts, never asks a chain anything, and never signs a bare
//! hash or a text: a signature exists only over a transaction that [`policy::Policy::check`] has read.
//!
//! Read first: [`policy`] (what is allowed), then [`protocol`] (what is said), then [`Client`].
//!
//! ```text
//!  rig-provider                         rig-signer
//!  Client::sign ── {"sign":{"tx"}} ──►  Policy::check ── Permit ──► Key ──► raw EIP-2718 bytes
//!        ◄───────── {"signed"} | {"refused":{"rule","why"}} ─────────────────┘
//! ```

#![forbid(unsafe_code)]

pub mod identity;
pub mod policy;
pub mod protocol;

mod client;

pub use client::{Client, Error};
pub use identity::{Identity, KeyState, Tier};
pub use protocol::Signed;
