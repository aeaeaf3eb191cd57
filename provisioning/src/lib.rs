//! What people do to rigs: write a stick, start a local network, pair a rig with its owner, stake, publish, look.
//!
//! It owns the owner's side of the story, and the local network that developers and tests live on. It never runs on a
//! rig, never sees a rig's key, and never takes a key on a command line.
//!
//! Read first: [`command`] (what `rig` understands), [`devnet`] (the local network), `owner` (how the owner's
//! transactions leave), `flash` (how a release gets onto a stick), `lan` (which rigs ask to be paired), `rig` (how a
//! running rig is asked), `cuda` (how kernels become a bundle).
#![deny(unsafe_code)]

pub mod command;
pub mod devnet;
pub mod exit;

mod cuda;
mod flash;
mod lan;
mod network;
mod owner;
mod parse;
mod person;
mod qr;
mod rig;
mod screen;
mod wallet;
