//! Whether a GPU may be offered: a state machine per GPU, without clock, thread or driver.
//!
//! ```text
//!             canary passed                  job
//!  Unproven ───────────────▶ Offered ◀──────────────▶ Busy
//!     ▲  │                     ▲  │ fault               │ fault, sticky error, deadline
//!     │  │ 3 canaries failed   │  ▼                     ▼
//!     │  ▼       canary passed └─ Suspect ◀─────────────┤
//!     │ GaveUp ◀─── 3 failed ──────┘ │ not free         │ needs a reset
//!     │                              ▼                  ▼
//!     └──────── reset done ───── NeedsReset ◀───────────┘ ───── reset failed, bus lost, reboot ──▶ Withdrawn
//! ```
//!
//! Invariants:
//! - A GPU is offered only after a canary that began after the last fault passed and left no byte in its memory.
//! - It runs one job at most; a second is killed.
//! - Every event is defined in every state. What answers a step that is no longer awaited is ignored.
//! - Whoever carries out every step and sends a tick now and then brings the GPU to [`State::Offered`],
//!   [`State::Withdrawn`] or [`State::GaveUp`]: each wait has a deadline here.
//! - Nothing is remembered over a restart: a machine begins as [`State::Unproven`].
//! - What jobs can provoke (their own Xids, resets) delays a GPU but never withdraws it, so that no client can.

mod machine;
mod strikes;
#[cfg(test)]
mod tests;

use crate::recovery::RecoveryAction;
use serde::{Deserialize, Serialize};
use std::fmt;

pub use machine::Health;

/// Canaries in a row that may fail before the GPU is given up. One may fail by a late error of the job before, two by
/// bad luck.
pub const CANARIES_MAX: u32 = 3;

/// The wait after the first failed canary; it doubles with each further one.
pub const CANARY_BACKOFF_MS: u64 = 2_000;

/// No wait between canaries is longer.
pub const CANARY_BACKOFF_MAX_MS: u64 = 60_000;

/// A canary that says nothing for so long has failed. A cold context takes seconds, the scan of the largest memory too.
pub const CANARY_DEADLINE_MS: u64 = 30 * 60 * 1_000;

/// How long killed processes may hold the GPU before it is reset.
pub const FREE_WITHIN_MS: u64 = 10_000;

/// If the runner does not even say whether the GPU is free, this machine takes it that it is not.
pub const FREE_DEADLINE_MS: u64 = 2 * FREE_WITHIN_MS;

/// A reset that says nothing for so long has failed.
pub const RESET_DEADLINE_MS: u64 = 180_000;

/// A job whose context is lost may take so long to report it and exit; then it is killed.
pub const GRACE_MS: u64 = 5_000;

/// Xids travel slower than the end of the job that caused them: so long after it they still count as its own.
pub const LATE_XID_MS: u64 = 5_000;

/// Different jobs with the same Xid, within [`STRIKES_WINDOW_MS`], that speak against the GPU.
pub const REPEAT_JOBS: usize = 3;

/// One day.
pub const STRIKES_WINDOW_MS: u64 = 24 * 60 * 60 * 1_000;

/// Strikes and resets remembered per GPU; the oldest leave first. At three per Xid far more than the rule needs.
pub const STRIKES_MAX: usize = 256;

/// Resets within [`STRIKES_WINDOW_MS`] that happen at once; each further one waits.
pub const RESETS_AT_ONCE: usize = 3;

/// The wait before the first reset that does not happen at once; it doubles with each further one.
pub const RESET_BACKOFF_MS: u64 = 60_000;

/// No wait before a reset is longer.
pub const RESET_BACKOFF_MAX_MS: u64 = 60 * 60 * 1_000;

/// The runner's name for one run of a job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub String);

/// Numbers the canaries of one GPU, so that an old answer is never taken for a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CanaryId(pub u64);

/// Where a GPU stands. Times are the caller's milliseconds, of any clock that does not go back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// After a boot, an update or a reset: nothing speaks against it, and nothing for it.
    Unproven {
        /// How far its proof is.
        proof: Proof,
    },
    /// It may take a job.
    Offered,
    /// It runs a job.
    Busy {
        /// The job.
        job: JobId,
        /// What happens when the job ends.
        then: Then,
    },
    /// Something went wrong on it; it has to prove itself.
    Suspect {
        /// What.
        why: String,
        /// How far its proof is.
        proof: Proof,
    },
    /// A reset is due or under way.
    NeedsReset {
        /// Why.
        why: String,
        /// How far it is.
        reset: Reset,
    },
    /// Nothing that the rig may do helps.
    Withdrawn {
        /// Why.
        why: String,
        /// What would help.
        remedy: Remedy,
    },
    /// Its canaries failed [`CANARIES_MAX`] times in a row.
    GaveUp {
        /// What the last one said.
        why: String,
    },
}

/// How far the proof of a GPU is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Proof {
    /// Its last processes must leave it first.
    Draining {
        /// When the wait began.
        since_ms: u64,
    },
    /// The next canary is due then.
    Waiting {
        /// When.
        until_ms: u64,
    },
    /// A canary runs.
    Running {
        /// Which.
        canary: CanaryId,
        /// When it was started.
        since_ms: u64,
        /// Whether something went wrong meanwhile, so that it proves nothing.
        is_spoiled: bool,
    },
}

/// How far a reset is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Reset {
    /// Its last processes must leave it first.
    Draining {
        /// When the wait began.
        since_ms: u64,
    },
    /// There were many resets lately; the next is due then.
    Waiting {
        /// When.
        until_ms: u64,
    },
    /// It happens.
    Running {
        /// When it was started.
        since_ms: u64,
    },
}

/// What happens when the job that runs ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "then", rename_all = "kebab-case")]
pub enum Then {
    /// The GPU is offered again, if the job ended without a sticky error.
    Offer,
    /// A canary, whatever the job says of its end.
    Prove {
        /// What went wrong.
        why: String,
        /// When the job is killed if it still runs, for its context is lost; without one it may end in peace.
        kill_at_ms: Option<u64>,
    },
    /// A reset; the job may end in peace.
    Reset {
        /// Why.
        why: String,
    },
}

/// What helps a withdrawn GPU, from the mildest to the hardest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// A reset that the runner cannot do, such as of the bus.
    Reset,
    /// A person: cables, driver, settings.
    Operator,
    /// A reboot of the machine.
    Reboot,
    /// Power off, wait, power on.
    PowerCycle,
}

/// What happened to a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A canary passed; the scan of the memory behind it found so many bytes that were not zero.
    CanaryPassed {
        /// Which.
        canary: CanaryId,
        /// 0 on a GPU that scrubs its memory.
        dirty_bytes: u64,
    },
    /// A canary failed.
    CanaryFailed {
        /// Which.
        canary: CanaryId,
        /// What it said.
        why: String,
    },
    /// The runner gave the GPU to a job.
    JobStarted(JobId),
    /// A job's worker is gone.
    JobEnded {
        /// The job.
        job: JobId,
        /// How, in the words of the worker's classes.
        class: String,
        /// Whether its context was poisoned, or the worker died without a word.
        is_sticky: bool,
    },
    /// The job's time is over.
    DeadlineKill(JobId),
    /// No process computes on the GPU.
    GpuFree,
    /// Some process still did after [`FREE_WITHIN_MS`].
    GpuNotFree,
    /// The driver reported an Xid.
    Xid(u32),
    /// Memory lost bits.
    EccUncorrected,
    /// The GPU does not answer.
    FallenOffTheBus,
    /// The driver says what the GPU needs.
    Recovery(RecoveryAction),
    /// The GPU was reset, by us or by its owner.
    ResetDone,
    /// It could not be reset.
    ResetFailed {
        /// What went wrong.
        why: String,
    },
    /// Something else speaks against it, such as notices that were missed.
    Doubt {
        /// What.
        why: String,
    },
    /// There is no driver (any more).
    DriverMissing,
    /// The owner asks for another try, or the driver is back.
    Retry,
    /// Time passes; once a second is often enough.
    Tick,
}

/// What the runner has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Run the canary and scan the memory behind it; answer with [`Event::CanaryPassed`] or [`Event::CanaryFailed`].
    RunCanary(CanaryId),
    /// Kill the job's worker with all it started; nothing is awaited.
    Kill(JobId),
    /// Wait until no process computes on the GPU, [`FREE_WITHIN_MS`] at most; answer with [`Event::GpuFree`] or
    /// [`Event::GpuNotFree`].
    WaitFree,
    /// Reset the GPU; answer with [`Event::ResetDone`] or [`Event::ResetFailed`].
    Reset,
    /// Give the GPU no job, drop its warm worker and its canary, and say why.
    Withdraw(String),
    /// The GPU may take a job.
    Offer,
    /// The job caused this Xid.
    CountAgainst(JobId, u32),
    /// These jobs, the newest last, all had this Xid: it speaks against the GPU, not against them.
    RepeatOffender {
        /// The Xid.
        xid: u32,
        /// The jobs.
        jobs: Vec<JobId>,
    },
}

// === impl State ===

impl State {
    /// Whether a job may be started now.
    pub fn is_offered(&self) -> bool {
        matches!(self, Self::Offered)
    }

    /// The job that runs, if one does.
    pub fn job(&self) -> Option<&JobId> {
        match self {
            Self::Busy { job, .. } => Some(job),
            Self::Unproven { .. }
            | Self::Offered
            | Self::Suspect { .. }
            | Self::NeedsReset { .. }
            | Self::Withdrawn { .. }
            | Self::GaveUp { .. } => None,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unproven { .. } => f.write_str("not proven yet"),
            Self::Offered => f.write_str("offered"),
            Self::Busy { job, .. } => write!(f, "busy with {job}"),
            Self::Suspect { why, .. } => write!(f, "suspect: {why}"),
            Self::NeedsReset { why, .. } => write!(f, "to be reset: {why}"),
            Self::Withdrawn { why, remedy } => write!(f, "withdrawn: {why}; it needs {remedy}"),
            Self::GaveUp { why } => write!(f, "given up after {CANARIES_MAX} failed canaries: {why}"),
        }
    }
}

// === impl JobId ===

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Remedy ===

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reset => "a reset of its bus, by hand",
            Self::Operator => "a person to look at it",
            Self::Reboot => "a reboot of the machine",
            Self::PowerCycle => "the machine's power switched off and on",
        })
    }
}
