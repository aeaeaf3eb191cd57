//! The real `rig-signer`, started on a fresh directory, and what it does to honest and to hostile peers.
//!
//! One binary, since each test starts processes and the linker is the slow part.

#![forbid(unsafe_code)]

mod abuse;
mod corpus;
mod handshake;
mod life;
mod locked;
mod rig;
mod socket;
mod tpm;
