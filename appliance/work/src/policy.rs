//! Why a task is taken or refused, and a source served or not: pure functions from evidence to a decision.
//!
//! Every refusal is a value with words for the owner, so that "no work" always has a reason. The checks stand in the
//! order cheapest-to-check.

use std::collections::BTreeSet;

use alloy_primitives::utils::format_ether;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::fact::Look;
use crate::id::{ProviderId, SourceId, Wei};
use crate::source::{Environment, Environments, Served, SourceReading, SourceStage};
use crate::task::{Bid, Delivery, TaskReading, TaskStatus};

/// Gas kept for one `Nexus.attempt`. Source: receipts of six attempts on the local network, 239 k to 256 k, and a third
/// more for a list of attempters that has to grow.
pub const ATTEMPT_GAS: u64 = 350_000;

/// Gas kept for one `Nexus.submitResponse`, which deploys a contract. Source: receipts of six responses on the local
/// network, 668 k to 792 k; doubled, because the link is stored and the real contracts are not known.
pub const RESPOND_GAS: u64 = 1_600_000;

/// The rig's settings, as far as decisions need them. They enter the ledger with every start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rig {
    /// The account that the rig signs for.
    pub provider: ProviderId,
    /// The owner's account (the contract's *master*).
    pub owner: ProviderId,
    /// The CID of the base data that this rig publishes about itself.
    pub base_data_cid: String,
    /// What this rig has.
    pub environments: Environments,
    /// Which sources it registers to by itself.
    pub sources: Sources,
    /// Whether it bids by itself; when false it only does what an agent attempted in its name.
    pub attempts_itself: bool,
    /// Runs at a time on the whole rig.
    pub max_runs: usize,
    /// Runs at a time on one source.
    pub max_runs_per_source: usize,
    /// Attempted tasks that may wait for a run, on the whole rig.
    pub max_waiting: usize,
    /// The least payment that it works for, in wei.
    pub min_payment_wei: Wei,
    /// What must be left of a payment after gas, in wei.
    pub min_profit_wei: Wei,
    /// What it asks for a task whose client chooses, in per cent of the offered payment.
    pub ask_percent: u8,
    /// Other providers' attempts that it still races against.
    pub max_rivals: u64,
    /// A run's time before its source has been measured, in seconds.
    pub expected_run_s: u64,
    /// Time kept for publishing and submitting, in seconds.
    pub respond_margin_s: u64,
}

/// Which sources the rig registers to by itself. A source that the owner registered the rig to is served anyway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sources {
    /// Every source that it can serve.
    Any,
    /// These.
    Listed(BTreeSet<SourceId>),
}

impl Rig {
    /// The gas money below which nothing is sent, in wei: one response at the price of `gas_price_wei` per unit.
    pub fn gas_to_finish_wei(gas_price_wei: Wei) -> Wei {
        gas_price_wei.saturating_mul(Wei::from(ATTEMPT_GAS + RESPOND_GAS))
    }

    /// Whether the rig wants a source by itself.
    pub fn wants(&self, source: SourceId) -> bool {
        match &self.sources {
            Sources::Any => true,
            Sources::Listed(those) => those.contains(&source),
        }
    }
}

/// Why a task is not taken, or not yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(tag = "refusal", rename_all = "kebab-case")]
pub enum Refusal {
    /// The rig waits for an agent's attempt.
    #[error("this rig waits for an agent to attempt in its name (attempts = \"agent\" in rig.toml)")]
    LeftToAgent,
    /// The contract takes no more attempts.
    #[error("the task is {status}")]
    Closed {
        /// Where it stands.
        status: TaskStatus,
    },
    /// The rig does not serve its source.
    #[error("its source is not served here: {why}")]
    NotServed {
        /// Why not.
        why: String,
    },
    /// Its source is not ready yet.
    #[error("its source is not ready yet: {why}")]
    SourceNotReady {
        /// What is under way.
        why: String,
    },
    /// The rig is going down.
    #[error("the rig is draining")]
    Draining,
    /// Others were faster.
    #[error("{attempts} other providers have attempted it, this rig races at most {max}")]
    TooManyRivals {
        /// How many.
        attempts: u64,
        /// How many it still races.
        max: u64,
    },
    /// Somebody has already responded to a race.
    #[error("another provider has already responded")]
    AlreadyAnswered,
    /// It pays too little.
    #[error("it pays {} and the owner's floor is {}", format_ether(*.payment_wei), format_ether(*.floor_wei))]
    PaysTooLittle {
        /// What it pays, in wei.
        payment_wei: Wei,
        /// The owner's floor, in wei.
        floor_wei: Wei,
    },
    /// It pays less than it costs.
    #[error("after {} for gas, {} of the payment would not leave the wanted profit",
        format_ether(*.cost_wei), format_ether(*.payment_wei))]
    Unprofitable {
        /// What it pays, in wei.
        payment_wei: Wei,
        /// What gas would cost, in wei.
        cost_wei: Wei,
    },
    /// It would run out of time.
    #[error("it expires in {left_s} s and needs {need_s} s here")]
    TooLate {
        /// Seconds left.
        left_s: u64,
        /// Seconds needed.
        need_s: u64,
    },
    /// Locked stake is below what the source asks.
    #[error("its source asks for a stake of {}, {} is locked: run `rig stake`",
        format_ether(*.need_wei), format_ether(*.lockup_wei))]
    StakeTooSmall {
        /// Locked, in wei.
        lockup_wei: Wei,
        /// Asked, in wei.
        need_wei: Wei,
    },
    /// Not enough gas money to finish what would be begun.
    #[error("the account holds {} and finishing needs {}: send gas to the rig's address",
        format_ether(*.gas_wei), format_ether(*.need_wei))]
    NoGas {
        /// On the account, in wei.
        gas_wei: Wei,
        /// Needed, in wei.
        need_wei: Wei,
    },
    /// All places are taken.
    #[error("{waiting} attempted tasks are waiting already, the bound is {max}")]
    Busy {
        /// How many wait.
        waiting: usize,
        /// The bound.
        max: usize,
    },
    /// The input cannot be used.
    #[error("its input cannot be used: {why}")]
    BadInput {
        /// Why.
        why: String,
    },
    /// The source has no such function.
    #[error("its source has no function `{function}`")]
    UnknownFunction {
        /// The function's name.
        function: String,
    },
}

impl Refusal {
    /// Seconds after which looking again can help; `None` when the refusal is final.
    pub fn again_in_s(&self) -> Option<u64> {
        match self {
            Refusal::Closed { .. }
            | Refusal::LeftToAgent
            | Refusal::TooManyRivals { .. }
            | Refusal::AlreadyAnswered
            | Refusal::PaysTooLittle { .. }
            | Refusal::TooLate { .. }
            | Refusal::UnknownFunction { .. }
            | Refusal::BadInput { .. } => None,
            Refusal::SourceNotReady { .. } | Refusal::Busy { .. } => Some(2),
            Refusal::NotServed { .. }
            | Refusal::Draining
            | Refusal::Unprofitable { .. }
            | Refusal::StakeTooSmall { .. }
            | Refusal::NoGas { .. } => Some(30),
        }
    }
}

/// What the rig is doing at the moment of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Whether the rig takes no more work.
    pub is_draining: bool,
    /// Tasks bid for or attempted that no run has taken yet.
    pub waiting: usize,
}

/// The checks that need no evidence beyond the readings: whether a task deserves a look.
/// `now` is Unix seconds. Errors: the first [`Refusal`].
pub fn sift(rig: &Rig, reading: &TaskReading, source: Option<&Served>, load: Load, now: u64) -> Result<(), Refusal> {
    if reading.status.is_final() {
        return Err(Refusal::Closed { status: reading.status });
    }
    if !rig.attempts_itself {
        return Err(Refusal::LeftToAgent);
    }
    let task = &reading.task;
    if reading.status == TaskStatus::Responded && task.delivery == Delivery::FirstResponse {
        return Err(Refusal::AlreadyAnswered);
    }
    if reading.attempts > rig.max_rivals {
        return Err(Refusal::TooManyRivals { attempts: reading.attempts, max: rig.max_rivals });
    }
    if task.payment_wei < rig.min_payment_wei {
        return Err(Refusal::PaysTooLittle { payment_wei: task.payment_wei, floor_wei: rig.min_payment_wei });
    }
    let usual_s = source.and_then(|s| s.usual_run_ms).map_or(rig.expected_run_s, |ms| ms.div_ceil(1000));
    let need_s = usual_s.saturating_add(rig.respond_margin_s);
    let left_s = task.expires_at.saturating_sub(now);
    if left_s < need_s {
        return Err(Refusal::TooLate { left_s, need_s });
    }
    let source = source.ok_or(Refusal::NotServed { why: "it is not on this rig's list".into() })?;
    match &source.stage {
        SourceStage::Refused { why } => return Err(Refusal::NotServed { why: why.clone() }),
        SourceStage::Stopping => return Err(Refusal::NotServed { why: "it is being stopped".into() }),
        SourceStage::Preparing => {
            let why = source.trouble.as_ref().map_or("it is being prepared".into(), |t| t.why.clone());
            return Err(Refusal::SourceNotReady { why });
        }
        SourceStage::Registering => return Err(Refusal::SourceNotReady { why: "it is being registered".into() }),
        // One that rests is worth a look: whether it is brought back is decided with the evidence.
        SourceStage::Serving | SourceStage::Resting => {}
    }
    if load.is_draining {
        return Err(Refusal::Draining);
    }
    if load.waiting >= rig.max_waiting {
        return Err(Refusal::Busy { waiting: load.waiting, max: rig.max_waiting });
    }
    Ok(())
}

/// Weighs a task against what this rig can run and is willing to run, with the evidence of a look.
/// `now` is Unix seconds; amounts are wei. Errors: the first [`Refusal`] in the order cheapest-to-check.
/// Source: `Task.expiryTime`, `Source.minAvailableLockup` (contract ABI).
pub fn weigh(
    rig: &Rig,
    reading: &TaskReading,
    source: Option<&Served>,
    look: &Look,
    load: Load,
    now: u64,
) -> Result<Bid, Refusal> {
    sift(rig, reading, source, load, now)?;
    let function = look.function.clone().map_err(|why| Refusal::BadInput { why })?;
    if let Some(served) = source {
        if served.functions.as_ref().is_some_and(|known| !known.contains(&function)) {
            return Err(Refusal::UnknownFunction { function });
        }
        let need_wei = served.reading.min_lockup_wei;
        if look.lockup_wei < need_wei {
            return Err(Refusal::StakeTooSmall { lockup_wei: look.lockup_wei, need_wei });
        }
    }
    let cost_wei = Rig::gas_to_finish_wei(look.gas_price_wei);
    if look.gas_wei < cost_wei {
        return Err(Refusal::NoGas { gas_wei: look.gas_wei, need_wei: cost_wei });
    }
    let payment_wei = ask(rig, reading);
    if payment_wei < cost_wei.saturating_add(rig.min_profit_wei) {
        return Err(Refusal::Unprofitable { payment_wei, cost_wei });
    }
    Ok(Bid { task: reading.task.clone(), payment_wei })
}

/// What we ask for a task, in wei: all of it in a race, a share where the client compares, never more than there is.
fn ask(rig: &Rig, reading: &TaskReading) -> Wei {
    let payment_wei = reading.task.payment_wei;
    let (percent, whole) = (Wei::from(rig.ask_percent), Wei::from(100));
    match reading.task.delivery {
        Delivery::FirstResponse => payment_wei,
        Delivery::Manual if percent >= whole => payment_wei,
        Delivery::Manual => match payment_wei.checked_mul(percent) {
            Some(product) => product / whole,
            None => payment_wei / whole * percent,
        },
    }
}

/// Whether a source is served here, and in which environment. A source that lists this rig already was registered by
/// its owner, which is an order; any other must be wanted by the settings.
/// Errors: the reason, in words for the owner.
pub fn accept_source(rig: &Rig, reading: &SourceReading) -> Result<Environment, String> {
    if !reading.is_active {
        return Err("its client has inactivated it".into());
    }
    if !reading.is_registered && !rig.wants(reading.id) {
        return Err("it is not on this rig's list (sources in rig.toml)".into());
    }
    reading
        .environments
        .best_common(rig.environments)
        .ok_or_else(|| format!("it needs {}, this rig has {}", reading.environments, rig.environments))
}
