//! The provider: facts in, steps out, a ledger between.
//!
//! It owns the internet side of the rig: the ledger, the content store, the pull of images, the conversation with a
//! source's container and with the chain, and what a kernel bundle is bound to. It never holds a key (it asks `signer`), never makes a jail (it asks
//! `runner`), and decides nothing (it asks `work`).
//!
//! Read first: [`provider`] (the loop), [`ledger`] (what makes a crash harmless), [`perform`] (what each step does), and
//! [`intake`] (how the chain's hints become facts).
#![forbid(unsafe_code)]

pub mod settings;

pub mod base_data;

pub mod ledger;

pub mod store;

pub mod compose;

pub mod registry;

pub mod board;

pub mod container;

pub mod gpus;

pub mod direct;

pub mod cache;

pub mod memory;

pub mod intake;

pub mod perform;

pub mod seal;

pub mod status;

pub mod provider;

pub mod identity;

pub mod face;

pub mod card;

pub mod page;

pub mod announce;

/// An error with everything behind it, in one line: for reasons that people read.
fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Unix seconds.
fn unix_now() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
