//! What happens on the rig between the kernel and the provider, once per boot.
//!
//! It owns the rig's state partition (made at the first boot, opened at every other one), the owner's `rig.toml` on the
//! stick, and the files that the network, the signer and the provider start with. It never speaks to a network, never
//! holds the rig's key, and never wipes a state that it cannot open: that takes a word from the owner, except for one that it made itself a moment
//! before.
//!
//! Whatever is wrong, a person finds it in three places: the console, the notices that the card and the status page
//! show, and `rig-status.txt` on the stick. Then the last right settings stay in force, or nothing earns.
//!
//! Read first: [`settle`] (the whole boot, in order), [`plan`] (what is done about the state, as a table), [`judge`]
//! (what is made of `rig.toml`), and [`sections`] (what an owner can write for the machine itself).
#![forbid(unsafe_code)]

pub mod sections;

pub mod text;

pub mod secret;

pub mod judge;

pub mod disk;

pub mod plan;

pub mod state;

pub mod stick;

pub mod wipe;

pub mod keep;

pub mod network;

pub mod effective;

pub mod policy;

pub mod notices;

pub mod report;

pub mod places;

pub mod exec;

pub mod files;

pub mod settle;

pub mod gpu;
