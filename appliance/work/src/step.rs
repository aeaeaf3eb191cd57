//! What can go out: everything the rig does because of facts.
//!
//! Each step is idempotent, or first asks the chain whether it already happened. A step in hand is named by its
//! [`StepKey`]; its outcome comes back as a fact, and if it came to nothing as [`News::Fell`](crate::fact::News::Fell).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{SourceId, TaskId, Wei};
use crate::source::Environment;
use crate::task::{Attempt, Bid, Outcome, Receipt, Run, Task};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Name our owner on chain (`Terminal.announceMaster`).
    Announce,
    /// Publish what this rig is and set its link (`Terminal.setBaseData`).
    Describe,
    /// Lock the free balance of our vault account as stake (`Vault.lock`).
    Lock {
        /// How much, in wei.
        amount_wei: Wei,
    },
    /// Begin to take all of our stake back (`Vault.unbond`).
    Unbond {
        /// How much, in wei.
        amount_wei: Wei,
    },
    /// Move what was unbonded and is free to our vault balance (`Vault.claim`).
    Claim {
        /// How much, in wei.
        amount_wei: Wei,
    },
    /// Pay our vault balance out to our account (`Vault.withdraw`).
    Withdraw {
        /// How much, in wei.
        amount_wei: Wei,
    },
    /// Send the coins on our account to the owner, less the gas for that.
    SendHome {
        /// What could not be sent the last time, in wei.
        dust_wei: Wei,
    },
    /// Fetch, check, unpack and start a source.
    Prepare {
        /// Which source.
        source: SourceId,
        /// Link of its metadata.
        metadata_url: String,
        /// Which of its images.
        environment: Environment,
        /// `updated_at` of the reading that asks for it.
        updated_at: u64,
    },
    /// Put this rig on the source's list (`Nexus.register`).
    Register {
        /// Which source.
        source: SourceId,
        /// As what.
        environment: Environment,
    },
    /// Stop a source's container.
    StopSource {
        /// Which source.
        source: SourceId,
        /// Whether its volumes go too: it will not be back.
        forgets: bool,
    },
    /// Gather the evidence for a decision.
    Look {
        /// On which task.
        task: Task,
    },
    /// Record our bid on chain (`Nexus.attempt`).
    Attempt {
        /// The bid.
        bid: Bid,
    },
    /// Bring the input into the content store.
    Fetch {
        /// Of which attempt.
        attempt: Attempt,
    },
    /// Send the input to the source's container and wait for its callback.
    Run {
        /// The run.
        run: Run,
    },
    /// Publish the result.
    Publish {
        /// Of which outcome.
        outcome: Outcome,
    },
    /// Submit the response (`Nexus.submitResponse`).
    Respond {
        /// Of which receipt.
        receipt: Receipt,
    },
}

/// The name of a step: two steps with one name are never in hand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum StepKey {
    /// [`Step::Announce`], [`Step::Describe`], [`Step::Lock`], and the four that bring coins home: enrolment does one
    /// thing at a time.
    Enrol,
    /// A step for a source: prepare, register or stop.
    Source {
        /// Which source.
        source: SourceId,
    },
    /// A step for a task.
    Task {
        /// Which task.
        task: TaskId,
    },
}

impl StepKey {
    /// The task that the step is for, if it is for one.
    pub fn task(&self) -> Option<TaskId> {
        match self {
            StepKey::Task { task } => Some(*task),
            StepKey::Enrol | StepKey::Source { .. } => None,
        }
    }
}

impl Step {
    /// The step's name.
    pub fn key(&self) -> StepKey {
        match self {
            Step::Announce
            | Step::Describe
            | Step::Lock { .. }
            | Step::Unbond { .. }
            | Step::Claim { .. }
            | Step::Withdraw { .. }
            | Step::SendHome { .. } => StepKey::Enrol,
            Step::Prepare { source, .. } | Step::Register { source, .. } | Step::StopSource { source, .. } => {
                StepKey::Source { source: *source }
            }
            Step::Look { task } => StepKey::Task { task: task.id },
            Step::Attempt { bid } => StepKey::Task { task: bid.task.id },
            Step::Fetch { attempt } => StepKey::Task { task: attempt.bid.task.id },
            Step::Run { run } => StepKey::Task { task: run.input.attempt.bid.task.id },
            Step::Publish { outcome } => StepKey::Task { task: outcome.run.input.attempt.bid.task.id },
            Step::Respond { receipt } => StepKey::Task { task: receipt.outcome.run.input.attempt.bid.task.id },
        }
    }

    /// One word for the log and for `rig tasks`.
    pub fn name(&self) -> &'static str {
        match self {
            Step::Announce => "announce",
            Step::Describe => "describe",
            Step::Lock { .. } => "lock",
            Step::Unbond { .. } => "unbond",
            Step::Claim { .. } => "claim",
            Step::Withdraw { .. } => "withdraw",
            Step::SendHome { .. } => "send-home",
            Step::Prepare { .. } => "prepare",
            Step::Register { .. } => "register",
            Step::StopSource { .. } => "stop-source",
            Step::Look { .. } => "look",
            Step::Attempt { .. } => "attempt",
            Step::Fetch { .. } => "fetch",
            Step::Run { .. } => "run",
            Step::Publish { .. } => "publish",
            Step::Respond { .. } => "respond",
        }
    }
}

/// Why a step came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Whether trying again can help.
    pub kind: TroubleKind,
    /// What happened and what to do, in words for the owner.
    pub why: String,
}

/// What the caller can do about a trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TroubleKind {
    /// Weather: try again after a while.
    Passing,
    /// Final for this task or source: give it up.
    Final,
    /// A race lost: nobody's fault, nothing to repeat.
    Lost,
}

impl Trouble {
    /// A trouble that may pass.
    pub fn passing(why: impl Into<String>) -> Trouble {
        Trouble { kind: TroubleKind::Passing, why: why.into() }
    }

    /// A trouble that stays.
    pub fn lasting(why: impl Into<String>) -> Trouble {
        Trouble { kind: TroubleKind::Final, why: why.into() }
    }

    /// A lost race.
    pub fn lost(why: impl Into<String>) -> Trouble {
        Trouble { kind: TroubleKind::Lost, why: why.into() }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}
