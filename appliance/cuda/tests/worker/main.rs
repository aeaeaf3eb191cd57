//! The worker as the runner starts it, but without a jail: the real binary, its socket at descriptor 3, and a driver
//! that is not there.
//!
//! Before it: `cargo build -p fake-cuda -p fake-nvml`, and for the linker what `compiles.rs` says.

mod bundles;
mod world;

mod compiles;
mod faults;
mod jobs;
mod refusals;
mod tools;
