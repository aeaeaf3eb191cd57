//! What the runner tells its spawner, and what the spawner reports back.
//!
//! Both are the same binary, so the messages are private to it. Paths are relative to the state directory,
//! which is the spawner's working directory: that is how a child that has no right to walk the host's tree
//! still finds its own files after its mount namespace has been copied.

use runner::protocol::{Exit, Limits};
use serde::{Deserialize, Serialize};

use crate::slots::Slot;

/// Names one order; the number of a run is the ticket of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ticket(pub(crate) u64);

/// What the spawner is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Descriptors: where the service's output goes.
    Start(Box<JailPlan>),
    /// Descriptors: where the [`Unpacked`] goes, then one blob per layer, lowest first.
    Unpack(UnpackPlan),
}

/// What the spawner reports.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The service has been executed, or the unpacker has begun. Descriptors: a pidfd of the first process; of a
    /// jail also its network namespace and its callback listener.
    Started { ticket: Ticket, pid: i32 },
    /// The order was not carried out, and nothing of it is left.
    Failed { ticket: Ticket, failure: StepFailed },
    /// What was started has ended and been reaped.
    Exited { ticket: Ticket, exit: Exit },
}

/// A jail, decided in every detail; the spawner adds nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JailPlan {
    pub(crate) ticket: Ticket,
    pub(crate) slot: Slot,
    /// The unpacked image.
    pub(crate) root: String,
    /// The run's own directory: `upper`, `work`, `merged`, `etc`.
    pub(crate) run_dir: String,
    pub(crate) hostname: String,
    /// Program and arguments; never empty.
    pub(crate) argv: Vec<String>,
    /// `NAME=value`.
    pub(crate) environment: Vec<String>,
    pub(crate) working_dir: String,
    /// Inside the jail.
    pub(crate) uid: u32,
    /// Inside the jail.
    pub(crate) gid: u32,
    pub(crate) read_only: bool,
    pub(crate) limits: Limits,
}

/// An unpack, decided in every detail.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UnpackPlan {
    pub(crate) ticket: Ticket,
    pub(crate) slot: Slot,
    /// An empty directory that belongs to the slot.
    pub(crate) target: String,
    /// Lowest first.
    pub(crate) layers: Vec<LayerPlan>,
    /// The most bytes that all layers together may have when uncompressed.
    pub(crate) bytes_max: u64,
}

/// One layer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LayerPlan {
    pub(crate) compression: Compression,
    /// SHA-256 of the uncompressed tar, 64 hexadecimal digits.
    pub(crate) diff_id: String,
}

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What became of an unpack.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Unpacked {
    Done { bytes: u64, entries: u64 },
    DigestMismatch { layer: usize, found: String },
    Refused { detail: String },
    Failed(StepFailed),
}

/// A step that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {}", std::io::Error::from_raw_os_error(*errno))]
pub(crate) struct StepFailed {
    pub(crate) step: String,
    pub(crate) errno: i32,
}

/// Names the step that an error belongs to.
pub(crate) trait Step<T> {
    /// Keeps the value, or says which step failed. An error without a number counts as `EIO`.
    fn step(self, step: &str) -> Result<T, StepFailed>;
}

impl<T, E: Into<std::io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, StepFailed> {
        self.map_err(|error| {
            let errno = error.into().raw_os_error().unwrap_or(nix::libc::EIO);
            StepFailed { step: step.to_owned(), errno }
        })
    }
}
