//! Runs the plan of a kernel bundle on one GPU, in a process that is used once.
//!
//! Owns: the vocabulary between the runner and its worker ([`messages`]), and the classes that a failure on a GPU
//! falls into ([`class`]). The worker itself is the binary `rig-cuda`, whose modules hang off `main.rs`; linking
//! this library brings neither a driver nor unsafe code with it.
//!
//! Never: a network, a key, a second job in one process, PTX in a process that holds a GPU. The provider fetches
//! and verifies bundles; the runner starts a worker in a jail and hands it descriptors; what the worker answers is
//! taken as a claim, because the code that it ran was a stranger's.
//!
//! Read first: [`messages::Job`], then `main.rs`, then `roles/gpu.rs`.
#![forbid(unsafe_code)]

pub mod messages;

pub mod class;
