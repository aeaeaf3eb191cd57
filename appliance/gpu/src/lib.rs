//! The machine's GPUs, as its driver shows them through NVML: what they are, how they do, what is wrong with them, and
//! whether they may be offered.
//!
//! Owns: the inventory, samples and their summary, the meaning of Xids and whose fault they are, the state machine that
//! decides between canary, reset and withdrawal, the owner's settings and their undoing, and the `gpu` member of the
//! base data.
//!
//! Never: CUDA, a kernel, a job's process, a reset (it says when one is due), a log. Only `driver`, `free`, `applied`
//! and `watch` talk to NVML; everything else is values and functions, and can be used where there is no GPU.
//!
//! Read first: [`health`], then [`watch`].
#![forbid(unsafe_code)]

pub mod inventory;

pub mod telemetry;

pub mod xid;

pub mod recovery;

pub mod health;

pub mod settings;

pub mod base_data;

mod driver;

mod free;

mod applied;

pub mod watch;

pub use applied::{Applied, FanBefore, Restore};
pub use driver::{Driver, GpuError};
pub use free::Freedom;
pub use inventory::{Gpu, GpuUuid, Inventory};
