//! A `libnvidia-ml.so.1` without a GPU: what NVML says about the GPUs of a script, and what it keeps when it is told.
//!
//! Every call reads the script again ([`machine`]): the file that [`fake_gpu_script::NVML_SCRIPT`] names, else the end of
//! the library's own file. So a test changes the weather while a rig runs. What is set (power limit, clocks, fans,
//! compute mode, persistence) goes to the state file beside the script and outlives the process.
//!
//! Owns: whether the process called `nvmlInit`, and its event sets ([`events`]). Never: asks who may set what (a real
//! driver wants root), looks at a device node, or is part of a binary that ships.
//!
//! Read first: `machine.rs`, then `exports/` for what is there.

mod code;
mod events;
mod exports;
mod fields;
mod machine;
mod processes;
