//! What the runner tells its spawner, and what the spawner reports back.
//!
//! Both are the same binary, so the messages are private to it. Paths are relative to the state directory,
//! which is the spawner's working directory: that is how a child that has no right to walk the host's tree
//! still finds its own files after its mount namespace has been copied.

use runner::layer::{Applied, Bounds, Compression};
use runner::protocol::{Exit, Health, HealthTest, Limits, TmpfsMount};
use serde::{Deserialize, Serialize};

use crate::slots::Slot;

/// Names one order; the number of a run is the ticket of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ticket(pub(crate) u64);

/// What the spawner is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Makes the child for a start in advance. Descriptors: its network namespace; its cgroup, if it has one. There is
    /// no report: a start whose child is not there has it made then.
    Prepare { ticket: Ticket },
    /// Descriptors: where the service's output goes; its network namespace; its cgroup, if it has one; its socket, if
    /// it is a worker.
    Start(Box<JailPlan>),
    /// Descriptors: where the [`Unpacked`] goes, then the layer's blob.
    Unpack(UnpackPlan),
    /// Descriptors: where the complaints of the program that seals go.
    Seal(SealPlan),
    /// Has no life of its own: it ends as it starts. Its report carries the user namespace of the slot.
    MapIds { ticket: Ticket, slot: Slot },
}

/// What the spawner reports.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The service or the sealing program has been executed, or the unpacker has begun. Descriptor: a pidfd of the
    /// first process; of [`Order::MapIds`] the user namespace instead.
    Started { ticket: Ticket, pid: i32 },
    /// The order was not carried out, and nothing of it is left.
    Failed { ticket: Ticket, refused: Refused },
    /// What a service's health test says now.
    Health { ticket: Ticket, health: Health },
    /// What was started has ended and been reaped.
    Exited { ticket: Ticket, exit: Exit },
}

/// A jail, decided in every detail; the spawner adds nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JailPlan {
    pub(crate) ticket: Ticket,
    pub(crate) slot: Slot,
    pub(crate) hostname: String,
    pub(crate) root: RootPlan,
    /// In the order in which they are mounted: parents before what is below them.
    pub(crate) mounts: Vec<MountPlan>,
    /// Program and arguments; never empty.
    pub(crate) argv: Vec<String>,
    /// `NAME=value`. `HOME` is added unless it is there.
    pub(crate) environment: Vec<String>,
    pub(crate) working_dir: String,
    /// As the image or the provider names it; looked up inside the image.
    pub(crate) user: String,
    pub(crate) limits: Limits,
    pub(crate) health: Option<HealthTest>,
    /// It is the runner's own program, which finds a socket to the runner at descriptor 3.
    pub(crate) worker: Option<WorkerPlan>,
}

/// What only the runner's own program gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerPlan {
    /// Names in `/dev` of the devices that it may command; none for one that has no GPU.
    pub(crate) devices: Vec<String>,
}

/// The jail's root file system.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RootPlan {
    /// Mounted layers, lowest first.
    pub(crate) lower: Vec<String>,
    /// What is written goes here.
    pub(crate) upper: String,
    /// Beside `upper`, on the same file system.
    pub(crate) work: String,
    /// Where it is put together.
    pub(crate) merged: String,
    /// The jail's `/dev`, but for `/dev/shm`.
    pub(crate) dev: String,
    /// Holds the files that the jail's `/etc` shows.
    pub(crate) etc: String,
    /// Nothing can be written once it stands.
    pub(crate) is_sealed: bool,
}

/// What is mounted where the service wants it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum MountPlan {
    Tmpfs(TmpfsMount),
    Volume(VolumeBind),
}

// === impl MountPlan ===

impl MountPlan {
    pub(crate) fn target(&self) -> &str {
        match self {
            Self::Tmpfs(tmpfs) => &tmpfs.target,
            Self::Volume(volume) => &volume.target,
        }
    }
}

/// A volume in a jail.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VolumeBind {
    /// A directory of the slot.
    pub(crate) from: String,
    /// Inside the jail.
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

/// What the first process of a jail says to the spawner.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// What the health test says now; only when that changes.
    Health(Health),
    /// How the service ended; the last word.
    Exit(Exit),
}

/// An unpack of one layer, decided in every detail.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UnpackPlan {
    pub(crate) ticket: Ticket,
    pub(crate) slot: Slot,
    /// An empty directory that belongs to the slot.
    pub(crate) target: String,
    pub(crate) compression: Compression,
    pub(crate) bounds: Bounds,
}

/// The sealing of one layer, decided in every detail.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SealPlan {
    pub(crate) ticket: Ticket,
    pub(crate) slot: Slot,
    /// The program, as a path of the host.
    pub(crate) program: String,
    /// The unpacked layer, which belongs to the slot.
    pub(crate) tree: String,
    /// An empty file that belongs to the slot.
    pub(crate) output: String,
    /// The most that may be written to it.
    pub(crate) bytes_max: u64,
}

/// What became of an unpack.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Unpacked {
    /// Whether it is what its image says is for the asker to find out.
    Done(Applied),
    Refused {
        detail: String,
    },
    /// No fault of the layer's.
    NoSpace {
        detail: String,
    },
    Failed(StepFailed),
}

/// Why a jail was not made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refused {
    /// The kernel would not.
    #[error(transparent)]
    Step(#[from] StepFailed),
    /// What was asked for does not fit the image.
    #[error("{detail}")]
    Service { detail: String },
}

/// The most bytes of a reason that a report carries. What a stranger named may stand in it, and a report that does not
/// fit a message would be the end of the spawner.
const WORDS_BYTES_MAX: usize = 512;

/// The beginning of `words`, no longer than a report may carry.
pub(crate) fn cut(words: &str) -> String {
    words[..words.floor_char_boundary(WORDS_BYTES_MAX)].to_owned()
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
    /// Keeps the value, or says which step failed, in at most [`WORDS_BYTES_MAX`] bytes. An error without a number
    /// counts as `EIO`.
    fn step(self, step: &str) -> Result<T, StepFailed>;
}

impl<T, E: Into<std::io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, StepFailed> {
        self.map_err(|error| {
            let errno = error.into().raw_os_error().unwrap_or(nix::libc::EIO);
            StepFailed { step: cut(step), errno }
        })
    }
}
