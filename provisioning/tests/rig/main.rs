//! `rig` as people and scripts use it: the real binary, a real chain, real files.
//!
//! One test binary, because each further one would link the whole client stack again.
#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

mod ask;
mod attest;
mod cuda;
mod devnet;
mod flash;
mod gpu;
mod interrupted;
mod lan;
mod owner;
mod refusals;
mod rotate;
mod sample;
mod seed;
mod stage;
mod terminal;
mod unsigned;
mod wallet;
