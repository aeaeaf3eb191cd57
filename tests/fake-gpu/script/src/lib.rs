//! What the driver that is not there shall do: its script, and how it gets onto a disk.
//!
//! `fake-cuda` and `fake-nvml` are libraries with the names and symbols of a GPU driver. Each carries its script, TOML
//! text, at the end of its own file, so it needs no environment and no other file and works inside a jail.
//! For NVML a test may also name a file in [`NVML_SCRIPT`]: it is read again at every call, so that a test can change
//! the weather while the rig runs.
//!
//! Owns: the script's format ([`Script`]), the trailer that holds it ([`trailer`]), the copying of the two libraries
//! under their real names ([`install`]), the settings that NVML calls leave behind ([`State`]), and a writer of the
//! smallest cubin that a loader takes ([`cubin`]).
//! Never: loads a library, touches a GPU, or is part of a binary that ships.
//!
//! Read first: `script.rs`.
#![forbid(unsafe_code)]

mod cubin;
mod fault;
mod gpu;
mod install;
mod script;
mod state;
pub mod trailer;

pub use cubin::cubin;
pub use fault::Fault;
pub use gpu::{Ecc, Event, EventKind, Gpu, Process};
pub use install::{InstallError, Installed, NotBuilt, built, install};
pub use script::{Cuda, Nvml, Script, ScriptError, ScriptedFault};
pub use state::{Settings, State, StateError};

/// The environment variable that names a script for NVML: a file that is read again at every call.
/// Without it the script at the end of the library counts.
pub const NVML_SCRIPT: &str = "FAKE_NVML_SCRIPT";
