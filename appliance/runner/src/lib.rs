//! Runs sources, each of their services in a jail, and reports what became of them.
//!
//! Owns: the vocabulary between the provider and `rig-runner` ([`protocol`]), how it travels on a Unix
//! socket ([`wire`]) and in memory ([`memory`]), and the side that asks ([`client`]). The side that answers is the binary `rig-runner`,
//! whose modules hang off `main.rs`; linking this library brings none of the privileged code with it. What reads
//! foreign bytes (images, layers) stands here rather than there, so that a fuzzer can reach it.
//!
//! Never: HTTP, the host's network, a key, a download. The provider fetches and verifies blobs; the runner
//! unpacks them, runs them, and hands out connected file descriptors.
//!
//! Read first: [`protocol::Request`], then `main.rs`, then `jail.rs`.
#![forbid(unsafe_code)]

pub mod protocol;

pub mod wire;

pub mod memory;

pub mod client;

#[doc(hidden)]
pub mod image;

#[doc(hidden)]
pub mod layer;
