//! How a release gets onto a stick, and an owner's settings with it.
//!
//! ```text
//! disks    which disks there are, and which of them may be written
//! release  the image, proven chunk by chunk against the signed manifest before a byte of it is written
//! target   the open disk: whole chunks in, whole chunks back, past the page cache
//! write    the order of writing: the partition table last, after everything else was read back
//! stick    the partition that people see, with its rig.toml
//! settings what is written into rig.toml, and how it is checked
//! form     the same, asked on a terminal
//! ```
//!
//! Invariants: nothing is written before the signature is right; no chunk is written before its hash is right; a disk
//! that this system uses is never opened for writing; a stick whose writing was cut has no partition table.

pub(crate) mod disks;
pub(crate) mod form;
pub(crate) mod release;
pub(crate) mod settings;
pub(crate) mod stick;
pub(crate) mod target;
pub(crate) mod write;

#[cfg(test)]
#[path = "../tests/rig/sample.rs"]
mod sample;
