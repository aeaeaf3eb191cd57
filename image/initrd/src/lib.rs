//! What the first process of a rig decides, apart from what it does.
//!
//! `rig-init` is process 1 between the kernel and systemd: it loads the drivers, arms the watchdog, finds the disk that
//! the kernel image was built with, has every read of its root checked, and hands over. This half owns the decisions: what
//! the command line asks for, which modules in which order, which disk, what is said to the device mapper and the TPM.
//!
//! It never touches a device, and what it reads comes from a disk that may be anybody's: all of it is bounded. The other
//! half (`main.rs` and beside it) makes the system calls, and never decides.
//!
//! Read first: `main.rs`, which is the start in order; then [`candidate`].
#![forbid(unsafe_code)]

pub mod candidate;
pub mod mapper;
pub mod measure;
pub mod order;
pub mod wanted;
