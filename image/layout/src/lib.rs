//! Where things lie on the disk of a rig, and how to tell that they are what they should be.
//!
//! For the build, which writes a disk; for the first process and `rig-boot`, which find their parts on one; for the owner's
//! machine, which checks a release before it goes on a stick. It owns the numbers and formats that these agree on:
//! partitions and slots, FAT volumes, dm-verity's tree, names of boot entries, sections of a kernel image, a release's
//! manifest.
//!
//! It never opens a file, never trusts what it reads, and writes nothing but the one file that [`fat::Fat::replace`] is
//! asked to: every count and size is bounded, every sum is checked, and a table that lies is an error that says where.
//!
//! Read first: [`parts`] for the disk, then [`verity`] for what makes its root one thing.
#![forbid(unsafe_code)]

pub mod entry;
pub mod fat;
pub mod gpt;
mod guid;
pub mod manifest;
pub mod parts;
pub mod uki;
pub mod verity;
mod version;
mod window;

pub use guid::{Guid, GuidError};
pub use version::compare as compare_versions;
pub use window::Window;
