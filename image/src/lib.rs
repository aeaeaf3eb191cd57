//! Defines a release of the rig, and builds the disk image that it ships as.
//!
//! Owns the release's definition (`image/release/`), the packages' lock, the cache of packages, and every step from them
//! to one file that a person writes to a stick: the root file system and its hash tree, the initrd, the kernel image that
//! carries them, the boot partition, the disk.
//!
//! Never runs a package's maintainer scripts, never mounts the image, never needs a loop device, and never takes a byte
//! from a mirror that is not the byte the lock names. The same definition, lock, sources and keys give the same disk, bit
//! for bit, in any folder of any machine with the same compiler: the rig's own programs are built with Debian 12's.
//!
//! Read first: [`definition`] for what a release is, then [`build`] for the steps in order.
#![forbid(unsafe_code)]

pub mod archive;
pub mod build;
mod coming;
pub mod definition;
pub mod disk;
pub mod erofs;
pub mod esp;
pub mod file;
mod glob;
pub mod initrd;
pub mod keys;
pub mod lock;
pub mod mirrors;
pub mod modules;
pub mod namespace;
pub mod nvidia;
pub mod programs;
pub mod release_manifest;
pub mod resolve;
pub mod root;
pub mod sbom;
pub mod sign;
pub mod tamper;
pub mod uki;
pub mod unpack;
pub mod verify;
pub mod vm;
pub mod workshop;
